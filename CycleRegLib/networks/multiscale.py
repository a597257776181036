"""Registration at two scales: a global network on a down-sampled pair, then a local one on overlapping patches.

CycleMorph's multiscale registration (Kim et al., Medical Image Analysis 2021, section III.C and figure 4), and
MS-DIRNet's, which is the same without cycle consistency.  The local network sees the fixed image and the globally
warped moving image; the moving image itself is warped once, by the field in which both are joined.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Optional

import numpy as np
import torch
import torch.nn.functional as F

from ..storage import empty, release, slabs
from ..warp import index_positions, sample
from .blocks import RegistrationNetwork
from .cyclemorph import CycleMorphUNet
from .patches import PatchLayout, blended_flow, lay_patches
from .settings import DEFAULTS, InferenceSettings

DEFAULT_GLOBAL_SIZE = (256, 128, 128)
CPU_BATCH = 2  # more is not faster, and needs more memory
_MOST_PATCHES = 16
# What the U-Net needs of a GPU for each voxel of a patch, in float32, generously.
_BYTES_PER_VOXEL = 1000
Run = Callable[[RegistrationNetwork, torch.Tensor, torch.Tensor], torch.Tensor]
Size = Optional[Sequence[Optional[int]]]


class MultiscaleNetwork(RegistrationNetwork):
    """Two registration U-Nets of CycleMorph (VoxelMorph-1 with strided convolutions), a global and a local one.

    Names of weights are ``global_network.`` and ``local_network.`` followed by those of
    :class:`~CycleRegLib.networks.cyclemorph.CycleMorphUNet`; 722,598 parameters.

    Parameters
    ----------
    dimension
        3.
    global_size
        The most voxels, along the array's axes (z, y, x), that the global network sees; ``None`` (as a whole or for
        an axis) for no limit.  Sides of a slice are reduced together, so that its proportions stay; sides within the
        limit stay as they are.  By default 512 x 512 x N voxels are seen as 128 x 128 x N, as in the paper, a volume
        of 122 x 101 x 112 voxels as it is, and one of 224 x 192 x 160 as 128 x 110 x 160.

    Raises
    ------
    ValueError
        For another dimension, or a size that is none.
    """

    PART = "cyclemorph"  # the method whose network both parts are
    stride = 1
    streams = True

    def __init__(self, dimension: int = 3, global_size: Size = DEFAULT_GLOBAL_SIZE) -> None:
        if dimension != 3:
            raise ValueError(f"Multiscale registration is made for 3D images, not for {dimension}D ones.")
        sizes = list(global_size) if isinstance(global_size, (list, tuple)) else global_size
        if sizes is not None and not (
            isinstance(sizes, list)
            and len(sizes) == dimension
            and all(s is None or (type(s) is int and s >= 1) for s in sizes)
        ):
            raise ValueError(
                f"{global_size!r} is no size for the global network; give three numbers of voxels (z, y, x), or null."
            )
        super().__init__(dimension, global_size=sizes)
        self.global_network = CycleMorphUNet(dimension)
        self.local_network = CycleMorphUNet(dimension)
        self._limits = sizes or [None] * dimension

    @classmethod
    def configuration_from(cls, state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        dimension = state["global_network.model.inconv.block.block.0.weight"].dim() - 2
        return {"dimension": dimension, "global_size": list(DEFAULT_GLOBAL_SIZE)}

    @staticmethod
    def joined_state(
        global_state: Mapping[str, torch.Tensor], local_state: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """The state dict of both networks from those of two U-Nets, which are trained one after the other."""
        parts = {"global_network": global_state, "local_network": local_state}
        return {f"{part}.{name}": value for part, state in parts.items() for name, value in state.items()}

    def global_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The array shape of what the global network sees of a volume of that shape, (z, y, x)."""
        ratios = [1.0 if limit is None else max(1.0, side / limit) for side, limit in zip(shape, self._limits)]
        ratios[1:] = [max(ratios[1:])] * (len(ratios) - 1)
        return tuple(max(1, round(side / ratio)) for side, ratio in zip(shape, ratios))

    def lay_patches(self, shape: tuple[int, ...], settings: InferenceSettings) -> PatchLayout:
        """The local network's patches; see :func:`CycleRegLib.networks.patches.lay_patches`."""
        return lay_patches(shape, settings, self.local_network.stride)

    def estimate(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        """Without gradients: the two networks are trained each on its own."""
        device = moving.device

        def run(network: RegistrationNetwork, *pair: torch.Tensor) -> torch.Tensor:
            return network(*[image.to(device) for image in pair]).float().cpu()

        layout = self.lay_patches(tuple(moving.shape[2:]), DEFAULTS)
        pairs = zip(moving.detach().float().cpu(), fixed.detach().float().cpu())
        with torch.no_grad():
            return torch.stack([self.flow(m[0], f[0], layout, run) for m, f in pairs]).to(device)

    def flow(
        self,
        moving: torch.Tensor,
        fixed: torch.Tensor,
        layout: PatchLayout,
        run: Run,
        composition: str = "compose",
        batch: int = CPU_BATCH,
        report: Callable[[float], None] = lambda fraction: None,
    ) -> torch.Tensor:
        """Register ``moving`` to ``fixed`` piece by piece.

        Beside the images and the result, memory holds a slab of one patch's depth and the global network's work, which
        do not grow with the volume.

        Parameters
        ----------
        moving, fixed
            (D, H, W) float32 on the CPU, of one shape.
        layout
            See :meth:`lay_patches`.
        run
            ``run(network, moving, fixed)`` with (b, 1, d, h, w) gives its flow, float32 on the CPU.
        composition
            ``compose``: the moving image warped once by the result is the globally warped one warped by the local
            flow.  ``add``: the sum of both flows, as in the paper.
        batch
            Patches at a time.
        report
            Called with the fraction that is done; what it raises ends the work.

        Returns
        -------
        (3, D, H, W) float32 on the CPU, voxels, channels in array-axis order.
        """
        shape = tuple(fixed.shape)
        coarse = self.global_shape(shape)
        share = math.prod(coarse) / (math.prod(coarse) + layout.count * math.prod(layout.patch))
        pair = [area_mean(image, coarse)[None, None] for image in (moving, fixed)]
        flow = run(self.global_network, *pair)
        del pair
        report(share)
        joined = GlobalFlow(flow, shape)
        result = torch.from_numpy(empty((len(shape), *shape)))
        patches = blended_flow(
            layout,
            lambda part: joined.warped(moving, part),
            fixed,
            lambda m, f: run(self.local_network, m, f),
            batch,
            lambda done: report(share + (1 - share) * done / layout.count),
        )
        for part, local in patches:
            joined.join(local, part, composition, result)
            release(fixed, result)
        return result


def batch_size(device: torch.device | str, layout: PatchLayout) -> int:
    """How many patches to run at a time: two on a CPU, else what a part of the free memory holds, at most 16."""
    if torch.device(device).type == "cpu":
        return CPU_BATCH
    if torch.device(device).type != "cuda":
        return 4
    free = torch.cuda.mem_get_info(device)[0]
    return int(min(_MOST_PATCHES, max(1, free / 2 // (_BYTES_PER_VOXEL * math.prod(layout.patch)))))


class GlobalFlow:
    """The flow of a down-sampled pair, interpolated where it is needed.

    Parameters
    ----------
    flow
        (1, n, \\*coarse) in voxels of the coarse grid.
    shape
        Of the full grid, which fills the same extent, voxel edge to voxel edge.
    """

    def __init__(self, flow: torch.Tensor, shape: tuple[int, ...]) -> None:
        n = len(shape)
        self.shape = shape
        self._ratio = torch.tensor([c / s for c, s in zip(flow.shape[2:], shape)])
        self._flow = flow / self._ratio.view(1, n, *[1] * n)
        # From full to coarse indices, (x, y, z): centres of the outer voxels do not coincide, their edges do.
        ratio = np.array(self._ratio.tolist()[::-1])
        self._place = np.diag([*ratio, 1.0])
        self._place[:n, n] = ratio / 2 - 0.5

    def _at(self, part: slice, moved: torch.Tensor | None = None) -> torch.Tensor:
        """(n, d, h, w) full voxels, at the voxels of a slab or where a flow (n, d, h, w) moves them."""
        if moved is None:
            return self._at_voxels(part)
        positions = index_positions((part.stop - part.start, *self.shape[1:]), self._place, part.start)
        positions += moved.movedim(0, -1)[None] * self._ratio
        return sample(self._flow, positions, padding="border")[0]

    def _at_voxels(self, part: slice) -> torch.Tensor:
        """The same without a move, axis by axis, which takes a tenth of the time."""
        last = self._flow.shape[2] - 1
        place = ((torch.arange(part.start, part.stop) + 0.5) * self._ratio[0] - 0.5).clamp(0, last)
        low = place.floor().long()
        share = (place - low).view(1, -1, 1, 1)
        slices = torch.lerp(self._flow[0, :, low], self._flow[0, :, (low + 1).clamp(max=last)], share)
        return F.interpolate(slices, self.shape[1:], mode="bilinear", align_corners=False)

    def warped(self, moving: torch.Tensor, part: slice) -> torch.Tensor:
        """A slab of ``moving`` (D, H, W) warped by the flow, zeros outside; (d, h, w)."""
        result = torch.empty((part.stop - part.start, *self.shape[1:]))
        for piece in slabs(tuple(result.shape), moving):
            here = slice(part.start + piece.start, part.start + piece.stop)
            positions = index_positions((here.stop - here.start, *self.shape[1:]), first=here.start)
            positions += self._at(here).movedim(0, -1)[None]
            result[piece] = sample(moving[None, None], positions)[0, 0]
        return result

    def join(self, local: torch.Tensor, part: slice, composition: str, result: torch.Tensor) -> None:
        """Write into a slab of ``result`` (n, D, H, W) this flow joined with the ``local`` one (n, d, h, w).

        The local flow L was estimated on ``moving(x + G(x))``, so the exact join is ``L(x) + G(x + L(x))``
        (METHODS.md, "Composition and direction"); ``add`` gives ``L(x) + G(x)``.
        """
        for piece in slabs(tuple(local.shape[1:]), result):
            here = slice(part.start + piece.start, part.start + piece.stop)
            own = local[:, piece]
            result[:, here] = own + self._at(here, own if composition == "compose" else None)


def area_mean(volume: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """A volume (D, H, W) down-sampled to ``shape`` over the same extent: every voxel is the mean over its extent.

    No side grows; where none changes, the volume itself is given back.
    """
    if tuple(volume.shape) == tuple(shape):
        return volume
    along_z, *along_slice = (_overlaps(*axis).to(volume.device) for axis in zip(volume.shape, shape))
    rows = torch.empty((volume.shape[0], *shape[1:]), device=volume.device)
    for part in slabs(tuple(volume.shape), volume):
        rows[part] = along_slice[0] @ (volume[part] @ along_slice[1].T)
    return rows if shape[0] == volume.shape[0] else torch.tensordot(along_z, rows, dims=1)


def _overlaps(length: int, count: int) -> torch.Tensor:
    """(count, length): the share of each of ``length`` cells in each of ``count`` cells over the same extent."""
    edges = np.linspace(0, length, count + 1)
    cells = np.arange(length)
    overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    return torch.from_numpy((np.maximum(overlap, 0) * count / length).astype(np.float32))
