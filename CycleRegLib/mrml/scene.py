"""Scenes without an application: making one, filling it from files, saving and reading ``.mrb`` bundles."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import SimpleITK as sitk
import slicer
import vtk

from ..errors import InputError
from ..images import read_any_image, read_transform, suffix_of
from ..images_2d import check_any
from ..landmarks import LandmarkList, read_landmarks
from ..outputs import OutputTransaction
from ..planar import slice_image
from ..segmentations import Segmentation, read_segmentation
from .results import VECTOR_VOLUME, VOLUME, display_of, write_volume
from .segments import fill_segmentation
from .vtk_bridge import FLIP

# Colour tables belong to the logic that made them, which must therefore live as long as the scene.
_color_logics: dict[int, Any] = {}


def ensure_scene() -> Any:
    """The application's scene; where there is none (slicer-core), one is made and set as ``slicer.mrmlScene``.

    A scene made here has Slicer's default colour tables, so that volumes and tables are displayed alike in Slicer.
    """
    scene = getattr(slicer, "mrmlScene", None)
    if scene is None:
        scene = slicer.vtkMRMLScene()
        slicer.mrmlScene = scene
    _register_classes(scene)
    if getattr(slicer, "app", None) is None and scene.GetNodeByID("vtkMRMLColorTableNodeGrey") is None:
        _color_logics.pop(id(scene), None)
        logic = slicer.vtkMRMLColorLogic()
        logic.SetMRMLScene(scene)
        _color_logics[id(scene)] = logic
    return scene


def drop_scene(scene: Any) -> None:
    """Empty a scene that :func:`ensure_scene` made, and let go of it."""
    scene.Clear(True)
    logic = _color_logics.pop(id(scene), None)
    if logic is not None:
        logic.SetMRMLScene(None)


@contextmanager
def _quiet_vtk() -> Iterator[None]:
    """VTK's own complaints would bury the one clear line that a user gets.

    Some of its libraries write to the process's standard output without asking; nothing else of this thread does here.
    """
    before = vtk.vtkObject.GetGlobalWarningDisplay()
    vtk.vtkObject.GlobalWarningDisplayOff()
    try:
        sys.stdout.flush()
        stdout = os.dup(1)
    except (AttributeError, OSError, ValueError):
        stdout = None  # a windowed program without a standard output
    if stdout is not None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
    try:
        yield
    finally:
        if stdout is not None:
            os.dup2(stdout, 1)
            os.close(stdout)
        vtk.vtkObject.SetGlobalWarningDisplay(before)


def _register_classes(scene: Any) -> None:
    """Let a scene know node classes as Slicer's modules do: without it point lists are not saved and colour scales not
    made."""
    for node in (slicer.vtkMRMLMarkupsJsonStorageNode(), slicer.vtkMRMLColorLegendDisplayNode()):
        if scene.GetClassNameByTag(node.GetNodeTagName()) is None:
            scene.RegisterNodeClass(node)


def _name_of(path: Path, kind: str) -> str:
    """A new node's name: the file's without its suffix, with what it is when another node is called so."""
    name = path.name
    suffix = suffix_of(path)
    if suffix and suffix != name.lower():
        name = name[: -len(suffix)]
    return name if ensure_scene().GetFirstNodeByName(name) is None else f"{name} {kind}"


# ---------------------------------------------------------------------- nodes from content


def volume_node(image: sitk.Image, name: str) -> Any:
    """A new volume node with a SimpleITK image, shown with an automatic window; a vector volume node of colours.

    A 2D image lies in the plane z = 0, as Slicer itself loads it.
    """
    scene = ensure_scene()
    image = slice_image(image)
    kind = VOLUME if image.GetNumberOfComponentsPerPixel() == 1 else VECTOR_VOLUME
    node = scene.AddNewNodeByClass(kind, scene.GenerateUniqueName(name))
    write_volume(node, image)
    display_of(node).SetAutoWindowLevel(True)
    return node


def markups_node(landmarks: LandmarkList, name: str) -> Any:
    """A new point list node; labels and descriptions are kept."""
    scene = ensure_scene()
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", scene.GenerateUniqueName(name))
    for i, (label, point) in enumerate(zip(landmarks.labels, landmarks.points)):
        node.AddControlPoint(vtk.vtkVector3d(*(FLIP * point).tolist()), label)
        if landmarks.descriptions is not None:
            node.SetNthControlPointDescription(i, landmarks.descriptions[i])
    node.CreateDefaultDisplayNodes()
    return node


def segmentation_node(segmentation: Segmentation, name: str) -> Any:
    """A new segmentation node; overlapping segments, names and colours are kept, a 2D one lies in the plane z = 0."""
    scene = ensure_scene()
    segmentation = segmentation.with_layers([slice_image(layer) for layer in segmentation.to_label_images()])
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", scene.GenerateUniqueName(name))
    fill_segmentation(node, segmentation)
    return node


# ---------------------------------------------------------------------- nodes from files


def load_volume(path: os.PathLike[str] | str, what: str = "image") -> Any:
    """Load a 3D grey image (NRRD, NIfTI, MetaImage, DICOM folder) into the scene, float32; or, as it is, a picture
    (also PNG, JPEG) or single slice, grey or RGB.

    It goes through the reader of the command line, with the same checks, so that every host refuses the same files.

    Raises
    ------
    InputError
        See :func:`CycleRegLib.images.read_any_image` and :func:`CycleRegLib.images_2d.check_any`.
    """
    what = what if "image" in what else f"{what} image"
    image = check_any(read_any_image(path, what), f"{what} {path}")
    return volume_node(image, _name_of(Path(path), "volume"))


def load_landmarks(path: os.PathLike[str] | str, what: str = "landmarks") -> Any:
    """Load ``.mrk.json``, ``.fcsv`` or ``.csv`` landmarks into the scene.

    Raises
    ------
    InputError
        See :func:`CycleRegLib.landmarks.read_landmarks`.
    """
    return markups_node(read_landmarks(Path(path)), _name_of(Path(path), "landmarks"))


def load_transform(path: os.PathLike[str] | str, what: str = "transform") -> Any:
    """Load an ITK transform file or a displacement field image with Slicer's own reader.

    Slicer interpolates what it reads cubically; the field is set to linear interpolation, which is what the file means.

    Raises
    ------
    InputError
        See :func:`CycleRegLib.images.read_transform`; also if Slicer's reader cannot represent the transform.
    """
    read_transform(path, what)
    node = _stored("vtkMRMLTransformNode", "vtkMRMLTransformStorageNode", Path(path), what)
    use_linear_interpolation(node)
    return node


def load_segmentation(path: os.PathLike[str] | str, what: str = "segmentation") -> Any:
    """Load a ``.seg.nrrd`` or a label image as a segmentation; overlapping segments, names and colours are kept.

    A 2D label image lies in the plane z = 0.

    Raises
    ------
    InputError
        See :func:`CycleRegLib.segmentations.read_segmentation`.
    """
    return segmentation_node(read_segmentation(Path(path), what, flat=True), _name_of(Path(path), "segmentation"))


def use_linear_interpolation(node: Any) -> None:
    """Let a displacement field in a transform node be interpolated linearly, whichever way the node holds it."""
    for transform in (
        node.GetTransformFromParentAs("vtkOrientedGridTransform", False),
        node.GetTransformToParentAs("vtkOrientedGridTransform", False),
    ):
        if transform is not None:
            transform.SetInterpolationModeToLinear()


def _stored(node_class: str, storage_class: str, path: Path, what: str) -> Any:
    """A new node read by a storage node, which it keeps; nothing stays in the scene when that fails."""
    scene = ensure_scene()
    node = scene.AddNewNodeByClass(node_class, scene.GenerateUniqueName(_name_of(path, "transform")))
    storage = scene.AddNewNodeByClass(storage_class)
    storage.SetFileName(str(path.expanduser().absolute()))
    with _quiet_vtk():
        done = storage.ReadData(node)
    if not done:
        scene.RemoveNode(storage)
        scene.RemoveNode(node)
        raise InputError(f"3D Slicer's reader cannot read the {what} {path}. Convert it to .h5 or .nrrd.")
    node.SetAndObserveStorageNodeID(storage.GetID())
    return node


# ---------------------------------------------------------------------- scenes on disk


def save_scene(path: os.PathLike[str] | str, out: OutputTransaction | None = None) -> Path:
    """Save the scene with all its data as one ``.mrb`` file that Slicer opens.

    Displacement fields go into it as ``.h5``.  Slicer interpolates them cubically after loading (see
    :func:`use_linear_interpolation`); for a smooth field that differs by some hundredths of a millimetre.

    Parameters
    ----------
    out
        A transaction to write within, so that the scene appears together with other outputs.

    Raises
    ------
    InputError
        If the name does not end in ``.mrb`` or the place cannot be written.
    """
    path = Path(path).expanduser()
    if suffix_of(path) != ".mrb":
        raise InputError(f"A scene is saved as .mrb, not as {path.name}.")
    if out is None:
        with OutputTransaction() as own:
            return save_scene(path, own)
    write_scene(out.path(path))
    return path


def write_scene(path: Path) -> None:
    """Save the scene, as :func:`save_scene`, at once into a folder that only its maker looks at.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    scene = ensure_scene()
    with _quiet_vtk():
        done = scene.WriteToMRB(str(path), None, slicer.vtkMRMLMessageCollection())
    if not done:
        raise OSError(f"the scene {path.name} could not be saved (is the disk full?)")


def read_scene(path: os.PathLike[str] | str, scene: Any = None) -> Any:
    """Open a ``.mrb`` in an empty scene (a new one when none is given); fields are interpolated linearly again.

    Raises
    ------
    InputError
        If the file is missing or Slicer's reader refuses it.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"The scene {path} does not exist.")
    scene = slicer.vtkMRMLScene() if scene is None else scene
    _register_classes(scene)
    with tempfile.TemporaryDirectory(prefix="cyclereg-") as folder:
        had = scene.GetCacheManager()
        if had is None:
            # Bundles are unpacked into the cache folder.
            cache, data = slicer.vtkCacheManager(), slicer.vtkDataIOManager()
            cache.SetRemoteCacheDirectory(folder)
            data.SetCacheManager(cache)
            scene.SetCacheManager(cache)
            scene.SetDataIOManager(data)
        with _quiet_vtk():
            done = scene.ReadFromMRB(str(path.absolute()), True)
        if had is None:
            scene.SetDataIOManager(None)
            scene.SetCacheManager(None)
    if not done:
        raise InputError(f"{path} is not a scene bundle that 3D Slicer's reader can open.")
    for i in range(scene.GetNumberOfNodesByClass("vtkMRMLTransformNode")):
        use_linear_interpolation(scene.GetNthNodeByClass(i, "vtkMRMLTransformNode"))
    return scene
