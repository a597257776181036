"""``report.html`` of a batch: every pair in one table to sort and filter, box plots, statistics; one file, no network.

The pictures of pairs lie beside it, in the pairs' folders, and are loaded when they are asked for.
"""

from __future__ import annotations

import datetime
import json
import platform
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import SimpleITK as sitk
import torch

from .. import __version__
from ..box_plot import box_plot
from ..methods import DEFAULT_METHOD
from ..report_page import escape, facts, is_number, number, page, row, table, tile
from ..report_text import DEFINITIONS
from .page_columns import PER_SEGMENT, SECONDS, Group, Measure, measure, table_groups
from .page_pictures import first_picture, picture_names, sorted_out
from .page_style import SCRIPT, STYLE
from .record import STATUSES

Record = Mapping[str, Any]
_BEFORE, _AFTER = "var(--before, currentColor)", "var(--after, currentColor)"
_FAILURES_SHOWN, _SEGMENTS_SHOWN = 5, 16
_MEANING = {
    "done": "computed in the last run",
    "kept": "complete from an earlier run, with the same inputs and options",
    "failed": "no result",
    "skipped": "not reached",
}


def render_page(
    records: Sequence[Record],
    output: Path,
    options: Sequence[Mapping[str, Any]] = (),
    beside: Sequence[str] = (),
) -> str:
    """The page as HTML text.

    Parameters
    ----------
    records
        What became of every pair, in the manifest's order; see :class:`~.record.BatchRecord`.
    output
        The batch's folder, where the page will lie; links are relative to it.
    options
        The pairs' rows of the manifest, for what they have in common.
    beside
        Names of files in the folder that the page should lead to.
    """
    return _Page(records, output, options, beside).html()


class _Page:
    def __init__(
        self, records: Sequence[Record], output: Path, options: Sequence[Mapping[str, Any]], beside: Sequence[str]
    ) -> None:
        self.records, self.output, self.options, self.beside = records, output, options, beside
        self.complete = [record for record in records if record["status"] in ("done", "kept")]
        self.counts = Counter(record["status"] for record in records)
        self.keys = list(dict.fromkeys(key for record in self.complete for key in record["measures"]))
        self.values = {key: [r["measures"].get(key) for r in self.complete] for key in self.keys}
        self.groups = table_groups({*self.keys, SECONDS})
        self.sets: list[tuple[str, ...]] = []

    def html(self) -> str:
        title = f"Batch {self.output.name}"
        pairs = self.pairs()
        main = [
            self.failures(), self.tiles(), pairs, self.plots(), self.statistics(), self.making(), self.definitions()
        ]  # fmt: skip
        links = ", ".join(f'<a href="{quote(name)}">{escape(name)}</a>' for name in self.beside)
        lead = f"{self.said()}." + (f" Files: {links}." if links else "")
        header = f'<header><p class="brand">CycleReg</p><h1>{escape(title)}</h1><p class="lead">{lead}</p></header>'
        footer = "<footer><p>Numbers are rounded for reading.</p></footer>"
        # Pictures may be files, or come from where the page itself does if somebody serves the folder.
        return page(
            title, f"{header}\n<main>{''.join(main)}</main>\n{footer}", SCRIPT, STYLE, images="'self' file:"
        )  # fmt: skip

    # ------------------------------------------------------------------ top

    def said(self) -> str:
        """How many pairs, and their methods."""
        methods = dict.fromkeys(str(_method(row)) for row in self.options)
        by = f", method{'' if len(methods) == 1 else 's'} {', '.join(map(_code, methods))}" if methods else ""
        return f"{_pairs(len(self.records))}{by}"

    def failures(self) -> str:
        out = []
        failed = [record for record in self.records if record["status"] == "failed"]
        if failed:
            shown = failed if len(failed) <= _FAILURES_SHOWN + 1 else failed[:_FAILURES_SHOWN]
            items = "".join(f"<li><b>{escape(r['id'])}</b>: {escape(_why(r))}</li>" for r in shown)
            rest = len(failed) - len(shown)
            more = f"<li>and {rest:,} more, in the table below</li>" if rest else ""
            which = "Show it in the table" if len(failed) == 1 else "Show them in the table"
            show = f'<button type="button" class="link" id="show-failures" hidden>{which}</button>'
            out.append(f"<p><b>{_pairs(len(failed))} failed.</b> {show}</p><ul>{items}{more}</ul>")
        skipped = [record for record in self.records if record["status"] == "skipped"]
        if skipped:
            out.append(
                f"<p><b>{_pairs(len(skipped))} not reached:</b> {escape(skipped[0]['reason'])}. The same command goes "
                "on from there.</p>"
            )
        kind = "warnings failures" if failed else "warnings"
        return f'<section class="{kind}" aria-label="What is missing">{"".join(out)}</section>' if out else ""

    def tiles(self) -> str:
        out = []
        if self.records:
            share = f"{len(self.complete):,}" + (
                f' <span class="unit">of {len(self.records):,}</span>' if len(self.complete) < len(self.records) else ""
            )
            sub = ", ".join(f"{self.counts[s]:,} {s}" for s in STATUSES if self.counts[s])
            out.append(tile("Pairs complete", share, "", sub))
        out.append(self._change_tile("Landmark error (TRE)", "tre_{}_mm", lower=True))
        out.append(self._change_tile("Dice", "dice_mean_{}", lower=False))
        if "tre_after_mm" not in self.keys and "dice_mean_after" not in self.keys:
            out.append(self._change_tile("Similarity (LNCC)", "similarity_{}", lower=False))
        folding = self._numbers("folding_percent")
        if folding:
            most, where = max(zip(folding, self._ids("folding_percent")))
            sub = f"of voxels, mean; most {number(most, 3)} % ({escape(where)})" if most else "of voxels, in every pair"
            out.append(tile("Folding", number(statistics.fmean(folding), 3 if most else 0), "%", sub))
        seconds = [s for s in (r["seconds"].get("total") for r in self.complete) if is_number(s)]
        if seconds:
            value, unit = _duration(statistics.median(seconds))
            total = " ".join(_duration(sum(seconds)))
            out.append(tile("Time of a pair, median", value, unit, f"all together {total}"))
        return f'<dl class="tiles">{"".join(out)}</dl>' if any(out) else ""

    def _change_tile(self, name: str, key: str, lower: bool) -> str:
        """Mean before and after, over the pairs that have either, and in how many it is better."""
        after = self._numbers(key.format("after"))
        if not after:
            return ""
        what = measure(key.format("after"))
        before = self._numbers(key.format("before"))
        was = f'<span class="was">{number(statistics.fmean(before), what.digits)} →</span> ' if before else ""
        pairs = [
            (b, a)
            for b, a in zip(self.values.get(key.format("before"), []), self.values[key.format("after")])
            if is_number(a) and is_number(b)
        ]
        better = sum((a < b) if lower else (a > b) for b, a in pairs)
        sub = "mean" + (f"; better in {better:,} of {_pairs(len(pairs))}" if pairs else "")
        return tile(name, was + number(statistics.fmean(after), what.digits), what.unit, sub)

    # ------------------------------------------------------------------ the table

    def pairs(self) -> str:
        if not self.records:
            return ""
        rows = "".join(self._row(record) for record in self.records)
        body = f"<table>{self._head()}<tbody>{rows}</tbody></table>"
        sets = f' data-pictures="{escape(json.dumps([sorted_out(names) for names in self.sets]))}"' if self.sets else ""
        choices = [("", "All", len(self.records)), *((s, s.capitalize(), self.counts[s]) for s in STATUSES)]
        radios = "".join(
            f'<label title="{_MEANING.get(value, "")}"><input type="radio" name="status" value="{value}"'
            f"{'' if value else ' checked'}>{text} {count:,}</label>"
            for value, text, count in choices
            if count
        )
        controls = (
            '<div class="controls" id="controls" hidden><input type="search" placeholder="Find pairs" '
            'aria-label="Find pairs by name or reason" autocomplete="off" spellcheck="false">'
            f'<fieldset aria-label="Status">{radios}</fieldset><output aria-live="polite"></output></div>'
        )
        nothing = '<p class="nothing" id="nothing" hidden>No pair fits.</p>'
        return (
            f'<section aria-labelledby="h-pairs"><h2 id="h-pairs">Pairs</h2>{controls}<div class="scroll pairs" '
            f'id="pairs" tabindex="0" role="region" aria-labelledby="h-pairs"{sets}>{body}{nothing}</div></section>\n'
        )

    def _head(self) -> str:
        above = [_head_cell("Pair", 0, "text", 'rowspan="2"'), _head_cell("Status", 1, "text", 'rowspan="2"')]
        below, column = [], 2
        for group in self.groups:
            if len(group.columns) == 1:
                text = f"{group.heading} {group.columns[0][1]}".strip()
                above.append(_head_cell(text, column, "number", 'rowspan="2" class="first"', group.unit))
            else:
                span = len(group.columns)
                above.append(f'<th scope="colgroup" colspan="{span}" class="first">{escape(group.title)}</th>')
                for index, (_, text) in enumerate(group.columns):
                    more = f'{"" if index else "class=first "}aria-label="{escape(f"{group.title}, {text}")}"'
                    below.append(_head_cell(text, column + index, "number", more))
            column += len(group.columns)
        above.append('<th scope="col" rowspan="2" class="first files">Files</th>')
        return f"<thead><tr>{''.join(above)}</tr><tr>{''.join(below)}</tr></thead>"

    def _row(self, record: Record) -> str:
        name, status = escape(record["id"]), record["status"]
        start = f'<tr><th scope="row">{name}</th><td><span class="status {status}">{status}</span></td>'
        if record["folder"] is None:
            span = sum(len(group.columns) for group in self.groups) + 1
            return f'{start}<td class="reason first" colspan="{span}">{escape(_why(record))}</td></tr>'
        cells = "".join(self._cells(record, group) for group in self.groups)
        return f'{start}{cells}<td class="files first">{self._files(record)}</td></tr>\n'

    def _cells(self, record: Record, group: Group) -> str:
        out = []
        for index, (key, _) in enumerate(group.columns):
            value = record["seconds"].get("total") if key == SECONDS else record["measures"].get(key)
            mark = "" if index else ' class="first"'
            out.append(f"<td{mark}>{number(value, group.digits) if is_number(value) else '–'}</td>")
        return "".join(out)

    def _files(self, record: Record) -> str:
        """Links to a pair's pictures, and to those of its files that people open."""
        folder = Path(record["folder"])
        where = quote(folder.relative_to(self.output).as_posix())
        out = []
        names = picture_names(folder)
        if names:
            if names not in self.sets:
                self.sets.append(names)
            first = quote(first_picture(names))
            out.append(f'<a href="{where}/pictures/{first}.png" data-pictures="{self.sets.index(names)}">pictures</a>')
        for file, text in (("report.html", "report"), ("scene.mrb", "scene"), ("summary.json", "summary")):
            if (folder / file).is_file():
                out.append(f'<a href="{where}/{file}">{text}</a>')
        return "".join(out)

    # ------------------------------------------------------------------ distributions

    def plots(self) -> str:
        plots = []
        for group in self.groups:
            boxes = {(text or "all pairs"): key for key, text in group.columns}
            plots.append(self._plot(group.heading, group.unit, boxes, group.heading == "Dice"))
        for quantity in PER_SEGMENT[:1]:
            found = [m for m in map(measure, self.keys) if m.quantity == quantity and m.when == "after"]
            found = [m for m in found if m.detail != "mean" and self._numbers(m.key)]
            if len(found) > 1:
                # Those with the least overlap first: they are what one looks for.
                found.sort(key=lambda m: statistics.median(self._numbers(m.key)))
                few = len(found) > _SEGMENTS_SHOWN
                heading = f"Dice after, {f'the {_SEGMENTS_SHOWN} lowest' if few else 'by segment'}"
                boxes = {m.detail.replace("_", " "): m.key for m in found[:_SEGMENTS_SHOWN]}
                plots.append(self._plot(heading, "", boxes, True))
        if not any(plots):
            return ""
        note = (
            '<p class="note">Boxes reach from the first to the third quartile, lines are medians, diamonds are means. '
            "Whiskers end at the last pair within 1.5 times the box; pairs beyond are points, which tell their names."
            "</p>"
        )
        return f'<section><h2>Distributions</h2>{note}<div class="plots">{"".join(plots)}</div></section>\n'

    def _plot(self, heading: str, unit: str, boxes: Mapping[str, str], share: bool) -> str:
        groups = {text: self._numbers(key) for text, key in boxes.items()}
        groups = {text: values for text, values in groups.items() if values}
        if not groups:
            return ""
        names = {text: self._ids(boxes[text]) for text in groups}
        colors = {text: _BEFORE if text == "before" else _AFTER for text in groups}
        drawn = box_plot(groups, unit, heading, names, colors, (0.0, 1.0) if share else None)
        return f"<figure><h3>{escape(heading)}{f', {escape(unit)}' if unit else ''}</h3>{drawn}</figure>"

    def _numbers(self, key: str) -> list[float]:
        """A measure of all complete pairs that have it; or their times."""
        return [value for value, _ in self._named(key)]

    def _ids(self, key: str) -> list[str]:
        """The pairs of :meth:`_numbers`."""
        return [name for _, name in self._named(key)]

    def _named(self, key: str) -> list[tuple[float, str]]:
        if key == SECONDS:
            values = [record["seconds"].get("total") for record in self.complete]
        else:
            values = self.values.get(key, [])
        return [(value, record["id"]) for value, record in zip(values, self.complete) if is_number(value)]

    def statistics(self) -> str:
        bodies: dict[str, list[str]] = {}
        for what in sorted(map(measure, self.keys), key=lambda what: what.place):
            values = self._numbers(what.key)
            if values:
                bodies.setdefault(what.quantity, []).append(_statistics_row(what, values))
        if not bodies:
            return ""
        head = ["Measure", "Unit", "Mean", "SD", "Median", "Min", "Max", "Pairs"]
        shown = table(head, *bodies.values()).replace('class="scroll"', 'class="scroll measures" tabindex="0"', 1)
        note = '<p class="note">Over the pairs that have the measure; SD with n − 1.</p>'
        return f"<section><h2>Statistics</h2>{note}{shown}</section>\n"

    # ------------------------------------------------------------------ end

    def making(self) -> str:
        items = []
        for column, text in (("method", "Method"), ("checkpoint", "Checkpoint"), ("device", "Device")):
            found = Counter(str(_method(row) if column == "method" else row.get(column) or "") for row in self.options)
            found.pop("", None)
            if found:
                items.append((text, ", ".join(_code(name) + _of(n, len(self.options)) for name, n in found.items())))
        stages: Counter[str] = Counter()
        for record in self.complete:
            stages.update({stage: s for stage, s in record["seconds"].items() if is_number(s)})
        if stages.get("total"):
            parts = [f"{stage} {' '.join(_duration(s))}" for stage, s in stages.items() if stage != "total"]
            total = " ".join(_duration(stages["total"]))
            items.append(("Time of all pairs together", f"{total}" + (f" ({', '.join(parts)})" if parts else "")))
        workers = Counter(record["worker"] for record in self.complete if record["worker"])
        if len(workers) > 1:
            items.append(("Workers", f"{len(workers):,}"))
        versions = f"CycleReg {__version__}, PyTorch {torch.__version__}, SimpleITK {sitk.Version.VersionString()}"
        items.append(("Versions", escape(f"{versions}, Python {platform.python_version()}")))
        items.append(("Written", f"{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M %z}"))
        return f"<section><h2>How it was made</h2>{facts(items)}</section>\n"

    def definitions(self) -> str:
        known = {"similarity": "lncc", "nmse": "nmse"}
        used = {known.get(m.quantity, m.quantity) for m in map(measure, self.keys)}
        items = "".join(
            f"<li><b>{escape(name)}:</b> {escape(text)}</li>"
            for key, (name, text) in DEFINITIONS.items()
            if key in used
        )
        return f'<section><h2>Definitions</h2><ol class="definitions">{items}</ol></section>' if items else ""


def _head_cell(text: str, column: int, kind: str, more: str, unit: str = "") -> str:
    unit = f", <br>{escape(unit)}" if unit else ""
    return (
        f'<th scope="col" data-column="{column}" data-kind="{kind}" {more}>'
        f'<button type="button">{escape(text)}{unit}</button></th>'
    )


def _statistics_row(what: Measure, values: Sequence[float]) -> str:
    digits = what.digits
    deviation = number(statistics.stdev(values), digits) if len(values) > 1 else number(None)
    cells = [f'<span title="{escape(what.key)}">{escape(what.name)}</span>', what.unit]
    cells += [number(statistics.fmean(values), digits), deviation]
    cells += [number(value, digits) for value in (statistics.median(values), min(values), max(values))]
    return row([*cells, f"{len(values):,}"])


def _why(record: Record) -> str:
    times = f" (begun {record['attempts']} times)" if record["attempts"] > 1 else ""
    return f"{record['reason']}{times}"


def _method(row: Mapping[str, Any]) -> str:
    """The method, or the preset that chose it."""
    return row.get("method") or row.get("preset") or DEFAULT_METHOD


def _pairs(count: int) -> str:
    return f"{count:,} pair{'' if count == 1 else 's'}"


def _of(count: int, total: int) -> str:
    return "" if count == total else f" ({_pairs(count)})"


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _duration(seconds: float) -> tuple[str, str]:
    """Number and unit: seconds, minutes or hours."""
    if seconds < 59.95:
        return f"{seconds:.1f}", "s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02}", "min"
    return f"{whole // 3600:,}:{whole % 3600 // 60:02}", "h"
