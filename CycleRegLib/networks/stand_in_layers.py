"""The layers that stand-ins know, each computed from slices of what it is made from; see :mod:`.slicewise`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from .kernels import CHANNELS_LAST, Doubled, Plain, convolve_transposed
from .stand_ins import Kept, Run, Slices

_Tensor = torch.Tensor
# Channels of images rather than of features.
_FEW = 8


def _working_type(source: Slices) -> torch.dtype:
    """In what autocast, if it is on, would have a convolution computed."""
    kind = source.device.type
    if hasattr(torch, "get_autocast_dtype"):
        enabled, wanted = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    elif kind == "cuda":  # PyTorch before 2.4
        enabled, wanted = torch.is_autocast_enabled(), torch.get_autocast_gpu_dtype()
    else:
        enabled, wanted = torch.is_autocast_cpu_enabled(), torch.get_autocast_cpu_dtype()
    return wanted if enabled else source.dtype


def _padded(source: Slices, start: int, stop: int, kept: Kept, rest: tuple[int, ...] = ()) -> _Tensor:
    """Slices start to stop with zeros for those that the source lacks, and ``rest`` zeros along the other axes."""
    depth = source.shape[2]
    first, last = min(max(start, 0), depth), min(max(stop, 0), depth)
    if first < last:
        part, missing = source.slices(first, last, kept), (first - start, stop - last)
    else:
        part = torch.zeros((*source.shape[:2], 0, *source.shape[3:]), dtype=source.dtype, device=source.device)
        missing = (0, stop - start)
    amounts = (*(rest or (0, 0) * (source.dim() - 3)), *missing)
    return F.pad(part, amounts) if any(amounts) else part


class Whole(Slices):
    """A tensor that is there."""

    def __init__(self, tensor: _Tensor, run: Run) -> None:
        super().__init__(tensor.shape, tensor.dtype, tensor.device, run)
        self.whole = tensor


class Rearranged(Slices):
    """What costs next to nothing to compute again; where it is to be kept, its sources are."""

    def settle(self) -> Slices:
        for source in self.sources:
            source.settle()
        return self


class Cast(Rearranged):
    def __init__(self, source: Slices, dtype: torch.dtype) -> None:
        super().__init__(source.shape, dtype, source.device, source.run, source)

    def compute(self, start: int, stop: int, kept: Kept) -> _Tensor:
        return self.sources[0].slices(start, stop, kept).to(self.dtype)


class Cropped(Rearranged):
    def __init__(self, source: Slices, sides: Sequence[int]) -> None:
        super().__init__((*source.shape[:2], *sides), source.dtype, source.device, source.run, source)
        self.rest = (..., *(slice(0, side) for side in sides[1:]))

    def compute(self, start: int, stop: int, kept: Kept) -> _Tensor:
        return self.sources[0].slices(start, stop, kept)[self.rest]


class Padded(Rearranged):
    """Zeros added; ``amounts`` are (before, after) for each spatial axis."""

    def __init__(self, source: Slices, amounts: Sequence[tuple[int, int]]) -> None:
        sides = [side + before + after for side, (before, after) in zip(source.shape[2:], amounts)]
        super().__init__((*source.shape[:2], *sides), source.dtype, source.device, source.run, source)
        self.before = amounts[0][0]
        self.rest = tuple(amount for pair in reversed(amounts[1:]) for amount in pair)

    def compute(self, start: int, stop: int, kept: Kept) -> _Tensor:
        source = self.sources[0]
        return _padded(source, start - self.before, stop - self.before, kept, self.rest)


class Joined(Rearranged):
    """Concatenated along channels."""

    def __init__(self, parts: Sequence[Slices]) -> None:
        first = parts[0]
        shape = (first.shape[0], sum(part.shape[1] for part in parts), *first.shape[2:])
        dtype = max((part.dtype for part in parts), key=lambda one: one.itemsize)
        super().__init__(shape, dtype, first.device, first.run, *parts)

    def compute(self, start: int, stop: int, kept: Kept) -> _Tensor:
        return torch.cat([part.slices(start, stop, kept) for part in self.sources], dim=1)


class Pointwise(Slices):
    """A function of each voxel alone, of stand-ins of one shape and numbers."""

    def __init__(self, function: Callable[..., _Tensor], args: Sequence[Any], options: dict[str, Any]) -> None:
        sources = [one for one in args if isinstance(one, Slices)]
        shape = torch.broadcast_shapes(*(one.shape for one in sources))
        dtype = max((one.dtype for one in sources), key=lambda one: one.itemsize)
        super().__init__(shape, dtype, sources[0].device, sources[0].run, *sources)
        # Numbers, and None for the stand-ins, which are let go of once the whole is known.
        self.numbers = [None if isinstance(one, Slices) else one for one in args]
        self.function, self.options = function, options

    def compute(self, start: int, stop: int, kept: Kept) -> _Tensor:
        values = iter([one.slices(start, stop, kept) for one in self.sources])
        return self.function(*(next(values) if one is None else one for one in self.numbers), **self.options)


class Nearest(Slices):
    """Every voxel repeated ``factor`` times along every axis."""

    def __init__(self, source: Slices, factor: int) -> None:
        sides = [side * factor for side in source.shape[2:]]
        super().__init__((*source.shape[:2], *sides), source.dtype, source.device, source.run, source.settle())
        self.factor = factor

    def compute(self, start: int, stop: int, kept: Kept) -> _Tensor:
        first = start // self.factor
        part = self.sources[0].slices(first, (stop - 1) // self.factor + 1, kept)
        part = F.interpolate(part, scale_factor=self.factor, mode="nearest")
        return part[:, :, start - first * self.factor : stop - first * self.factor]


class Pooled(Slices):
    """The maximum of ``size`` voxels along every axis, without overlap."""

    remembers = True

    def __init__(self, source: Slices, size: int) -> None:
        sides = [side // size for side in source.shape[2:]]
        super().__init__((*source.shape[:2], *sides), source.dtype, source.device, source.run, source.settle())
        self.size = size

    def compute(self, start: int, stop: int, kept: Kept) -> _Tensor:
        pool = F.max_pool3d if self.dim() == 5 else F.max_pool2d
        return pool(self.sources[0].slices(start * self.size, stop * self.size, kept), self.size)


class Convolved(Slices):
    """A convolution, and a leaky ReLU where a slope is given.

    That of a concatenation is the sum of its parts' convolutions, so that parts are not concatenated.  Of few channels,
    as images have, it is sooner computed again than remembered.
    """

    def __init__(
        self,
        source: Slices,
        weight: _Tensor,
        bias: _Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
    ) -> None:
        kernel = weight.shape[2:]
        sides = [(n + 2 * p - k) // s + 1 for n, k, s, p in zip(source.shape[2:], kernel, stride, padding)]
        self.working = _working_type(source)
        if max(stride) > 1:
            source.settle()
        sources, self.terms, first = [], [], 0
        same = set(kernel) == {3} and set(stride) == set(padding) == {1}
        for part in _separately(source, self.working):
            own, own_bias = weight[:, first : first + part.shape[1]], None if first else bias
            first += part.shape[1]
            if same and isinstance(part, Nearest) and part.factor == 2:
                sources.append(part.sources[0])
                self.terms.append(Doubled(own, own_bias, self.working))
            else:
                sources.append(part)
                self.terms.append(Plain(own, own_bias, self.working, stride, padding, sides[-1]))
        shape = (source.shape[0], weight.shape[0], *sides)
        super().__init__(shape, self.working, source.device, source.run, *sources)
        self.remembers = source.shape[1] >= _FEW
        self.slope: float | None = None

    def activated(self, slope: float) -> Slices:
        """The same with a leaky ReLU after it."""
        twin = copy.copy(self)
        twin.slope = slope
        return twin

    def widened(self, dtype: torch.dtype) -> Slices:
        """The same numbers in a wider type."""
        twin = copy.copy(self)
        twin.dtype = dtype
        return twin

    def compute(self, start: int, stop: int, kept: Kept) -> _Tensor:
        if len(self.terms) == 1:
            return self._term(0, start, stop, kept, self.slope).to(self.dtype)
        result = self._sum(start, stop, kept)
        return (result if self.slope is None else F.leaky_relu_(result, self.slope)).to(self.dtype)

    def write(self, start: int, stop: int, kept: Kept, target: _Tensor) -> None:
        if len(self.terms) == 1 or self.slope is None or self.dtype != self.working:
            target.copy_(self.compute(start, stop, kept))
        else:
            torch.ops.aten.leaky_relu.out(self._sum(start, stop, kept), self.slope, out=target)

    def _sum(self, start: int, stop: int, kept: Kept) -> _Tensor:
        result = self._term(0, start, stop, kept)
        for number in range(1, len(self.terms)):
            result = result.add_(self._term(number, start, stop, kept))
        return result

    def _term(self, number: int, start: int, stop: int, kept: Kept, slope: float | None = None) -> _Tensor:
        term = self.terms[number]
        part = _padded(self.sources[number], *term.needs(start, stop), kept)
        return term(part.to(self.working, memory_format=CHANNELS_LAST[self.dim() - 2]), start, stop, slope)


def _separately(source: Slices, dtype: torch.dtype) -> tuple[Slices, ...]:
    """What a convolution sees: the parts of a concatenation; but images are brought together, once and for all."""
    if not isinstance(source, Joined) or source.whole is not None:
        return (source,)
    if source.shape[1] < _FEW and all(part.whole is not None for part in source.sources):
        joined = torch.cat([part.whole.to(dtype) for part in source.sources], dim=1)
        return (Whole(joined.contiguous(memory_format=CHANNELS_LAST[source.dim() - 2]), source.run),)
    return tuple(one for part in source.sources for one in _separately(part, dtype))


class Transposed(Slices):
    """A transposed convolution."""

    remembers = True

    def __init__(
        self,
        source: Slices,
        weight: _Tensor,
        bias: _Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        extra: Sequence[int],
    ) -> None:
        kernel = weight.shape[2:]
        sides = [(n - 1) * s - 2 * p + k + e for n, k, s, p, e in zip(source.shape[2:], kernel, stride, padding, extra)]
        dtype = _working_type(source)
        shape = (source.shape[0], weight.shape[1], *sides)
        super().__init__(shape, dtype, source.device, source.run, source.settle())
        self.kernel, self.stride, self.padding, self.steps = kernel[0], stride[0], padding[0], tuple(stride)
        # Of sides that are no multiples of the stride, oneDNN computes transposed convolutions many times slower.
        self.margins, self.extra = (0, *padding[1:]), (-kernel[0] % stride[0], *extra[1:])
        self.weight = weight.to(dtype).contiguous(memory_format=CHANNELS_LAST[weight.dim() - 2])
        self.bias = None if bias is None else bias.to(dtype)

    def compute(self, start: int, stop: int, kept: Kept) -> _Tensor:
        source = self.sources[0]
        # Slice i reaches i * stride - padding and the kernel's length from there on.
        first = max(0, -((self.kernel - 1 - start - self.padding) // self.stride))
        last = min(source.shape[2], (stop - 1 + self.padding) // self.stride + 1)
        part = source.slices(first, last, kept).to(self.dtype, memory_format=CHANNELS_LAST[self.dim() - 2])
        result = convolve_transposed(part, self.weight, self.bias, self.steps, self.margins, self.extra)
        offset = first * self.stride - self.padding
        return result[:, :, start - offset : stop - offset]
