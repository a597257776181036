"""The module's interface for scripts and for the Python console."""

from __future__ import annotations

from typing import Any, Callable

from .Host import ScriptedLoadableModuleLogic


class CycleRegLogic(ScriptedLoadableModuleLogic):
    """Registration and evaluation of nodes of the scene.  Thin: the work is done by ``CycleRegLib.mrml``.

    >>> from CycleReg import CycleRegLogic                              # doctest: +SKIP
    >>> transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "Moving to fixed")
    >>> CycleRegLogic().process(fixedNode, movingNode, outputTransform=transform)
    >>> movingNode.SetAndObserveTransformNodeID(transform.GetID())

    Works in Slicer's Python console, in ``Slicer --python-script`` and in slicer-core.  Both methods block until the
    result is there; the panel runs the same code in a child process instead, see :mod:`CycleRegPanel.Worker`.
    """

    def getParameterNode(self) -> Any:
        """The parameter set of the scene, with typed fields; made with defaults where there is none."""
        from .ParameterNode import CycleRegParameterNode

        return CycleRegParameterNode(super().getParameterNode())

    def process(
        self,
        fixedNode: Any,
        movingNode: Any,
        outputTransform: Any = None,
        outputInverseTransform: Any = None,
        outputVolume: Any = None,
        outputJacobian: Any = None,
        outputRoundtrip: Any = None,
        method: str | None = None,
        checkpoint: str | None = None,
        device: str = "auto",
        affine: str = "auto",
        fixedMask: Any = None,
        movingMask: Any = None,
        initialTransform: Any = None,
        refineSteps: int | None = None,
        progress: Callable[[str, float], None] | None = None,
        fixedMaskSegment: str | None = None,
        movingMaskSegment: str | None = None,
        outputSummary: Any = True,
        backwardCheckpoint: str | None = None,
        smoothness: float | None = None,
        inference: Any = None,
        preset: str | None = None,
    ) -> Any:
        """Register ``movingNode`` onto ``fixedNode`` and write the result into the scene, whole or not at all.

        Parameters
        ----------
        fixedNode, movingNode
            ``vtkMRMLScalarVolumeNode``; for methods in 2D single slices, also ``vtkMRMLVectorVolumeNode`` (RGB).
        outputTransform, outputInverseTransform
            ``vtkMRMLTransformNode``; the first carries the moving image onto the fixed one, the second back.
        outputVolume
            ``vtkMRMLScalarVolumeNode`` (of colours ``vtkMRMLVectorVolumeNode``) for the moving image resampled on the
            fixed grid.
        outputJacobian, outputRoundtrip
            ``vtkMRMLScalarVolumeNode`` for the Jacobian determinant (no unit) and the round trip (mm), on the fixed
            grid.
        outputSummary
            ``vtkMRMLTableNode`` with the figures of the registration.
        method
            Id of the method (``CycleRegLib.methods``); None is the library's default.
        checkpoint, backwardCheckpoint
            Paths of the trained weights, for methods that need them; the second only where the network of the other
            direction lies in a file of its own.
        device
            ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        affine
            ``auto``, ``none``, ``rigid`` or ``affine``.
        fixedMask, movingMask, fixedMaskSegment, movingMaskSegment
            Segmentation, label map or volume nodes: only voxels inside count.  Of a segmentation, the segment of that
            name or id; all visible ones together when none is named.
        initialTransform
            ``vtkMRMLTransformNode`` to start from.
        refineSteps
            Steps of pair optimisation after a network; None is the method's default.
        smoothness
            Of the pair optimisation, as a multiple of its default; no unit.
        inference
            ``CycleRegLib.networks.settings.InferenceSettings``: how a network is run; None is the default.
        preset
            Id of a preset (``CycleRegLib.presets``), in place of a method.
        progress
            Called with the name of the stage and the fraction done, 0 to 1.

        Every output is an existing node, True or a name for a new one, or None for none.  When neither transforms nor
        volumes are asked for, a new transform and a new warped volume are made.

        Returns
        -------
        CycleRegLib.mrml.ProcessResult
            The output nodes, and the library's result with images, fields and figures.

        Raises
        ------
        CycleRegLib.errors.CycleRegError
            With one message that says what is wrong and how to mend it.  The scene is then as it was.
        """
        from CycleRegLib import mrml

        return mrml.process(
            fixedNode,
            movingNode,
            outputTransform=outputTransform,
            outputInverseTransform=outputInverseTransform,
            outputVolume=outputVolume,
            outputJacobian=outputJacobian,
            outputRoundtrip=outputRoundtrip,
            method=method,
            checkpoint=checkpoint,
            device=device,
            affine=affine,
            fixedMask=fixedMask,
            movingMask=movingMask,
            initialTransform=initialTransform,
            refineSteps=refineSteps,
            progress=progress,
            fixedMaskSegment=fixedMaskSegment,
            movingMaskSegment=movingMaskSegment,
            outputSummary=outputSummary,
            backwardCheckpoint=backwardCheckpoint,
            smoothness=smoothness,
            inference=inference,
            preset=preset,
        )

    def evaluate(self, *arguments: Any, **keywords: Any) -> Any:
        """Measure a registration of nodes; arguments, result and errors are those of ``CycleRegLib.mrml.evaluate``."""
        from CycleRegLib import mrml

        return mrml.evaluate(*arguments, **keywords)

    def loadSample(self, seed: int = 0, scale: float = 1.0) -> Any:
        """Make a two-phase abdomen whose true motion is known, and load it; takes seconds, nothing is downloaded.

        Parameters
        ----------
        seed
            Another number is another patient.
        scale
            2 makes voxels twice as large along each axis.

        Returns
        -------
        CycleRegLib.mrml.SampleNodes
            ``fixed`` and ``moving`` volume, landmarks and segmentation of each.
        """
        from CycleRegLib import mrml

        return mrml.make_sample_nodes(seed, scale)
