"""Stand-ins for tensors that are computed a few slices at a time; see :mod:`~CycleRegLib.networks.slicewise`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch

from ..threads import Threads
from .kernels import CHANNELS_LAST

_Tensor = torch.Tensor
# The slices that each stand-in gave last, and the number of their first.
Kept = dict["Slices", tuple[int, torch.Tensor]]
# Bytes of one layer's slab: several of them fit into a processor's cache, and the C library reuses their memory.
SLAB_BYTES = {"cpu": 8 * 2**20, "cuda": 256 * 2**20}


class Run:
    """What the stand-ins of one call share: full resolution, the memory of a slab, and the threads that compute."""

    def __init__(self, like: _Tensor, threads: Threads) -> None:
        self.full = tuple(like.shape[2:])
        self.slab_bytes = SLAB_BYTES[like.device.type]
        self.threads = threads


class Slices:
    """A stand-in for a tensor (B, C, D, ...) that is computed slice by slice.

    Quacks like a tensor: what it does not know itself is asked of the tensor that it stands for, computed then.

    Attributes
    ----------
    shape, dtype, device
        Of the tensor.
    run
        What the stand-ins of one call share.
    sources
        The stand-ins that it is computed from; none once the whole is there.
    whole
        The tensor, once it has been computed as a whole.
    remembers
        Whether slices are worth keeping until the next slab has been computed.
    known
        For functions of tensors: what gives the stand-in of their result, or None for arguments that it does not know.
    """

    remembers = False
    known: ClassVar[dict[Any, Callable[..., Any]]] = {}

    def __init__(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device, run: Run, *sources: Slices
    ) -> None:
        self.shape, self.dtype, self.device, self.run = torch.Size(shape), dtype, device, run
        self.sources = sources
        self.whole: _Tensor | None = None

    # What subclasses tell

    def compute(self, start: int, stop: int, kept: Kept) -> _Tensor:
        """Slices start to stop (exclusive), (B, C, stop - start, ...)."""
        raise NotImplementedError

    def write(self, start: int, stop: int, kept: Kept, target: _Tensor) -> None:
        """The same into ``target``."""
        target.copy_(self.compute(start, stop, kept))

    # What others ask

    def slices(self, start: int, stop: int, kept: Kept) -> _Tensor:
        """Slices start to stop, not to be changed in place; ``kept`` are those of the last calls."""
        if self.whole is not None:
            return self.whole[:, :, start:stop]
        if not self.remembers:
            return self.compute(start, stop, kept)
        first, old = kept.get(self, (0, None))
        last = first if old is None else first + old.shape[2]
        if not first <= start < last:
            new = self.compute(start, stop, kept)
        elif stop <= last:
            return old[:, :, start - first : stop - first]
        else:
            shape, form = (*self.shape[:2], stop - start, *self.shape[3:]), CHANNELS_LAST[self.dim() - 2]
            new = torch.empty(shape, dtype=self.dtype, device=self.device, memory_format=form)
            new[:, :, : last - start] = old[:, :, start - first :]
            self.write(last, stop, kept, new[:, :, last - start :])
        kept[self] = start, new
        return new

    def tensor(self, memory_format: torch.memory_format = torch.contiguous_format) -> _Tensor:
        """The whole tensor, computed once and kept from then on."""
        if self.whole is None:
            with torch.autocast(self.device.type, enabled=False):
                self.whole = self._gathered(memory_format)
            self.sources = ()
        return self.whole

    def settle(self) -> Slices:
        """Keep the whole tensor if it is below full resolution; for sources of layers that change the resolution."""
        if tuple(self.shape[2:]) != self.run.full:
            self.tensor(CHANNELS_LAST[self.dim() - 2])
        return self

    def _gathered(self, memory_format: torch.memory_format) -> _Tensor:
        depth = self.shape[2]
        # So many slices at a time that no layer's slab exceeds the limit.
        largest = max(one.shape.numel() * one.dtype.itemsize for one in self.chain())
        step = max(1, self.run.slab_bytes * depth // largest)
        result = torch.empty(self.shape, dtype=self.dtype, device=self.device, memory_format=memory_format)

        def fill(start: int, stop: int) -> None:
            kept: Kept = {}
            for first in range(start, stop, step):
                last = min(first + step, stop)
                self.write(first, last, kept, result[:, :, first:last])

        self.run.threads.share(depth, fill)
        return result

    def chain(self) -> dict[Slices, None]:
        """This one and all that it has yet to be computed from, each once, back to what is there."""
        found: dict[Slices, None] = {self: None}
        for source in self.sources:
            found.update(source.chain())
        return found

    # Like a tensor

    def dim(self) -> int:
        return len(self.shape)

    def float(self) -> Any:
        return self.__torch_function__(torch.Tensor.float, (), (self,))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.tensor(), name)

    def __getitem__(self, index: Any) -> Any:
        return self.__torch_function__(operator.getitem, (), (self, index))

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        answer = cls.known.get(function)
        result = answer(*args, **kwargs) if answer is not None else None
        return function(*tensors(args), **tensors(kwargs)) if result is None else result


def tensors(values: Any) -> Any:
    """The same with tensors for stand-ins."""
    if isinstance(values, dict):
        return {name: tensors(value) for name, value in values.items()}
    if isinstance(values, (list, tuple)):
        return type(values)(tensors(value) for value in values)
    return values.tensor() if isinstance(values, Slices) else values


def _operator(function: Callable[..., Any], reverse: bool = False) -> Callable[..., Any]:
    def apply(self: Slices, *others: Any) -> Any:
        return self.__torch_function__(function, (), (*others, self) if reverse else (self, *others))

    return apply


for _name in ("add", "sub", "mul", "truediv", "neg"):
    _function = getattr(operator, _name)
    setattr(Slices, f"__{_name}__", _operator(_function))
    setattr(Slices, f"__r{_name}__", _operator(_function, reverse=True))
