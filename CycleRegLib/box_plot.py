"""Box plots as SVG, drawn without any library: groups of numbers below each other on one axis.

A box is Tukey's: from the first to the third quartile with a line at the median; whiskers to the last values within 1.5
times the box's length; every value beyond them is a point.  A diamond is the mean.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

_REACH = 1.5
_ROW, _BOX, _AXIS = 46, 18, 24
# The plot's place between the borders, per cent of the width: room for half a tick's text at both ends.
_LEFT, _RIGHT = 2.0, 98.0
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_INTERVALS = 5
# Pixels: how wide a plot is at least taken to be, and a digit.
_NARROW, _LETTER = 330, 7


@dataclass(frozen=True)
class BoxStatistics:
    """What a box shows of some numbers, in their own unit.

    ``low`` and ``high`` are the whiskers' ends; ``outliers`` are the values beyond them with their places in what was
    given, by value; ``sd`` is over n - 1, NaN for a single value; ``count`` are the finite values, to which all refers.
    """

    count: int
    mean: float
    sd: float
    q1: float
    median: float
    q3: float
    low: float
    high: float
    outliers: tuple[tuple[float, int], ...]

    def text(self, unit: str = "") -> str:
        """In one line, for readers."""
        unit = f" {unit}" if unit else ""
        counted = f"{self.count} value{'' if self.count == 1 else 's'}"
        return (
            f"median {_short(self.median)}{unit}, quartiles {_short(self.q1)} and {_short(self.q3)}, "
            f"mean {_short(self.mean)}, whiskers {_short(self.low)} and {_short(self.high)}, {counted}, "
            f"{len(self.outliers)} beyond the whiskers"
        )


def box_statistics(values: Sequence[float]) -> BoxStatistics | None:
    """Quartiles (interpolated linearly between the values), whiskers and outliers; None without a finite value."""
    finite = sorted((float(value), place) for place, value in enumerate(values) if math.isfinite(value))
    if not finite:
        return None
    numbers = [value for value, _ in finite]
    if len(numbers) == 1:
        q1 = median = q3 = numbers[0]
    else:
        q1, median, q3 = statistics.quantiles(numbers, n=4, method="inclusive")
    below, above = q1 - _REACH * (q3 - q1), q3 + _REACH * (q3 - q1)
    # A whisker never ends inside the box, as it would where an interpolated quartile has no value in reach.
    low = min(q1, next(value for value in numbers if value >= below))
    high = max(q3, next(value for value in reversed(numbers) if value <= above))
    return BoxStatistics(
        count=len(numbers),
        mean=statistics.fmean(numbers),
        sd=statistics.stdev(numbers) if len(numbers) > 1 else math.nan,
        q1=q1,
        median=median,
        q3=q3,
        low=low,
        high=high,
        outliers=tuple((value, place) for value, place in finite if value < low or value > high),
    )


def box_plot(
    groups: Mapping[str, Sequence[float]],
    unit: str = "",
    title: str = "",
    names: Mapping[str, Sequence[str]] | None = None,
    colors: Mapping[str, str] | None = None,
    limits: tuple[float, float] | None = None,
    width: int = 560,
) -> str:
    """One box per group, below each other, as an SVG element; also a file of its own if written to one.

    It is as wide as its container allows where a style sheet says ``width: 100%``, with texts of unchanged size.
    Colours follow the page by ``var(--text)``, ``--muted``, ``--line``, ``--card`` and ``--after``; without these they
    are the reader's own, light or dark.

    Parameters
    ----------
    groups
        Numbers by the group's name; those that are not finite are left out, and ``n`` counts the others.
    unit
        Written at the axis, such as ``mm``.
    title
        What is shown; the picture's accessible name.
    names
        For each group, a name for each of its values, which an outlier tells when it is pointed at.
    colors
        Colours of groups in CSS, such as ``var(--before)``.
    limits
        Range that the axis covers at least, such as (0, 1).
    width
        Pixels, where nothing else says.

    Raises
    ------
    ValueError
        If no group has a finite value.
    """
    boxes = {name: box_statistics(values) for name, values in groups.items()}
    found = [box for box in boxes.values() if box is not None]
    if not found:
        raise ValueError("A box plot needs at least one finite number.")
    ends = [end for box in found for end in (box.low, box.high, *(value for value, _ in box.outliers))]
    low, high, step = _axis(min([*ends, *(limits or ())]), max([*ends, *(limits or ())]))
    bottom = _ROW * len(boxes) + 4

    def at(value: float) -> str:
        return f"{_LEFT + (_RIGHT - _LEFT) * (value - low) / (high - low):.3f}%"

    parts = []
    values = [low + index * step for index in range(round((high - low) / step) + 1)]
    texts = [_tick(value, step) for value in values]
    texts[-1] += f" {unit}" if unit else ""
    for value, text, anchor in zip(values, _legible(texts), ["start", *["middle"] * (len(values) - 2), "end"]):
        x = at(value)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="0" y2="{bottom}" style="stroke:{_LINE}"/>')
        if text:
            # At the ends texts begin and end with the plot, so that none is cut off.
            parts.append(
                f'<text class="tick" x="{x}" y="{bottom + 16}" text-anchor="{anchor}" style="fill:{_MUTED}">'
                f"{escape(text)}</text>"
            )
    for index, (name, box) in enumerate(boxes.items()):
        color = (colors or {}).get(name, "var(--after, currentColor)")
        parts.append(_group(name, box, unit, at, _ROW * index, color, (names or {}).get(name)))
    told = "; ".join(f"{name}: {'no values' if box is None else box.text(unit)}" for name, box in boxes.items())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="boxes" role="img" width="{width}" height="{bottom + _AXIS}" '
        f'style="color-scheme:light dark;color:{_TEXT};font:12px system-ui,sans-serif;max-width:100%">'
        f"<title>{escape(title or 'Box plot')}</title><desc>{escape(told)}</desc>{''.join(parts)}</svg>"
    )


_TEXT, _MUTED = "var(--text, CanvasText)", "var(--muted, color-mix(in srgb, currentColor 65%, transparent))"
_LINE, _CARD = "var(--line, color-mix(in srgb, currentColor 18%, transparent))", "var(--card, Canvas)"


def _group(
    name: str,
    box: BoxStatistics | None,
    unit: str,
    at: Callable[[float], str],
    y: int,
    color: str,
    names: Sequence[str] | None,
) -> str:
    middle = y + _ROW - 14
    top, bottom = middle - _BOX / 2, middle + _BOX / 2
    said = "no values" if box is None else f"median {_short(box.median)}{f' {unit}' if unit else ''}, n {box.count}"
    # A rim of the background keeps texts legible where a grid line passes behind them.
    rim = f"stroke:{_CARD};stroke-width:4;paint-order:stroke"
    head = (
        f'<text class="name" x="{_LEFT}%" y="{y + 16}" style="fill:{_TEXT};{rim};font-weight:600">{escape(name)}</text>'
        f'<text class="said" x="{_RIGHT}%" y="{y + 16}" text-anchor="end" style="fill:{_MUTED};{rim};'
        f'font-variant-numeric:tabular-nums">{escape(said)}</text>'
    )
    if box is None:
        return f'<g class="group">{head}</g>'
    stroke = f"stroke:{color};stroke-width:1.5"
    share = float(at(box.q3)[:-1]) - float(at(box.q1)[:-1])
    shapes = "".join(
        (
            *(
                f'<line class="whisker" x1="{at(a)}" x2="{at(b)}" y1="{middle}" y2="{middle}" style="{stroke}"/>'
                f'<line class="cap" x1="{at(a)}" x2="{at(a)}" y1="{middle - 5}" y2="{middle + 5}" style="{stroke}"/>'
                for a, b in ((box.low, box.q1), (box.high, box.q3))
            ),
            f'<rect class="box" x="{at(box.q1)}" y="{top:g}" width="{share:.3f}%" height="{_BOX}" rx="2" '
            f'style="{stroke};fill:{_CARD}"/>',
            f'<rect class="tint" x="{at(box.q1)}" y="{top:g}" width="{share:.3f}%" height="{_BOX}" rx="2" '
            f'style="fill:{color};fill-opacity:.2"/>',
            f'<line class="median" x1="{at(box.median)}" x2="{at(box.median)}" y1="{top:g}" y2="{bottom:g}" '
            f'style="stroke:{color};stroke-width:3"/>',
            f'<svg class="mean" x="{at(box.mean)}" y="{middle}" style="overflow:visible">'
            f'<path d="M0 -5L5 0L0 5L-5 0Z" style="fill:{_CARD};stroke:{_TEXT};stroke-width:1.5"/></svg>',
        )
    )
    points = "".join(
        f'<circle class="outlier" cx="{at(value)}" cy="{middle}" r="3" style="fill:{color};fill-opacity:.55">'
        f"<title>{escape(f'{names[place]}: ' if names else '')}{escape(_short(value))}"
        f"{escape(f' {unit}' if unit else '')}</title></circle>"
        for value, place in box.outliers
    )
    return f'<g class="group">{head}<g><title>{escape(f"{name}: {box.text(unit)}")}</title>{shapes}</g>{points}</g>'


def _axis(low: float, high: float) -> tuple[float, float, float]:
    """A range of whole steps that covers both values, and the step; it begins at 0 where that costs little room."""
    if 0 <= low <= 0.5 * high:
        low = 0.0
    if high - low <= 1e-9 * max(abs(high), abs(low)):
        pad = 0.1 * abs(high) or 1.0
        low, high = max(0.0, low - pad) if low >= 0 else low - pad, high + pad
    rough = (high - low) / _INTERVALS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s for s in _STEPS if s * power >= rough * (1 - 1e-9)) * power
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return first * step, last * step, step


def _tick(value: float, step: float) -> str:
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if abs(round(step, decimals) - step) > 1e-6 * step:
        decimals += 1
    value = 0.0 if abs(value) < 1e-6 * step else value
    text = f"{value:.{decimals}f}" if decimals <= 4 and abs(value) < 1e6 else f"{value:.4g}"
    return text.replace("-", "−")


def _legible(texts: Sequence[str]) -> list[str]:
    """The ticks' texts, without those that would run into the next one where the plot is narrow; the ends stay."""
    space = _NARROW * (_RIGHT - _LEFT) / 100 / (len(texts) - 1)
    kept = list(texts)
    first, begins = _LETTER * (len(texts[0]) + 1), (len(texts) - 1) * space - _LETTER * (len(texts[-1]) + 1)
    for index in range(len(texts) - 2, 0, -1):
        half = _LETTER * len(texts[index]) / 2
        if index * space - half < first or index * space + half > begins:
            kept[index] = ""
        else:
            begins = index * space - half - _LETTER
    return kept


def _short(value: float) -> str:
    """Three significant digits, all of them from a thousand on."""
    text = "0" if value == 0 else f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:#.3g}"
    return text.rstrip(".").replace("-", "−")
