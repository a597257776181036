"""Pair optimisation: both directions at once, coarse to fine, without training (METHODS.md, "Pair optimisation").

Two displacement fields, fixed to moving and moving to fixed, are Gaussian-smoothed control grids moved by Adam.  The
coarse level compares MIND-SSC descriptors, which see across contrasts and far; the finer ones compare images by LNCC.
The loss joins both similarities, the smoothness of both fields, their round trip, and a penalty on folding.  What
little folding the penalty leaves is smoothed away at the end, so that none is left by construction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .fields import DisplacementField
from .similarity import descriptor_loss, lncc_loss, local_reference, mind_ssc
from .working_grid import PyramidLevel, WorkingGrid

Progress = Callable[[str, float], None]
# Noise as a share of the local variance: up to the first an image counts as clean, from the second on as noisy.
_NOISE_RAMP = (0.1, 0.3)
_QUIET_GRADIENT = 0.01


@dataclass(frozen=True)
class Stage:
    """One resolution of the optimisation.

    Parameters
    ----------
    level
        Index of the pyramid level: 0 is the finest, each further one half of it.
    similarity
        ``"mind"`` or ``"lncc"``.
    steps
        Adam steps.
    rate
        Largest step length of the first step, in voxels of the level; it falls linearly to a tenth.
    sigma
        Smoothing of the control grid in its own points (one point every second voxel of the level), for images without
        noise and for noisy ones, see ``_NOISE_RAMP``.
    radius
        LNCC window radius in voxels; with ``blocks`` in blocks of two voxels.
    smoothness
        Weight of the mean squared derivative of the displacement (mm/mm, no unit).
    """

    level: int
    similarity: str
    steps: int
    rate: float
    sigma: tuple[float, float]
    radius: int = 1
    blocks: bool = False
    smoothness: float = 0.25


@dataclass(frozen=True)
class Settings:
    """All numbers of the pair optimisation; the defaults are measured in ``Testing/benchmarks``."""

    stages: tuple[Stage, ...] = (
        Stage(level=2, similarity="mind", steps=60, rate=0.5, sigma=(1.0, 1.0)),
        Stage(level=1, similarity="lncc", steps=50, rate=0.3, sigma=(1.2, 2.0), radius=2),
        Stage(level=0, similarity="lncc", steps=14, rate=0.3, sigma=(1.0, 2.0), blocks=True),
    )
    round_trip: float = 0.1
    folding: float = 10.0
    # Determinants below this are pushed up during the optimisation, and mended at the end.
    least_determinant: float = 0.05
    mask_every: int = 8
    max_voxels: int = 7_500_000

    def smoother(self, factor: float) -> Settings:
        """The same with the weight of smoothness multiplied at every stage."""
        return replace(self, stages=tuple(replace(s, smoothness=s.smoothness * factor) for s in self.stages))


@dataclass
class OptimizationTrace:
    """What happened: the loss after each stage and how often the final field had to be mended."""

    losses: list[float] = field(default_factory=list)
    mended: int = 0


def optimize_pair(
    domain: WorkingGrid,
    settings: Settings | None = None,
    start: tuple[DisplacementField, DisplacementField] | None = None,
    progress: Progress | None = None,
) -> tuple[DisplacementField, DisplacementField, OptimizationTrace]:
    """Optimise both fields of a pair.

    Parameters
    ----------
    domain
        Both images on their working grid, the affine map included.
    settings
        Stages and weights.
    start
        Forward field (on the fixed grid) and backward field (on the moving grid) to start from, for example a
        network's; zero beyond the affine map when left out.
    progress
        Called with ("optimize", fraction) at every step; may raise :class:`~CycleRegLib.errors.Cancelled`.

    Returns
    -------
    Forward field on the fixed grid, backward field on the moving grid (LPS mm, affine map included), and a trace.
    """
    settings = settings or Settings()
    trace = OptimizationTrace()
    stages = [s for s in settings.stages if s.level < len(domain.levels)] or [settings.stages[-1]]
    # Cost is counted in voxel steps, so that the bar moves evenly.
    costs = [s.steps * float(np.prod(domain.levels[s.level].shape)) for s in stages]
    done, total = 0.0, sum(costs)
    shape = _control_shape(domain.levels[stages[0].level])
    if start is None:
        displacement = torch.zeros(2, 3, *shape, device=domain.device)
    else:
        displacement = domain.from_fields(*start, shape)
    for stage, cost in zip(stages, costs):

        def tell(fraction: float, before: float = done, own: float = cost) -> None:
            if progress is not None:
                progress("optimize", (before + own * fraction) / total)

        displacement, loss = _run_stage(domain, stage, settings, displacement, tell)
        trace.losses.append(loss)
        done += cost
    displacement, trace.mended = mend_folding(displacement, domain, settings.least_determinant)
    forward, backward = domain.to_fields(displacement)
    return forward, backward, trace


def _control_shape(level: PyramidLevel) -> tuple[int, ...]:
    return tuple(s // 2 for s in level.shape)


def _run_stage(
    domain: WorkingGrid, stage: Stage, settings: Settings, start: Tensor, tell: Callable[[float], None]
) -> tuple[Tensor, float]:
    """Adam on one level; ``start`` and the result are displacements in mm on control grids, (2, 3, d, h, w)."""
    level = domain.levels[stage.level]
    shape = _control_shape(level)
    spacing = [2 * h for h in level.spacing_mm]
    voxel = min(level.spacing_mm)
    sigma = _sigma(stage, domain)
    blur = _Separable.blur(shape, [sigma * voxel * 2 / h for h in spacing], start.device)
    similarity = _Similarity(domain, stage, settings)
    # What earlier stages found is kept as it is; smoothing it again would lose a part of it.
    base = _Separable.resize(tuple(start.shape[2:]), shape, start.device)(start)
    parameters = torch.zeros_like(base, requires_grad=True)
    # Where the gradient is a small part of what a voxel of full contrast gives, steps shrink instead of being
    # blown up to full length, as Adam would otherwise do with rounding errors.
    quiet = _QUIET_GRADIENT / (base[0, 0].numel() * voxel)
    adam = torch.optim.Adam([parameters], lr=stage.rate * voxel, betas=(0.9, 0.99), eps=quiet)
    loss = torch.zeros(())
    for step in range(stage.steps):
        tell(step / stage.steps)
        adam.param_groups[0]["lr"] = stage.rate * voxel * (1 - 0.9 * step / stage.steps)
        adam.zero_grad()
        displacement = base + blur(parameters)
        loss = similarity(displacement, step)
        slopes = _forward_slopes(displacement, spacing)
        loss = loss + 3 * stage.smoothness * sum(s.square().mean() for s in slopes)
        loss = loss + settings.round_trip / voxel**2 * round_trip_error(displacement, domain)
        if settings.folding:
            low = F.relu(settings.least_determinant * 2 - _determinants(slopes))
            loss = loss + settings.folding * low.square().mean()
        loss.backward()
        adam.step()
    with torch.no_grad():
        return base + blur(parameters), float(loss.detach())


def _sigma(stage: Stage, domain: WorkingGrid) -> float:
    """Noise must be averaged out over more voxels, and detail below it cannot be found anyway."""
    clean, noisy = stage.sigma
    low, high = _NOISE_RAMP
    return clean + (noisy - clean) * min(1.0, max(0.0, (domain.levels[0].noise_share - low) / (high - low)))


class _Similarity:
    """The similarity of both directions at one level, for displacements on the control grid."""

    def __init__(self, domain: WorkingGrid, stage: Stage, settings: Settings) -> None:
        level = domain.levels[stage.level]
        self.domain, self.stage, self.level, self.every = domain, stage, level, settings.mask_every
        identity = torch.eye(3, 4, device=domain.device)[None]
        grid = F.affine_grid(identity, (1, 1, *level.shape), align_corners=False)
        self.positions = grid.movedim(-1, 1).contiguous()
        self.resize = _Separable.resize(_control_shape(level), level.shape, domain.device)
        if stage.similarity == "mind":
            self.reference = _descriptors(domain, stage.level)
        else:
            self.reference = level.images
        # Direction 0 samples the moving image for the fixed one, direction 1 the reverse.
        self.sources = self.reference.flip(0).contiguous()
        self.others = level.valid.flip(0).contiguous()
        self.weight: Tensor | None = None
        self.statistics = None

    def __call__(self, displacement_mm: Tensor, step: int) -> Tensor:
        normalised = displacement_mm / self.domain.half_extent_mm
        where = (self.resize(normalised) + self.positions).movedim(1, -1)
        if step % self.every == 0:
            self._refresh_weight(where.detach())
        warped = F.grid_sample(self.sources, where, padding_mode="border", align_corners=False)
        if self.stage.similarity == "mind":
            return descriptor_loss(warped, self.reference, self.weight)
        return lncc_loss(warped, self.statistics)

    def _refresh_weight(self, where: Tensor) -> None:
        """Voxels count where both images and masks are seen; partners change slowly, so this is done now and then."""
        with torch.no_grad():
            seen = F.grid_sample(self.others, where, padding_mode="zeros", align_corners=False)
            self.weight = self.level.valid * (seen > 0.99) * (self.level.valid > 0.99)
            if self.stage.similarity == "lncc":
                self.statistics = local_reference(
                    self.reference, self.stage.radius, self.level.noise_variance, self.weight, self.stage.blocks
                )


def _descriptors(domain: WorkingGrid, index: int) -> Tensor:
    """MIND-SSC at the level above, pooled to this one: (2, 12, d, h, w)."""
    fine = domain.levels[max(index - 1, 0)]
    features = torch.cat([mind_ssc(fine.images[i : i + 1]) for i in range(2)])
    if index == 0:
        return features
    return F.avg_pool3d(features, domain.pooling[index - 1])


class _Separable:
    """A linear map along each axis as dense matrices: far faster than small convolutions, and so is its gradient."""

    def __init__(self, matrices: list[Tensor]) -> None:
        self.matrices = matrices

    @classmethod
    def blur(cls, shape: tuple[int, ...], sigmas: list[float], device: torch.device) -> _Separable:
        """Gaussian smoothing (sigma in points per axis), normalised at the edges."""
        matrices = []
        for length, sigma in zip(shape, sigmas):
            x = torch.arange(length, dtype=torch.float32)
            weights = torch.exp(-((x[:, None] - x) ** 2) / (2 * max(sigma, 1e-3) ** 2))
            matrices.append((weights / weights.sum(1, keepdim=True)).to(device))
        return cls(matrices)

    @classmethod
    def resize(cls, old: tuple[int, ...], new: tuple[int, ...], device: torch.device) -> _Separable:
        """Linear interpolation between grids that fill the same box, edges repeated (``align_corners=False``)."""
        matrices = []
        for a, b in zip(old, new):
            where = ((torch.arange(b, dtype=torch.float64) + 0.5) * a / b - 0.5).clamp(0, a - 1)
            x = torch.arange(a, dtype=torch.float64)
            matrices.append((1 - (where[:, None] - x).abs()).clamp_min(0).float().to(device))
        return cls(matrices)

    def __call__(self, x: Tensor) -> Tensor:
        """``x`` (B, C, d, h, w) to (B, C, D, H, W)."""
        batch, channels, depth, height, width = x.shape
        along_z, along_y, along_x = self.matrices
        x = along_z @ x.reshape(batch * channels, depth, height * width)
        x = along_y @ x.view(-1, height, width)
        x = x.view(-1, width) @ along_x.T
        return x.view(batch, channels, along_z.shape[0], along_y.shape[0], along_x.shape[0])


def round_trip_error(displacement_mm: Tensor, domain: WorkingGrid) -> Tensor:
    """Mean over voxels and both directions of ``|u(x) + v(x + u(x))|^2``, mm^2."""
    shape = displacement_mm.shape
    identity = torch.eye(3, 4, device=displacement_mm.device)[None]
    grid = F.affine_grid(identity, (1, 1, *shape[2:]), align_corners=False)
    where = grid + (displacement_mm / domain.half_extent_mm).movedim(1, -1)
    back = F.grid_sample(displacement_mm.flip(0), where, padding_mode="border", align_corners=False)
    return (displacement_mm + back).square().mean() * 3


def _forward_slopes(displacement_mm: Tensor, spacing_mm: list[float]) -> list[Tensor]:
    """Forward differences over spacing along z, y, x, each cropped to the common inner part."""
    inner = displacement_mm[:, :, :-1, :-1, :-1]
    return [
        (displacement_mm[:, :, 1:, :-1, :-1] - inner) / spacing_mm[0],
        (displacement_mm[:, :, :-1, 1:, :-1] - inner) / spacing_mm[1],
        (displacement_mm[:, :, :-1, :-1, 1:] - inner) / spacing_mm[2],
    ]


def _determinants(slopes: list[Tensor]) -> Tensor:
    """det(I + du/dx) from slopes along z, y, x with channels x, y, z; (2, d, h, w)."""
    dz, dy, dx = slopes
    a, b, c = dx[:, 0] + 1, dy[:, 0], dz[:, 0]
    d, e, f = dx[:, 1], dy[:, 1] + 1, dz[:, 1]
    g, h, i = dx[:, 2], dy[:, 2], dz[:, 2] + 1
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def corner_determinants(displacement_mm: Tensor, spacing_mm: list[float]) -> Tensor:
    """The smallest determinant at the corners of every cell of the control grid, (2, d-1, h-1, w-1).

    Inside a cell the field is trilinear; its corner determinants are one-sided differences, eight per cell.
    """
    x = displacement_mm
    d, h, w = x.shape[2:]
    dz = (x[:, :, 1:] - x[:, :, :-1]) / spacing_mm[0]
    dy = (x[:, :, :, 1:] - x[:, :, :, :-1]) / spacing_mm[1]
    dx = (x[..., 1:] - x[..., :-1]) / spacing_mm[2]
    least = None
    for k in range(8):
        i, j, m = k >> 2, k >> 1 & 1, k & 1
        slopes = [
            dz[:, :, :, j : h - 1 + j, m : w - 1 + m],
            dy[:, :, i : d - 1 + i, :, m : w - 1 + m],
            dx[:, :, i : d - 1 + i, j : h - 1 + j, :],
        ]
        determinant = _determinants(slopes)
        least = determinant if least is None else torch.minimum(least, determinant)
    return least


def mend_folding(displacement_mm: Tensor, domain: WorkingGrid, least: float, rounds: int = 200) -> tuple[Tensor, int]:
    """Smooth the field around folded cells until every determinant is at least ``least``; returns how many rounds.

    The neighbourhood grows with the rounds, so that the loop ends.
    """
    with torch.no_grad():
        grid = domain.control_grid(tuple(displacement_mm.shape[2:]))
        spacing = list(grid.spacing[::-1])
        blur = _Separable.blur(tuple(displacement_mm.shape[2:]), [1.0, 1.0, 1.0], displacement_mm.device)
        for count in range(rounds):
            bad = corner_determinants(displacement_mm, spacing) < least
            if not bad.any():
                return displacement_mm, count
            spread = F.pad(bad.float().unsqueeze(1), (0, 1, 0, 1, 0, 1))
            reach = 3 + 2 * (count // 20)
            spread = F.max_pool3d(F.max_pool3d(spread, 2, 1, 1)[..., :-1, :-1, :-1], reach, 1, reach // 2)
            spread = blur(spread).clamp(max=1)
            displacement_mm = displacement_mm + spread * (blur(displacement_mm) - displacement_mm)
        return displacement_mm, rounds
