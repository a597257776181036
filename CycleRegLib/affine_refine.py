"""Gauss-Newton refinement of an affine map on local squared correlation.

In a window about every fixed voxel the fixed image f is explained by the warped moving image m as f = a + b m, the
least-squares line; the part it leaves unexplained, relative to the variance of f, is 1 - cc^2 with cc the local
normalised cross-correlation.  A step holds a and b and solves for the small affine map that reduces the residual.
Because b may have either sign and differs from window to window, contrast may change from organ to organ or turn
round; where the images have nothing to do with each other b vanishes, and so does the pull of that place: the cut edge
of a truncated field of view, or an organ that is missing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from .affine_starts import MIN_OVERLAP, Volume, nearest_rotation, sample, unit_places, voxel_indices

# variance of intensities (0..1) below which a window counts as flat
NOISE_FLOOR = 2e-4
# largest change of a step, as a part of half the fixed extent
MAX_STEP = 0.15


@dataclass(frozen=True)
class Refined:
    """A refined map: ``matrix`` (4, 4) LPS mm, fixed to moving, and its ``score`` (see :class:`LocalCorrelation`)."""

    matrix: np.ndarray
    score: float


@dataclass(frozen=True)
class _Lines:
    """The warped moving image, where it counts, and the local line f = a + b m; all (z, y, x)."""

    moving: torch.Tensor
    valid: torch.Tensor
    residual: torch.Tensor
    slope: torch.Tensor
    variance: torch.Tensor
    squared_correlation: torch.Tensor


def box_sum(stack: torch.Tensor, radius: int) -> torch.Tensor:
    """Sums of (c, z, y, x) over windows of 2 radius + 1 voxels, fewer at the border, by shifted additions."""
    for axis in (1, 2, 3):
        length = stack.shape[axis]
        out = stack.clone()
        for offset in range(1, min(radius, length - 1) + 1):
            rest = length - offset
            out.narrow(axis, 0, rest).add_(stack.narrow(axis, offset, rest))
            out.narrow(axis, offset, rest).add_(stack.narrow(axis, 0, rest))
        stack = out
    return stack


def central_gradient(values: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Central differences per voxel of (z, y, x) -> (3, z, y, x), x first; zero where a neighbour does not count."""
    out = values.new_zeros(3, *values.shape)
    for component, axis in enumerate((2, 1, 0)):
        rest = values.shape[axis] - 2
        if rest < 1:
            continue
        difference = (values.narrow(axis, 2, rest) - values.narrow(axis, 0, rest)) * 0.5
        both = valid.narrow(axis, 2, rest) * valid.narrow(axis, 0, rest)
        out[component].narrow(axis, 1, rest).copy_(difference * both)
    return out


class LocalCorrelation:
    """Squared local correlation of two volumes (windows of 2 radius + 1 voxels) and its Gauss-Newton step.

    The score is the mean of cc^2 over the windows that are not flat in the fixed image and whose centre maps into the
    moving image and its mask; 0..1, and 1 when the one image is a locally linear function of the other.
    """

    def __init__(self, fixed: Volume, moving: Volume, radius: int) -> None:
        self.fixed, self.moving, self.radius = fixed, moving, radius
        grid, device = fixed.grid, fixed.values.device
        half = float(max(np.array(grid.size) * np.array(grid.spacing))) / 2
        # steps are solved in coordinates about the fixed centre with unit half-extent, where all 12 weigh alike
        self.normal = np.diag([1 / half] * 3 + [1.0])
        self.normal[:3, 3] = -grid.center / half
        self.voxel = min(grid.spacing) / half
        self.index = voxel_indices(grid, device)
        index_to_normal = self.normal @ grid.index_to_world
        self.places = self.index @ torch.from_numpy(index_to_normal).float().to(device).T
        self.to_normal_gradient = torch.from_numpy(np.linalg.inv(index_to_normal[:3, :3])).float().to(device)
        self.counted = torch.ones(grid.shape, device=device) if fixed.mask is None else fixed.mask.float()
        self.foreground = fixed.counted.float()
        smaller = min(fixed.counted_volume, moving.counted_volume)
        self.needed = max(1.0, smaller / grid.voxel_volume)

    def score(self, matrix: np.ndarray) -> float:
        """Mean squared local correlation under ``matrix``."""
        return self._mean(self._lines(matrix))

    def compare(self, first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
        """Scores of two maps over the fixed voxels that both show.

        Where these are fewer than ``MIN_OVERLAP`` of the anatomy, each score is over the voxels that its own map shows
        and multiplied by its overlap, so that a good match of a sliver wins nothing.
        """
        a, b = self._lines(first), self._lines(second)
        both = a.valid * b.valid
        if self._part(both) >= MIN_OVERLAP:
            return self._mean(a, both), self._mean(b, both)
        return self._mean(a) * self._part(a.valid), self._mean(b) * self._part(b.valid)

    def overlap(self, matrix: np.ndarray) -> float:
        """Fixed foreground inside the moving image as a part of the smaller of the two foregrounds, 0..1."""
        return self._part(self._warped(matrix)[1])

    def step(self, matrix: np.ndarray, basis: torch.Tensor) -> tuple[np.ndarray, float]:
        """Gauss-Newton step (3, 4) in normal coordinates within the span of ``basis`` (12, k), and the score here."""
        lines = self._lines(matrix)
        gradient = central_gradient(lines.moving, lines.valid) * lines.slope
        gradient = torch.einsum("czyx,cd->zyxd", gradient, self.to_normal_gradient).reshape(-1, 3)
        weight = (lines.valid / lines.variance).view(-1)
        use = ((gradient.abs().sum(1) > 1e-4) & (weight > 0)).nonzero()[:, 0]
        jacobian = (gradient[use][:, :, None] * self.places[use][:, None]).view(-1, 12) @ basis
        weighted = (jacobian * weight[use][:, None]).T
        hessian = (weighted @ jacobian).double().cpu().numpy()
        right = (weighted @ lines.residual.view(-1)[use]).double().cpu().numpy()
        # damped for directions that the images do not tell, such as along few or featureless slices
        damping = (1e-3 * np.trace(hessian) / len(hessian) + 1e-9) * np.eye(len(hessian))
        delta = np.linalg.solve(hessian + damping, right)
        return (basis.double().cpu().numpy() @ delta).reshape(3, 4), self._mean(lines)

    def _warped(self, matrix: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        places = unit_places(self.index, self.fixed.grid, self.moving.grid, matrix[None])
        valid = (places.abs().amax(-1) <= 1).float()
        if self.moving.mask is not None:
            valid = valid * (sample(self.moving.mask.float(), places) > 0.5)
        shape = self.fixed.grid.shape
        return sample(self.moving.values, places).view(shape), valid.view(shape) * self.counted

    def _lines(self, matrix: np.ndarray) -> _Lines:
        f = self.fixed.values
        m, valid = self._warped(matrix)
        fv, mv = f * valid, m * valid
        n, f1, m1, ff, mm, fm = box_sum(torch.stack([valid, fv, mv, fv * f, mv * m, fv * m]), self.radius)
        n.clamp_(min=1)
        f1, m1 = f1 / n, m1 / n
        fixed_variance = (ff / n - f1 * f1).clamp_(min=0) + NOISE_FLOOR
        moving_variance = (mm / n - m1 * m1).clamp_(min=0) + NOISE_FLOOR
        covariance = fm / n - f1 * m1
        slope = covariance / moving_variance
        residual = f - f1 - slope * (m - m1)
        return _Lines(m, valid, residual, slope, fixed_variance, covariance * slope / fixed_variance)

    def _mean(self, lines: _Lines, valid: torch.Tensor | None = None) -> float:
        valid = lines.valid if valid is None else valid
        weight = valid * (1 - NOISE_FLOOR / lines.variance)
        return float((lines.squared_correlation * weight).sum() / weight.sum().clamp_min(1e-6))

    def _part(self, valid: torch.Tensor) -> float:
        return min(1.0, float((valid * self.foreground).sum()) / self.needed)


def basis_of(mode: str) -> torch.Tensor:
    """Directions in the 12 numbers of a (3, 4) map at the identity, as columns: (12, 6) rigid or (12, 12) affine."""
    if mode == "affine":
        return torch.eye(12)
    basis = torch.zeros(6, 3, 4)
    for k, (i, j) in enumerate(((1, 2), (2, 0), (0, 1))):
        basis[k, j, i], basis[k, i, j] = 1.0, -1.0
        basis[3 + k, k, 3] = 1.0
    return basis.view(6, 12).T.contiguous()


def refine(metric: LocalCorrelation, start: np.ndarray, mode: str, iterations: int, tolerance: float = 0.05) -> Refined:
    """Gauss-Newton from ``start`` (4, 4); the best map seen, ``start`` included.

    Ends after ``iterations`` steps or when a step moves no corner by more than about ``tolerance`` fixed voxels.
    A rigid ``start`` stays exactly rigid in mode "rigid".
    """
    basis = basis_of(mode).to(metric.index.device)
    inverse = np.linalg.inv(metric.normal)
    matrix, best = start, Refined(start, -1.0)
    for _ in range(iterations):
        delta, score = metric.step(matrix, basis)
        if score > best.score:
            best = Refined(matrix, score)
        size = float(np.abs(delta).max())
        small = np.eye(4)
        small[:3] += delta * min(1.0, MAX_STEP / max(size, 1e-12))
        if mode == "rigid":
            small[:3, :3] = nearest_rotation(small[:3, :3])
        matrix = matrix @ inverse @ small @ metric.normal
        if size < tolerance * metric.voxel:
            return Refined(matrix, score) if score >= best.score else best
    score = metric.score(matrix)
    return Refined(matrix, score) if score > best.score else best
