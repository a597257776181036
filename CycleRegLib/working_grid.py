"""The grid on which a pair is optimised: both images in the fixed frame, cropped to what they show, in a pyramid.

Everything after this module works on one box with normalised coordinates (-1 and 1 are its faces, as
``grid_sample(align_corners=False)`` has them), which are the same at every level of the pyramid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from torch import Tensor

from .fields import DisplacementField
from .geometry import Grid, affine_transform
from .images import resample_to
from .similarity import box_sum

# Levels are pooled by two up to this often, and the control grid is half of that again.
_LEVELS = 2
# What is brighter than this share of the range is taken for the object, not the background.
_SHOWN = 0.1
_MARGIN_MM = 12.0
_MARGIN_VOXELS = 4


@dataclass
class PyramidLevel:
    """Both images at one resolution.  Batch index 0 belongs to the fixed image, 1 to the moving one.

    ``images`` (2, 1, d, h, w); ``valid`` (2, 1, d, h, w) is the share of each voxel inside the image and its mask;
    ``spacing_mm`` per array axis; ``noise_variance`` (2, 1, 1, 1, 1); ``noise_share`` is the part of the typical local
    variance that is noise, 0..1, the larger of both images.
    """

    images: Tensor
    valid: Tensor
    spacing_mm: tuple[float, ...]
    noise_variance: Tensor
    noise_share: float

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.images.shape[2:])


class WorkingGrid:
    """A box in the fixed frame, the affine map to the moving image, and both images sampled in it.

    Parameters
    ----------
    fixed, moving
        float32 SimpleITK images.
    matrix
        (4, 4): fixed points to moving points, LPS mm; the affine stage.
    fixed_mask, moving_mask
        On the grids of their images, or None.
    max_voxels
        The finest working resolution is made coarser than the images' until the box has no more voxels than this.
    device
        Where the tensors live.
    """

    def __init__(
        self,
        fixed: sitk.Image,
        moving: sitk.Image,
        matrix: np.ndarray,
        fixed_mask: sitk.Image | None = None,
        moving_mask: sitk.Image | None = None,
        max_voxels: int = 7_500_000,
        device: torch.device | str = "cpu",
    ) -> None:
        self.fixed_grid, self.moving_grid = Grid.of(fixed), Grid.of(moving)
        self.matrix = np.asarray(matrix, dtype=np.float64)
        self.device = torch.device(device)
        affine = affine_transform(self.matrix)
        box = _interesting_box(fixed, moving, affine)
        self.grid = _pyramid_grid(self.fixed_grid, box, max_voxels)
        self.pooling = _pooling_plan(self.grid)
        finest = [
            self._sample(fixed, fixed_mask, None),
            self._sample(moving, moving_mask, affine),
        ]
        self.levels = self._pyramid(*[torch.stack(pair).to(self.device) for pair in zip(*finest)])
        # Half of the box along x, y, z: from normalised to millimetres along the grid's own axes.
        self.half_extent_mm = torch.tensor(
            [s * p / 2 for s, p in zip(self.grid.size, self.grid.spacing)], dtype=torch.float32, device=self.device
        ).view(1, 3, 1, 1, 1)

    def _sample(
        self, image: sitk.Image, mask: sitk.Image | None, transform: sitk.Transform | None
    ) -> tuple[Tensor, Tensor]:
        """One image and its validity on the finest working grid, each (1, d, h, w)."""
        own = Grid.of(image)
        # Where the working grid is coarser, a Gaussian takes away what it cannot carry.
        sigmas = [max(0.0, (w / o) ** 2 - 1) ** 0.5 * o * 0.4 for w, o in zip(self._spacing_along(own), own.spacing)]
        smooth = image
        if max(s / o for s, o in zip(sigmas, own.spacing)) > 0.25:
            smooth = sitk.SmoothingRecursiveGaussian(image, [max(s, 1e-3 * o) for s, o in zip(sigmas, own.spacing)])
        # Linear interpolation between voxels would blur, and unevenly so where the affine map turns.  The fixed image
        # at its own resolution needs none: its voxels are the working grid's.
        exact = transform is None and self.grid.spacing == own.spacing
        array = sitk.GetArrayFromImage(resample_to(smooth, self.grid, transform, "linear" if exact else "cubic"))
        low, high = robust_range(sitk.GetArrayViewFromImage(image))
        array = np.clip(array, low, high)
        # Scaled to a range of about one, so that every threshold downstream is free of the image's unit.
        array = (array - low) / (high - low)
        if mask is None:
            mask = sitk.Image(list(own.size), sitk.sitkUInt8)
            mask.CopyInformation(image)
            mask = mask + 1
        valid = sitk.GetArrayFromImage(
            resample_to(sitk.Cast(mask != 0, sitk.sitkFloat32), self.grid, transform, default=0.0)
        )
        # A voxel counts when all that it was interpolated from does: a fraction would let the outside in.
        return torch.from_numpy(array)[None], torch.from_numpy((valid > 0.999).astype(np.float32))[None]

    def _spacing_along(self, own: Grid) -> np.ndarray:
        """The working spacing seen along another grid's axes, mm."""
        cosines = np.abs(np.linalg.inv(own.direction_matrix) @ self.grid.direction_matrix)
        return cosines @ np.array(self.grid.spacing)

    def _pyramid(self, images: Tensor, valid: Tensor) -> list[PyramidLevel]:
        """Levels from fine to coarse; axes are pooled as ``_pooling_plan`` says."""
        spacing = np.array(self.grid.spacing[::-1])
        noise = torch.stack([noise_variance(images[i : i + 1], valid[i : i + 1]) for i in range(2)])
        noise = noise.view(2, 1, 1, 1, 1)
        levels = [PyramidLevel(images, valid, tuple(spacing), noise, noise_share(images, valid, noise))]
        for factors in self.pooling:
            # Averages over the valid voxels alone: what lies outside a mask must not leak in.
            weight = F.avg_pool3d(levels[-1].valid, factors)
            image = F.avg_pool3d(levels[-1].images * levels[-1].valid, factors) / weight.clamp_min(1e-6)
            plain = F.avg_pool3d(levels[-1].images, factors)
            image = torch.where(weight > 1e-6, image, plain)
            spacing = spacing * np.array(factors)
            variance = levels[-1].noise_variance / float(np.prod(factors))
            levels.append(PyramidLevel(image, weight, tuple(spacing), variance, noise_share(image, weight, variance)))
        return levels

    # ------------------------------------------------------------------ between normalised and millimetres

    def control_grid(self, shape: tuple[int, ...]) -> Grid:
        """The grid of a coarse field of array ``shape`` that fills the box."""
        return self.grid.with_size(shape[::-1])

    def to_fields(self, displacement_mm: Tensor) -> tuple[DisplacementField, DisplacementField]:
        """Forward field on the fixed grid and backward field on the moving grid, affine map included.

        ``displacement_mm`` (2, 3, d, h, w): millimetres along the working grid's own axes, channels x, y, z.
        """
        grid = self.control_grid(tuple(displacement_mm.shape[2:]))
        spacing = torch.tensor(grid.spacing, device=displacement_mm.device).view(1, 3, 1, 1, 1)
        forward, backward = (displacement_mm / spacing).flip(1).float().cpu()  # in voxels, channels in array-axis order
        return (
            DisplacementField.from_flow(forward, grid, self.fixed_grid, after=self.matrix),
            DisplacementField.from_flow(backward, grid, self.moving_grid, before=np.linalg.inv(self.matrix)),
        )

    def from_fields(self, forward: DisplacementField, backward: DisplacementField, shape: tuple[int, ...]) -> Tensor:
        """The inverse of :meth:`to_fields` on a control grid of array ``shape``: a start for the optimisation."""
        grid = self.control_grid(shape)
        back = np.linalg.inv(self.matrix)
        first = _followed_by_matrix(forward.resampled(grid), back)
        second = DisplacementField.from_matrix(self.matrix, grid).compose(backward, outside="border")
        turn = np.linalg.inv(grid.direction_matrix)
        own = np.stack([first.vectors @ turn.T, second.vectors @ turn.T])
        return torch.from_numpy(own.astype(np.float32)).movedim(-1, 1).contiguous().to(self.device)


def _followed_by_matrix(field: DisplacementField, matrix: np.ndarray) -> DisplacementField:
    """The field that maps by ``field`` and then by an affine matrix, on the same grid."""
    affine = DisplacementField.from_matrix(matrix, field.grid)
    return DisplacementField(
        affine.vectors + field.vectors @ matrix[:3, :3].T.astype(np.float32),
        field.grid,
    )


def robust_range(array: np.ndarray) -> tuple[float, float]:
    """The 0.1th and 99.9th percentile from about 300,000 voxels; widened to the full range when they coincide."""
    step = max(1, round((array.size / 300_000) ** (1 / array.ndim)))
    low, high = np.percentile(array[(slice(None, None, step),) * array.ndim], [0.1, 99.9])
    if high <= low:
        low, high = float(array.min()), float(array.max())
    return float(low), float(high)


def noise_variance(image: Tensor, valid: Tensor) -> Tensor:
    """Variance of the noise: what the quietest tenth of the object's windows of three voxels still varies by.

    Unlike estimates from high frequencies it sees the smooth noise of reconstructed images too.  ``image`` and
    ``valid`` (1, 1, d, h, w); never below 1e-6 for images whose range is one.
    """
    shown = _local_variance(image)[(image > _SHOWN) & (valid > 0.99)]
    if shown.numel() < 100:
        return torch.tensor(1e-6, device=image.device)
    shown = shown[:: max(1, shown.numel() // 200_000)]
    return shown.quantile(0.1).clamp_min(1e-6)


def _local_variance(images: Tensor) -> Tensor:
    count = box_sum(torch.ones_like(images[:1]), 1)
    mean = box_sum(images, 1) / count
    return (box_sum(images * images, 1) / count - mean * mean).clamp_min_(0)


def noise_share(images: Tensor, valid: Tensor, variance: Tensor) -> float:
    """Noise variance over the median variance in windows of three voxels, 0..1; the larger of both images.

    Over what is brighter than a tenth of the range, so that background does not count.
    """
    local = _local_variance(images)
    shares = []
    for i in range(2):
        shown = local[i][(images[i] > _SHOWN) & (valid[i] > 0.99)]
        shown = shown[:: max(1, shown.numel() // 200_000)]
        median = float(shown.median()) if shown.numel() else 0.0
        shares.append(min(1.0, float(variance[i]) / median) if median > 0 else 0.0)
    return max(shares)


def _interesting_box(fixed: sitk.Image, moving: sitk.Image, affine: sitk.Transform) -> tuple[np.ndarray, np.ndarray]:
    """Index bounds (x, y, z; low, high exclusive) on the fixed grid that hold what either image shows."""
    grid = Grid.of(fixed)
    coarse = grid.with_size([max(1, min(s, 96)) for s in grid.size])
    shown = np.zeros(coarse.shape, bool)
    for image, transform in ((fixed, None), (moving, affine)):
        array = sitk.GetArrayFromImage(resample_to(image, coarse, transform))
        low, high = robust_range(array)
        shown |= array > low + _SHOWN * (high - low)
    if not shown.any():
        return np.zeros(3, int), np.array(grid.size)
    scale = np.array(grid.size) / np.array(coarse.size)
    bounds = []
    for axis in range(3):
        line = np.flatnonzero(shown.any(axis=tuple(a for a in range(3) if a != 2 - axis)))
        bounds.append((line[0] * scale[axis], (line[-1] + 1) * scale[axis]))
    margin = np.maximum(_MARGIN_MM / np.array(grid.spacing), _MARGIN_VOXELS)
    low = np.maximum(np.floor(np.array([b[0] for b in bounds]) - margin), 0)
    high = np.minimum(np.ceil(np.array([b[1] for b in bounds]) + margin), grid.size)
    return low.astype(int), high.astype(int)


def _pyramid_grid(fixed: Grid, box: tuple[np.ndarray, np.ndarray], max_voxels: int) -> Grid:
    """The box with sides that can be halved, at the fixed image's resolution or coarser."""
    low, high = box
    spacing = np.array(fixed.spacing)
    extent = (high - low) * spacing
    # The finest axes become coarser first, until the box fits.
    working = spacing.copy()
    while np.prod(extent / working) > max_voxels:
        finest = working.min()
        working = np.maximum(working, finest * 1.05)
    block = 2 ** (_LEVELS + 1)
    size = [_halvable(e / w, block) for e, w in zip(extent, working)]
    # Voxel edges stay on voxel edges of the fixed image: at equal spacing nothing is interpolated, so nothing blurred.
    before = np.floor((np.array(size) * working - extent) / 2 / spacing)
    first = low - before - 0.5 + working / spacing / 2
    return Grid(tuple(size), tuple(working), tuple(fixed.to_world(first)), fixed.direction)


def _halvable(length: float, block: int) -> int:
    """A multiple of ``block``, or an even number of at least four for an axis too short for the pyramid."""
    if length <= block:
        return max(4, int(np.ceil(length / 2 - 1e-6)) * 2)
    return int(np.ceil(length / block - 1e-6)) * block


def _pooling_plan(grid: Grid) -> list[tuple[int, int, int]]:
    """For each coarser level the factors (z, y, x): axes are pooled as they catch up with the target spacing."""
    spacing, size = np.array(grid.spacing[::-1]), np.array(grid.shape)
    target = spacing.min()
    plan = []
    for _ in range(_LEVELS):
        target *= 2
        factors = [2 if h * 2**0.5 <= target * 1.001 and s % 4 == 0 and s >= 8 else 1 for h, s in zip(spacing, size)]
        if factors == [1, 1, 1]:
            break
        plan.append(tuple(factors))
        spacing, size = spacing * factors, size // np.array(factors)
    return plan
