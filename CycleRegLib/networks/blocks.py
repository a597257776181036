"""What registration networks share: the base class, convolutions in 2D and 3D, padding to the stride."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .slicewise import slicewise

_CONVOLUTIONS = {2: (nn.Conv2d, nn.ConvTranspose2d), 3: (nn.Conv3d, nn.ConvTranspose3d)}


def convolution(dimension: int, inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Module:
    """A convolution with bias, padded so that stride 1 keeps the size and stride 2 halves an even one."""
    return _CONVOLUTIONS[dimension][0](inputs, outputs, kernel, stride=stride, padding=kernel // 2)


def transposed_convolution(dimension: int, inputs: int, outputs: int) -> nn.Module:
    """Kernel 3, stride 2, padding 1, output padding 1: doubles every side."""
    return _CONVOLUTIONS[dimension][1](inputs, outputs, 3, stride=2, padding=1, output_padding=1)


class ConvolutionBlock(nn.Module):
    """A 3^n convolution and a leaky ReLU.  Keys: ``block.0.weight``, ``block.0.bias``."""

    def __init__(self, dimension: int, inputs: int, outputs: int, stride: int = 1, slope: float = 0.2) -> None:
        super().__init__()
        # In place: the convolution's output is needed nowhere else, and at full resolution it is the largest tensor.
        self.block = nn.Sequential(
            convolution(dimension, inputs, outputs, stride), nn.LeakyReLU(slope, inplace=True)
        )  # fmt: skip

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.block(features)


def in_float32(module: Callable[[torch.Tensor], torch.Tensor], features: torch.Tensor) -> torch.Tensor:
    """``module(features)`` in float32 under autocast too.

    Layers that give flows must run so: bfloat16 keeps eight bits, which is a twentieth of a voxel at ten voxels.
    """
    with torch.autocast(features.device.type, enabled=False):
        return module(features.float())


def pad_to_multiple(volume: torch.Tensor, multiple: int) -> torch.Tensor:
    """Zeros appended at the end of every spatial axis of (B, C, ...) up to a multiple of ``multiple``."""
    extra = [-size % multiple for size in volume.shape[2:]]
    if not any(extra):
        return volume
    return F.pad(volume, [amount for e in reversed(extra) for amount in (0, e)])


class RegistrationNetwork(nn.Module):
    """Base class: two images in, flow in voxels out, whatever their size.

    Subclasses implement :meth:`estimate` for sides that are multiples of :attr:`stride`, and keep the arguments of
    their constructor in :attr:`configuration`, from which ``type(network)(**network.configuration)`` rebuilds them.

    Attributes
    ----------
    dimension
        2 or 3.
    stride
        Sides are padded to a multiple of it, and the flow is cropped.
    both_directions
        Whether one pass gives the forward and the backward flow, (flow, inverse flow), instead of one flow.
    streams
        Whether it works piece by piece, so that memory does not grow with the volume; its grid is then not limited.
    in_slabs
        Whether its layers are computed slab by slab, see :mod:`~CycleRegLib.networks.slicewise`; of no use to a network
        that works below full resolution.
    reducible
        Whether precision ``auto`` may go below float32: not where it costs accuracy and gains no time.
    configuration
        Keyword arguments that rebuild the architecture; JSON types only.
    """

    stride: int = 1
    both_directions: bool = False
    streams: bool = False
    in_slabs: bool = True
    reducible: bool = True

    def __init__(self, dimension: int, **configuration: Any) -> None:
        super().__init__()
        if dimension not in _CONVOLUTIONS:
            raise ValueError(f"a registration network has dimension 2 or 3, not {dimension}")
        self.dimension = dimension
        self.configuration: dict[str, Any] = {"dimension": dimension, **configuration}

    @classmethod
    def configuration_from(cls, state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """The configuration that a plain state dict of this architecture was built with.

        Raises
        ------
        KeyError
            If a weight that tells it is missing.
        """
        raise NotImplementedError(f"{cls.__name__} cannot be recognised from its weights alone")

    @classmethod
    def adapted(cls, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A published state dict under the names of this class: others renamed, known buffers without weights dropped.

        What it does not know it keeps, so that the comparison with the network can name it.
        """
        return dict(state)

    @classmethod
    def from_published(cls, stated: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The configuration and the network grid that the settings in a published file state, as far as they do.

        ``stated`` is what the file holds beside its weights; the grid is one for
        :meth:`~CycleRegLib.networks.preparation.GridRule.from_dict`.
        """
        return {}, {}

    def estimate(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """The flow (or both, see :attr:`both_directions`) for sides that are multiples of :attr:`stride`.

        Without gradients the images are stand-ins, see :mod:`~CycleRegLib.networks.slicewise`: write it with functions
        of PyTorch and change no features in place, and nothing of full resolution is kept in memory.
        """
        raise NotImplementedError

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Register ``moving`` to ``fixed``.

        Parameters
        ----------
        moving, fixed
            (B, C, D, H, W), in 2D (B, C, H, W); on one grid, intensities as the network was trained on.

        Returns
        -------
        (B, n, D, H, W) flow in voxels, channels in array-axis order: ``warped(x) = moving(x + flow(x))``.

        Raises
        ------
        ValueError
            If the two shapes differ or have another number of dimensions.
        """
        if moving.dim() != self.dimension + 2 or moving.shape[2:] != fixed.shape[2:]:
            raise ValueError(
                f"a {self.dimension}D network takes two images of one shape (B, C, ...), "
                f"not {tuple(moving.shape)} and {tuple(fixed.shape)}"
            )
        pair = pad_to_multiple(moving, self.stride), pad_to_multiple(fixed, self.stride)
        flow = slicewise(self.estimate, *pair) if self.in_slabs else self.estimate(*pair)
        crop = (..., *[slice(0, size) for size in moving.shape[2:]])
        if self.both_directions:
            return flow[0][crop], flow[1][crop]
        return flow[crop]
