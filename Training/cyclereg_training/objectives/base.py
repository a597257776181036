"""What objectives share: batches, named terms with weights, phases, and terms that any method can add."""

from __future__ import annotations

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from CycleRegLib.errors import InputError

from ..losses import global_correlation, lncc, mean_squares, mind
from ..losses.precision import single
from .extras import EXTRAS, extra_term
from .phases import Networks, Phase

Batch = Mapping[str, Tensor]
Terms = dict[str, Tensor]
SIMILARITIES = ("lncc", "mse", "correlation", "mind")


def refuse_unknown(names: Iterable[str], known: Iterable[str], what: str) -> None:
    """InputError that names the nearest, if a name is not known."""
    known = list(known)
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.6)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise InputError(f"There is no {what} '{name}'.{hint} Known: {', '.join(known)}.")


@dataclass(frozen=True)
class Similarity:
    """What compares the warped with the fixed image; smaller is better.

    Attributes
    ----------
    kind
        ``lncc`` (-1 to 0), ``mse`` (from 0), ``correlation`` (global, 0 to 2) or ``mind`` (0 to 1, 3D, any contrasts).
    window, compatible
        Of ``lncc``, see :func:`cyclereg_training.losses.lncc`.

    Raises
    ------
    InputError
        For another kind, or a window that is not odd.
    """

    kind: str = "lncc"
    window: int = 9
    compatible: bool = False

    def __post_init__(self) -> None:
        refuse_unknown([self.kind], SIMILARITIES, "similarity")
        if type(self.window) is not int or self.window < 1 or self.window % 2 == 0:
            raise InputError(f"The window of LNCC is an odd number of voxels, such as 9, not {self.window!r}.")
        if not isinstance(self.compatible, bool):
            raise InputError(f"'compatible' is true or false, not {self.compatible!r}.")

    @classmethod
    def of(cls, settings: Similarity | str | Mapping[str, Any]) -> Similarity:
        """From itself, a kind, or a mapping of the attributes, as configurations have it."""
        if isinstance(settings, Similarity):
            return settings
        if isinstance(settings, str):
            return cls(settings)
        refuse_unknown(settings, ("kind", "window", "compatible"), "setting of a similarity")
        return cls(**settings)

    def __call__(self, warped: Tensor, fixed: Tensor) -> Tensor:
        if self.kind == "lncc":
            return lncc(warped, fixed, self.window, self.compatible)
        return {"mse": mean_squares, "correlation": global_correlation, "mind": mind}[self.kind](warped, fixed)


@dataclass
class Flows:
    """What an objective found on its way: flows in voxels, the backward one where it has one."""

    forward: Tensor
    backward: Tensor | None = None


class Objective(ABC):
    """What a method is trained to: ``objective(networks, batch)`` gives its named terms and their weighted sum, "loss".

    Subclasses say which terms they have (:attr:`default_weights`) and compute them (:meth:`terms`).  A term of weight
    0 is not computed, and what only it needs is not either; that is how ablations are made.

    Networks
        By direction, as checkpoints have them: ``forward``, and ``backward`` where :attr:`directions` names it
        (without one the forward network does both).
    Batch
        ``moving``, ``fixed`` (B, C, *spatial) floats on one grid, intensities as the network will see them;
        ``moving_labels``, ``fixed_labels`` (B, 1, *spatial) whole numbers, for ``dice``;
        ``flow`` (B, n, *spatial) voxels and perhaps ``inverse_flow``, for supervised training.

    Parameters
    ----------
    weights
        By term, in place of the defaults; also of the terms that any objective can add
        (:mod:`~cyclereg_training.objectives.extras`).
    similarity
        See :class:`Similarity`; the method's own when left out.
    phases
        ``epochs`` and ``learning_rate`` by name of the phase, in place of the defaults.

    Raises
    ------
    InputError
        For names that are not known, weights that are negative or not finite, or none above zero.
    """

    directions: ClassVar[tuple[str, ...]] = ("forward",)
    default_weights: ClassVar[Mapping[str, float]] = {}
    default_similarity: ClassVar[Similarity] = Similarity()
    default_phases: ClassVar[tuple[Phase, ...]] = (Phase("all"),)
    cycles: ClassVar[int] = 1

    def __init__(
        self,
        weights: Mapping[str, float] | None = None,
        similarity: Similarity | str | Mapping[str, Any] | None = None,
        phases: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        known = {**self.default_weights, **dict.fromkeys(EXTRAS, 0.0)}
        self.weights = {**known, **_checked(weights or {}, known)}
        if not any(self.weights.values()):
            raise InputError("All weights of the objective are 0, so that there is nothing to learn.")
        self.similarity = self.default_similarity if similarity is None else Similarity.of(similarity)
        self.phases = _changed(self.default_phases, phases or {})

    @property
    def epochs(self) -> int | None:
        """How long all phases last together; ``None`` where one has no end."""
        lengths = [phase.epochs for phase in self.phases]
        return None if None in lengths else self.cycles * sum(lengths)

    def phase_at(self, epoch: int) -> Phase:
        """The phase of an epoch, counted from 0; after the last one's end still the last one."""
        for _ in range(self.cycles):
            for phase in self.phases:
                if phase.epochs is None or epoch < phase.epochs:
                    return phase
                epoch -= phase.epochs
        return self.phases[-1]

    def __call__(self, networks: Networks, batch: Batch, phase: Phase | None = None) -> Terms:
        """The terms without their weights, and ``loss``, their weighted sum.

        ``phase`` is the first one when left out; :meth:`Phase.begin` has to be called when it begins.

        Raises
        ------
        InputError
            If the batch lacks what a term needs, or no term applies to the network.
        """
        phase = phase or self.phases[0]
        weights = {**self.weights, **phase.weights}
        batch = checked_batch(batch)
        terms, flows = self.terms(networks, batch, weights, phase)
        for name in EXTRAS:
            if weights[name]:
                if name == "round_trip" and flows.backward is None:
                    flows.backward = self.estimate(networks, batch["fixed"], batch["moving"], backward=True)
                terms[name] = extra_term(name, flows.forward, flows.backward, batch)
        if not terms:
            used = ", ".join(name for name, weight in weights.items() if weight)
            raise InputError(
                f"The terms with a weight ({used}) do not apply to this network: there is nothing to learn."
            )
        loss = sum(weights[name] * value for name, value in terms.items())
        return {**terms, "loss": loss}

    @abstractmethod
    def terms(
        self, networks: Networks, batch: Batch, weights: Mapping[str, float], phase: Phase
    ) -> tuple[Terms, Flows]:
        """The method's own terms, those of weight 0 left out, and the flows."""

    @staticmethod
    def estimate(networks: Networks, moving: Tensor, fixed: Tensor, backward: bool = False) -> Tensor:
        """The flow of one direction, whatever the networks give at once."""
        network = network_of(networks, "backward" if backward else "forward")
        flow = network(moving, fixed)
        return flow[0] if isinstance(flow, tuple) else flow


def network_of(networks: Networks, direction: str) -> nn.Module:
    """The network of a direction; one alone does both."""
    return networks[direction] if direction in networks else networks["forward"]


def _checked(weights: Mapping[str, float], known: Iterable[str]) -> dict[str, float]:
    refuse_unknown(weights, known, "term")
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
            raise InputError(f"The weight of '{name}' is a number of 0 or more, not {weight!r}.")
    return {name: float(weight) for name, weight in weights.items()}


def _changed(phases: tuple[Phase, ...], changes: Mapping[str, Mapping[str, Any]]) -> tuple[Phase, ...]:
    refuse_unknown(changes, [phase.name for phase in phases], "phase")
    for name, values in changes.items():
        refuse_unknown(values, ("epochs", "learning_rate"), f"setting of the phase '{name}':")
        epochs, rate = values.get("epochs", 1), values.get("learning_rate", 1.0)
        if type(epochs) is not int or epochs < 1:
            raise InputError(f"The epochs of the phase '{name}' are a positive whole number, not {epochs!r}.")
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < math.inf:
            raise InputError(f"The learning rate of the phase '{name}' is a positive number, not {rate!r}.")
    return tuple(replace(phase, **changes.get(phase.name, {})) for phase in phases)


def checked_batch(batch: Batch) -> dict[str, Tensor]:
    """Both images are there and of one shape; images and flows as float32, everything else as it is.

    Raises
    ------
    InputError
        If an image is missing, or their shapes differ.
    """
    for name in ("moving", "fixed"):
        if name not in batch:
            raise InputError(f"The batch has no {name} image; it holds {', '.join(batch) or 'nothing'}.")
    moving, fixed = batch["moving"], batch["fixed"]
    if moving.shape != fixed.shape:
        raise InputError(
            f"Moving and fixed image have shapes {tuple(moving.shape)} and {tuple(fixed.shape)}; bring all volumes to "
            "one grid first."
        )
    floats = ("moving", "fixed", "flow", "inverse_flow")
    return {name: single(value) if name in floats else value for name, value in batch.items()}
