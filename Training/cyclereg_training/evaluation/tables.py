"""Scores as CSV, Markdown, JSON and box plots."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from CycleRegLib.box_plot import box_plot

from .scores import Mean, Measure, Scores
from .wilcoxon import Comparison

#: Tables wider than this are split.
_COLUMNS = 7
_COLORS = {"reference": "var(--before, #888)"}


def csv_text(scores: Scores) -> str:
    """Every method on every pair: the main measures first, then all others; an empty cell where there is no number."""
    main = [measure.key for measure in scores.measures]
    others = dict.fromkeys(key for score in scores.scores for key in score.values if key not in main)
    columns = [*main, *others]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["pair", "method", "failure", *columns])
    for score in scores.scores:
        writer.writerow([score.pair, score.method, score.failure, *(score.values.get(c, "") for c in columns)])
    return stream.getvalue()


def json_content(scores: Scores, comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Measures, means, every score, comparisons; JSON types."""
    means: dict[str, Any] = {}
    for method in scores.methods:
        found = {measure.key: scores.mean(method, measure.key) for measure in scores.measures}
        means[method] = {
            key: {"mean": mean.mean, "sd": None if math.isnan(mean.sd) else mean.sd, "pairs": mean.count}
            for key, mean in found.items()
            if mean is not None
        }
    return {
        "measures": [asdict(measure) for measure in scores.measures],
        "means": means,
        "wilcoxon": [asdict(comparison) for comparison in comparisons],
        "scores": [asdict(score) for score in scores.scores],
    }


def means_table(scores: Scores, title: str = "method") -> str:
    """Mean and standard deviation of every measure by method; Markdown, split where it is too wide.

    A cell names the number of pairs where it is not that of all.
    """
    parts = []
    for start in range(0, len(scores.measures), _COLUMNS):
        measures = scores.measures[start : start + _COLUMNS]
        lines = ["| " + " | ".join([title, *(_cell(_headed(m)) for m in measures)]) + " |"]
        lines.append("|---" * (len(measures) + 1) + "|")
        for method in scores.methods:
            cells = [mean_text(scores.mean(method, m.key), len(scores.pairs)) for m in measures]
            lines.append("| " + " | ".join([_cell(method), *cells]) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def wilcoxon_table(scores: Scores, comparisons: Sequence[Comparison]) -> str:
    """Markdown: a row for each comparison."""
    titles = {measure.key: measure for measure in scores.measures}
    lines = ["| measure | first | second | median of second − first | better | n | p | |", "|---" * 8 + "|"]
    for c in comparisons:
        measure = titles[c.measure]
        cells = [
            measure.heading, c.first, c.second,
            "–" if c.median_difference is None else number(c.median_difference),
            better_of(measure, c) or "–", str(c.differing), p_text(c.p), c.note,
        ]  # fmt: skip
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines)


def better_of(measure: Measure, comparison: Comparison) -> str:
    """Which of two methods is better by the median of the differences; empty where none is."""
    difference = comparison.median_difference
    if not difference or not measure.better:
        return ""
    return comparison.second if (difference < 0) == (measure.better == "smaller") else comparison.first


def failures_table(scores: Scores) -> str:
    """Markdown: what failed, and why."""
    lines = ["| pair | method | reason |", "|---|---|---|"]
    lines += [f"| {_cell(s.pair)} | {_cell(s.method)} | {_cell(s.failure)} |" for s in scores.failures]
    return "\n".join(lines)


def boxes(scores: Scores, measure: Measure) -> str:
    """A box for every method that has the measure, as a file of SVG."""
    found = {method: scores.by_pair(method, measure.key) for method in scores.methods}
    found = {method: values for method, values in found.items() if values}
    colors = {scores.reference: _COLORS["reference"]} if scores.reference in found else None
    return box_plot(
        {method: list(values.values()) for method, values in found.items()},
        measure.unit,
        measure.title,
        {method: list(values) for method, values in found.items()},
        colors,
    )


def mean_text(mean: Mean | None, pairs: int | None = None) -> str:
    """``mean ± SD``, and the number of pairs where it is not ``pairs``."""
    if mean is None:
        return "–"
    spread = "" if math.isnan(mean.sd) else f" ± {number(mean.sd)}"
    return f"{number(mean.mean)}{spread}" + (f" (n {mean.count})" if pairs not in (None, mean.count) else "")


def number(value: float) -> str:
    """Three significant digits."""
    if value == 0:
        return "0"
    text = f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}" if abs(value) >= 1e-3 else f"{value:.2e}"
    return f"−{text[1:]}".rstrip(".") if value < 0 else text.rstrip(".")


def p_text(p: float | None) -> str:
    """As papers have it."""
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _headed(measure: Measure) -> str:
    arrow = {"smaller": " ↓", "larger": " ↑"}.get(measure.better, "")
    return measure.heading + arrow


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
