"""Named segments on a grid, which may overlap; read and written as Slicer's ``.seg.nrrd`` or as label images.

A segmentation is one or more *layers* (label arrays of one grid).  Segments of one layer cannot overlap; segments of
different layers can.  Every segment has its own positive label value, unique over all layers.
"""

from __future__ import annotations

import gzip
import re
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import SimpleITK as sitk

from .errors import CycleRegWarning, InputError
from .fields import DisplacementField
from .geometry import Grid
from .images import read_label_image, resample_to

Color = tuple[float, float, float]

_SPACES = {
    "left-posterior-superior": (1.0, 1.0, 1.0),
    "lps": (1.0, 1.0, 1.0),
    "right-anterior-superior": (-1.0, -1.0, 1.0),
    "ras": (-1.0, -1.0, 1.0),
    "left-anterior-superior": (1.0, -1.0, 1.0),
    "las": (1.0, -1.0, 1.0),
}
# More distinct whole values than any atlas has labels: an intensity image.
_MOST_LABELS = 2000
_COLORS: tuple[Color, ...] = (
    (0.87, 0.51, 0.40),
    (0.46, 0.80, 0.38),
    (0.62, 0.42, 0.64),
    (0.92, 0.74, 0.30),
    (0.36, 0.62, 0.86),
    (0.85, 0.36, 0.56),
    (0.40, 0.74, 0.70),
    (0.70, 0.62, 0.48),
)


@dataclass(frozen=True)
class Segment:
    """One segment: its label ``value`` (> 0) in layer number ``layer``, RGB ``color`` in 0..1, Slicer's id and tags."""

    name: str
    value: int
    layer: int = 0
    color: Color | None = None
    id: str = ""
    tags: str = ""


class Segmentation:
    """Named segments on one grid.

    Parameters
    ----------
    labels
        A 3D label image, or several of one grid (layers) when segments overlap.  Kept as unsigned arrays.
    names
        Label value to name; values without a name are called ``label <value>``, values without a voxel become empty
        segments.  Ignored when ``segments`` is given.
    segments
        The segments in full; voxels of values that no segment of their layer has become background.

    Raises
    ------
    ValueError
        If the layers are not of one grid, values are not whole and >= 0, or two segments share a value.

    Attributes
    ----------
    grid : Grid
    layers : list of (z, y, x) uint8, uint16 or uint32 arrays
    segments : list of Segment, in display order
    """

    def __init__(
        self,
        labels: sitk.Image | Sequence[sitk.Image],
        names: Mapping[int, str] | None = None,
        segments: Sequence[Segment] | None = None,
    ) -> None:
        images = [labels] if isinstance(labels, sitk.Image) else list(labels)
        self.grid = Grid.of(images[0])
        if not all(Grid.of(image).same_as(self.grid) for image in images):
            raise ValueError("the layers of a segmentation must have the same grid")
        arrays = [_unsigned(sitk.GetArrayViewFromImage(image)) for image in images]
        if segments is None:
            found = {int(value): k for k, array in enumerate(arrays) for value in _values(array)}
            given = {int(value): name for value, name in (names or {}).items()}
            segments = [
                Segment(given.get(value, f"label {value}"), value, found.get(value, 0))
                for value in sorted(set(found) | set(given))
            ]
        if len({segment.value for segment in segments}) < len(segments) or any(s.value < 1 for s in segments):
            raise ValueError("every segment needs its own label value above 0")
        self.segments = [
            replace(s, id=s.id or f"Segment_{s.value}", color=s.color or _COLORS[i % len(_COLORS)])
            for i, s in enumerate(segments)
        ]
        self.layers = [
            _keep(array, [segment.value for segment in segments if segment.layer == k])
            for k, array in enumerate(arrays)
        ]

    @property
    def names(self) -> dict[int, str]:
        """Label value to name, in the order of the segments."""
        return {segment.value: segment.name for segment in self.segments}

    @property
    def labels(self) -> sitk.Image:
        """All segments in one label image; where they overlap, the later segment wins."""
        if len(self.layers) == 1:
            return self.grid.image(self.layers[0])
        flat = np.zeros(self.grid.shape, dtype=np.result_type(*self.layers))
        for segment in self.segments:
            flat[self.mask(segment.value)] = segment.value
        return self.grid.image(flat)

    @property
    def overlapping(self) -> bool:
        """Whether any voxel belongs to two segments."""
        return len(self.layers) > 1 and bool(np.any(sum((layer > 0).astype(np.uint8) for layer in self.layers) > 1))

    def segment(self, key: str | int) -> Segment:
        """The segment of a name or a label value.

        Raises
        ------
        InputError
            If there is none; the message lists those that are there.
        """
        for segment in self.segments:
            if key == (segment.name if isinstance(key, str) else segment.value):
                return segment
        there = ", ".join(f"{segment.name!r}" for segment in self.segments) or "none"
        raise InputError(f"The segmentation has no segment {key!r}; it has {there}.")

    def mask(self, key: str | int) -> np.ndarray:
        """The voxels of a segment, named or by label value: bool (z, y, x).  Raises as :meth:`segment`."""
        segment = self.segment(key)
        return self.layers[segment.layer] == segment.value

    def to_label_images(self) -> list[sitk.Image]:
        """One label image per layer, together holding everything, overlaps included."""
        return [self.grid.image(layer) for layer in self.layers]

    def with_layers(self, images: Sequence[sitk.Image]) -> Segmentation:
        """The same segments on other label images, one per layer: what a warp or a resampling gives."""
        if len(images) != len(self.layers):
            raise ValueError(f"{len(images)} images do not fit {len(self.layers)} layers")
        return Segmentation(images, segments=self.segments)

    def chosen(self, names: Mapping[str, str]) -> Segmentation:
        """Only the segments that ``names`` lists, in that order, each under the new name that it gives.

        Raises
        ------
        InputError
            If a segment is not there; the message lists those that are.
        """
        segments = [replace(self.segment(old), name=new) for old, new in names.items()]
        return Segmentation(self.to_label_images(), segments=segments)

    def resampled(self, grid: Grid) -> Segmentation:
        """On another grid, by nearest neighbour; outside the old grid is background."""
        if grid.same_as(self.grid):
            return self
        return self.with_layers([resample_to(image, grid, None, "nearest") for image in self.to_label_images()])

    def warped(self, field: DisplacementField) -> Segmentation:
        """On the field's (fixed) grid, ``warped(x) = self(x + u(x))``, by nearest neighbour."""
        return self.with_layers([field.warp(image, "nearest") for image in self.to_label_images()])


def read_segmentation(path: str | Path, what: str = "segmentation", flat: bool = False) -> Segmentation:
    """Read a ``.seg.nrrd`` as Slicer writes it, or any 3D label image (with ``flat``, pictures and single slices too).

    Overlapping segments (layers) are kept.  When segments of different layers share a label value, as Slicer writes
    them, the later ones get the next free value.

    Raises
    ------
    InputError
        If the file is missing or unreadable, not 3D, has no label, or is an intensity image.
    """
    path = Path(path).expanduser()
    if path.name.lower().endswith((".nrrd", ".nhdr")) and path.is_file():
        segmentation = _read_seg_nrrd(path, what)
        if segmentation is not None:
            return segmentation
    image = read_label_image(path, what, flat)
    array = sitk.GetArrayViewFromImage(image)
    if array.min() < 0 or len(np.unique(array[array > 0])) > _MOST_LABELS:
        raise InputError(f"The {what} {path} is an intensity image where a label image is expected.")
    if not array.any():
        raise InputError(f"The {what} {path} is empty: it holds no label above 0.")
    return Segmentation(image)


def write_segmentation(segmentation: Segmentation, path: str | Path) -> None:
    """Write ``.seg.nrrd`` with names, colours and label values as Slicer does; any other ending as a label image.

    A label image cannot hold overlaps (the later segment wins, with a warning) or names.

    Raises
    ------
    OSError
        If the disk refuses.
    """
    path = Path(path)
    if path.name.lower().endswith(".seg.nrrd"):
        path.write_bytes(_format_seg_nrrd(segmentation))
        return
    if segmentation.overlapping:
        warnings.warn(
            f"Overlapping segments do not fit the label image {path.name}; the later segment wins. "
            "Write a .seg.nrrd to keep all of them.",
            CycleRegWarning,
            stacklevel=2,
        )
    try:
        sitk.WriteImage(segmentation.labels, str(path), useCompression=True)
    except RuntimeError as error:
        raise OSError(str(error).strip().splitlines()[-1]) from error


# ---------------------------------------------------------------------- arrays


def _values(array: np.ndarray) -> np.ndarray:
    """The distinct non-zero values."""
    values = np.unique(array)
    return values[values > 0]


def _unsigned(array: np.ndarray) -> np.ndarray:
    """A copy in the smallest unsigned type that holds all values."""
    top = array.max()
    if array.min() < 0 or (array.dtype.kind == "f" and not np.array_equal(array, np.round(array))):
        raise ValueError("label values must be whole numbers >= 0")
    return np.array(array, dtype=np.uint8 if top < 2**8 else np.uint16 if top < 2**16 else np.uint32)


def _keep(array: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """The array with every other value set to 0."""
    return array if set(_values(array).tolist()) <= set(values) else np.where(np.isin(array, values), array, 0)


# ---------------------------------------------------------------------- .seg.nrrd


def _read_seg_nrrd(path: Path, what: str) -> Segmentation | None:
    """None when the NRRD file has no segment fields."""
    try:
        with open(path, "rb") as file:
            # Decoded here, because names are UTF-8 and pynrrd would drop everything beyond ASCII.
            lines = []
            for line in iter(file.readline, b""):
                lines.append(line.decode("utf-8", "replace"))
                if not line.strip():
                    break
            if not any(re.match(r"Segment\d+_\w+:=", line) for line in lines):
                return None
            header = nrrd.read_header(lines)
            data = nrrd.read_data(header, file, str(path), index_order="C")
    except (nrrd.NRRDError, OSError, EOFError, ValueError, StopIteration, zlib.error) as error:
        raise InputError(f"The {what} {path} cannot be read: {error}.") from error
    grid, layers = _geometry(header, data, path, what)
    try:
        arrays = [_unsigned(layer) for layer in layers]
    except ValueError:
        raise InputError(
            f"The {what} {path} holds fractional or negative values: it is no binary segmentation; convert its "
            "segments to the binary labelmap representation."
        ) from None
    segments = _segments(header, len(arrays), data.ndim == 4, path, what)
    return Segmentation([grid.image(a) for a in _separate(arrays, segments)], segments=segments)


def _geometry(header: Mapping[str, Any], data: np.ndarray, path: Path, what: str) -> tuple[Grid, list[np.ndarray]]:
    """The grid in LPS mm, and the layers as (z, y, x) arrays."""
    space = str(header.get("space", "")).lower()
    directions = np.array(header.get("space directions", np.zeros((0, 0))), dtype=np.float64)
    if space not in _SPACES or directions.shape != (data.ndim, 3):
        raise InputError(
            f"The {what} {path} does not say where it lies (space {space!r}); save it again from 3D Slicer."
        )
    spatial = np.isfinite(directions).all(axis=1)
    if spatial.sum() != 3:
        raise InputError(f"The {what} {path} has {int(spatial.sum())} spatial axes; 3 are needed.")
    flip = np.array(_SPACES[space])
    axes = directions[spatial] * flip  # row i: the step along axis i
    spacing = np.linalg.norm(axes, axis=1)
    origin = np.array(header.get("space origin", np.zeros(3)), dtype=np.float64) * flip
    if data.ndim == 4:
        # file axes run the other way round in the array
        data = np.moveaxis(data, data.ndim - 1 - int(np.flatnonzero(~spatial)[0]), 0)
    else:
        data = data[np.newaxis]
    size = data.shape[:0:-1]
    grid = Grid(size, tuple(spacing), tuple(origin), tuple((axes / np.maximum(spacing, 1e-300)[:, None]).T.ravel()))
    return grid, list(data)


def _segments(header: Mapping[str, Any], layers: int, layered: bool, path: Path, what: str) -> list[Segment]:
    """The segments as the file has them; before Slicer 4.11 each had its own layer and the value 1."""
    numbers = sorted({int(m.group(1)) for key in header for m in [re.match(r"Segment(\d+)_(?:ID|Name)$", key)] if m})
    segments = []
    for number in numbers:

        def field(key: str, default: str, number: int = number) -> str:
            return _unescape(str(header.get(f"Segment{number}_{key}", default)))

        try:
            segment = Segment(
                name=field("Name", field("ID", f"Segment_{number}")),
                value=int(field("LabelValue", "1")),
                layer=int(field("Layer", str(number if layered else 0))),
                color=tuple(float(v) for v in field("Color", "0.5 0.5 0.5").split())[:3],  # type: ignore[arg-type]
                id=field("ID", f"Segment_{number}"),
                tags=field("Tags", ""),
            )
        except ValueError as error:
            raise InputError(
                f"The {what} {path} describes segment {number} in a way nobody can read: {error}."
            ) from None
        if not 0 <= segment.layer < layers or segment.value < 1:
            raise InputError(
                f"The {what} {path} puts segment {segment.name!r} at label {segment.value} of layer {segment.layer}, "
                f"but it has {layers} layer(s). Save it again from 3D Slicer."
            )
        segments.append(segment)
    if len({(segment.layer, segment.value) for segment in segments}) < len(segments):
        raise InputError(f"The {what} {path} gives the same voxels to two segments. Save it again from 3D Slicer.")
    return segments


def _separate(arrays: list[np.ndarray], segments: list[Segment]) -> list[np.ndarray]:
    """Make label values unique over all layers; ``segments`` is changed to match."""
    original = [array.astype(np.uint32) for array in arrays]
    changed = [array.copy() for array in original]
    taken: set[int] = set()
    reserved = {segment.value for segment in segments}
    for i, segment in enumerate(segments):
        value = segment.value
        if value in taken:
            value = next(v for v in range(1, len(segments) + max(reserved) + 1) if v not in taken | reserved)
            changed[segment.layer][original[segment.layer] == segment.value] = value
            segments[i] = replace(segment, value=value)
        taken.add(value)
    return changed


def _format_seg_nrrd(segmentation: Segmentation) -> bytes:
    """The bytes of the file: the same segmentation always gives the same bytes."""
    grid, layers = segmentation.grid, segmentation.layers
    data = np.stack(layers, axis=-1) if len(layers) > 1 else layers[0]
    data = data.astype(data.dtype.newbyteorder("<"))
    steps = [
        "(" + ",".join(repr(float(v)) for v in row) + ")" for row in (grid.direction_matrix * np.array(grid.spacing)).T
    ]
    kinds = ["domain"] * 3
    if len(layers) > 1:
        steps.insert(0, "none")
        kinds.insert(0, "list")
    lines = [
        "NRRD0004",
        f"type: { {1: 'unsigned char', 2: 'unsigned short', 4: 'unsigned int'}[data.dtype.itemsize] }",
        f"dimension: {data.ndim}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(str(n) for n in data.shape[::-1])}",
        f"space directions: {' '.join(steps)}",
        f"kinds: {' '.join(kinds)}",
        "endian: little",
        "encoding: gzip",
        f"space origin: ({','.join(repr(v) for v in grid.origin)})",
    ]
    for number, segment in enumerate(segmentation.segments):
        fields = {
            "Color": " ".join(f"{v:.6g}" for v in segment.color or _COLORS[0]),
            "ColorAutoGenerated": "0",
            "Extent": _extent(segmentation.mask(segment.value)),
            "ID": segment.id,
            "LabelValue": segment.value,
            "Layer": segment.layer,
            "Name": segment.name,
            "NameAutoGenerated": "0",
            "Tags": segment.tags,
        }
        lines += [f"Segment{number}_{key}:={_escape(str(value))}" for key, value in fields.items() if value != ""]
    lines += [
        "Segmentation_ContainedRepresentationNames:=Binary labelmap|",
        "Segmentation_ConversionParameters:=",
        "Segmentation_MasterRepresentation:=Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset:=0 0 0",
    ]
    return "\n".join([*lines, "", ""]).encode("utf-8") + gzip.compress(data.tobytes(), compresslevel=6, mtime=0)


def _extent(mask: np.ndarray) -> str:
    """First and last index of the mask along x, y, z, as Slicer writes it; an empty one ends before it begins."""
    numbers = []
    for axis in (2, 1, 0):
        hit = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        numbers += [int(hit[0]), int(hit[-1])] if hit.size else [0, -1]
    return " ".join(str(n) for n in numbers)


def _escape(text: str) -> str:
    """As the NRRD format wants key/value texts."""
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _unescape(text: str) -> str:
    return re.sub(r"\\([\\n])", lambda match: "\n" if match.group(1) == "n" else "\\", text)
