"""Displacement fields in LPS millimetres: compose, invert, differentiate, resample, apply.

A field ``u`` belongs to the fixed grid and maps fixed points to moving points: ``p_moving = p_fixed + u(p_fixed)``.
Work runs slab by slab along the slowest axis and large fields lie in files (:mod:`CycleRegLib.storage`), so that
memory stays bounded however large the grid is.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch

from .errors import InputError
from .geometry import Grid
from .storage import empty, release, slabs
from .warp import index_positions, inside, sample

_FIT_POINTS = 20_000


@dataclass(frozen=True)
class InverseResult:
    """An inverse field and how well it inverts.

    ``residual_*_mm`` is ``|v(y) + u(y + v(y))|`` over the voxels of the inverse whose partner lies inside the grid of
    the field that was inverted (``inside_fraction`` of them); NaN when there is none.
    """

    field: DisplacementField
    residual_mean_mm: float
    residual_max_mm: float
    inside_fraction: float
    iterations: int


class DisplacementField:
    """A displacement field on a grid.

    Parameters
    ----------
    vectors
        (\\*grid.shape, n) float32, components (x, y[, z]) in LPS millimetres.  Kept by reference.
    grid
        Where the vectors lie.

    Raises
    ------
    InputError
        If the shapes do not fit or a vector is not finite.
    """

    def __init__(self, vectors: np.ndarray, grid: Grid) -> None:
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        if vectors.shape != (*grid.shape, grid.dimension):
            raise InputError(
                f"A displacement field of array shape {vectors.shape} does not fit a grid of shape {grid.shape}."
            )
        # A sum is finite exactly when no element is NaN and no infinity is met; cheaper than a mask of the field.
        if not all(np.isfinite(vectors[part].sum(dtype=np.float64)) for part in slabs(grid.shape, vectors)):
            raise InputError("The displacement field holds NaN or infinite vectors.")
        self.vectors = vectors
        self.grid = grid

    # ------------------------------------------------------------------ conversions

    @classmethod
    def identity(cls, grid: Grid) -> DisplacementField:
        """The field that moves nothing."""
        return cls(np.zeros((*grid.shape, grid.dimension), np.float32), grid)

    @classmethod
    def from_image(cls, image: sitk.Image) -> DisplacementField:
        """From a SimpleITK vector image (the displacement in LPS mm, as ITK keeps it)."""
        if image.GetNumberOfComponentsPerPixel() != image.GetDimension():
            raise InputError(
                f"A displacement field needs {image.GetDimension()} components per voxel, "
                f"but the image has {image.GetNumberOfComponentsPerPixel()}."
            )
        return cls(sitk.GetArrayFromImage(image), Grid.of(image))

    @classmethod
    def from_transform(cls, transform: sitk.Transform, grid: Grid) -> DisplacementField:
        """Any SimpleITK transform, sampled at the voxel centres of ``grid``."""
        vectors = empty((*grid.shape, grid.dimension))
        first = np.zeros(grid.dimension)
        for part in slabs(grid.shape, vectors):
            first[-1] = part.start
            size = (*grid.size[:-1], part.stop - part.start)
            slab = sitk.TransformToDisplacementField(
                transform, sitk.sitkVectorFloat64, size, tuple(grid.to_world(first)), grid.spacing, grid.direction
            )
            vectors[part] = sitk.GetArrayViewFromImage(slab)
        return cls(vectors, grid)

    @classmethod
    def from_matrix(cls, matrix: np.ndarray, grid: Grid) -> DisplacementField:
        """The affine map ``p -> matrix @ p`` ((n+1, n+1), LPS mm) as a field on ``grid``."""
        n = grid.dimension
        vectors = empty((*grid.shape, n))
        difference = (np.asarray(matrix, np.float64) - np.eye(n + 1)) @ grid.index_to_world
        for part in slabs(grid.shape, vectors):
            shape = (part.stop - part.start, *grid.shape[1:])
            vectors[part] = index_positions(shape, difference, part.start)[0].numpy()[..., ::-1]
        return cls(vectors, grid)

    @classmethod
    def from_flow(
        cls,
        flow: torch.Tensor,
        grid: Grid,
        target: Grid | None = None,
        before: np.ndarray | None = None,
        after: np.ndarray | None = None,
    ) -> DisplacementField:
        """From a network's flow, if wanted on another grid and between two affine maps.

        With M the flow in millimetres, interpolated linearly and beyond ``grid`` with its border value, the field maps
        ``p -> after(q + M(q))`` where ``q = before(p)``.

        Parameters
        ----------
        flow
            (n, \\*grid.shape) in voxels of ``grid``, channels in array-axis order.
        grid
            Where the flow lies.
        target
            Where the field is wanted; ``grid`` when left out.
        before, after
            (n+1, n+1), LPS mm; the identity when left out.
        """
        n = grid.dimension
        target = grid if target is None else target
        before, after = (np.eye(n + 1) if m is None else np.asarray(m, np.float64) for m in (before, after))
        affine = (after @ before - np.eye(n + 1)) @ target.index_to_world
        to_world = (after[:n, :n] @ grid.index_to_world[:n, :n])[:, ::-1].copy()
        linear = torch.from_numpy(to_world).to(flow.device, torch.float32)
        place = grid.world_to_index @ before @ target.index_to_world
        exact = target == grid and np.array_equal(before, np.eye(n + 1))
        vectors = empty((*target.shape, n))
        for part in slabs(target.shape, vectors, flow):
            shape = (part.stop - part.start, *target.shape[1:])
            if exact:
                found = flow[:, part].float()
            else:
                positions = index_positions(shape, place, part.start, flow.device)
                found = sample(flow[None].float(), positions, padding="border")[0]
            moved = torch.einsum("ij,j...->...i", linear, found).cpu().numpy()
            vectors[part] = moved + index_positions(shape, affine, part.start)[0].numpy()[..., ::-1]
        return cls(vectors, target)

    def to_flow(self) -> torch.Tensor:
        """The field in voxels of its own grid, (n, \\*shape) float32, channels in array-axis order."""
        linear = self.grid.world_to_index[: self.grid.dimension, : self.grid.dimension][::-1].copy()
        matrix = torch.from_numpy(linear).to(torch.float32)
        return torch.einsum("ij,...j->i...", matrix, torch.from_numpy(self.vectors))

    def to_image(self) -> sitk.Image:
        """SimpleITK vector image, float32, LPS mm."""
        return self.grid.image(self.vectors)

    def to_transform(self) -> sitk.DisplacementFieldTransform:
        """SimpleITK transform (ITK keeps it in float64); outside the grid it is the identity."""
        return sitk.DisplacementFieldTransform(sitk.Cast(self.to_image(), sitk.sitkVectorFloat64))

    # ------------------------------------------------------------------ evaluation

    def _tensor(self) -> torch.Tensor:
        """(1, n, *shape) view; no copy."""
        return torch.from_numpy(self.vectors).movedim(-1, 0).unsqueeze(0)

    def _index_matrix(self, other: Grid) -> tuple[np.ndarray, torch.Tensor]:
        """Maps from own index, and from LPS displacement, to the index space of ``other`` (array-axis order)."""
        n = self.grid.dimension
        to_other = other.world_to_index
        return to_other @ self.grid.index_to_world, torch.from_numpy(to_other[:n, :n][::-1].copy()).float()

    def _positions_in(self, other: Grid, part: slice) -> torch.Tensor:
        """Where the voxels of a slab land in ``other``: (1, *slab, n) voxels of ``other``, array-axis order."""
        matrix, linear = self._index_matrix(other)
        vectors = torch.from_numpy(self.vectors[part])
        positions = index_positions(tuple(vectors.shape[:-1]), matrix, part.start)
        return positions.add_(vectors @ linear.T)

    def displacement_at(self, points: np.ndarray, outside: str = "identity") -> np.ndarray:
        """Displacements at (N, n) LPS mm points, (N, n) mm.

        ``outside="identity"`` gives zero beyond the grid's voxel edges, as ITK does; ``"border"`` repeats the edge.
        """
        points = np.atleast_2d(np.asarray(points, dtype=np.float64))
        n = self.grid.dimension
        positions = torch.from_numpy(self.grid.to_index(points)[:, ::-1].copy()).float().view(1, *[1] * (n - 1), -1, n)
        found = sample(self._tensor(), positions, padding="border").reshape(n, -1).T.numpy().astype(np.float64)
        if outside == "identity":
            found[~self.grid.contains(points)] = 0.0
        return found

    def transform_points(self, points: np.ndarray, outside: str = "identity") -> np.ndarray:
        """Map (N, n) fixed points to moving points, LPS mm; see :meth:`displacement_at` for ``outside``."""
        points = np.atleast_2d(np.asarray(points, dtype=np.float64))
        return points + self.displacement_at(points, outside)

    def compose(self, other: DisplacementField, outside: str = "identity") -> DisplacementField:
        """The field that maps a point first by this field, then by ``other``, on this field's grid.

        ``(self.compose(other))(x) = u(x) + w(x + u(x))``; equals SimpleITK's
        ``CompositeTransform([other, self])`` sampled on this grid when ``outside="identity"``.
        """
        result = empty(self.vectors.shape)
        for part in slabs(self.grid.shape, result, self.vectors, other.vectors):
            positions = self._positions_in(other.grid, part)
            found = sample(other._tensor(), positions, padding="border")[0]
            if outside == "identity":
                found = found * inside(positions, other.grid.shape)
            result[part] = self.vectors[part] + found.movedim(0, -1).numpy()
        return DisplacementField(result, self.grid)

    def round_trip(self, other: DisplacementField) -> np.ndarray:
        """``|u(x) + v(x + u(x))|`` in mm per voxel; NaN where the point leaves the grid of ``other``.

        Zero everywhere when ``other`` is the exact inverse (METHODS.md, "Round trip").
        """
        result = empty(self.grid.shape)
        for part in slabs(self.grid.shape, result, self.vectors, other.vectors):
            positions = self._positions_in(other.grid, part)
            back = sample(other._tensor(), positions, padding="border")[0].movedim(0, -1)
            error = torch.linalg.vector_norm(torch.from_numpy(self.vectors[part]) + back, dim=-1)
            error[~inside(positions, other.grid.shape)[0]] = torch.nan
            result[part] = error.numpy()
        return result

    def resampled(self, grid: Grid, outside: str = "border") -> DisplacementField:
        """The same displacements, linearly interpolated at the voxel centres of ``grid``."""
        if grid == self.grid:
            return self
        result = empty((*grid.shape, grid.dimension))
        matrix = self.grid.world_to_index @ grid.index_to_world
        # On a coarser grid a slab is thinner: one voxel stands for many that are looked at.
        ratio = max(1.0, np.prod(self.grid.size) / np.prod(grid.size))
        for part in slabs((grid.shape[0], int(ratio * np.prod(grid.shape[1:]))), result, self.vectors):
            shape = (part.stop - part.start, *grid.shape[1:])
            positions = index_positions(shape, matrix, part.start)
            found = sample(self._tensor(), positions, padding="border")[0]
            if outside == "identity":
                found = found * inside(positions, self.grid.shape)
            result[part] = found.movedim(0, -1).numpy()
        return DisplacementField(result, grid)

    # ------------------------------------------------------------------ geometry of the map

    def jacobian_determinant(self) -> np.ndarray:
        """Determinant of ``d(x + u)/dx`` in physical space, (z, y, x) float32.

        Central differences inside, one-sided at the faces.  Direction cosines are part of the derivative, so that
        oblique and left-handed grids give the same numbers as axis-aligned ones; <= 0 means folding.
        """
        n = self.grid.dimension
        linear = torch.from_numpy(self.grid.world_to_index[:n, :n][::-1].copy()).float()
        result = empty(self.grid.shape)
        eye = torch.eye(n)
        for part in slabs(self.grid.shape, result, self.vectors):
            low, high = max(part.start - 1, 0), min(part.stop + 1, self.grid.shape[0])
            block = torch.from_numpy(self.vectors[low:high])
            inner = slice(part.start - low, part.stop - low)
            slopes = [_difference(block, axis)[inner] for axis in range(n)]
            # rows[i][j] = d(x + u)_i / dx_j
            rows = [[sum(s[..., i] * linear[a, j] for a, s in enumerate(slopes)) + eye[i, j] for j in range(n)]
                    for i in range(n)]  # fmt: skip
            if n == 2:
                det = rows[0][0] * rows[1][1] - rows[0][1] * rows[1][0]
            else:
                (a, b, c), (d, e, f), (g, h, i) = rows
                det = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
            result[part] = det.numpy()
        return result

    def fit_affine(self) -> np.ndarray:
        """Least-squares affine map of ``x + u(x)``, (n+1, n+1) LPS mm, from up to 20,000 voxels."""
        n = self.grid.dimension
        step = max(1, int(np.ceil((np.prod(self.grid.shape) / _FIT_POINTS) ** (1 / n))))
        axes = [np.unique(np.append(np.arange(0, s, step), s - 1)) for s in self.grid.shape]
        picked = []
        for first in axes[0]:
            picked.append(self.vectors[first][np.ix_(*axes[1:])])
            release(self.vectors)
        index = np.stack(np.meshgrid(*axes, indexing="ij")[::-1], axis=-1).reshape(-1, n)
        points = self.grid.to_world(index)
        center = points.mean(axis=0)
        moved = points + np.concatenate(picked).reshape(-1, n)
        design = np.column_stack([points - center, np.ones(len(points))])
        solution = np.linalg.lstsq(design, moved, rcond=None)[0]
        flat = [a for a, s in enumerate(self.grid.size) if s == 1]
        matrix = np.eye(n + 1)
        matrix[:n, :n] = solution[:n].T
        if flat:  # a single slice says nothing about the slope across it
            matrix[:n, :n] = np.eye(n)
        matrix[:n, n] = moved.mean(axis=0) - matrix[:n, :n] @ center
        return matrix

    def inverse(self, grid: Grid | None = None, max_iterations: int = 60, tolerance_mm: float = 1e-4) -> InverseResult:
        """The field that undoes this one, by fixed-point iteration.

        The best-fit affine part ``A x + b`` is inverted exactly and only the remainder ``r`` is iterated,
        ``x <- A^-1 (y - b - r(x))``, so that a large initial transform does not hinder convergence.
        Beyond the grid the remainder keeps its border value.

        Parameters
        ----------
        grid
            Where the inverse is wanted, usually the moving image's; this field's own grid when left out.
        max_iterations, tolerance_mm
            Stop when no point moves by more than ``tolerance_mm``.

        Raises
        ------
        InputError
            If the affine part is singular, so that there is no inverse.
        """
        grid = self.grid if grid is None else grid
        n = self.grid.dimension
        affine = self.fit_affine()
        if abs(np.linalg.det(affine[:n, :n])) < 1e-6:
            raise InputError("The displacement field collapses space and has no inverse.")
        back = np.linalg.inv(affine)
        remainder = DisplacementField.from_matrix(affine, self.grid)
        for part in slabs(self.grid.shape, self.vectors, remainder.vectors):
            np.subtract(self.vectors[part], remainder.vectors[part], out=remainder.vectors[part])
        to_index = self.grid.world_to_index
        # A remainder in mm moves the estimate by -A^-1 r; both in index space of this field's grid, array order.
        pull = torch.from_numpy((to_index[:n, :n] @ back[:n, :n])[::-1].copy()).float()
        to_world = torch.from_numpy(self.grid.index_to_world[:n, :n][:, ::-1].copy()).float()
        size = torch.tensor(np.linalg.norm(self.grid.index_to_world[:n, :n], axis=0)[::-1].copy()).float()
        start_matrix = to_index @ back @ grid.index_to_world
        own_matrix = to_index @ grid.index_to_world
        result = empty((*grid.shape, n))
        total, largest, count, iterations = 0.0, 0.0, 0, 0
        for part in slabs(grid.shape, result, remainder.vectors):
            shape = (part.stop - part.start, *grid.shape[1:])
            start = index_positions(shape, start_matrix, part.start)
            offset = torch.zeros_like(start)
            for iteration in range(1, max_iterations + 1):
                r = sample(remainder._tensor(), start + offset, padding="border")[0].movedim(0, -1)
                updated = -(r @ pull.T).unsqueeze(0)
                change = float(((updated - offset).abs() * size).max())
                offset = updated
                iterations = max(iterations, iteration)
                if change < tolerance_mm:
                    break
            positions = start + offset
            r = sample(remainder._tensor(), positions, padding="border")[0].movedim(0, -1)
            # What is left, mapped forward: A (offset - (-A^-1 r)).
            left = (offset[0] + r @ pull.T) @ to_world.T @ torch.from_numpy(affine[:n, :n].T.copy()).float()
            seen = inside(positions, self.grid.shape)[0]
            error = torch.linalg.vector_norm(left, dim=-1)[seen]
            if error.numel():
                total += float(error.sum(dtype=torch.float64))
                largest = max(largest, float(error.max()))
                count += error.numel()
            own = index_positions(shape, own_matrix, part.start)
            result[part] = ((positions - own)[0] @ to_world.T).numpy()
        return InverseResult(
            DisplacementField(result, grid),
            total / count if count else float("nan"),
            largest if count else float("nan"),
            count / float(np.prod(grid.shape)),
            iterations,
        )

    # ------------------------------------------------------------------ images

    def warp(self, image: sitk.Image, interpolation: str = "linear", default: float | None = None) -> sitk.Image:
        """The moving ``image`` resampled once onto this field's grid: ``warped(x) = image(x + u(x))``.

        Parameters
        ----------
        image
            Scalar image of any geometry.
        interpolation
            ``"linear"`` (the result is float32) or ``"nearest"`` (the image's own type; for labels).
        default
            Value where the image was not seen; the image's minimum when left out (0 for ``"nearest"``).
        """
        other = Grid.of(image)
        volume = _volume(image)
        if default is None:
            default = 0.0 if interpolation == "nearest" else float(volume.min())
        mode = {"linear": "bilinear", "nearest": "nearest"}[interpolation]
        kind = sitk.GetArrayViewFromImage(image).dtype if interpolation == "nearest" else np.float32
        result = empty(self.grid.shape, kind)
        for part in slabs(self.grid.shape, result, self.vectors):
            positions = self._positions_in(other, part)
            found = sample(volume, positions, mode, padding="border")[0, 0]
            result[part] = torch.where(inside(positions, other.shape)[0], found, default).numpy()
        return self.grid.image(result)


def _volume(image: sitk.Image) -> torch.Tensor:
    """(1, 1, \\*shape) float32, only to be read: a float32 image's own memory, else a copy."""
    array = sitk.GetArrayViewFromImage(image)
    with warnings.catch_warnings():
        # PyTorch has no tensors that cannot be written, and says so.
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(np.asarray(array, dtype=np.float32))[None, None]


def _difference(block: torch.Tensor, axis: int) -> torch.Tensor:
    """Derivative per index along ``axis``: central, one-sided at the ends, zero for a single slice."""
    length = block.shape[axis]
    if length == 1:
        return torch.zeros_like(block)
    result = torch.empty_like(block)
    inner = result.narrow(axis, 1, length - 2)
    torch.sub(block.narrow(axis, 2, length - 2), block.narrow(axis, 0, length - 2), out=inner)
    inner.mul_(0.5)
    result.select(axis, 0).copy_(block.select(axis, 1) - block.select(axis, 0))
    result.select(axis, -1).copy_(block.select(axis, -1) - block.select(axis, -2))
    return result
