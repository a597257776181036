"""Several threads for parts that are far apart in a volume, each of which computes alone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

# A thread of its own is worth it for this many slices.
_LEAST_SHARE = 8


class Threads:
    """As many threads as PyTorch has, for :meth:`share`; a context manager, at whose end they end.

    PyTorch's own way, all threads within each operation, makes them wait for each other at the end of each; with
    thousands of short ones that takes long, above all where another program uses the processor too.

    Attributes
    ----------
    number
        Of threads; PyTorch's, unless ``number`` says another.
    """

    def __init__(self, number: int | None = None) -> None:
        self.number = torch.get_num_threads() if number is None else number
        self._inference = torch.is_inference_mode_enabled()
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Threads:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            # The number that a thread sets for itself is also that of threads that start later.
            torch.set_num_threads(self.number)

    def share(self, depth: int, compute: Callable[[int, int], None]) -> None:
        """Call ``compute(start, stop)`` for parts that together are 0 to depth, without gradients."""
        count = min(self.number, max(1, depth // _LEAST_SHARE))
        if count == 1:
            compute(0, depth)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.number, "slabs", lambda: torch.set_num_threads(1))
        bounds = [depth * number // count for number in range(count + 1)]
        for _ in self._pool.map(lambda part: self._alone(compute, *part), zip(bounds, bounds[1:])):
            pass

    def _alone(self, compute: Callable[[int, int], None], start: int, stop: int) -> None:
        # Modes belong to threads.
        # Not the other way round: leaving inference mode would switch gradients on again.
        with torch.inference_mode(self._inference), torch.no_grad():
            compute(start, stop)
