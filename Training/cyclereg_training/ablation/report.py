"""What an ablation found, in tables and in words that are computed from its numbers."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from CycleRegLib.outputs import OutputTransaction

from ..config import Config
from ..evaluation.scores import Mean, Score, Scores
from ..evaluation.tables import boxes, csv_text, json_content, mean_text, means_table, number, p_text, wilcoxon_table
from ..evaluation.wilcoxon import Comparison, compare, compare_all
from ..run_folder import environment
from .measuring import MEASURES
from .run import Outcome
from .variants import FULL, UNREGISTERED, VARIANTS, config_of

LEVEL = 0.05
#: A change of the error by less than this share is none that matters.
_RELEVANT = 0.05
_MAIN = MEASURES[0]


class Findings:
    """Outcomes as scores.

    Attributes
    ----------
    scores
        Every pair once for each variant: means over the seeds, as one pair's numbers of several trainings do not count
        as several pairs.
    raw
        Every pair and seed.
    """

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self.outcomes = list(outcomes)
        self.names = list(dict.fromkeys(outcome.variant for outcome in outcomes))
        averaged = [score for name in self.names for score in _averaged([o for o in outcomes if o.variant == name])]
        self.scores = Scores(MEASURES, averaged, UNREGISTERED)
        self.raw = [
            Score(f"seed-{o.seed}/{pair}" if o.variant != UNREGISTERED else pair, o.variant, dict(values))
            for o in outcomes
            for pair, values in o.values.items()
        ]
        self.seeds = list(dict.fromkeys(o.seed for o in outcomes if o.variant != UNREGISTERED))

    def comparisons(self) -> list[Comparison]:
        """Of the full objective with all others, and of every other with no registration in the main measure."""
        others = [name for name in self.names if name not in (FULL, UNREGISTERED)]
        found = compare_all(self.scores, [(FULL, name) for name in (*others, UNREGISTERED)])
        return found + [compare(self.scores, UNREGISTERED, name, _MAIN.key) for name in others]

    def of_seed(self, variant: str, seed: int) -> float:
        """Mean of the main measure of one training."""
        return statistics.fmean(
            values[_MAIN.key]
            for outcome in self.outcomes
            if outcome.variant == variant and (outcome.seed == seed or variant == UNREGISTERED)
            for values in outcome.values.values()
        )

    def verdict(self, first: str, second: str) -> tuple[int, Comparison]:
        """Whether ``second`` has a larger error (1), a smaller one (-1), or neither is shown (0).

        Shown is what the test over pairs says at 5 % and every seed by itself has the same sign of.
        """
        comparison = compare(self.scores, first, second, _MAIN.key)
        signs = {self._sign(first, second, seed) for seed in self.seeds}
        shown = comparison.p is not None and comparison.p < LEVEL and len(signs) == 1
        return (signs.pop() if shown else 0), comparison

    def _sign(self, first: str, second: str, seed: int) -> int:
        difference = self.of_seed(second, seed) - self.of_seed(first, seed)
        return (difference > 0) - (difference < 0)


def _averaged(outcomes: Sequence[Outcome]) -> list[Score]:
    scores = []
    for pair in outcomes[0].values:
        keys = outcomes[0].values[pair]
        values = {
            key: statistics.fmean(outcome.values[pair][key] for outcome in outcomes)
            for key in keys
            if all(key in outcome.values[pair] for outcome in outcomes)
        }
        scores.append(Score(pair, outcomes[0].variant, values))
    return scores


# ---------------------------------------------------------------------- words


def conclusions(findings: Findings) -> list[str]:
    """A sentence or two on each question, computed from the numbers."""
    said = [_learnt(findings)]
    for name, term in (
        ("without cycle", "The cycle term"),
        ("without identity", "The identity term"),
        ("without both", "Cycle and identity together"),
    ):
        if {FULL, name} <= set(findings.names):
            said.append(_term(findings, name, term))
    if "cycle alone" in findings.names:
        said.append(_cycle_alone(findings))
    if {FULL, "supervised"} <= set(findings.names):
        said.append(_supervised(findings))
    return [text for text in said if text]


def _learnt(findings: Findings) -> str:
    if FULL not in findings.names:
        return ""
    sign, comparison = findings.verdict(UNREGISTERED, FULL)
    before, after = (_main(findings, name) for name in (UNREGISTERED, FULL))
    what = {
        -1: f"It learnt: the error fell by {number(100 * (before.mean - after.mean) / before.mean)} %.",
        0: "It did not show that it learnt; what follows says little about the terms.",
        1: "It learnt the wrong fields; what follows says little about the terms.",
    }[sign]
    return (
        f"**Full objective.** End-point error {mean_text(after)} voxels, {mean_text(before)} without registration "
        f"({_test(comparison)}). {what}"
    )


def _term(findings: Findings, name: str, term: str) -> str:
    sign, comparison = findings.verdict(FULL, name)
    full, without = (_main(findings, n) for n in (FULL, name))
    change = 100 * (without.mean - full.mean) / full.mean
    verb = "rises" if change > 0 else "falls" if change < 0 else "stays the same"
    amount = f" by {number(abs(change))} %" if change else ""
    helped = {
        1: "it helps here",
        -1: "it does not help but hurts here",
        0: "a difference that these trainings do not show to be more than chance",
    }[sign]
    parts = [f"**{term}.** {name.capitalize()} the end-point error {verb}{amount} to {mean_text(without)} voxels"]
    parts[0] += f" ({_test(comparison)}): {helped}."
    for measure in MEASURES:
        if measure.key in ("roundtrip", "folding_percent", "cycle"):
            a, b = (findings.scores.mean(n, measure.key) for n in (FULL, name))
            test = compare(findings.scores, FULL, name, measure.key)
            if a is not None and b is not None:
                unit = f" {measure.unit}" if measure.unit else ""
                p = "equal on every pair" if test.p is None else f"p {_equals(test.p)}"
                parts.append(f"{measure.title}: {number(b.mean)} without, {number(a.mean)}{unit} with ({p}).")
    return " ".join(parts)


def _cycle_alone(findings: Findings) -> str:
    sign, comparison = findings.verdict(UNREGISTERED, "cycle alone")
    alone, before = (_main(findings, n) for n in ("cycle alone", UNREGISTERED))
    length = findings.scores.mean("cycle alone", "length")
    consistent = findings.scores.mean("cycle alone", "cycle")
    gain = (before.mean - alone.mean) / before.mean
    # What a test over pairs shows may still be a ten-thousandth of the way.
    relevant = sign != 0 and abs(gain) >= _RELEVANT
    if not relevant:
        answer = "No"
    elif gain < 0:
        answer = "No: it is further from the true field than no registration"
    else:
        answer = "Yes, mostly" if gain >= 0.5 else f"In part: the error falls by {number(100 * gain)} %"
    shorter = length.mean < 0.1 * before.mean
    why = (
        "Its fields are next to zero: there and back without moving is consistent, so that the cycle term holds for "
        "no motion at all, and does not tell which motion is the right one."
        if shorter
        else "Its fields move, and lead back, but not to where the true ones lead."
        if not (relevant and gain > 0)
        else ""
    )
    return (
        "**Cycle alone (with smoothness, without similarity and identity), does it identify the right field?** "
        f"{answer}. End-point error {mean_text(alone)} voxels, "
        f"{mean_text(before)} without registration ({_test(comparison)}); its fields are {number(length.mean)} voxels "
        f"long where the true ones are {number(before.mean)}, and images differ by {number(consistent.mean)} from "
        f"themselves there and back. {why}".rstrip()
    )


def _supervised(findings: Findings) -> str:
    sign, comparison = findings.verdict("supervised", FULL)
    full, taught = (_main(findings, n) for n in (FULL, "supervised"))
    than = {
        1: "Knowing the true fields is worth more than the full objective here",
        -1: "The full objective is better than knowing the true fields here",
        0: "No difference to the full objective is shown",
    }[sign]
    return (
        f"**Supervised baseline.** End-point error {mean_text(taught)} voxels against {mean_text(full)} of the full "
        f"objective ({_test(comparison)}). {than}, with one network for both directions and the same number of steps."
    )


def _main(findings: Findings, name: str) -> Mean:
    found = findings.scores.mean(name, _MAIN.key)
    assert found is not None, "the end-point error of a synthetic pair is always known"
    return found


def _test(comparison: Comparison) -> str:
    return "no pair differs" if comparison.p is None else f"n {comparison.differing}, p {_equals(comparison.p)}"


def _equals(p: float) -> str:
    return p_text(p) if p < 0.001 else f"= {p_text(p)}"


# ---------------------------------------------------------------------- files


def write_report(
    output: str | Path, outcomes: Sequence[Outcome], base: Config, command: str = "", name: str = "ablation"
) -> list[str]:
    """Write ``ablation.md``, ``.csv``, ``.json`` and ``.svg``; all appear, or none.  Returns the conclusions.

    Raises
    ------
    InputError
        If they cannot be written.
    """
    findings = Findings(outcomes)
    comparisons = findings.comparisons()
    said = conclusions(findings)
    table = json_content(findings.scores, comparisons)
    content = {
        "command": command,
        "conclusions": said,
        "config": base.to_dict(),
        "seeds": findings.seeds,
        "seconds": {f"{o.variant}, seed {o.seed}": o.seconds for o in outcomes if o.variant != UNREGISTERED},
        "environment": environment(torch.device("cpu"), 1),
        "measures": table["measures"],
        "means": table["means"],
        "wilcoxon": table["wilcoxon"],
        "scores": [{"pair": s.pair, "method": s.method, **s.values} for s in findings.raw],
    }
    folder = Path(output).expanduser()
    with OutputTransaction() as out:
        text = json.dumps(content, indent=1, allow_nan=False)
        out.path(folder / f"{name}.json").write_text(_compact(text) + "\n", encoding="utf-8")
        out.path(folder / f"{name}.csv").write_text(csv_text(Scores(MEASURES, findings.raw)), encoding="utf-8")
        out.path(folder / f"{name}.svg").write_text(boxes(findings.scores, _MAIN), encoding="utf-8")
        markdown = _markdown(findings, comparisons, said, base, command, name)
        out.path(folder / f"{name}.md").write_text(markdown, encoding="utf-8")
    return said


def _compact(text: str) -> str:
    """One line for each innermost object or list."""
    return re.sub(r"[\[{][^\[\]{}]*[\]}]", lambda m: re.sub(r"\s*\n\s*", " ", m[0]), text)


def _markdown(
    findings: Findings, comparisons: Sequence[Comparison], said: Sequence[str], base: Config, command: str, name: str
) -> str:
    data: dict[str, Any] = base.data
    pairs, seeds = len(findings.scores.pairs), findings.seeds
    shape = " x ".join(str(n) for n in data.get("shape", ()))
    steps = -(-data.get("pairs_per_epoch", 200) // base.batch_size) * (base.trainer.max_epochs or 0)
    several = len(seeds) > 1
    trained = f"{len(seeds)} trainings of each (seeds {', '.join(map(str, seeds))})" if several else "one training each"
    parts = [
        "# What the terms of CycleMorph's loss do",
        f"The network of {base.method}, {shape} voxels, synthetic pairs with known fields: {trained}, {steps} steps of "
        f"{base.batch_size} pairs, the same data, steps and seeds for every variant; tested with the last weights on "
        f"{pairs} pairs that no training saw. A small experiment: it tells what the terms do here, not on organs.",
    ]
    if command:
        parts.append(f"```\n{command}\n```")
    parts += ["## In words", "\n\n".join(said)]
    if not several:
        parts.append(
            "With one training each, p tells how sure the difference between these very networks is on further pairs, "
            "not whether further trainings would come out the same."
        )
    else:
        parts.append(
            "A difference counts as shown if the test over pairs says so at 5 % and every seed has it with the same "
            "sign; otherwise it may be chance."
        )
    parts += [
        "## Mean ± standard deviation over pairs" + (", each the mean over seeds" if several else ""),
        means_table(findings.scores, "variant"),
        "Where the true field leads to points inside the image; folding, the Jacobian determinant and Dice everywhere. "
        "NMSE and LNCC (squared, window 9) between the warped and the fixed image.",
        f"![End-point error]({name}.svg)",
    ]
    if several:
        rows = ["| variant | " + " | ".join(f"seed {seed}" for seed in seeds) + " |", "|---" * (len(seeds) + 1) + "|"]
        rows += [
            f"| {n} | " + " | ".join(number(findings.of_seed(n, seed)) for seed in seeds) + " |" for n in findings.names
        ]
        parts += ["## End-point error of each training, voxels", "\n".join(rows)]
    parts += [
        "## Wilcoxon signed-rank tests",
        wilcoxon_table(findings.scores, comparisons),
        "Two-sided, over pairs; n are those on which the two differ. p is not corrected for the number of tests.",
        "## Weights",
        _weights(findings, base),
    ]
    return "\n\n".join(parts) + "\n"


def _weights(findings: Findings, base: Config) -> str:
    lines = ["| variant | terms and weights | seconds of training, wall clock |", "|---|---|---|"]
    for variant in VARIANTS:
        if variant.name in findings.names:
            weights = config_of(variant, base, base.seed).objective["weights"]
            terms = ", ".join(f"{name} {weight:g}" for name, weight in weights.items() if weight)
            seconds = [o.seconds for o in findings.outcomes if o.variant == variant.name and o.seconds is not None]
            lines.append(f"| {variant.name} | {terms} | {', '.join(f'{s:.0f}' for s in seconds) or '–'} |")
    return "\n".join(lines)
