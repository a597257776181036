"""Random numbers that one seed fixes: decisions drawn on the processor, fields drawn where they are used."""

from __future__ import annotations

import torch


class Chance:
    """Draws for one sample.

    Numbers that steer the program come from a generator on the CPU, so that a GPU never has to be waited for; arrays
    come from a generator on their own device.  The same seed gives the same sample on the same kind of device.

    Parameters
    ----------
    seed
        Any whole number; neighbours give unrelated draws.
    device
        Where arrays are wanted.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._few = torch.Generator().manual_seed(mixed(seed, 0))
        self._many = torch.Generator(self.device).manual_seed(mixed(seed, 1))

    @classmethod
    def from_generator(cls, generator: torch.Generator) -> Chance:
        """A new series on the generator's device, taking one number from it."""
        seed = torch.randint(2**62, (), generator=generator, device=generator.device)
        return cls(int(seed), generator.device)

    # ------------------------------------------------------------------ decisions

    def uniform(self, low: float, high: float) -> float:
        """Between low and high."""
        return low + (high - low) * float(torch.rand((), generator=self._few))

    def log_uniform(self, low: float, high: float) -> float:
        """Between two positive numbers, every factor of them equally likely."""
        return float(torch.tensor(low).log().lerp(torch.tensor(high).log(), self.uniform(0, 1)).exp())

    def integer(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return int(torch.randint(low, high + 1, (), generator=self._few))

    def coin(self, probability: float) -> bool:
        """True with this probability."""
        return self.uniform(0, 1) < probability

    def choice(self, weights: dict[str, float]) -> str:
        """One of the names, as likely as its weight says."""
        total = torch.tensor(list(weights.values()), dtype=torch.float64)
        return list(weights)[int(torch.multinomial(total, 1, generator=self._few))]

    def sign(self) -> float:
        """-1 or 1."""
        return 1.0 if self.coin(0.5) else -1.0

    def numbers(self, count: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
        """A few uniform numbers, (count,) on the CPU."""
        return low + (high - low) * torch.rand(count, generator=self._few)

    def normals(self, *shape: int) -> torch.Tensor:
        """A few standard normal numbers on the CPU."""
        return torch.randn(shape, generator=self._few)

    def order(self, count: int) -> list[int]:
        """The numbers 0 to count - 1, shuffled."""
        return torch.randperm(count, generator=self._few).tolist()

    # ------------------------------------------------------------------ arrays

    def normal(self, *shape: int) -> torch.Tensor:
        """Standard normal float32 on the device."""
        return torch.randn(shape, generator=self._many, device=self.device)


def mixed(*numbers: int) -> int:
    """One seed from several numbers, below 2^32 (of larger ones PyTorch's CPU generator uses no more)."""
    state = 0x9E3779B97F4A7C15
    for number in numbers:
        # The finaliser of the SplitMix64 generator after each number.
        state = (state ^ (number % 2**64)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return state % 2**32
