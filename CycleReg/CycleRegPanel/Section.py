"""What every part of the panel is: a class of its own with a ``.ui`` file of its own."""

from __future__ import annotations

from typing import Any


class Section:
    """One foldable part of the panel; see the package's documentation for how parts and panel work together.

    A section overrides what it needs; every method here does nothing.

    Attributes
    ----------
    UI
        Its file in ``Resources/UI``, whose top widget is a ``qMRMLWidget``; names of widgets are unique over all files.
        Empty for a section whose widgets are in ``CycleReg.ui`` itself.
    PLACE
        Name of the collapsible button in ``CycleReg.ui`` that it fills.  The button has no layout of its own there.
    """

    UI = ""
    PLACE = ""

    def __init__(self, panel: Any) -> None:
        self.panel = panel

    @property
    def ui(self) -> Any:
        """All widgets of the panel by name, those of other sections included."""
        return self.panel.ui

    @property
    def parameterNode(self) -> Any:
        """The parameter set that is shown; None while a scene is being closed or loaded."""
        return self.panel.parameterNode

    def setup(self) -> None:
        """Once, after all ``.ui`` files were loaded and know the scene: fill choices, connect signals."""

    def onParameterNodeModified(self) -> None:
        """The parameter set has changed, or another one is shown: show what it says in what is not shown by itself.

        Called with a parameter node only.  Widgets that have the dynamic property ``SlicerParameterName`` in their
        ``.ui`` file follow by themselves (:mod:`CycleRegPanel.Bindings`).
        """

    def updateState(self, running: bool) -> None:
        """Enable what can be used now; called after every change of choices, and when a run begins and ends."""

    def onResult(self, result: Any) -> None:
        """A registration has ended well; ``result`` is ``CycleRegLib.mrml.ProcessResult``.  The scene holds it."""

    def onSceneStartClose(self) -> None:
        """The scene is about to be closed; its nodes are still there."""

    def onSceneEndClose(self) -> None:
        """The scene was closed: forget what was shown of it."""

    def cleanup(self) -> None:
        """The application closes, or the module is about to be reloaded: stop, and remove observers."""
