"""Convolutions of inference: the same sums as PyTorch's, arranged so that processors compute them faster.

All of them take and give channels-last memory, compute in the type of their input, and pad the first spatial axis
by nothing: :mod:`~CycleRegLib.networks.slicewise`, their only user, brings the neighbouring slices along.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product

import torch
import torch.nn.functional as F

_Tensor = torch.Tensor
_CONVOLVE = {2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {2: F.conv_transpose2d, 3: F.conv_transpose3d}
# A processor's vector or two of them; narrower layers are rearranged to fill one.
_FULL_VECTOR = 16
CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


def convolve(
    x: _Tensor,
    weight: _Tensor,
    bias: _Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    slope: float | None = None,
) -> _Tensor:
    """``F.convNd``, by oneDNN however small the input, and a leaky ReLU if a slope is given."""
    if _direct(x, slope is not None):
        ones = (1,) * (x.dim() - 2)
        after = ("none", [], "") if slope is None else ("leaky_relu", [slope], "")
        return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, padding, stride, ones, 1, *after)
    result = _CONVOLVE[x.dim() - 2](x, weight, bias, tuple(stride), tuple(padding))
    return result if slope is None else F.leaky_relu_(result, slope)


def convolve_transposed(
    x: _Tensor,
    weight: _Tensor,
    bias: _Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
) -> _Tensor:
    """``F.conv_transposeNd``, by oneDNN however small the input."""
    if _direct(x):
        ones = (1,) * (x.dim() - 2)
        return torch.ops.mkldnn._convolution_transpose_pointwise(
            x, weight, bias, padding, output_padding, stride, ones, 1, "none", [], ""
        )
    return _TRANSPOSED[x.dim() - 2](x, weight, bias, tuple(stride), tuple(padding), tuple(output_padding))


def _direct(x: _Tensor, activated: bool = False) -> bool:
    # PyTorch hands float32 convolutions of few slices and channels to a kernel of its own, many times slower; in
    # bfloat16 it does not, and then only an activation in the same pass is to be gained.
    wanted = x.dtype == torch.float32 or (activated and x.dtype == torch.bfloat16)
    return wanted and x.device.type == "cpu" and _onednn_answers(x.dim() - 2)


@cache
def _onednn_answers(dimension: int) -> bool:
    """Whether this PyTorch has the operators that compilers of its own use, with the meaning known here."""
    if not torch.backends.mkldnn.is_available():
        return False
    x = 40.0 - torch.arange(2.0 * 4**dimension).reshape(1, 2, *(4,) * dimension)
    weight = torch.arange(4.0 * 3**dimension).reshape(2, 2, *(3,) * dimension)
    bias, ones, twos = torch.tensor([1.0, -1.0]), (1,) * dimension, (2,) * dimension
    try:
        found = torch.ops.mkldnn._convolution_pointwise(x, weight, bias, ones, twos, ones, 1, "leaky_relu", [0.5], "")
        raised = torch.ops.mkldnn._convolution_transpose_pointwise(
            x, weight, bias, ones, ones, twos, ones, 1, "none", [], ""
        )
    except (AttributeError, RuntimeError, TypeError):
        return False
    return bool(
        torch.allclose(found, F.leaky_relu(_CONVOLVE[dimension](x, weight, bias, 2, 1), 0.5))
        and torch.allclose(raised, _TRANSPOSED[dimension](x, weight, bias, 2, 1, 1))
    )


class Plain:
    """A convolution whose input brings the neighbouring slices along.

    Where a layer has so few channels that they leave most of a processor's vector empty, several neighbours along the
    last axis are computed at once, as channels (neighbour, channel), by a wider kernel at a larger stride.  The weights
    that this adds are zeros, so that results stay the same to the bit.

    Parameters
    ----------
    weight, bias
        Of the layer, or of some of its inputs.
    dtype
        In which it is computed.
    stride, padding
        For each spatial axis.
    width
        The result's length along the last axis.
    """

    def __init__(
        self,
        weight: _Tensor,
        bias: _Tensor | None,
        dtype: torch.dtype,
        stride: Sequence[int],
        padding: Sequence[int],
        width: int,
    ) -> None:
        outputs = weight.shape[0]
        self.kernel, self.stride, self.padding = weight.shape[2], stride[0], padding[0]
        self.neighbours = _neighbours(outputs, width, weight.device) if max(stride) == 1 else 1
        self.steps, self.margins = (*stride[:-1], self.neighbours * stride[-1]), (0, *padding[1:])
        shifted = [F.pad(weight, (shift, self.neighbours - 1 - shift)) for shift in range(self.neighbours)]
        self.weight = torch.cat(shifted).to(dtype, memory_format=CHANNELS_LAST[weight.dim() - 2])
        self.bias = None if bias is None else bias.to(dtype).repeat(self.neighbours)

    def needs(self, start: int, stop: int) -> tuple[int, int]:
        """Which slices of the input give these of the result."""
        return start * self.stride - self.padding, (stop - 1) * self.stride - self.padding + self.kernel

    def __call__(self, x: _Tensor, start: int, stop: int, slope: float | None = None) -> _Tensor:
        """The result's slices from the input's that :meth:`needs` names, after a leaky ReLU if a slope is given."""
        last = convolve(x, self.weight, self.bias, self.steps, self.margins, slope).movedim(1, -1)
        # No copy: the neighbours' channels lie one after the other, as channels-last memory wants it.
        shape = (*last.shape[:-2], last.shape[-2] * self.neighbours, last.shape[-1] // self.neighbours)
        return last.reshape(shape).movedim(-1, 1)


def _neighbours(outputs: int, width: int, device: torch.device) -> int:
    capability = getattr(torch.backends.cpu, "get_cpu_capability", lambda: "")()
    lanes = {"AVX512": 16, "AVX2": 8}.get(capability, 0) if device.type == "cpu" else 0
    return max((count for count in (1, 2, 4) if count * outputs <= lanes and width % count == 0), default=1)


class Doubled:
    """A convolution (kernel 3, padding 1) of an input that has been doubled along every axis, from the input itself.

    Doubled voxels come in pairs of one value.  So a result at an even place sees two input voxels along each axis, the
    first with the first weight and the second with the sum of the others; at an odd place it is the reverse.  That is 8
    products instead of 27, and the doubled input is never made.
    """

    def __init__(self, weight: _Tensor, bias: _Tensor | None, dtype: torch.dtype) -> None:
        n = weight.dim() - 2
        self.outputs, self.bias = weight.shape[0], None if bias is None else bias.to(dtype)
        # With few channels both places along the last axis are computed at once, by a kernel of three.
        self.pairs = self.outputs < _FULL_VECTOR
        self.weights = {}
        for places in product((0, 1), repeat=n - 1 if self.pairs else n):
            own = weight
            for axis, place in enumerate(places, start=2):
                own = _merged(own, axis, place)
            if self.pairs:
                own = torch.cat([F.pad(_merged(own, n + 1, place), (place, 1 - place)) for place in (0, 1)])
            self.weights[places] = own.to(dtype, memory_format=CHANNELS_LAST[n])
        if self.pairs and self.bias is not None:
            self.bias = self.bias.repeat(2)

    def needs(self, start: int, stop: int) -> tuple[int, int]:
        """Which slices of the input, not doubled, give these of the result."""
        return start // 2 - 1, (stop - 1) // 2 + 2

    def __call__(self, x: _Tensor, start: int, stop: int, slope: float | None = None) -> _Tensor:
        """The result's slices from the input's that :meth:`needs` names, after a leaky ReLU if a slope is given."""
        n = x.dim() - 2
        sides = [x.shape[2] - 2, *x.shape[3:]]
        x = F.pad(x, (1, 1) * (n - 1))
        split = [part for side in sides for part in (side, 2)]
        whole = x.new_empty(x.shape[0], *split, self.outputs)
        by_place = whole.flatten(-2) if self.pairs else whole
        for places, weight in self.weights.items():
            part, target = x, by_place
            for axis, place in enumerate(places):
                part = part.narrow(axis + 2, place, sides[axis] + 1)
                target = target.select(axis + 2, place)
            part = part.contiguous(memory_format=CHANNELS_LAST[n])
            target.copy_(convolve(part, weight, self.bias, (1,) * n, (0,) * n, slope).movedim(1, -1))
        result = whole.reshape(x.shape[0], *(2 * side for side in sides), self.outputs).movedim(-1, 1)
        offset = start // 2 * 2
        return result[:, :, start - offset : stop - offset]


def _merged(weight: _Tensor, axis: int, place: int) -> _Tensor:
    first, middle, last = weight.unbind(axis)
    return torch.stack([first + middle, last] if place else [first, middle + last], dim=axis)
