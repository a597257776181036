"""Training at two scales (CycleMorph, section III.C and figure 4; MS-DIRNet): a global network, then a local one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from CycleRegLib.errors import InputError
from CycleRegLib.networks.multiscale import MultiscaleNetwork, area_mean
from CycleRegLib.warp import index_positions, sample

from .base import Batch, Flows, Objective, Terms, checked_batch, network_of
from .cyclemorph import CycleMorph
from .phases import Networks, Phase
from .voxelmorph import VoxelMorph


class Multiscale(Objective):
    """Two networks of one file, each trained by the objective ``stage`` while the other one rests.

    In the phase ``global`` the global network sees the pair down-sampled as at inference.  In the phase ``local`` it is
    frozen and registers every pair; the local network sees random patches, at the same place, of the moving image
    warped once by the up-sampled global flow and of the fixed image.

    Networks are :class:`~CycleRegLib.networks.multiscale.MultiscaleNetwork`; where there are two, patches come from
    the forward global network's result, and both local ones learn from them.

    Parameters
    ----------
    patch_size
        Side of a patch, voxels; the volume's own along an axis that is shorter.
    patches_per_pair
        How many patches of a pair make the batch of the local phase.
    options
        The weights, similarity and phases, see :class:`~cyclereg_training.objectives.base.Objective`, and options of
        the stage's objective.

    Raises
    ------
    InputError
        As the stage's objective; for sizes and numbers that are not positive.
    """

    stage_class: ClassVar[type[Objective]]
    default_phases: ClassVar = (
        Phase("global", epochs=30, trains=("global_network.",)),
        Phase("local", trains=("local_network.",)),
    )

    def __init__(
        self,
        patch_size: int = 64,
        patches_per_pair: int = 1,
        phases: Mapping[str, Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> None:
        for name, value in (("patch_size", patch_size), ("patches_per_pair", patches_per_pair)):
            if type(value) is not int or value < 1:
                raise InputError(f"{name} is a positive whole number, not {value!r}.")
        self.stage = self.stage_class(**options)
        super().__init__(weights=self.stage.weights, similarity=self.stage.similarity, phases=phases)
        self.patch_size, self.patches_per_pair = patch_size, patches_per_pair

    def __call__(self, networks: Networks, batch: Batch, phase: Phase | None = None) -> Terms:
        phase, batch = phase or self.phases[0], checked_batch(batch)
        used = {name: getattr(network, f"{phase.name}_network") for name, network in networks.items()}
        whole = network_of(networks, "forward")
        if phase.name == "global":
            return self.stage(used, downsampled(batch, whole))
        return self.stage(used, self.patches(batch, whole))

    def terms(
        self, networks: Networks, batch: Batch, weights: Mapping[str, float], phase: Phase
    ) -> tuple[Terms, Flows]:
        return self.stage.terms(networks, batch, weights, phase)

    @torch.no_grad()
    def patches(self, batch: Batch, network: MultiscaleNetwork) -> dict[str, Tensor]:
        """What the local network learns from: (B * patches_per_pair, C, *patch) of images and labels.

        Where patches lie is drawn from PyTorch's random numbers of the CPU.
        """
        coarse = downsampled({name: batch[name] for name in ("moving", "fixed")}, network)
        flow = network.global_network(coarse["moving"], coarse["fixed"]).float()
        shape = tuple(batch["fixed"].shape[2:])
        patch = tuple(min(self.patch_size, side) for side in shape)
        found: dict[str, list[Tensor]] = {}
        for index in range(flow.shape[0]):
            for _ in range(self.patches_per_pair):
                corner = [int(torch.randint(side - p + 1, ())) for side, p in zip(shape, patch, strict=True)]
                box = tuple(slice(c, c + p) for c, p in zip(corner, patch, strict=True))
                moved = globally_moved(flow[index : index + 1], shape, corner, patch)
                for name, volume in batch.items():
                    own = volume[index : index + 1]
                    if name == "moving":
                        own = sample(own.float(), moved)
                    elif name == "moving_labels":
                        own = sample(own.float(), moved, mode="nearest").to(volume.dtype)
                    elif name in ("fixed", "fixed_labels"):
                        own = own[(..., *box)]
                    else:
                        continue
                    found.setdefault(name, []).append(own)
        return {name: torch.cat(parts) for name, parts in found.items()}


def downsampled(batch: Batch, network: MultiscaleNetwork) -> dict[str, Tensor]:
    """Images as the global network sees them at inference, labels by their nearest voxel; nothing else."""
    small: dict[str, Tensor] = {}
    shape = network.global_shape(batch["fixed"].shape[2:])
    for name, volume in batch.items():
        if name in ("moving", "fixed"):
            # Matrix products, which autocast would round.
            with torch.autocast(volume.device.type, enabled=False):
                means = [area_mean(one, shape) for one in volume.float().flatten(0, 1)]
            small[name] = torch.stack(means).view(*volume.shape[:2], *shape)
        elif name in ("moving_labels", "fixed_labels"):
            small[name] = F.interpolate(volume.float(), size=shape, mode="nearest-exact").to(volume.dtype)
    return small


def globally_moved(flow: Tensor, shape: Sequence[int], corner: Sequence[int], patch: Sequence[int]) -> Tensor:
    """Where the global flow moves the voxels of a patch: (1, *patch, n) positions in voxels of the full grid.

    Parameters
    ----------
    flow
        (1, n, *coarse) voxels of the coarse grid, which fills the full grid's extent, voxel edge to voxel edge; beyond
        its outer voxel centres it keeps its value, as at inference.
    shape, corner, patch
        Of the full grid, first voxel and sides of the patch, (z, y, x).
    """
    n = len(shape)
    ratio = np.array([c / s for c, s in zip(flow.shape[2:], shape, strict=True)])
    # Matrices act on (x, y, z) indices.
    place, offset = np.eye(n + 1), np.array(corner, dtype=np.float64)
    place[:n, n] = offset[::-1]
    coarse = np.diag([*ratio[::-1], 1.0])
    coarse[:n, n] = (offset * ratio + ratio / 2 - 0.5)[::-1]
    scale = torch.tensor(1 / ratio, dtype=flow.dtype, device=flow.device).view(1, n, *[1] * n)
    vectors = sample(flow * scale, index_positions(tuple(patch), coarse, device=flow.device), padding="border")
    return index_positions(tuple(patch), place, device=flow.device) + vectors.movedim(1, -1)


class MultiscaleCycleMorph(Multiscale):
    """CycleMorph at both scales."""

    stage_class: ClassVar = CycleMorph
    directions: ClassVar = CycleMorph.directions
    default_weights: ClassVar = CycleMorph.default_weights


class MsDirNet(Multiscale):
    """MS-DIRNet as CycleMorph compares with it: similarity and smoothness at both scales, no cycle."""

    stage_class: ClassVar = VoxelMorph
    default_weights: ClassVar = VoxelMorph.default_weights
