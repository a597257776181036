"""Measures of a registration: distances, overlap, surfaces, field statistics and image similarity.

Pure functions on arrays, (z, y, x) or (y, x).  A measure that is not defined for its input (an empty mask, a constant
image) is NaN; :mod:`CycleRegLib.evaluation` turns that into ``None`` and a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch

from .geometry import Grid
from .similarity import box_sum
from .storage import slabs

_SSIM_SIGMA = 1.5
_SSIM_RADIUS = 5
_SLAB_VOXELS = 2_000_000
_SHEAR = 1e-4
# Percentiles of more values are found by counting in bins.
_SORTED_VOXELS = 4_000_000
_BINS = 2048


@dataclass(frozen=True)
class Statistics:
    """Mean, sample standard deviation (n - 1; NaN for one value), median, 95th percentile and maximum of n values."""

    mean: float
    sd: float
    median: float
    p95: float
    max: float
    count: int

    @classmethod
    def of(cls, values: np.ndarray) -> Statistics:
        """Of all values that are not NaN; every figure is NaN when there is none."""
        values = np.asarray(values, dtype=np.float64)
        values = values[~np.isnan(values)]
        if not values.size:
            return cls(*[float("nan")] * 5, count=0)
        return cls(
            mean=float(values.mean()),
            sd=float(values.std(ddof=1)) if values.size > 1 else float("nan"),
            median=float(np.median(values)),
            p95=float(np.percentile(values, 95)),
            max=float(values.max()),
            count=int(values.size),
        )


def target_registration_errors(mapped: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Euclidean distances in mm between fixed landmarks mapped into the moving image and the moving landmarks.

    Both (N, n) in LPS mm.  CycleMorph, equation 13, is the mean of these.
    """
    return np.linalg.norm(np.asarray(mapped, np.float64) - np.asarray(moving, np.float64), axis=-1)


# ---------------------------------------------------------------------- overlap


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """2 |A and B| / (|A| + |B|) of two masks (CycleMorph, equation 12); NaN when both are empty."""
    a, b = np.asarray(a, bool), np.asarray(b, bool)
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return float(2 * np.count_nonzero(a & b) / total) if total else float("nan")


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """|A and B| / |A or B| of two masks (Jaccard); NaN when both are empty."""
    a, b = np.asarray(a, bool), np.asarray(b, bool)
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else float("nan")


def binary_intensity_ratio(fixed: np.ndarray, warped: np.ndarray) -> float:
    """1 - nonzero(fixed - warped) / nonzero(fixed) of two label arrays (InverseNet, equation 4).

    1 is perfect; it is negative when more voxels differ than the fixed labels have.  NaN when ``fixed`` is empty.
    """
    fixed, warped = np.asarray(fixed), np.asarray(warped)
    size = np.count_nonzero(fixed)
    return float(1 - np.count_nonzero(fixed != warped) / size) if size else float("nan")


# ---------------------------------------------------------------------- surfaces


def surface(mask: np.ndarray) -> np.ndarray:
    """Voxels of a mask of which at least one face neighbour is not in it; beyond the array nothing is.

    Across a single slice there are no neighbours: its surface is its outline.
    """
    padded = np.pad(np.asarray(mask, bool), 1)
    middle = [slice(1, -1)] * padded.ndim
    inner = padded[tuple(middle)].copy()
    for axis in [a for a, length in enumerate(mask.shape) if length > 1]:
        for part in (slice(0, -2), slice(2, None)):
            inner &= padded[(*middle[:axis], part, *middle[axis + 1 :])]
    return padded[tuple(middle)] & ~inner


def surface_distances(a: np.ndarray, b: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Distances in mm from every surface voxel of A to the nearest one of B, and the other way round.

    Surfaces are those of :func:`surface`, distances between voxel centres in physical space.  Two empty arrays when
    either mask is empty.
    """
    a, b = np.asarray(a, bool), np.asarray(b, bool)
    if not (a.any() and b.any()):
        return np.empty(0), np.empty(0)
    box = bounding_box(a | b)
    # A ring of background, so that a surface on the array's border is one for the distance map as well.
    surfaces = [np.pad(surface(mask)[box], 1) for mask in (a, b)]
    metric = grid.direction_matrix.T @ grid.direction_matrix
    if np.abs(metric - np.eye(grid.dimension)).max() > _SHEAR:
        return _distances_sheared(surfaces[0], surfaces[1], grid)
    maps = [_distance_map(other, grid.spacing) for other in surfaces]
    return maps[1][surfaces[0]].astype(np.float64), maps[0][surfaces[1]].astype(np.float64)


def hd95(a: np.ndarray, b: np.ndarray, grid: Grid) -> float:
    """95th percentile Hausdorff distance of two masks in mm.

    The larger of the two directed 95th percentiles (linear interpolation between ranks) of
    :func:`surface_distances`.  NaN when a mask is empty.
    """
    there, back = surface_distances(a, b, grid)
    if not there.size:
        return float("nan")
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """The smallest box, as slices, that holds all true voxels of ``mask`` (which must have one)."""
    box = []
    for axis in range(mask.ndim):
        where = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        box.append(slice(int(where[0]), int(where[-1]) + 1))
    return tuple(box)


def _distance_map(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Distance in mm of every voxel to the nearest voxel of a surface (none of whose voxels is enclosed by others)."""
    image = sitk.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(spacing)
    distance = sitk.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=True)
    return np.maximum(sitk.GetArrayViewFromImage(distance), 0.0)


def _distances_sheared(a: np.ndarray, b: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """The same by comparing all pairs: distance maps know spacing, but not axes that are not perpendicular."""
    pa, pb = (torch.from_numpy(grid.to_world(np.argwhere(mask)[:, ::-1])) for mask in (a, b))

    def nearest(points: torch.Tensor, others: torch.Tensor) -> np.ndarray:
        step = max(1, _SLAB_VOXELS // len(others))
        exact = "donot_use_mm_for_euclid_dist"
        parts = [torch.cdist(part, others, compute_mode=exact).min(dim=1).values for part in points.split(step)]
        return torch.cat(parts).numpy()

    return nearest(pa, pb), nearest(pb, pa)


# ---------------------------------------------------------------------- fields


@dataclass(frozen=True)
class JacobianStatistics:
    """What a map of Jacobian determinants says.

    ``folding_percent`` is the share of voxels with determinant <= 0; ``sd_log`` the standard deviation of the natural
    logarithm over the others, ``left_out`` of ``count`` voxels being without one.  Standard deviations are those of the
    population (n).
    """

    folding_percent: float
    mean: float
    sd: float
    sd_log: float
    min: float
    max: float
    left_out: int
    count: int


def jacobian_statistics(determinant: np.ndarray, mask: np.ndarray | None = None) -> JacobianStatistics:
    """Statistics of a map of Jacobian determinants, inside ``mask`` if given; NaN when there is no voxel."""
    determinant = np.asarray(determinant)

    def parts() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The values of a slab, and the logarithms of the positive ones."""
        for part in slabs(determinant.shape, determinant):
            values = determinant[part][slice(None) if mask is None else np.asarray(mask[part], bool)]
            values = values.astype(np.float64).ravel()
            if values.size:
                yield values, np.log(values[values > 0])

    count, positive, total, total_log, low, high = 0, 0, 0.0, 0.0, np.inf, -np.inf
    for values, logarithms in parts():
        count, positive = count + values.size, positive + logarithms.size
        total, total_log = total + float(values.sum()), total_log + float(logarithms.sum())
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    if not count:
        return JacobianStatistics(*[float("nan")] * 6, left_out=0, count=0)
    mean, mean_log = total / count, total_log / max(1, positive)
    squares, squares_log = 0.0, 0.0
    for values, logarithms in parts():
        squares += float(((values - mean) ** 2).sum())
        squares_log += float(((logarithms - mean_log) ** 2).sum())
    return JacobianStatistics(
        folding_percent=100.0 * (count - positive) / count,
        mean=mean,
        sd=(squares / count) ** 0.5,
        sd_log=(squares_log / positive) ** 0.5 if positive else float("nan"),
        min=low,
        max=high,
        left_out=count - positive,
        count=count,
    )


def mean_and_percentile(values: np.ndarray, percent: float) -> tuple[float, float]:
    """Mean and a percentile of those values (>= 0) that are not NaN; both NaN when there is none.

    Beyond a few million voxels the percentile is found by counting, slab by slab, to a millionth of the largest value.
    """
    values = np.asarray(values)

    def parts() -> Iterator[np.ndarray]:
        for part in slabs(values.shape, values):
            slab = values[part]
            slab = slab[~np.isnan(slab)]
            if slab.size:
                yield slab

    count, total, high = 0, 0.0, 0.0
    for slab in parts():
        count, total, high = count + slab.size, total + float(slab.sum(dtype=np.float64)), max(high, float(slab.max()))
    if not count:
        return float("nan"), float("nan")
    if not high:
        return 0.0, 0.0
    if values.size <= _SORTED_VOXELS:
        return total / count, float(np.percentile(np.concatenate(list(parts())), percent))
    rank, below, low = percent / 100 * (count - 1), 0, 0.0
    for _ in range(2):  # the second time the bins divide the bin that holds the rank
        bins = sum(np.histogram(slab, _BINS, (low, high))[0] for slab in parts())
        reached = below + np.cumsum(bins)
        found = min(int(np.searchsorted(reached, rank, side="right")), _BINS - 1)
        below = int(reached[found] - bins[found])
        width = (high - low) / _BINS
        low, high = low + found * width, low + (found + 1) * width
    return total / count, (low + high) / 2


# ---------------------------------------------------------------------- image similarity


def nmse(image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Normalised mean square error ``||image - reference||^2 / ||reference||^2``; NaN when ``reference`` is all zero.

    It depends on where the intensities' zero lies; :mod:`CycleRegLib.evaluation` puts it at the reference's minimum.
    """
    a, b = _inside(image, mask), _inside(reference, mask)
    norm = float(np.sum(b * b))
    return float(np.sum((a - b) ** 2)) / norm if norm else float("nan")


def ncc(a: np.ndarray, b: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Pearson correlation of the intensities; NaN when an image is constant."""
    a, b = _inside(a, mask), _inside(b, mask)
    if not a.size:
        return float("nan")
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt(np.sum(a * a) * np.sum(b * b)))
    return float(np.sum(a * b)) / norm if norm else float("nan")


def mutual_information(a: np.ndarray, b: np.ndarray, mask: np.ndarray | None = None, bins: int = 32) -> float:
    """Mutual information in nats from a joint histogram of ``bins`` equal bins between each image's extremes."""
    a, b = _inside(a, mask), _inside(b, mask)
    if not a.size or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    i, j = (np.minimum(((v - v.min()) / np.ptp(v) * bins).astype(np.int64), bins - 1) for v in (a, b))
    joint = np.bincount(i * bins + j, minlength=bins * bins).reshape(bins, bins) / a.size
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    some = joint > 0
    return float(np.sum(joint[some] * np.log(joint[some] / independent[some])))


def ssim(
    image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None, data_range: float | None = None
) -> float:
    """Mean structural similarity (Wang et al. 2004), in as many dimensions as the arrays have.

    Gaussian window of 11 voxels a side, sigma 1.5; C1 = (0.01 L)^2, C2 = (0.03 L)^2 with L the reference's range
    (inside ``mask``) when ``data_range`` is left out; moments of the population.  Windows count only voxels inside the
    array and the mask, with their weights made to sum to one, and the mean is over the mask; no border is cut off, so
    that thin stacks of slices work.  The formula takes intensities to be >= 0.  NaN when there is no voxel, or
    the reference is constant and no range given.
    """
    offsets = np.arange(-_SSIM_RADIUS, _SSIM_RADIUS + 1)
    kernel = np.exp(-(offsets**2) / (2 * _SSIM_SIGMA**2))
    if data_range is None:
        values = np.asarray(reference) if mask is None else np.asarray(reference)[np.asarray(mask, bool)]
        data_range = float(np.ptp(values)) if values.size else 0.0
    if not data_range:
        return float("nan")
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    total, count = 0.0, 0
    for m in _local_moments(image, reference, mask, lambda v: _blur(v, kernel), _SSIM_RADIUS):
        value = (2 * m.mean_a * m.mean_b + c1) * (2 * m.cov + c2)
        value /= (m.mean_a**2 + m.mean_b**2 + c1) * (m.var_a + m.var_b + c2)
        total += float(value[m.inside].sum())
        count += int(m.inside.sum())
    return total / count if count else float("nan")


def lncc(a: np.ndarray, b: np.ndarray, mask: np.ndarray | None = None, window: int = 9) -> float:
    """Mean local squared correlation, 0..1: cov^2 / (var_a var_b) in cubes of ``window`` voxels a side.

    Windows count only voxels inside the array and the mask, and the mean is over the mask (METHODS.md, "LNCC").
    Windows that are constant in an image (standard deviation below 1e-4 of its range) have no correlation and
    are left out.  NaN when nothing is left.
    """
    a, b = (np.asarray(v, dtype=np.float32) for v in (a, b))
    # A range of one for both makes the threshold mean the same in either.
    ranges = [float(np.ptp(v if mask is None else v[np.asarray(mask, bool)])) if v.size else 0.0 for v in (a, b)]
    if not all(ranges):
        return float("nan")
    total, count = 0.0, 0
    radius = window // 2
    scaled = a / ranges[0], b / ranges[1]
    for m in _local_moments(*scaled, mask, lambda v: box_sum(v[None, None], radius)[0, 0], radius):
        use = m.inside & (m.var_a > 1e-8) & (m.var_b > 1e-8)
        total += float((m.cov[use] ** 2 / (m.var_a[use] * m.var_b[use])).sum())
        count += int(use.sum())
    return total / count if count else float("nan")


@dataclass(frozen=True)
class _Moments:
    """Local means, variances and covariance of a slab, and which of its voxels are inside the mask."""

    mean_a: torch.Tensor
    mean_b: torch.Tensor
    var_a: torch.Tensor
    var_b: torch.Tensor
    cov: torch.Tensor
    inside: torch.Tensor


def _local_moments(
    a: np.ndarray,
    b: np.ndarray,
    mask: np.ndarray | None,
    window_sum: Callable[[torch.Tensor], torch.Tensor],
    radius: int,
) -> Iterator[_Moments]:
    """Moments under a window, normalised by its weight inside array and mask, slab by slab along axis 0."""
    a, b = np.asarray(a, dtype=np.float32), np.asarray(b, dtype=np.float32)
    if not a.size:
        return
    length = a.shape[0]
    step = max(1, _SLAB_VOXELS // max(1, int(np.prod(a.shape[1:]))))
    # Double precision: in flat regions float32 leaves a variance of rounding errors.
    shift_a, shift_b = float(a.mean(dtype=np.float64)), float(b.mean(dtype=np.float64))
    for start in range(0, length, step):
        stop = min(start + step, length)
        low, high = max(start - radius, 0), min(stop + radius, length)
        own = slice(start - low, stop - low)
        inside = np.ones(a[low:high].shape, bool) if mask is None else np.asarray(mask[low:high]) != 0
        weight = torch.from_numpy(inside).double()
        x = (torch.from_numpy(a[low:high]).double() - shift_a) * weight
        y = (torch.from_numpy(b[low:high]).double() - shift_b) * weight
        norm = window_sum(weight)[own].clamp_min(1e-12)
        mx, my, xx, yy, xy = (window_sum(v)[own] / norm for v in (x, y, x * x, y * y, x * y))
        yield _Moments(
            mx + shift_a,
            my + shift_b,
            (xx - mx * mx).clamp_min(0.0),
            (yy - my * my).clamp_min(0.0),
            xy - mx * my,
            torch.from_numpy(inside)[own],
        )


def _blur(volume: torch.Tensor, kernel: np.ndarray) -> torch.Tensor:
    """Correlation with the same odd 1D ``kernel`` along every axis, zeros outside."""
    radius = len(kernel) // 2
    for axis in range(volume.dim()):
        length = volume.shape[axis]
        out = volume * float(kernel[radius])
        for k in range(1, min(radius, length - 1) + 1):
            n = length - k
            out.narrow(axis, k, n).add_(volume.narrow(axis, 0, n), alpha=float(kernel[radius - k]))
            out.narrow(axis, 0, n).add_(volume.narrow(axis, k, n), alpha=float(kernel[radius + k]))
        volume = out
    return volume


def _inside(values: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    return values.ravel() if mask is None else values[np.asarray(mask, bool)]
