"""Random smooth fields of which both directions are known, and where each image of a pair lies in its label map.

The fixed image shows the label map T at ``T(b(f(x)))`` and the moving image at ``T(b(x))``, or the other way round.
Both are deformed by ``b``, so that neither is an untouched map; the field between them is ``f`` alone, an affine map
after the exponential of a velocity, whose inverse is the exponential of the negative velocity after the inverse affine
map.  Nothing has to be inverted by search, and what is left of the discretisation is iterated away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from CycleRegLib.networks.velocity import integrate
from CycleRegLib.warp import index_positions, sample

from .chance import Chance
from .settings import MotionSettings
from .splines import along_axes, refining, smooth_noise

_SQUARINGS = 5
_CORRECTIONS = 2


@dataclass(frozen=True)
class PairMotion:
    """The motion of one pair.

    Attributes
    ----------
    flow, inverse
        (1, 3, D, H, W) float32 voxels, channels in axis order: the fixed image's point ``x`` is the moving image's
        ``x + flow(x)``, and the moving image's ``y`` is the fixed image's ``y + inverse(y)``.
    fixed_places, moving_places
        (1, D, H, W, 3), where the voxels of either image lie in the label map, voxels of the map.
    """

    flow: Tensor
    inverse: Tensor
    fixed_places: Tensor
    moving_places: Tensor


def random_motion(
    chance: Chance, shape: Sequence[int], map_shape: Sequence[int], settings: MotionSettings
) -> PairMotion:
    """Draw the motion of a pair of images of array shape (D, H, W) from a label map of ``map_shape``."""
    grid = _Coarse(shape, chance.device)
    flow, inverse = _field(chance, grid, settings)
    fixed_places, moving_places = _places(chance, grid, map_shape, flow, settings)
    flow, inverse, fixed_places, moving_places = (
        grid.refined(field) for field in (flow, inverse, fixed_places, moving_places)
    )
    # Fields that are linear between the voxels of the coarse grid are no exact inverses or compositions between them:
    # an iteration of the inverse and the composition itself on the full grid leave hundredths of a voxel.
    points = index_positions(grid.full, device=chance.device)
    known = inside(inverse)
    error = inverse + sample(flow, points + inverse.movedim(1, -1), padding="border")
    inverse = torch.where(known, inverse - error, inverse)
    exact = sample(moving_places, points + flow.movedim(1, -1), padding="border")
    fixed_places = torch.where(inside(flow), exact, fixed_places)
    if chance.coin(0.5):  # neither image is the one that is always deformed more
        flow, inverse = inverse, flow
        fixed_places, moving_places = moving_places, fixed_places
    return PairMotion(flow, inverse, fixed_places.movedim(1, -1), moving_places.movedim(1, -1))


def inside(flow: Tensor) -> Tensor:
    """Where a flow (B, n, *spatial) leads to points inside the grid, (B, 1, *spatial) bool: where it can be known."""
    positions = index_positions(tuple(flow.shape[2:]), device=flow.device).movedim(-1, 1) + flow
    last = torch.tensor(flow.shape[2:], device=flow.device).view(1, -1, *[1] * (flow.dim() - 2)) - 1
    return ((positions >= 0) & (positions <= last)).all(dim=1, keepdim=True)


class _Coarse:
    """The grid of every second voxel on which fields are made; its vectors and positions are in full voxels."""

    def __init__(self, shape: Sequence[int], device: torch.device) -> None:
        self.full = tuple(shape)
        self.shape = tuple(max(2, (n + 1) // 2) for n in shape)
        steps = [(n - 1) / (m - 1) for n, m in zip(self.full, self.shape)]
        self.steps = torch.tensor(steps, device=device)
        self.side = sum(shape) / len(shape)
        self.stride = sum(steps) / len(steps)
        self.center = (torch.tensor(self.full, device=device) - 1) / 2
        self.points = index_positions(self.shape, device=device) * self.steps  # (1, d, h, w, 3)
        self._column = self.steps.view(1, 3, 1, 1, 1)
        self._refining = [refining(m, n, device) for m, n in zip(self.shape, self.full)]

    def at(self, field: Tensor, positions: Tensor) -> Tensor:
        """A field (1, 3, d, h, w) at positions (1, ..., 3), as (1, ..., 3); the border's value outside."""
        return sample(field, positions / self.steps, padding="border").movedim(1, -1)

    def exponential(self, velocity: Tensor) -> Tensor:
        return integrate(velocity / self._column, _SQUARINGS, "border") * self._column

    def refined(self, field: Tensor) -> Tensor:
        """Every voxel's value, by cubic interpolation from the coarse grid, whose corners are the full grid's."""
        return along_axes(field[0], self._refining)[None]


def _field(chance: Chance, grid: _Coarse, settings: MotionSettings) -> tuple[Tensor, Tensor]:
    """f and its inverse as flows on the coarse grid."""
    velocity = _velocity(chance, grid, settings)
    flow, back = grid.exponential(velocity), grid.exponential(-velocity)
    matrix, shift = _affine(chance, settings, grid.side, chance.coin(settings.affine))
    matrix, shift = matrix.to(chance.device), shift.to(chance.device)

    def forward(points: Tensor) -> Tensor:
        return (points + grid.at(flow, points) - grid.center) @ matrix.T + grid.center + shift

    unmatrix = torch.linalg.inv(matrix.cpu()).to(chance.device)
    before = (grid.points - grid.center - shift) @ unmatrix.T + grid.center
    origin = before + grid.at(back, before)
    for _ in range(_CORRECTIONS):
        origin = origin - (forward(origin) - grid.points) @ unmatrix.T
    return (forward(grid.points) - grid.points).movedim(-1, 1), (origin - grid.points).movedim(-1, 1)


def _velocity(chance: Chance, grid: _Coarse, settings: MotionSettings) -> Tensor:
    """Noise of several scales, (1, 3, d, h, w), no faster and no steeper than the settings allow."""
    velocity = torch.zeros((3, *grid.shape), device=chance.device)
    for spacings, deviations, share in settings.bands:
        spacing = max(chance.uniform(*spacings) * grid.side, settings.smallest_spacing)
        deviation = chance.uniform(*deviations) * spacing
        if chance.coin(share):
            velocity += deviation * smooth_noise(chance, grid.shape, spacing, 3, grid.stride)
    if chance.coin(settings.still):
        spacing = chance.uniform(0.3, 0.6) * grid.side
        level = smooth_noise(chance, grid.shape, spacing, 1, grid.stride) + chance.uniform(-0.5, 0.8)
        velocity = velocity * torch.sigmoid(4 * level)
    largest = chance.log_uniform(*settings.largest) * grid.side
    return _limited(velocity, largest, settings.steepest, grid.stride)[None]


def _limited(field: Tensor, largest: float, steepest: float, stride: float) -> Tensor:
    """A field (3, d, h, w) scaled down as a whole until its length and its derivatives keep the bounds."""
    length = field.square().sum(dim=0).amax().sqrt()
    slope = torch.stack([field.diff(dim=axis).abs().amax() for axis in (1, 2, 3)]).amax() / stride
    return field * torch.minimum(largest / (length + 1e-6), steepest / (slope + 1e-6)).clamp_max(1.0)


def _affine(chance: Chance, settings: MotionSettings, side: float, wanted: bool) -> tuple[Tensor, Tensor]:
    """Matrix (3, 3) about the centre and shift (3,) in voxels, axis order."""
    angles = chance.numbers(3, -settings.rotation_degrees, settings.rotation_degrees)
    scales = (chance.numbers(3, -1, 1) * math.log1p(settings.scaling)).exp()
    shears = chance.numbers(3, -settings.shear, settings.shear)
    shift = chance.numbers(3, -settings.shift, settings.shift) * side
    if not wanted:
        return torch.eye(3), torch.zeros(3)
    upper = torch.eye(3)
    upper[0, 1], upper[0, 2], upper[1, 2] = shears.tolist()
    return _rotation(angles) @ upper @ torch.diag(scales), shift


def _rotation(degrees: Tensor) -> Tensor:
    """Rotation about the three axes in turn."""
    matrix = torch.eye(3)
    for axis, angle in enumerate(torch.deg2rad(degrees).tolist()):
        i, j = [a for a in range(3) if a != axis]
        turn = torch.eye(3)
        turn[i, i] = turn[j, j] = math.cos(angle)
        turn[i, j], turn[j, i] = -math.sin(angle), math.sin(angle)
        matrix = turn @ matrix
    return matrix


def _places(
    chance: Chance, grid: _Coarse, map_shape: Sequence[int], flow: Tensor, settings: MotionSettings
) -> tuple[Tensor, Tensor]:
    """b(f(x)) and b(x) on the coarse grid, (1, 3, d, h, w) in voxels of the label map."""
    bend = torch.zeros((3, *grid.shape), device=chance.device)
    for low, high, steepness in ((0.3, 0.7, 0.35), (0.1, 0.3, 0.2)):
        spacing = chance.uniform(low, high) * grid.side
        bend += chance.uniform(0.0, steepness) * spacing * smooth_noise(chance, grid.shape, spacing, 3, grid.stride)
    # A displacement whose derivatives stay below a half in every direction cannot fold: no need to integrate it.
    bend = _limited(bend, settings.template_largest * grid.side, 0.3, grid.stride)[None]
    limit = settings.template_rotation_degrees
    zoom = chance.log_uniform(*settings.template_zoom) * (chance.numbers(3, -1, 1) * 0.1).exp()
    matrix = (_rotation(chance.numbers(3, -limit, limit)) @ torch.diag(zoom)).to(chance.device)
    middle = (torch.tensor(map_shape) - 1) / 2
    middle = middle + chance.numbers(3, -1, 1) * settings.template_shift * torch.tensor(map_shape)
    middle = middle.to(chance.device)

    def place(points: Tensor) -> Tensor:
        return ((points + grid.at(bend, points) - grid.center) @ matrix.T + middle).movedim(-1, 1)

    return place(grid.points + flow.movedim(1, -1)), place(grid.points)
