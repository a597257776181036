"""Where the affine stage starts: coarse volumes, moments, and a search for shift, rotation and scale.

The search scores thousands of candidate maps at once by mutual information on about a thousand points of a coarse
volume.  It covers every shift that leaves half of the smaller field of view in common, so that neither far-apart
origins nor a truncated field of view, whose centre of mass lies elsewhere, keep the stage from starting well.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F

from .errors import InputError
from .geometry import Grid

MIN_OVERLAP = 0.2
BINS = 24
SEARCH_POINTS = 1200
ROTATION_STEP_DEGREES = 14.0
SCALE_STEPS = (1.0, 0.88, 1.14)
_SAMPLES_AT_ONCE = 400_000
_MOST_SAMPLES = 12_000_000


@dataclass(frozen=True)
class Start:
    """A candidate map, fixed to moving: ``matrix`` (4, 4) LPS mm, and where it comes from."""

    name: str
    matrix: np.ndarray


@dataclass(frozen=True)
class Volume:
    """A coarse copy of an image.

    ``values`` (z, y, x) float32 in 0..1, ``mask`` (z, y, x) bool or None (everything counts), ``foreground``
    (z, y, x) bool, ``grid`` where the voxels lie.
    """

    values: torch.Tensor
    mask: torch.Tensor | None
    foreground: torch.Tensor
    grid: Grid

    @property
    def counted(self) -> torch.Tensor:
        """Foreground inside the mask, or all of the mask where it holds no foreground; (z, y, x) bool."""
        if self.mask is None:
            return self.foreground
        both = self.foreground & self.mask
        return both if bool(both.any()) else self.mask

    @property
    def counted_volume(self) -> float:
        """Volume of the counted foreground in mm^3."""
        return int(self.counted.sum()) * self.grid.voxel_volume

    def counted_points(self) -> np.ndarray:
        """World positions of the counted voxels, (n, 3) LPS mm."""
        return self.grid.to_world(self.counted.nonzero().cpu().numpy()[:, ::-1])

    def cropped(self, where: torch.Tensor, margin: int) -> Volume:
        """The box around the voxels of ``where`` (z, y, x), wider by ``margin`` voxels on every side."""
        index = where.nonzero()
        low = (index.amin(0) - margin).clamp_min(0).tolist()
        high = (index.amax(0) + 1 + margin).tolist()
        box = tuple(slice(a, b) for a, b in zip(low, high))
        values = self.values[box].contiguous()
        grid = self.grid
        origin = tuple(grid.to_world(np.array(low[::-1], dtype=np.float64)))
        return Volume(
            values,
            None if self.mask is None else self.mask[box].contiguous(),
            self.foreground[box].contiguous(),
            Grid(tuple(values.shape)[::-1], grid.spacing, origin, grid.direction),
        )


def common_step(fixed: Grid, moving: Grid, voxels: int) -> float:
    """Edge (mm) of the cubes of which the smaller grid holds ``voxels``, or the larger one 4 times as many."""
    edges = [(g.voxel_volume * float(np.prod(g.size)) / voxels) ** (1 / 3) for g in (fixed, moving)]
    return max(min(edges), max(edges) / 4 ** (1 / 3))


def shrink(image: sitk.Image, step: float) -> sitk.Image:
    """Average blocks of whole voxels to float32 voxels of about ``step`` mm; axes that are coarser already stay."""
    grid = Grid.of(image)
    factors = [int(np.clip(round(step / s), 1, n)) for s, n in zip(grid.spacing, grid.size)]
    if image.GetPixelID() != sitk.sitkFloat32:
        image = sitk.Cast(image, sitk.sitkFloat32)
    return sitk.BinShrink(image, factors)


def volume_of(image: sitk.Image, mask: sitk.Image | None, what: str, device: str = "cpu") -> Volume:
    """A float32 image, clipped at its 0.5 and 99.5 percentiles, with its foreground and the mask on its grid.

    Raises
    ------
    InputError
        If the image is constant or holds NaN or infinite values, or if its mask covers nothing of it.
    """
    array = sitk.GetArrayFromImage(image)
    if not np.isfinite(array).all():
        raise InputError(f"The {what} image holds NaN or infinite values. Replace them before registering.")
    low, high = np.percentile(array.ravel()[:: array.size // 100_000 | 1], [0.5, 99.5])
    if high <= low:
        low, high = float(array.min()), float(array.max())
    if high <= low:
        raise InputError(f"The {what} image is constant; there is nothing to align. Check that it is the right file.")
    array = np.clip((array - np.float32(low)) / np.float32(high - low), 0, 1)
    grid = Grid.of(image)
    inside = None
    if mask is not None:
        near = sitk.Resample(mask != 0, grid.empty_image(), sitk.Transform(), sitk.sitkNearestNeighbor, 0.0)
        inside = torch.from_numpy(sitk.GetArrayFromImage(near) > 0).to(device)
        if not bool(inside.any()):
            raise InputError(f"The {what} mask covers nothing of the {what} image. Give a mask that does, or none.")
    foreground = torch.from_numpy(foreground_of(array)).to(device)
    return Volume(torch.from_numpy(array).to(device), inside, foreground, grid)


def foreground_of(array: np.ndarray) -> np.ndarray:
    """The anatomy in a (z, y, x) array: the side of Otsu's threshold that the volume's corners are not on.

    Everything counts as foreground when either side holds less than 2 % of the voxels.
    """
    histogram, edges = np.histogram(array, bins=128)
    middle = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(histogram)[:-1].astype(np.float64)
    mass = np.cumsum(histogram * middle)
    above = histogram.sum() - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (mass[:-1] / below - (mass[-1] - mass[:-1]) / above) ** 2
    bright = array > edges[int(np.nanargmax(between)) + 1]
    if not 0.02 < bright.mean() < 0.98:
        return np.ones(array.shape, dtype=bool)
    corners = bright[np.ix_(*[sorted({0, n - 1}) for n in array.shape])]
    return ~bright if corners.mean() > 0.5 else bright


def rotation(vector: np.ndarray) -> np.ndarray:
    """Rotation matrix (3, 3) of a rotation vector (radians), Rodrigues' formula."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = np.asarray(vector) / angle
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * (k @ k)


def nearest_rotation(linear: np.ndarray) -> np.ndarray:
    """The proper rotation nearest to ``linear`` (3, 3) in the Frobenius norm (polar decomposition)."""
    u, _, vt = np.linalg.svd(linear)
    return u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt


def onto(linear: np.ndarray, fixed_point: np.ndarray, moving_point: np.ndarray) -> np.ndarray:
    """The (4, 4) map with this linear part that takes ``fixed_point`` to ``moving_point``."""
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = moving_point - linear @ fixed_point
    return matrix


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Map (..., 3) points by a (4, 4) matrix."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def principal_axes(fixed_covariance: np.ndarray, moving_covariance: np.ndarray) -> np.ndarray:
    """Linear map (3, 3) A with A C_fixed A' = C_moving that turns least.

    Every such A is C_moving^(1/2) Q C_fixed^(-1/2) with Q orthogonal; the rotation Q of the largest trace of A settles
    the signs and the order of the axes.
    """
    root_fixed, root_moving = _square_root(fixed_covariance), _square_root(moving_covariance)
    inverse = np.linalg.inv(root_fixed)
    return root_moving @ nearest_rotation((inverse @ root_moving).T) @ inverse


def _square_root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 1e-4 * values.max() + 1e-9))) @ vectors.T


def voxel_indices(grid: Grid, device: torch.device) -> torch.Tensor:
    """Homogeneous (x, y, z, 1) indices of all voxels, (n, 4) float32, in the order of the (z, y, x) array."""
    axes = [torch.arange(n, dtype=torch.float32, device=device) for n in grid.shape]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([x, y, z, torch.ones_like(x)], -1).view(-1, 4)


def unit_places(index: torch.Tensor, fixed: Grid, moving: Grid, matrices: np.ndarray) -> torch.Tensor:
    """Where (k, 4, 4) world maps take (n, 4) fixed indices, (k, n, 3) in ``grid_sample`` coordinates of ``moving``.

    These run from -1 to 1 from outer voxel edge to outer voxel edge.  The matrices are combined in float64, so that
    far-away origins cost no accuracy.
    """
    size = np.array(moving.size, dtype=np.float64)
    to_unit = np.diag([*(2 / size), 1.0])
    to_unit[:3, 3] = 1 / size - 1
    combined = to_unit @ moving.world_to_index @ matrices @ fixed.index_to_world
    return index @ torch.from_numpy(combined[:, :3]).float().to(index.device).transpose(1, 2)


def shown(fixed: Volume, moving: Volume, matrix: np.ndarray) -> torch.Tensor:
    """Which fixed voxels ``matrix`` maps into the moving grid, (z, y, x) bool."""
    places = unit_places(voxel_indices(fixed.grid, fixed.values.device), fixed.grid, moving.grid, matrix[None])
    return (places.abs().amax(-1) <= 1).view(fixed.grid.shape)


def sample(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Linear interpolation of (z, y, x) values at (n, p, 3) unit places -> (n, p); the border value outside."""
    count = len(places)
    volume = values[None, None].expand(count, 1, *values.shape)
    out = F.grid_sample(volume, places[:, :, None, None], padding_mode="border", align_corners=False)
    return out.view(count, -1)


class MutualInformation:
    """Mutual information (nats) of two volumes under many candidate maps at once.

    The joint histogram has 24 x 24 bins, quantiles of each volume's counted foreground and a rim about it, so that
    background does not dominate; its entropies are corrected for small samples (Miller and Madow, 1955).
    """

    def __init__(self, fixed: Volume, moving: Volume, count: int = SEARCH_POINTS) -> None:
        self.least_part = min(1.0, moving.counted_volume / fixed.counted_volume)
        index = _with_rim(fixed).nonzero()
        # a small field of view in a large one still needs its points
        count = round(count / max(0.1, self.least_part))
        # the points of an odd stride spread over rows and slices evenly, and are the same in every run
        index = index[:: max(1, len(index) // count) | 1]
        at = tuple(index.T)
        self.fixed, self.moving, self.device = fixed, moving, fixed.values.device
        self.points = torch.cat([index.flip(1).float(), torch.ones(len(index), 1, device=self.device)], 1)
        self.counts = fixed.counted[at].float()
        self.fixed_bin = torch.bucketize(fixed.values[at], _quantiles(fixed.values[at]))
        self.moving_edges = _quantiles(moving.values[_with_rim(moving)])

    def __call__(self, matrices: np.ndarray) -> np.ndarray:
        """Scores of (n, 4, 4) world maps: information times overlap.

        The overlap is the mapped foreground inside the moving image as a part of the smaller foreground; the score is
        -inf where it is below ``MIN_OVERLAP``.  Of many maps each is scored on fewer points.
        """
        stride = -(-len(matrices) * len(self.points) // _MOST_SAMPLES) | 1
        size = max(1, _SAMPLES_AT_ONCE * stride // len(self.points))
        return np.concatenate([self._scores(matrices[i : i + size], stride) for i in range(0, len(matrices), size)])

    def _scores(self, matrices: np.ndarray, stride: int) -> np.ndarray:
        counts = self.counts[::stride]
        needed = counts.sum() * self.least_part
        places = unit_places(self.points[::stride], self.fixed.grid, self.moving.grid, matrices)
        inside = (places.abs() <= 1).all(-1)
        if self.moving.mask is not None:
            inside &= sample(self.moving.mask.float(), places) > 0.5
        moving_bin = torch.bucketize(sample(self.moving.values, places), self.moving_edges)
        row = torch.arange(len(matrices), device=self.device)[:, None] * BINS**2
        flat = (row + self.fixed_bin[::stride] * BINS + moving_bin)[inside]
        joint = torch.bincount(flat, minlength=len(matrices) * BINS**2).view(-1, BINS, BINS)
        overlap = ((inside.float() @ counts) / needed.clamp_min(1e-6)).clamp(max=1).cpu()
        score = _information(joint.cpu().double()) * overlap.double()
        return torch.where(overlap >= MIN_OVERLAP, score, -torch.inf).numpy()


def _information(joint: torch.Tensor) -> torch.Tensor:
    total = joint.sum((1, 2)).clamp_min(1)
    p = joint / total[:, None, None]

    def entropy(q: torch.Tensor) -> torch.Tensor:
        q = q.flatten(1)
        return -torch.special.xlogy(q, q).sum(1) + ((q > 0).sum(1) - 1) / (2 * total)

    return entropy(p.sum(2)) + entropy(p.sum(1)) - entropy(p)


def _quantiles(values: torch.Tensor) -> torch.Tensor:
    values = values[:: max(1, len(values) // 20_000)]
    return torch.quantile(values, torch.linspace(0, 1, BINS + 1, device=values.device)[1:-1])


def _with_rim(volume: Volume) -> torch.Tensor:
    wide = F.max_pool3d(volume.counted[None, None].float(), 5, 1, 2)[0, 0] > 0
    return wide if volume.mask is None else wide & volume.mask


def find_starts(fixed: Volume, moving: Volume, initial: np.ndarray, mode: str, keep: int) -> list[Start]:
    """The initial map and up to ``keep`` more, the most informative first and no two of them near each other.

    Candidates: fields of view and foregrounds centred, principal axes aligned, and the best places of a lattice of
    shifts; then each of these turned by the 27 combinations of -14, 0, 14 degrees and, for affine maps, scaled.
    Foregrounds are mapped by the initial map first, so all starts keep its orientation unless turned.
    """
    information = MutualInformation(fixed, moving)
    anchor = fixed.counted_points().mean(0)
    places = [*_centred(fixed, moving, initial, mode), *_shifted(information, anchor, initial, keep)]
    kept = _best(places, information(np.array([s.matrix for s in places])), fixed, keep)
    turned = [start for place in kept for start in _turned(place, anchor, mode)]
    scores = information(np.array([s.matrix for s in turned]))
    return [Start("initial", initial), *_best(turned, scores, fixed, keep)]


def _centred(fixed: Volume, moving: Volume, initial: np.ndarray, mode: str) -> list[Start]:
    fixed_points, moving_points = fixed.counted_points(), moving.counted_points()
    fixed_mass, moving_mass = fixed_points.mean(0), moving_points.mean(0)
    linear = initial[:3, :3]
    starts = [
        Start("initial", initial),
        Start("centres", onto(linear, fixed.grid.center, moving.grid.center)),
        Start("centres of mass", onto(linear, fixed_mass, moving_mass)),
    ]
    if min(len(fixed_points), len(moving_points)) > 10:
        mapped = np.cov(((fixed_points - fixed_mass) @ linear.T).T)
        axes = principal_axes(mapped, np.cov((moving_points - moving_mass).T))
        axes = nearest_rotation(axes) if mode == "rigid" else axes
        starts.append(Start("principal axes", onto(axes @ linear, fixed_mass, moving_mass)))
    return starts


def _shifted(information: MutualInformation, anchor: np.ndarray, initial: np.ndarray, keep: int) -> list[Start]:
    fixed = information.fixed
    linear = initial[:3, :3]
    mapped = (fixed.counted_points() - anchor) @ linear.T
    corners = information.moving.grid.corners()
    fixed_extent, moving_extent = np.ptp(mapped, axis=0), np.ptp(corners, axis=0)
    middle = (corners.max(0) + corners.min(0)) / 2 - (mapped.max(0) + mapped.min(0)) / 2
    axes = []
    for a, b in zip(fixed_extent, moving_extent):
        ratio = max(a, b) / max(min(a, b), 0.25 * max(a, b))
        axes.append(np.linspace(-0.5, 0.5, 2 * round(5 * ratio) + 1) * max(a, b))
    targets = middle + np.array(list(product(*axes)))
    places = [Start("shift search", onto(linear, anchor, target)) for target in targets]
    return _best(places, information(np.array([s.matrix for s in places])), fixed, keep)


def _turned(place: Start, anchor: np.ndarray, mode: str) -> list[Start]:
    target = apply(place.matrix, anchor)
    starts = []
    scales = (1.0,) if mode == "rigid" else SCALE_STEPS
    for scale, turn in product(scales, product((0, -1, 1), repeat=3)):
        degrees = ROTATION_STEP_DEGREES * np.array(turn)
        name = place.name
        name += ", turned ({:.0f}, {:.0f}, {:.0f}) degrees".format(*degrees) if any(turn) else ""
        name += f", scaled {scale}" if scale != 1 else ""
        linear = scale * rotation(np.deg2rad(degrees)) @ place.matrix[:3, :3]
        starts.append(Start(name, onto(linear, anchor, target)))
    return starts


def _best(starts: list[Start], scores: np.ndarray, fixed: Volume, keep: int) -> list[Start]:
    """The ``keep`` best of finite score that differ by 8 % of the fixed extent somewhere on its corners."""
    corners = fixed.grid.corners()
    far = 0.08 * float(np.ptp(corners, axis=0).max())
    chosen: list[Start] = []
    for i in np.argsort(-scores, kind="stable"):
        if len(chosen) == keep or not np.isfinite(scores[i]):
            break
        mapped = apply(starts[i].matrix, corners)
        gaps = [np.linalg.norm(apply(other.matrix, corners) - mapped, axis=1).max() for other in chosen]
        if not gaps or min(gaps) > far:
            chosen.append(starts[i])
    return chosen
