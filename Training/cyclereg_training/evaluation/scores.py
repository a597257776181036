"""Numbers of methods on pairs, and what is known of each measure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Measure:
    """A measure: its name in tables of numbers, its title and unit for people.

    Attributes
    ----------
    better
        ``smaller``, ``larger``, or empty where neither is better by itself.
    """

    key: str
    title: str
    unit: str = ""
    better: str = ""

    @property
    def heading(self) -> str:
        """Title and unit."""
        return f"{self.title}, {self.unit}" if self.unit else self.title


@dataclass
class Score:
    """One method on one pair; ``values`` by the measures' keys, without what is not known or not defined.

    ``failure`` is why there are none; empty where the method did its work.
    """

    pair: str
    method: str
    values: dict[str, float] = field(default_factory=dict)
    failure: str = ""


@dataclass(frozen=True)
class Mean:
    """Mean and standard deviation (n - 1; NaN for a single value) of ``count`` values."""

    mean: float
    sd: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Mean | None:
        """Of the finite values; None without one."""
        found = [float(value) for value in values if math.isfinite(value)]
        if not found:
            return None
        sd = statistics.stdev(found) if len(found) > 1 else math.nan
        return cls(statistics.fmean(found), sd, len(found))


class Scores:
    """All scores, in the order in which methods and pairs came.

    Parameters
    ----------
    measures
        The main ones, those of the tables; only those that some score has are kept.
    scores
        At most one for each method and pair.
    reference
        The method that stands for the state before, such as "before registration"; empty without.
    """

    def __init__(self, measures: Sequence[Measure], scores: Sequence[Score], reference: str = "") -> None:
        self.scores, self.reference = list(scores), reference
        self.methods = list(dict.fromkeys(score.method for score in scores))
        self.pairs = list(dict.fromkeys(score.pair for score in scores))
        self.measures = [m for m in measures if any(m.key in score.values for score in scores)]

    def by_pair(self, method: str, key: str) -> dict[str, float]:
        """A measure of a method by pair, where it is there."""
        return {s.pair: s.values[key] for s in self.scores if s.method == method and key in s.values}

    def mean(self, method: str, key: str) -> Mean | None:
        """Over the pairs that have the measure."""
        return Mean.of(self.by_pair(method, key).values())

    @property
    def failures(self) -> list[Score]:
        """What went wrong."""
        return [score for score in self.scores if score.failure]
