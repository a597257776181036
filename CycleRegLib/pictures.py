"""Pictures of a registration: panels, checkerboards, differences, deformed grid, Jacobian, round trip, landmarks.

Slices are shown in radiological convention (patient right at the left of the picture, anterior or superior up) with
square pixels.  No text is drawn into a picture: captions and scales come with it as :class:`Legend`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .colors import (
    DIVERGING,
    FIXED,
    FOLDING,
    LINES,
    MOVING,
    OVERLAY,
    SEQUENTIAL,
    Legend,
    blend,
    linear_ticks,
    nice_ceiling,
    ramp,
    to_uint8,
)
from .drawing import level_coverage, outline_coverage
from .errors import InputError
from .fields import DisplacementField
from .geometry import Grid
from .landmark_pictures import corresponding_points, crowded, draw_landmarks
from .landmarks import LandmarkList
from .outputs import OutputTransaction
from .pictures_2d import FlatInputs, flat_inputs
from .planar import is_flat
from .png import save_png
from .segmentations import Segmentation
from .slices import (
    Plane,
    foreground_center,
    intensity_window,
    is_hounsfield,
    planes_through,
    some_values,
    to_grey,
)

_MIN_ROUND_TRIP_MM = 0.05
# Ends of the scale of the Jacobian determinant: from 1 / factor to factor.
_JACOBIAN_FACTORS = (1.1, 1.25, 1.5, 2.0, 3.0, 4.0, 8.0, 16.0)


class Pictures(dict):
    """``{"kind-plane": (h, w, 3) uint8}``, with the scales of the coloured kinds and where the slices lie.

    Kinds: ``fixed``, ``moving``, ``warped``, ``checkerboard-before``, ``checkerboard-after``, ``difference-before``,
    ``difference-after``, ``grid``, ``jacobian``, ``roundtrip``, ``landmarks-before``, ``landmarks-after``,
    ``outlines-before``, ``outlines-after``; planes: ``axial``, ``coronal``, ``sagittal``, or ``picture`` of 2D images.

    Attributes
    ----------
    legends
        kind (without ``-before``/``-after``) to :class:`Legend`.
    point
        (x, y, z) LPS mm through which the slices go; empty where there is one plane.
    landmark_point
        The same for the pictures of the landmarks, which have slices of their own; ``None`` without landmarks, and
        where there is one plane.
    grid_mm
        Distance of the lines of the deformed grid.
    checker_mm
        Side of the checkerboard's squares.
    """

    def __init__(self) -> None:
        super().__init__()
        self.legends: dict[str, Legend] = {}
        self.point: tuple[float, ...] = ()
        self.landmark_point: tuple[float, ...] | None = None
        self.grid_mm = 0.0
        self.checker_mm = 0.0


def render_pictures(
    fixed: sitk.Image,
    moving: sitk.Image,
    field: DisplacementField,
    warped: sitk.Image | None = None,
    inverse: DisplacementField | None = None,
    fixed_landmarks: np.ndarray | LandmarkList | None = None,
    moving_landmarks: np.ndarray | LandmarkList | None = None,
    fixed_segmentation: sitk.Image | Segmentation | None = None,
    moving_segmentation: sitk.Image | Segmentation | None = None,
    initial: sitk.Transform | DisplacementField | None = None,
    point: np.ndarray | None = None,
    longest: int = 560,
    progress: Callable[[str, float], None] | None = None,
) -> Pictures:
    """Everything worth seeing of a registration, in three orthogonal slices of the fixed image.

    Of pictures and single slices it is the one plane that they have; images in colours are shown in colours.

    Parameters
    ----------
    fixed, moving
        Three-dimensional scalar images of any geometry; or both 2D, or both single slices, then also RGB.
    field
        Belongs to the fixed image: ``p_moving = p_fixed + u(p_fixed)``, LPS mm.
    warped
        The moving image on the fixed grid; made with ``field`` when left out.
    inverse
        The field of the other direction; with it come the pictures of the round trip.
    fixed_landmarks, moving_landmarks
        Corresponding points: (N, 3) arrays in LPS mm, or lists as :func:`~CycleRegLib.landmarks.read_landmarks`
        returns them (matched by label).
    fixed_segmentation, moving_segmentation
        Label images, or :class:`~CycleRegLib.segmentations.Segmentation`; with both come outlines.
    initial
        Where the moving image lay before (maps fixed to moving points); the identity when left out.
    point
        (3,) LPS mm, where to cut.  Left out: the centroid of a tumour among the fixed segments (a name with "tumo" or
        "lesion"), else of all of them; else where most landmarks are near; else the fixed image's centre of mass
        without background.
    longest
        Pixels along the longest side of the fixed volume; all slices share that scale.
    progress
        Called with ``("pictures", fraction)``.

    Raises
    ------
    InputError
        If the images are not of one dimension with the field, or the two landmark lists differ in length.
    """
    flat = None
    if is_flat(fixed):
        segmentations = fixed_segmentation, moving_segmentation
        flat = flat_inputs(fixed, moving, field, warped, inverse, initial, segmentations)
        fixed, moving, warped, field, inverse = flat.fixed, flat.moving, flat.warped, flat.field, flat.inverse
        initial, fixed_segmentation, moving_segmentation = (
            flat.initial, flat.fixed_segmentation, flat.moving_segmentation,
        )  # fmt: skip
    if fixed.GetDimension() != 3 or moving.GetDimension() != 3 or field.grid.dimension != 3:
        raise InputError("Pictures in three planes need three-dimensional images.")
    fixed_grid = Grid.of(fixed)
    pairs = None
    if fixed_landmarks is not None and moving_landmarks is not None:
        pairs = corresponding_points(fixed_landmarks, moving_landmarks)
    if point is None and fixed_segmentation is not None:
        point = _segment_center(fixed_segmentation)
    if point is None and pairs is not None and len(pairs[0]):
        point = crowded(fixed_grid, pairs[0])
    if point is None:
        point = foreground_center(fixed)
    pictures = Pictures()
    planes = planes_through(fixed_grid, point, longest)
    if flat is None:
        pictures.point = tuple(float(v) for v in point)
    else:
        planes = flat.planes(planes)
    views = [_View(plane, fixed, moving, field, warped, initial) for plane in planes]
    windows = (intensity_window(fixed), intensity_window(moving)) if flat is None else flat.windows()
    extent = float((np.array(fixed_grid.size) * fixed_grid.spacing).max())

    steps: list[Callable[[], None]] = [
        lambda: _panels(pictures, views, windows),
        lambda: pictures.update({} if flat is None else flat.panels(views)),
        lambda: _checkerboards(pictures, views, windows, extent),
        lambda: _differences(pictures, views, windows, is_hounsfield(some_values(fixed))),
        lambda: _grids(pictures, views, windows, extent),
        lambda: _jacobians(pictures, views, windows, field, None if flat is None else flat.determinant),
    ]
    if inverse is not None:
        steps.append(lambda: _round_trips(pictures, views, windows, field, inverse))
    if pairs is not None and len(pairs[0]):
        steps.append(lambda: _landmarks(pictures, fixed_grid, moving, field, initial, windows[1], pairs, longest, flat))
    if fixed_segmentation is not None and moving_segmentation is not None:
        labels = _layers(fixed_segmentation), _layers(moving_segmentation)
        steps.append(lambda: _outlines(pictures, views, windows, labels))
    for done, step in enumerate(steps):
        if progress is not None:
            progress("pictures", done / len(steps))
        step()
    if progress is not None:
        progress("pictures", 1.0)
    return pictures


def write_pictures(folder: str | Path, pictures: dict[str, np.ndarray]) -> list[Path]:
    """Write each picture as ``folder/<name>.png``, all or none; returns the paths in the dictionary's order.

    Raises
    ------
    InputError
        If the folder does not exist or cannot be written to.
    """
    paths = [Path(folder) / f"{name}.png" for name in pictures]
    with OutputTransaction() as out:
        for path, picture in zip(paths, pictures.values()):
            save_png(picture, out.path(path))
    return paths


class _View:
    """What one slice shows, at the voxels of the fixed image."""

    def __init__(
        self,
        plane: Plane,
        fixed: sitk.Image,
        moving: sitk.Image,
        field: DisplacementField,
        warped: sitk.Image | None,
        initial: sitk.Transform | DisplacementField | None,
    ) -> None:
        self.plane = plane
        self.field = field.resampled(plane.grid)
        self.fixed = plane.take(fixed)
        self.start = _start_field(initial, plane.grid)
        self.before = self.warp(moving, "before")
        self.after = self.warp(moving, "after") if warped is None else plane.take(warped)
        moving_grid = Grid.of(moving)
        points = plane.grid.points()[0]
        self.seen_before = moving_grid.contains(points + self.start.vectors[0])
        self.seen_after = moving_grid.contains(points + self.field.vectors[0])

    def warp(self, image: sitk.Image, kind: str, nearest: bool = False) -> np.ndarray:
        """(h, w) values of an image in moving space, before or after the registration."""
        field = self.start if kind == "before" else self.field
        return sitk.GetArrayFromImage(field.warp(image, "nearest" if nearest else "linear"))[0]

    def grey(self, values: np.ndarray, window: tuple[float, float]) -> np.ndarray:
        # Clipped before it is enlarged: bone and air beyond the window would ring and make hard, stepped edges.
        return to_grey(self.plane.enlarge(np.clip(values, *window)), window)


_Windows = tuple[tuple[float, float], tuple[float, float]]


def _panels(pictures: Pictures, views: list[_View], windows: _Windows) -> None:
    for kind, window in (("fixed", windows[0]), ("before", windows[1]), ("after", windows[1])):
        name = {"fixed": "fixed", "before": "moving", "after": "warped"}[kind]
        for view in views:
            pictures[f"{name}-{view.plane.name}"] = to_uint8(view.grey(getattr(view, kind), window))


def _checkerboards(pictures: Pictures, views: list[_View], windows: _Windows, extent: float) -> None:
    pictures.checker_mm = nice_ceiling(extent / 10)
    for kind in ("before", "after"):
        for view in views:
            x, y = (np.floor(v / pictures.checker_mm) for v in view.plane.offsets_mm())
            from_fixed = (x[None, :] + y[:, None]) % 2 == 0
            fixed, other = view.grey(view.fixed, windows[0]), view.grey(getattr(view, kind), windows[1])
            pictures[f"checkerboard-{kind}-{view.plane.name}"] = to_uint8(np.where(from_fixed[..., None], fixed, other))


def _differences(pictures: Pictures, views: list[_View], windows: _Windows, hounsfield: bool) -> None:
    """Fixed minus moving, after the moving intensities were mapped to the fixed ones.

    The map is monotone: quantiles to quantiles, learnt where the registered images both show something, and the same
    before and after.  The scale is the 99th percentile of the size of all differences shown.
    """
    fixed_values = np.concatenate([np.clip(v.fixed, *windows[0])[v.seen_after] for v in views])
    moving_values = np.concatenate([np.clip(v.after, *windows[1])[v.seen_after] for v in views])
    shown = (fixed_values > windows[0][0]) & (moving_values > windows[1][0])
    levels = np.linspace(0, 100, 129)
    if shown.any():
        source, target = np.percentile(moving_values[shown], levels), np.percentile(fixed_values[shown], levels)
        keep = np.append(True, np.diff(source) > 0)  # np.interp needs increasing places
        source, target = source[keep], target[keep]
    else:
        source, target = np.array(windows[1]), np.array(windows[0])
    source, target = np.append(windows[1][0], source), np.append(windows[0][0], target)

    def difference(view: _View, kind: str) -> np.ndarray:
        other = np.interp(np.clip(getattr(view, kind), *windows[1]), source, target)
        seen = view.seen_before if kind == "before" else view.seen_after
        return np.where(seen, np.clip(view.fixed, *windows[0]) - other, 0.0)

    found = {(kind, view.plane.name): difference(view, kind) for kind in ("before", "after") for view in views}
    sizes = np.concatenate([np.abs(d[d != 0]) for d in found.values()])
    limit = nice_ceiling(float(np.percentile(sizes, 99))) if sizes.size else 1.0
    for kind in ("before", "after"):
        for view in views:
            values = view.plane.enlarge(found[kind, view.plane.name])
            pictures[f"difference-{kind}-{view.plane.name}"] = to_uint8(ramp(values / limit / 2 + 0.5, DIVERGING))
    pictures.legends["difference"] = Legend(
        "Fixed − moving", "HU" if hounsfield else "", DIVERGING, linear_ticks(-limit, limit)
    )


def _grids(pictures: Pictures, views: list[_View], windows: _Windows, extent: float) -> None:
    """A regular grid drawn on the moving image and carried along when it is warped, coloured by displacement."""
    pictures.grid_mm = nice_ceiling(extent / 26)
    lengths = [np.linalg.norm(view.field.vectors[0], axis=-1) for view in views]
    limit = nice_ceiling(max(float(np.percentile(np.concatenate([v.ravel() for v in lengths]), 99.5)), 0.01))
    for view, length in zip(views, lengths):
        plane = view.plane
        axes = plane.grid.direction_matrix
        x, y = plane.offsets_mm()
        # Where each pixel comes from in the moving image, measured along the picture's sides from its middle.
        from_x = x[None, :] + plane.enlarge(view.field.vectors[0] @ axes[:, 0])
        from_y = y[:, None] + plane.enlarge(view.field.vectors[0] @ axes[:, 1])
        lines = np.maximum(*[level_coverage(v, pictures.grid_mm, 1.5) for v in (from_x, from_y)])
        below = view.grey(view.after, windows[1]) * 0.6
        colors = ramp(plane.enlarge(length) / limit, LINES)
        pictures[f"grid-{plane.name}"] = to_uint8(blend(below, colors, lines))
    pictures.legends["grid"] = Legend("Length of the displacement", "mm", LINES, linear_ticks(0.0, limit, 3))


def _jacobians(
    pictures: Pictures,
    views: list[_View],
    windows: _Windows,
    field: DisplacementField,
    determinant: sitk.Image | None = None,
) -> None:
    if determinant is None:
        determinant = field.grid.image(field.jacobian_determinant())
    found = [view.plane.take(determinant, nearest=True) for view in views]
    positive = np.concatenate([d[d > 0] for d in found])
    spread = float(np.percentile(np.abs(np.log2(positive)), 99.5)) if positive.size else 1.0
    factor = next((f for f in _JACOBIAN_FACTORS if f >= 2.0**spread), _JACOBIAN_FACTORS[-1])
    limit = float(np.log2(factor))
    for view, values in zip(views, found):
        plane = view.plane
        log = np.log2(np.maximum(values, 2.0**-8))
        shown = np.clip(plane.enlarge(log) / limit, -1, 1)
        picture = blend(
            view.grey(view.fixed, windows[0]) * 0.75, ramp(shown / 2 + 0.5, OVERLAY), np.abs(shown) ** 0.7 * 0.85
        )
        # Whole voxels, undimmed: a single folded voxel must not vanish in interpolation.
        picture[plane.enlarge(values <= 0, nearest=True) > 0.5] = FOLDING
        pictures[f"jacobian-{plane.name}"] = to_uint8(picture)
    ticks = ((0.0, f"{1 / factor:.3g}"), (0.5, "1"), (1.0, f"{factor:g}"))
    pictures.legends["jacobian"] = Legend(
        "Jacobian determinant", "", OVERLAY, ticks, ((FOLDING, "folding (determinant ≤ 0)"),)
    )


def _round_trips(
    pictures: Pictures, views: list[_View], windows: _Windows, field: DisplacementField, inverse: DisplacementField
) -> None:
    error = field.grid.image(field.round_trip(inverse))
    found = [view.plane.take(error, nearest=True, default=np.nan) for view in views]
    known = np.concatenate([e[np.isfinite(e)] for e in found])
    limit = nice_ceiling(max(float(np.percentile(known, 99)) if known.size else 0.0, _MIN_ROUND_TRIP_MM))
    for view, values in zip(views, found):
        plane = view.plane
        shown = np.clip(plane.enlarge(np.nan_to_num(values)) / limit, 0, 1)
        opacity = np.where(plane.enlarge(np.isfinite(values), nearest=True) > 0.5, 0.25 + 0.6 * shown, 0.0)
        below = view.grey(view.fixed, windows[0]) * 0.75
        pictures[f"roundtrip-{plane.name}"] = to_uint8(blend(below, ramp(shown, SEQUENTIAL), opacity))
    pictures.legends["roundtrip"] = Legend("Round-trip error", "mm", SEQUENTIAL, linear_ticks(0.0, limit, 3))


def _landmarks(
    pictures: Pictures,
    grid: Grid,
    moving: sitk.Image,
    field: DisplacementField,
    initial: sitk.Transform | DisplacementField | None,
    window: tuple[float, float],
    points: tuple[np.ndarray, np.ndarray],
    longest: int,
    flat: FlatInputs | None,
) -> None:
    """Over the moving image: where the landmark is (circle) and where the fixed landmark is taken to be (cross)."""
    if flat is not None:
        grid = Grid.of(moving)  # the two slices may lie apart in space
    place = crowded(grid, points[1])
    planes = planes_through(grid, place, longest)
    if flat is None:
        pictures.landmark_point = tuple(float(v) for v in place)
    else:
        planes = flat.planes(planes)
    pictures.update(draw_landmarks(planes, moving, window, field, initial, points))
    pictures.legends["landmarks"] = Legend(
        "", "", extra=((MOVING, "landmark in the moving image"), (FIXED, "landmark of the fixed image, mapped"))
    )


def _outlines(
    pictures: Pictures, views: list[_View], windows: _Windows, labels: tuple[list[sitk.Image], list[sitk.Image]]
) -> None:
    for kind in ("before", "after"):
        for view in views:
            plane = view.plane
            fixed = [plane.take(image, nearest=True) for image in labels[0]]
            other = [view.warp(image, kind, nearest=True) for image in labels[1]]
            picture = view.grey(view.fixed, windows[0]) * 0.85
            for color, layers in ((MOVING, other), (FIXED, fixed)):
                lines = np.zeros(picture.shape[:2], np.float32)
                for layer in layers:
                    for label in np.unique(layer[layer != 0]):
                        lines = np.maximum(lines, outline_coverage(plane.enlarge(layer == label), 1.8))
                picture = blend(picture, np.array(color, np.float32), lines)
            pictures[f"outlines-{kind}-{plane.name}"] = to_uint8(picture)
    pictures.legends["outlines"] = Legend("", "", extra=((FIXED, "fixed image"), (MOVING, "moving image")))


def _start_field(initial: sitk.Transform | DisplacementField | None, grid: Grid) -> DisplacementField:
    if initial is None:
        return DisplacementField.identity(grid)
    if isinstance(initial, DisplacementField):
        return initial.resampled(grid)
    return DisplacementField.from_transform(initial, grid)


def _layers(segmentation: sitk.Image | Segmentation) -> list[sitk.Image]:
    return [segmentation] if isinstance(segmentation, sitk.Image) else segmentation.to_label_images()


def _segment_center(segmentation: sitk.Image | Segmentation) -> np.ndarray | None:
    """Centroid of the tumour, else of everything segmented, LPS mm; ``None`` if nothing is."""
    layers = _layers(segmentation)
    names = segmentation.names if isinstance(segmentation, Segmentation) else {}
    tumors = [value for value, name in names.items() if any(part in name.lower() for part in ("tumo", "lesion"))]
    arrays = [sitk.GetArrayViewFromImage(image) for image in layers]
    voxels = np.concatenate([np.argwhere(np.isin(array, tumors)) for array in arrays])
    if not len(voxels):
        voxels = np.concatenate([np.argwhere(array != 0) for array in arrays])
    return Grid.of(layers[0]).to_world(voxels.mean(axis=0)[::-1]) if len(voxels) else None
