"""The pieces of the HTML report: page, style, numbers, tables, figures, scales.

Everything that comes from outside goes through :func:`escape`.  A page asks for nothing from anywhere: its pictures are
``data:`` URIs, or lie beside it where it says so, and its content security policy forbids the rest.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable, Sequence
from html import escape as _escape

from .colors import Color, Legend
from .report_style import SCRIPT, STYLE


def escape(text: object) -> str:
    """Text for an element or a quoted attribute."""
    return _escape(str(text), quote=True)


def page(title: str, body: str, script: str = SCRIPT, style: str = "", images: str = "data:") -> str:
    """A complete HTML5 document.

    Parameters
    ----------
    script
        The only one that runs.
    style
        Rules after those of every report.
    images
        Where pictures may come from, as the content security policy writes it.
    """
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src {images}; style-src 'unsafe-inline'; script-src 'sha256-{script_hash}'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n{body}\n"
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def is_number(value: object) -> bool:
    """Whether a value is a finite number (booleans are not)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def number(value: object, digits: int = 2, sign: bool = False) -> str:
    """A number rounded for reading, its exact value kept in ``<data>``; a dash for what is not a finite number.

    A value too small for ``digits`` decimals is shown with one significant digit, so that it never reads as zero.
    """
    if not is_number(value):
        return '<span title="not available">–</span>'
    value = float(value)  # type: ignore[arg-type]
    text = f"{value:{'+' if sign else ''}.{digits}f}"
    if value != 0 and float(text) == 0:
        text = f"{value:{'+' if sign else ''}.1g}"
    elif value == 0 or float(text) == 0:
        text = f"{0:.{digits}f}"
    return f'<data value="{value!r}">{text.replace("-", "−")}</data>'


def row(cells: Sequence[str], classes: Sequence[str] = (), kind: str = "") -> str:
    """A table row of ready-made HTML cells, of which the first is the row's heading."""
    marks = [f' class="{c}"' if c else "" for c in classes] or [""] * len(cells)
    rest = "".join(f"<td{mark}>{cell}</td>" for cell, mark in zip(cells[1:], marks[1:]))
    start = f'<tr class="{kind}">' if kind else "<tr>"
    return f'{start}<th scope="row">{cells[0]}</th>{rest}</tr>'


def table(head: Sequence[str] | str, *bodies: Iterable[str]) -> str:
    """A table from the cells of its heading (or ready-made heading rows) and groups of rows from :func:`row`."""
    if not isinstance(head, str):
        head = "<tr>" + "".join(f'<th scope="col">{cell}</th>' for cell in head) + "</tr>"
    groups = "".join(f"<tbody>{rows}</tbody>" for rows in ("".join(body) for body in bodies) if rows)
    return f'<div class="scroll"><table><thead>{head}</thead>{groups}</table></div>'


def facts(items: Iterable[tuple[str, str]]) -> str:
    """A list of names (plain text) and ready-made HTML values."""
    return '<dl class="facts">' + "".join(f"<dt>{escape(name)}</dt><dd>{value}</dd>" for name, value in items) + "</dl>"


def tile(name: str, value: str, unit: str = "", sub: str = "") -> str:
    """A headline number; all parts but the unit are ready-made HTML."""
    unit = f' <span class="unit">{escape(unit)}</span>' if unit else ""
    sub = f'<dd class="sub">{sub}</dd>' if sub else ""
    return f'<div class="tile"><dt>{name}</dt><dd>{value}{unit}</dd>{sub}</div>'


def dots(before: object, after: object, limit: float) -> str:
    """A line from 0 to ``limit`` with a ring at the value before and a dot at the one after."""
    parts = ['<line class="track" x1="1%" x2="99%" y1="9" y2="9"/>']

    def place(value: object) -> float:
        return 1.0 + 98.0 * min(max(float(value) / limit, 0.0), 1.0)  # type: ignore[arg-type]

    if is_number(before) and is_number(after):
        parts.append(f'<line class="move" x1="{place(before):.2f}%" x2="{place(after):.2f}%" y1="9" y2="9"/>')
    if is_number(before):
        parts.append(f'<circle class="ring" cx="{place(before):.2f}%" cy="9" r="4"/>')
    if is_number(after):
        parts.append(f'<circle class="dot" cx="{place(after):.2f}%" cy="9" r="4.5"/>')
    return f'<svg aria-hidden="true">{"".join(parts)}</svg>'


def dots_axis(limit: float, unit: str) -> str:
    """The heading of a column of :func:`dots`: 0, the middle and the end of the scale."""
    places = ((1, "start", "0"), (50, "middle", f"{limit / 2:.4g}"), (99, "end", f"{limit:.4g} {unit}"))
    texts = "".join(
        f'<text class="axis" x="{x}%" y="15" text-anchor="{anchor}">{escape(text.strip())}</text>'
        for x, anchor, text in places
    )
    return f'<svg aria-hidden="true">{texts}</svg>'


def _css(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def scale(legend: Legend, name: str) -> str:
    """The colour bar of a legend, as inline SVG, and the keys of its extra colours."""
    out = []
    if legend.anchors:
        stops = "".join(
            f'<stop offset="{100 * i / (len(legend.anchors) - 1):.4g}%" stop-color="{_css(c)}"/>'
            for i, c in enumerate(legend.anchors)
        )
        title = legend.title + (f" ({legend.unit})" if legend.unit else "")
        ticks = "".join(
            f'<line x1="{20 + 240 * at:.4g}" x2="{20 + 240 * at:.4g}" y1="29" y2="33" stroke="currentColor"/>'
            f'<text x="{20 + 240 * at:.4g}" y="45" text-anchor="middle">{escape(text)}</text>'
            for at, text in legend.ticks
        )
        out.append(
            f'<svg viewBox="0 0 280 48" width="280" height="48" role="img" aria-label="{escape("Scale: " + title)}">'
            f'<defs><linearGradient id="scale-{escape(name)}">{stops}</linearGradient></defs>'
            f'<text x="20" y="11">{escape(title)}</text>'
            f'<rect x="20" y="17" width="240" height="12" rx="2" fill="url(#scale-{escape(name)})"/>{ticks}</svg>'
        )
    out += [
        f'<span><span class="key" style="background:{_css(color)}"></span>{escape(text)}</span>'
        for color, text in legend.extra
    ]
    return f'<div class="legend">{"".join(out)}</div>' if out else ""


def shot(source: str, name: str, size: tuple[int, int], tag: str, description: str, letters: Sequence[str]) -> str:
    """One picture with its orientation letters (left, right, top, bottom)."""
    marks = "".join(f'<i class="{place}" aria-hidden="true">{letter}</i>' for place, letter in zip("lrtb", letters))
    tag = f'<span class="tag">{escape(tag)}</span>' if tag else ""
    return (
        f'<div class="shot"><img src="{source}" width="{size[0]}" height="{size[1]}" alt="{escape(description)}" '
        f'data-picture="{escape(name)}">{tag}{marks}</div>'
    )


def figure(rows: Iterable[Sequence[tuple[int, str]]], caption: str, legend: str = "") -> str:
    """A card of pictures: rows of (width in pixels, ready-made shot), with caption and scale below."""
    body = "".join(
        f'<div class="planes" style="grid-template-columns:{" ".join(f"{width}fr" for width, _ in shots)}">'
        f"{''.join(html for _, html in shots)}</div>"
        for shots in rows
    )
    return f"<figure>{body}<figcaption><p>{caption}</p>{legend}</figcaption></figure>"
