"""Masks and segmentations: label maps, segments and surfaces of MRML nodes on a grid of choice.

Nodes stay as they are: where a segmentation holds only surfaces, its label maps are made in a copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk
import slicer
import vtk

from ..errors import InputError
from ..geometry import Grid
from ..segmentations import Segment, Segmentation
from .nodes import grid_of_matrix, image_from_volume_node, volume_data
from .vtk_bridge import array_of_image, flip_target, image_of_array, matrix_from_vtk, matrix_to_vtk, parent_matrix


def mask_from_node(
    node: Any, reference: Grid, segment: str | None = None, what: str = "mask", stop_at: Sequence[Any] = ()
) -> sitk.Image:
    """A label map, scalar volume or segmentation as a mask (uint8, 0 or 1) on the ``reference`` grid.

    Parameters
    ----------
    segment
        Name or id of one segment of a segmentation; all visible segments together when left out.

    Raises
    ------
    InputError
        If the node is of another kind, the segment is not there, nothing is visible, the mask is empty or misses the
        grid, or the node is under a non-linear transform.
    """
    if node is None:
        raise InputError(f"No {what} is given. Choose one.")
    if node.IsA("vtkMRMLSegmentationNode"):
        chosen = _visible_segments(node, what) if segment is None else [_segment_id(node, segment, what)]
        total = np.zeros(reference.shape, bool)
        for part in _segment_images(node, chosen, reference, what, stop_at):
            total |= sitk.GetArrayViewFromImage(part) > 0
    else:
        volume_data(node, what)
        matrix = vtk.vtkMatrix4x4()
        node.GetIJKToRASMatrix(matrix)
        local = _plain_image(node.GetImageData(), flip_target(matrix_from_vtk(matrix)), node, what)
        placed = _resample_labels(local != 0, reference, parent_matrix(node, what, stop_at))
        total = sitk.GetArrayFromImage(placed) > 0
    if not total.any():
        raise InputError(f'The {what} "{node.GetName()}" is empty or lies outside its image. Choose another.')
    return reference.image(total)


def segmentation_from_node(
    node: Any, reference: Grid | None = None, what: str = "segmentation", stop_at: Sequence[Any] = ()
) -> Segmentation:
    """The segments of a segmentation node (or the labels of a label map node), world LPS.

    Segments keep their order, names, ids and colours, and get the label values 1, 2, ….  Overlapping segments go to
    different layers.  The labels of a label map keep their values and take their names from its colour table.

    Parameters
    ----------
    reference
        Grid of the result; the segmentation's own common geometry when left out.

    Raises
    ------
    InputError
        If the node is of another kind, holds no segment, cannot be made a label map, or is under a non-linear
        transform.
    """
    if node is None:
        raise InputError(f"No {what} is given. Choose one.")
    if node.IsA("vtkMRMLLabelMapVolumeNode"):
        return _segmentation_from_label_map(node, reference, what, stop_at)
    if not node.IsA("vtkMRMLSegmentationNode"):
        raise InputError(f'"{node.GetName()}" is a {node.GetNodeTagName()} node; the {what} must be a segmentation.')
    segmentation = node.GetSegmentation()
    ids = [segmentation.GetNthSegmentID(i) for i in range(segmentation.GetNumberOfSegments())]
    if not ids:
        raise InputError(f'The {what} "{node.GetName()}" holds no segment. Draw or load one.')
    grid = _own_grid(node, ids, what, stop_at) if reference is None else reference
    layers: list[np.ndarray] = []
    segments: list[Segment] = []
    images = _segment_images(node, ids, grid, what, stop_at)
    for value, (segment_id, image) in enumerate(zip(ids, images), start=1):
        mask = sitk.GetArrayViewFromImage(image) > 0
        layer = next((k for k, held in enumerate(layers) if not held[mask].any()), len(layers))
        if layer == len(layers):
            layers.append(np.zeros(grid.shape, np.uint16))
        layers[layer][mask] = value
        segment = segmentation.GetSegment(segment_id)
        segments.append(Segment(segment.GetName(), value, layer, tuple(segment.GetColor()), segment_id))
    return Segmentation([grid.image(layer) for layer in layers], segments=segments)


def _segmentation_from_label_map(node: Any, reference: Grid | None, what: str, stop_at: Sequence[Any]) -> Segmentation:
    image = image_from_volume_node(node, what, stop_at)
    if reference is not None and not Grid.of(image).same_as(reference):
        image = _resample_labels(image, reference, np.eye(4))
    array = sitk.GetArrayViewFromImage(image)
    if array.min() < 0 or not np.array_equal(array, np.round(array)):
        raise InputError(f'The {what} "{node.GetName()}" holds values that are no labels (negative or fractional).')
    colors = node.GetDisplayNode().GetColorNode() if node.GetDisplayNode() is not None else None
    names = {}
    for value in np.unique(array[array > 0]).tolist():
        name = colors.GetColorName(int(value)) if colors is not None and value < colors.GetNumberOfColors() else None
        if name and name != "(none)":
            names[int(value)] = name
    if not array.any():
        raise InputError(f'The {what} "{node.GetName()}" is empty: it holds no label above 0.')
    return Segmentation(image, names)


def fill_segmentation(node: Any, segmentation: Segmentation) -> None:
    """Fill an empty segmentation node; segments of one layer share one label map, as Slicer keeps them."""
    representation = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    layers = []
    for array in segmentation.layers:
        oriented = slicer.vtkOrientedImageData()
        oriented.ShallowCopy(image_of_array(array))
        oriented.SetGeometryFromImageToWorldMatrix(matrix_to_vtk(flip_target(segmentation.grid.index_to_world)))
        layers.append(oriented)
    target = node.GetSegmentation()
    target.SetConversionParameter(
        slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName(),
        slicer.vtkSegmentationConverter.SerializeImageGeometry(layers[0]),
    )
    for held in segmentation.segments:
        segment = slicer.vtkSegment()
        segment.SetName(held.name)
        if held.color is not None:
            segment.SetColor(*held.color)
        for tag in filter(None, held.tags.split("|")):
            key, _, value = tag.partition(":")
            segment.SetTag(key, value)
        segment.SetLabelValue(held.value)
        segment.AddRepresentation(representation, layers[held.layer])
        target.AddSegment(segment, held.id)
    node.CreateDefaultDisplayNodes()


def _plain_image(image_data: Any, matrix: np.ndarray, node: Any, what: str) -> sitk.Image:
    """VTK image data with a (4, 4) index-to-LPS matrix as a SimpleITK image."""
    grid = grid_of_matrix(matrix, image_data.GetExtent(), node, what, stop_at=())
    return grid.image(array_of_image(image_data))


def _resample_labels(image: sitk.Image, reference: Grid, placement: np.ndarray) -> sitk.Image:
    """A label image, placed in the world by a (4, 4) LPS matrix, nearest neighbours on ``reference``."""
    back = np.linalg.inv(placement)
    transform = sitk.AffineTransform(back[:3, :3].ravel().tolist(), back[:3, 3].tolist())
    return sitk.Resample(image, reference.empty_image(), transform, sitk.sitkNearestNeighbor, 0)


def _visible_segments(node: Any, what: str) -> list[str]:
    segmentation, display = node.GetSegmentation(), node.GetDisplayNode()
    ids = [segmentation.GetNthSegmentID(i) for i in range(segmentation.GetNumberOfSegments())]
    if display is not None:
        ids = [i for i in ids if display.GetSegmentVisibility(i)]
    if not ids:
        raise InputError(f'The {what} "{node.GetName()}" has no visible segment. Show the segments to be used.')
    return ids


def _segment_id(node: Any, segment: str, what: str) -> str:
    segmentation = node.GetSegmentation()
    if segmentation.GetSegment(segment) is not None:
        return segment
    found = segmentation.GetSegmentIdBySegmentName(segment)
    if not found:
        names = [segmentation.GetNthSegment(i).GetName() for i in range(segmentation.GetNumberOfSegments())]
        raise InputError(f'The {what} "{node.GetName()}" has no segment "{segment}"; it has: {", ".join(names)}.')
    return found


def _labelmap_source(node: Any, reference: Grid | None, placement: np.ndarray, what: str) -> Any:
    """The node's ``vtkSegmentation``, or a copy with label maps made from its surfaces: the node stays as it is."""
    segmentation = node.GetSegmentation()
    representation = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    if segmentation.ContainsRepresentation(representation):
        return segmentation
    copy = slicer.vtkSegmentation()
    copy.DeepCopy(segmentation)
    parameter = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    if reference is not None and not copy.GetConversionParameter(parameter):
        geometry = slicer.vtkOrientedImageData()
        geometry.SetExtent(0, reference.size[0] - 1, 0, reference.size[1] - 1, 0, reference.size[2] - 1)
        geometry.SetGeometryFromImageToWorldMatrix(
            matrix_to_vtk(flip_target(np.linalg.inv(placement) @ reference.index_to_world))
        )
        copy.SetConversionParameter(parameter, slicer.vtkSegmentationConverter.SerializeImageGeometry(geometry))
    if not copy.CreateRepresentation(representation):
        raise InputError(
            f'The {what} "{node.GetName()}" cannot be made a label map. Create its binary labelmap representation '
            "first (Segmentations module)."
        )
    return copy


def _segment_images(
    node: Any, ids: Sequence[str], reference: Grid, what: str, stop_at: Sequence[Any]
) -> Iterator[sitk.Image]:
    """The mask of each segment on ``reference``, uint8, 0 or 1."""
    placement = parent_matrix(node, what, stop_at)
    source = _labelmap_source(node, reference, placement, what)
    representation = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    matrix = vtk.vtkMatrix4x4()
    for segment_id in ids:
        segment = source.GetSegment(segment_id)
        oriented = segment.GetRepresentation(representation)
        if oriented is None or min(oriented.GetDimensions()) < 1 or oriented.GetPointData().GetScalars() is None:
            yield reference.image(np.zeros(reference.shape, np.uint8))
            continue
        oriented.GetImageToWorldMatrix(matrix)
        local = _plain_image(oriented, flip_target(matrix_from_vtk(matrix)), node, what)
        yield _resample_labels(local == segment.GetLabelValue(), reference, placement)


def _own_grid(node: Any, ids: Sequence[str], what: str, stop_at: Sequence[Any]) -> Grid:
    """The grid that all segments share: the reference geometry, or what encloses them."""
    placement = parent_matrix(node, what, stop_at)
    source = _labelmap_source(node, None, placement, what)
    names = vtk.vtkStringArray()
    for segment_id in ids:
        names.InsertNextValue(segment_id)
    text = source.DetermineCommonLabelmapGeometry(slicer.vtkSegmentation.EXTENT_REFERENCE_GEOMETRY, names)
    geometry = slicer.vtkOrientedImageData()
    if not text or not slicer.vtkSegmentationConverter.DeserializeImageGeometry(text, geometry, False):
        raise InputError(f'The {what} "{node.GetName()}" is empty. Draw or load its segments.')
    matrix = vtk.vtkMatrix4x4()
    geometry.GetImageToWorldMatrix(matrix)
    return grid_of_matrix(placement @ flip_target(matrix_from_vtk(matrix)), geometry.GetExtent(), node, what, stop_at)
