"""Networks computed a few slices at a time: no feature map of full resolution is ever whole in memory.

:func:`slicewise` runs a network's ordinary ``forward`` on stand-ins for its images.  A stand-in answers the functions
that registration networks are made of with another stand-in, which knows how to compute any of its slices along the
first spatial axis from its sources' slices.  The flow's slices are then asked for one slab after the other; each
layer keeps the slices that the next slab needs again, so that nothing is computed twice, and everything in between
stays within the processor's cache.  On processors each thread has a part of the volume to itself.  Results are those
of the plain ``forward`` up to the rounding of sums.

What is kept whole: features below full resolution where a layer changes the resolution (which is where U-Nets take
their skips from), and whatever a function that is not known here asks for.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ..threads import Threads
from .stand_in_layers import Cast, Convolved, Cropped, Joined, Nearest, Padded, Pointwise, Pooled, Transposed, Whole
from .stand_ins import SLAB_BYTES, Run, Slices, tensors

_Tensor = torch.Tensor


def slicewise(forward: Callable[..., Any], *inputs: _Tensor) -> _Tensor | tuple[_Tensor, ...]:
    """``forward(*inputs)``, computed slab by slab where no gradients are asked for.

    Parameters
    ----------
    forward
        Gives a tensor or a tuple of them, (B, C, D, H, W) or (B, C, H, W), from as many inputs.
    inputs
        Such tensors of one spatial shape.
    """
    if torch.is_grad_enabled() or inputs[0].device.type not in SLAB_BYTES:
        return forward(*inputs)
    with Threads(None if inputs[0].device.type == "cpu" else 1) as threads:
        run = Run(inputs[0], threads)
        return tensors(forward(*(Whole(value, run) for value in inputs)))


def _each(value: Any, count: int) -> tuple[int, ...]:
    return (value,) * count if isinstance(value, int) else tuple(value)


def _crop(source: Slices, index: Any) -> Slices | None:
    """For [..., :h, :w] along all spatial axes; None for any other index."""
    spatial = source.dim() - 2
    if not isinstance(index, tuple) or len(index) != spatial + 1 or index[0] is not Ellipsis:
        return None
    if not all(isinstance(one, slice) and one.start in (None, 0) and one.step in (None, 1) for one in index[1:]):
        return None
    sides = [one.indices(size)[1] for one, size in zip(index[1:], source.shape[2:])]
    return source if sides == list(source.shape[2:]) else Cropped(source, sides)


def _in_float32(source: Slices) -> Slices:
    if source.dtype == torch.float32:
        return source
    if isinstance(source, Convolved) and source.whole is None:
        return source.widened(torch.float32)
    return Cast(source, torch.float32)


def _convolution(
    source: Any,
    weight: _Tensor,
    bias: _Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Slices | None:
    n = weight.dim() - 2
    if not isinstance(source, Slices) or isinstance(padding, str) or groups != 1 or set(_each(dilation, n)) != {1}:
        return None
    return Convolved(source, weight, bias, _each(stride, n), _each(padding, n))


def _transposed_convolution(
    source: Any,
    weight: _Tensor,
    bias: _Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Slices | None:
    n = weight.dim() - 2
    stride, padding, extra = _each(stride, n), _each(padding, n), _each(output_padding, n)
    if groups != 1 or set(_each(dilation, n)) != {1} or extra[0] > padding[0] or not isinstance(source, Slices):
        return None
    return Transposed(source, weight, bias, stride, padding, extra)


def _leaky_relu(source: Slices, negative_slope: float = 0.01, inplace: bool = False) -> Slices:
    if isinstance(source, Convolved) and source.slope is None and source.whole is None:
        return source.activated(negative_slope)
    return Pointwise(F.leaky_relu, [source, negative_slope], {})


def _padding(source: Slices, pad: Sequence[int], mode: str = "constant", value: Any = None) -> Slices | None:
    if mode != "constant" or value or len(pad) > 2 * (source.dim() - 2) or min(pad) < 0:
        return None
    pairs = list(zip(pad[::2], pad[1::2]))[::-1]
    return Padded(source, [(0, 0)] * (source.dim() - 2 - len(pairs)) + pairs)


def _concatenation(parts: Sequence[Any], dim: int = 0) -> Slices | None:
    like = next(part for part in parts if isinstance(part, Slices))
    if dim != 1 or any(part.dim() != like.dim() or part.shape[2:] != like.shape[2:] for part in parts):
        return None
    return Joined([part if isinstance(part, Slices) else Whole(part, like.run) for part in parts])


def _interpolation(source: Slices, size: Any = None, scale_factor: Any = None, mode: str = "nearest", **_: Any) -> Any:
    whole = isinstance(scale_factor, (int, float)) and scale_factor == int(scale_factor) >= 1
    return Nearest(source, int(scale_factor)) if mode == "nearest" and size is None and whole else None


def _pooling(source: Slices, kernel_size: Any, stride: Any = None, *others: Any, **options: Any) -> Slices | None:
    plain = isinstance(kernel_size, int) and stride in (None, kernel_size) and not others and not any(options.values())
    return Pooled(source, kernel_size) if plain else None


def _pointwise(function: Callable[..., _Tensor]) -> Callable[..., Slices | None]:
    def answer(*args: Any, **options: Any) -> Slices | None:
        known = [one for one in args if isinstance(one, Slices)]
        plain = all(isinstance(one, (int, float, Slices)) for one in args) and not (set(options) - {"alpha"})
        if not plain or any(one.shape != known[0].shape for one in known):
            return None
        return Pointwise(function, args, options)

    return answer


Slices.known.update(
    {
        **dict.fromkeys((torch.conv2d, torch.conv3d), _convolution),
        **dict.fromkeys((torch.conv_transpose2d, torch.conv_transpose3d), _transposed_convolution),
        **dict.fromkeys((F.leaky_relu, F.leaky_relu_), _leaky_relu),
        **dict.fromkeys((torch.max_pool2d, torch.max_pool3d), _pooling),
        torch.cat: _concatenation,
        F.pad: _padding,
        F.interpolate: _interpolation,
        **{one: _pointwise(one) for one in (torch.add, torch.sub, torch.mul, torch.neg)},
        **{one: _pointwise(one) for one in (operator.add, operator.sub, operator.mul, operator.truediv, operator.neg)},
        operator.getitem: _crop,
        torch.Tensor.float: _in_float32,
    }
)
