"""Phases of a training: which parameters learn, for how long, with which weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import nn

Networks = Mapping[str, nn.Module]


@dataclass(frozen=True)
class Phase:
    """A part of a training.

    Attributes
    ----------
    name
        For logs and configurations.
    epochs
        How long it lasts; ``None``: as long as the training does.
    trains
        Prefixes of the names of the parameters that learn; ``("",)`` are all.
    weights
        Weights of terms that replace the objective's while it lasts.
    learning_rate
        ``None``: that of the training.
    """

    name: str
    epochs: int | None = None
    trains: tuple[str, ...] = ("",)
    weights: Mapping[str, float] = field(default_factory=dict)
    learning_rate: float | None = None

    def parameters(self, networks: Networks) -> Iterator[nn.Parameter]:
        """Those that learn, of all networks."""
        for network in networks.values():
            for name, parameter in network.named_parameters():
                if name.startswith(self.trains):
                    yield parameter

    def begin(self, networks: Networks) -> None:
        """Let those parameters learn and freeze the others: none has a gradient from then on, or is given one.

        An optimiser may hold all parameters; it leaves alone what has no gradient.  With several processes parameters
        without a gradient have to be looked for at every step (``find_unused_parameters``), wherever an objective has
        more than one phase.
        """
        for network in networks.values():
            network.requires_grad_(False)
            network.zero_grad(set_to_none=True)
        for parameter in self.parameters(networks):
            parameter.requires_grad_(True)
