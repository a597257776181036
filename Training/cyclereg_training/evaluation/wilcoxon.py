"""The Wilcoxon signed-rank test between two methods on the same pairs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from .scores import Scores

#: As many differences can be enumerated where some are tied: 2^13 signs.
_MOST_ENUMERATED = 13
_MOST_EXACT = 50
_LEVEL = 0.05


@dataclass(frozen=True)
class Comparison:
    """Two methods in one measure.

    Attributes
    ----------
    first, second, measure
        Names, and the measure's key.
    pairs
        How many pairs both methods have the measure of.
    differing
        On how many of them they differ: the others say nothing, and are left out of the test.
    median_difference
        Of second - first over all ``pairs``; None without a pair.
    p
        Two-sided, not corrected for the number of comparisons; None where no pair differs.
    note
        What to know about ``p``: how it was computed, and where there are too few pairs.
    """

    first: str
    second: str
    measure: str
    pairs: int
    differing: int
    median_difference: float | None
    p: float | None
    note: str


def signed_rank(differences: Sequence[float]) -> tuple[int, float | None, str]:
    """The two-sided test that differences lie symmetrically about 0: number that are not 0, p, and a note.

    Zeros are left out (Wilcoxon's own way).  p is exact, from the distribution of the statistic where no two
    differences are of equal size (up to 50), from all signs where some are (up to 13), and otherwise from the normal
    distribution, corrected for ties.
    """
    given = np.asarray(differences, np.float64)
    # Sizes that differ by rounding only are tied.
    sizes = np.round(np.abs(given), 12)
    kept = given[sizes > 0]
    count = len(kept)
    if count == 0:
        return 0, None, "no pair differs" if len(given) else "no pair in common"
    tied = len(np.unique(sizes[sizes > 0])) < count
    ranked = np.sign(kept) * sizes[sizes > 0]
    if count <= (_MOST_ENUMERATED if tied else _MOST_EXACT):
        method, note = stats.PermutationMethod(n_resamples=2**_MOST_ENUMERATED) if tied else "exact", "exact"
    else:
        method, note = "approx", "normal approximation"
    p = float(stats.wilcoxon(ranked, zero_method="wilcox", method=method).pvalue)
    if tied:
        note += ", ties"
    if 2.0 ** (1 - count) > _LEVEL:
        note += f"; too few pairs for p below {_LEVEL}"
    return count, min(1.0, p), note


def compare(scores: Scores, first: str, second: str, key: str) -> Comparison:
    """Two methods on the pairs of which both have the measure."""
    ours, theirs = scores.by_pair(first, key), scores.by_pair(second, key)
    differences = [theirs[pair] - ours[pair] for pair in ours if pair in theirs]
    count, p, note = signed_rank(differences)
    median = statistics.median(differences) if differences else None
    return Comparison(first, second, key, len(differences), count, median, p, note)


def compare_all(scores: Scores, pairs: Sequence[tuple[str, str]]) -> list[Comparison]:
    """Every pair of methods in every measure that both have."""
    return [
        compare(scores, first, second, measure.key)
        for first, second in pairs
        for measure in scores.measures
        if scores.by_pair(first, measure.key) and scores.by_pair(second, measure.key)
    ]
