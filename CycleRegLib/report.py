"""The HTML report of a registration: one file that holds its numbers and its pictures, and needs nothing else.

A section is there when its numbers are: what ``summary`` and ``evaluation`` do not hold is left out.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .colors import Legend, nice_ceiling
from .errors import InputError
from .landmark_pictures import NEAR_MM
from .outputs import OutputTransaction
from .png import png_bytes
from .report_page import dots, dots_axis, escape, facts, figure, is_number, number, page, row, scale, shot, table, tile
from .report_text import CAPTIONS, DEFINITIONS
from .report_values import figures, input_name, name_of, percent, plain_value, position
from .slices import LETTERS, PICTURE, PLANES


def write_report(
    folder: str | Path,
    summary: Mapping[str, Any],
    evaluation: Mapping[str, Any] | None = None,
    pictures: Mapping[str, np.ndarray] | None = None,
    title: str = "Registration report",
    png_beside: bool = False,
) -> Path:
    """Write ``folder/report.html`` and return its path.

    Parameters
    ----------
    folder
        Made if it is missing and its parent is there.
    summary, evaluation, pictures, title
        See :func:`render_report`.
    png_beside
        Write every picture as ``folder/<name>.png`` as well.

    Raises
    ------
    InputError
        If the folder cannot be made or written to; nothing is left behind then.
    """
    folder = Path(folder).expanduser()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"Cannot write a report into {folder}: it is a file. Give the name of a folder.")
    files = {name: png_bytes(picture) for name, picture in (pictures or {}).items()}
    made = not folder.exists()
    if made:
        try:
            folder.mkdir()
        except OSError as error:
            raise InputError(f"Cannot make the folder {folder} for the report: {error.strerror or error}.") from error
    path = folder / "report.html"
    try:
        with OutputTransaction() as out:
            out.path(path).write_text(_render(summary, evaluation, pictures, files, title), encoding="utf-8")
            for name, content in files.items() if png_beside else ():
                out.path(folder / f"{name}.png").write_bytes(content)
    except BaseException:
        if made and not any(folder.iterdir()):
            folder.rmdir()
        raise
    return path


def render_report(
    summary: Mapping[str, Any],
    evaluation: Mapping[str, Any] | None = None,
    pictures: Mapping[str, np.ndarray] | None = None,
    title: str = "Registration report",
) -> str:
    """The report as HTML text.

    Parameters
    ----------
    summary
        What ``--json`` of ``cyclereg register`` holds (``RegistrationResult.summary()``); may be empty.
    evaluation
        What ``--json`` of ``cyclereg evaluate`` holds (``Evaluation.to_dict()``).
    pictures
        From :func:`~CycleRegLib.pictures.render_pictures` (which brings their scales), or any
        ``{name: (h, w, 3) uint8}``.
    title
        Plain text.
    """
    return _render(summary, evaluation, pictures, {n: png_bytes(p) for n, p in (pictures or {}).items()}, title)


def _render(
    summary: Mapping[str, Any],
    evaluation: Mapping[str, Any] | None,
    pictures: Mapping[str, np.ndarray] | None,
    files: Mapping[str, bytes],
    title: str,
) -> str:
    report = _Report(summary, evaluation or {}, pictures or {}, files)
    main = [
        report.warnings(),
        report.tiles(),
        report.before_after(),
        report.deformation(),
        report.other_pictures(),
        report.landmarks(),
        report.tumor(),
        report.overlap(),
        report.similarity(),
        report.making(),
        report.definitions(),
    ]
    header = f'<header><p class="brand">CycleReg</p><h1>{escape(title)}</h1>{report.lead()}</header>'
    convention = "Pictures follow the radiological convention: the patient's right is at the left of the picture. "
    if f"fixed-{PICTURE}" in report.pictures:
        convention = ""
    footer = f"<footer><p>{convention}Numbers are rounded for reading.</p></footer>"
    return page(title, f"{header}\n<main>{''.join(main)}</main>\n{footer}")


class _Report:
    """The sections of one report; each is HTML, empty when its numbers are not there."""

    def __init__(
        self,
        summary: Mapping[str, Any],
        evaluation: Mapping[str, Any],
        pictures: Mapping[str, np.ndarray],
        files: Mapping[str, bytes],
    ) -> None:
        self.summary = summary
        self.evaluation = evaluation
        self.pictures = pictures
        self.files = files
        self.legends: Mapping[str, Legend] = getattr(pictures, "legends", {})
        self.used: list[str] = []
        self.shown: set[str] = set()

    # ------------------------------------------------------------------ helpers

    def ref(self, key: str) -> str:
        """A mark that leads to the definition of a measure, which is thereby listed at the end."""
        if key not in self.used:
            self.used.append(key)
        place = self.used.index(key) + 1
        return f'<a class="ref" href="#def-{key}" aria-label="definition {place}">{place}</a>'

    def value(self, *keys: str) -> Any:
        """The first of the dotted keys that the evaluation, else the summary, holds."""
        for source in (self.evaluation, self.summary):
            for key in keys:
                found: Any = source
                for part in key.split("."):
                    found = found.get(part) if isinstance(found, Mapping) else None
                if found is not None:
                    return found
        return None

    # ------------------------------------------------------------------ top

    def lead(self) -> str:
        parts = []
        fixed, moving = input_name(self.summary.get("fixed")), input_name(self.summary.get("moving"))
        if fixed and moving:
            parts.append(f"{escape(moving)} registered onto {escape(fixed)}")
        if self.summary.get("method"):
            parts.append(f"method <code>{escape(self.summary['method'])}</code>")
        return f'<p class="lead">{", ".join(parts)}</p>' if parts else ""

    def warnings(self) -> str:
        found = [*(self.summary.get("warnings") or []), *(self.evaluation.get("warnings") or [])]
        if not found:
            return ""
        items = "".join(f"<li>{escape(text)}</li>" for text in dict.fromkeys(found))
        return f'<section class="warnings" aria-label="Warnings"><ul>{items}</ul></section>'

    def tiles(self) -> str:
        out = []
        before, after = self.value("tre_mm.before.mean"), self.value("tre_mm.after.mean")
        if is_number(after):
            count = self.value("tre_mm.count")
            sub = f"mean of {number(count, 0)} landmarks" if is_number(count) else "mean over landmarks"
            out.append(tile(f"Landmark error (TRE){self.ref('tre')}", _from_to(before, after, 2), "mm", sub))
        before, after = self.value("labels_mean.dice.before"), self.value("labels_mean.dice.after")
        if is_number(after):
            labels = list(_mapping(self.evaluation.get("dice")))
            sub = escape(labels[0]) if len(labels) == 1 else f"mean of {len(labels)} segments" if labels else "mean"
            out.append(tile(f"Dice{self.ref('dice')}", _from_to(before, after, 3), "", sub))
        folding = self.value("jacobian.folding_percent", "folding_percent")
        if is_number(folding):
            out.append(tile(f"Folding{self.ref('folding')}", percent(folding), "%", "of the voxels"))
        mean, p95 = self.value("roundtrip_mm.mean"), self.value("roundtrip_mm.p95")
        if is_number(mean):
            sub = f"95 % of voxels up to {number(p95, 3)} mm" if is_number(p95) else "mean"
            out.append(tile(f"Round trip{self.ref('roundtrip')}", number(mean, 3), "mm", sub))
        seconds = self.summary.get("seconds")
        seconds = _mapping(seconds).get("total") if isinstance(seconds, Mapping) else seconds
        if is_number(seconds):
            device = self.summary.get("device")
            out.append(tile("Time", number(seconds, 1), "s", f"on {escape(device)}" if device else ""))
        return f'<dl class="tiles">{"".join(out)}</dl>' if out else ""

    # ------------------------------------------------------------------ pictures

    def _shot(self, name: str, tag: str, description: str, letters: Sequence[str]) -> tuple[int, str]:
        """Width in pixels, and HTML, of one picture."""
        self.shown.add(name)
        height, width = self.pictures[name].shape[:2]
        source = "data:image/png;base64," + base64.b64encode(self.files[name]).decode("ascii")
        return width, shot(source, name, (width, height), tag, description, letters)

    def _row(self, kind: str, tag: str, label: str) -> list[tuple[int, str]]:
        """The planes of a kind of picture."""
        shots = [
            self._shot(
                f"{kind}-{plane}", f"{tag} · {plane}" if tag else plane, f"{label}, {plane} slice", LETTERS[plane]
            )
            for plane in PLANES
            if f"{kind}-{plane}" in self.pictures
        ]
        if f"{kind}-{PICTURE}" in self.pictures:
            shots.append(self._shot(f"{kind}-{PICTURE}", tag, label, LETTERS[PICTURE]))
        return shots

    def _figure(self, key: str, rows: Iterable[tuple[str, str]]) -> str:
        """A card for the kinds of picture in ``rows``, (kind, what the tag says)."""
        heading, text = CAPTIONS[key]
        shots = [self._row(kind, tag, f"{heading} {tag}".strip()) for kind, tag in rows]
        if not any(shots):
            return ""
        grid_mm, checker_mm = getattr(self.pictures, "grid_mm", 0), getattr(self.pictures, "checker_mm", 0)
        text = text.format(
            grid=f" {grid_mm:g} mm apart" if grid_mm else "",
            checker=f" of {checker_mm:g} mm" if checker_mm else "",
            near=f"{NEAR_MM:g}",
        )
        point = {"panels": "point", "landmarks": "landmark_point"}.get(key)
        point = getattr(self.pictures, point, None) if point else None
        if point:
            text += f" The slices meet at {position(point)}."
        reference = self.ref(key) if key in DEFINITIONS else ""
        legend = scale(self.legends[key], key) if key in self.legends else ""
        return figure([r for r in shots if r], f"<b>{escape(heading)}{reference}.</b> {escape(text)}", legend)

    def other_pictures(self) -> str:
        """Pictures of kinds that have no place of their own, under their names."""
        rest = [name for name in self.pictures if name not in self.shown]
        return _section("More pictures", "".join(figure([[self._shot(n, "", n, "")]], escape(n)) for n in rest))

    def before_after(self) -> str:
        out = []
        shown = [p for p in (*PLANES, PICTURE) if {f"fixed-{p}", f"warped-{p}"} <= set(self.pictures)]
        if shown:
            other = "".join(
                f'<label><input type="radio" name="wipe" value="{kind}"{" checked" if kind == "warped" else ""}>'
                f"{text}</label>"
                for kind, text in (("moving", "moving, before"), ("warped", "warped, after"))
                if f"{kind}-{shown[0]}" in self.pictures
            )
            out.append(
                '<figure class="wipe" id="wipe" hidden><div class="bar"><span>fixed</span>'
                '<input type="range" min="0" max="100" value="50" aria-label="Where the fixed image ends and the other '
                f'begins, per cent of the width"><fieldset>{other}</fieldset></div><div class="planes"></div></figure>'
            )
        out.append(self._figure("panels", [("fixed", "fixed"), ("moving", "moving"), ("warped", "warped")]))
        for key in ("checkerboard", "difference", "outlines", "landmarks"):
            out.append(self._figure(key, [(f"{key}-before", "before"), (f"{key}-after", "after")]))
        return _section("Before and after", "".join(out))

    def deformation(self) -> str:
        out = [self._figure(key, [(key, "")]) for key in ("grid", "jacobian", "roundtrip")]
        tables = []
        jacobian = self.value("jacobian") or {"folding_percent": self.value("folding_percent")}
        roundtrip = dict(_mapping(self.value("roundtrip_mm")))
        roundtrip["roundtrip_inside_percent"] = self.value("roundtrip_inside_percent")
        for heading, key, unit, values in (
            ("Jacobian determinant", "jacobian", "", jacobian),
            ("Round-trip error", "roundtrip", "mm", roundtrip),
        ):
            rows = []
            for name, value in values.items():
                if is_number(value):
                    mark = self.ref("folding") if name == "folding_percent" else ""
                    rows.append(row([escape(name_of(name, unit)) + mark, figures(name, value)]))
            if rows:
                tables.append(f"<div><h3>{heading}{self.ref(key)}</h3>{table(['', 'Value'], rows)}</div>")
        if tables:
            out.append(f'<div class="two">{"".join(tables)}</div>')
        return _section("The deformation", "".join(out))

    # ------------------------------------------------------------------ tables

    def landmarks(self) -> str:
        tre = _mapping(self.evaluation.get("tre_mm"))
        landmarks = [item for item in tre.get("per_landmark") or [] if isinstance(item, Mapping)]
        before, after = _mapping(tre.get("before")), _mapping(tre.get("after"))
        if not landmarks and not after:
            return ""
        sizes = [item[side] for item in landmarks for side in ("before", "after") if is_number(item.get(side))]
        limit = nice_ceiling(max(sizes)) if sizes and max(sizes) > 0 else 1.0
        classes = ["", "", "", "", "plot"]
        rows = []
        for i, item in enumerate(landmarks, 1):
            b, a = item.get("before"), item.get("after")
            change = number(a - b, 2, sign=True) if is_number(a) and is_number(b) else number(None)
            name = escape(item.get("label") or i)
            rows.append(row([name, number(b), number(a), change, dots(b, a, limit)], classes))
        sums = [
            row([escape(name_of(key)), number(before.get(key)), number(after[key]), "", ""], classes, "sum")
            for key in after
        ]
        head = "".join(f'<th scope="col">{c}</th>' for c in ("Landmark", "Before, mm", "After, mm", "Change, mm"))
        head = f'<tr>{head}<th class="plot">{dots_axis(limit, "mm") if landmarks else ""}</th></tr>'
        note = '<p class="note">Rings are the errors before, dots those after the registration.</p>'
        return _section(f"Landmarks{self.ref('tre')}", (note if landmarks else "") + table(head, rows, sums))

    def tumor(self) -> str:
        tumor = _mapping(self.evaluation.get("tumor"))
        columns = {
            "fixed": "Fixed",
            "moving": "Moving",
            "warped": "Warped",
            "difference_before": "Moving − fixed",
            "difference_after": "Warped − fixed",
        }
        quantities = {"major_mm": "Long diameter, mm", "minor_mm": "Short diameter, mm", "volume_ml": "Volume, mL"}
        rows = [
            row([text, *[number(tumor[key].get(c), 2, sign=c.startswith("difference")) for c in columns]])
            for key, text in quantities.items()
            # Drawn lines have no volume, and perhaps no short diameter.
            if isinstance(tumor.get(key), Mapping) and not (tumor.get("drawn") and tumor[key].get("fixed") is None)
        ]
        if not rows:
            return ""
        head = [escape(tumor.get("name") or ""), *columns.values()]
        mark = self.ref("tumor_drawn" if tumor.get("drawn") else "tumor")
        return _section(f"Tumour size{mark}", table(head, rows))

    def overlap(self) -> str:
        known = {"dice": ("Dice", 3), "iou": ("IoU", 3), "hd95_mm": ("HD95, mm", 2), "bir": ("BIR", 3)}
        found = {key: _mapping(self.evaluation.get("bir_per_label" if key == "bir" else key)) for key in known}
        found = {key: values for key, values in found.items() if values}
        if not found:
            return ""
        labels = list(dict.fromkeys(label for values in found.values() for label in values))
        classes = ["", *["", ""] * len(found), "plot"]

        def cells(name: str, changes: list[Mapping[str, Any]], plot: str = "") -> list[str]:
            numbers = [
                number(change[side], known[key][1]) if side in change else ""
                for key, change in zip(found, changes)
                for side in ("before", "after")
            ]
            return [escape(name), *numbers, plot]

        rows = []
        for label in labels:
            changes = [_mapping(values.get(label)) for values in found.values()]
            plot = dots(changes[0].get("before"), changes[0].get("after"), 1.0) if "dice" in found else ""
            rows.append(row(cells(label, changes, plot), classes))
        sums = []
        means = [_mapping(_mapping(self.evaluation.get("labels_mean")).get(key)) for key in found]
        if any(means) and len(labels) > 1:
            sums.append(row(cells("Mean", means), classes, "sum"))
        whole = [_mapping(self.evaluation.get("bir")) if key == "bir" else {} for key in found]
        if any(whole) and len(labels) > 1:
            sums.append(row(cells("All segments in one map", whole), classes, "sum"))
        marks = {key: self.ref("hd95" if key == "hd95_mm" else key) for key in found}
        plot = f'<th class="plot" rowspan="2">{dots_axis(1.0, "")}</th>' if "dice" in found else "<th></th>"
        head = (
            '<tr><th rowspan="2" scope="col">Segment</th>'
            + "".join(f'<th colspan="2" scope="colgroup">{known[key][0]}{marks[key]}</th>' for key in found)
            + f"{plot}</tr><tr>"
            + '<th scope="col">before</th><th scope="col">after</th>' * len(found)
            + "</tr>"
        )
        note = '<p class="note">At the right Dice: rings before, dots after the registration.</p>'
        return _section("Overlap of segments", (note if "dice" in found else "") + table(head, rows, sums))

    def similarity(self) -> str:
        known = {
            "lncc": "LNCC",
            "ncc": "NCC",
            "mutual_information": "Mutual information",
            "nmse": "NMSE",
            "ssim": "SSIM",
        }
        rows = []
        for key, name in known.items():
            value = _mapping(self.value(key))
            if value:
                name += self.ref(key)
                rows.append(row([name, number(value.get("before"), 4), number(value.get("after"), 4)]))
        value = _mapping(self.summary.get("similarity"))
        if value and not any(key in self.evaluation for key in known):
            rows.insert(0, row(["Similarity", number(value.get("before"), 4), number(value.get("after"), 4)]))
        out = table(["Fixed and moving image", "Before", "After"], rows) if rows else ""
        compared = self.evaluation.get("compared_percent")
        if rows and is_number(compared):
            out += f'<p class="note">Over {number(compared, 1)} % of the fixed image, or of its mask.</p>'
        tables = []
        for source, image in (("reversibility", "Moving"), ("reversibility_fixed", "Fixed")):
            back = [
                row([known.get(key, name_of(key)) + (self.ref(key) if key in known else ""), number(value, 4)])
                for key, value in _mapping(self.value(source)).items()
            ]
            if back:
                tables.append(table([f"{image} image, there and back{self.ref('reversibility')}", "Value"], back))
        if tables:
            out = f'<div class="two"><div>{out}</div><div>{"".join(tables)}</div></div>'
        return _section("Similarity of the images", out)

    # ------------------------------------------------------------------ end

    def making(self) -> str:
        """Everything the summary says that is not a measure, named as it is there."""
        measures = ("warnings", "similarity", "folding_percent", "roundtrip_mm", "seconds", "jacobian", "nmse", "ssim")
        measures += ("reversibility", "reversibility_fixed")
        items = [
            (name_of(key), plain_value(key, value))
            for key, value in self.summary.items()
            if key not in measures and value is not None and value not in ("", [], {})
        ]
        out = facts(items) if items else ""
        seconds = self.summary.get("seconds")
        if isinstance(seconds, Mapping) and seconds:
            rows = [row([escape(name_of(str(stage))), number(value, 2)]) for stage, value in seconds.items()]
            out += f'<div class="two"><div><h3>Time by stage</h3>{table(["Stage", "Seconds"], rows)}</div></div>'
        return _section("How it was made", out)

    def definitions(self) -> str:
        items = "".join(
            f'<li id="def-{key}"><b>{escape(name)}:</b> {escape(text)}</li>'
            for key, (name, text) in ((key, DEFINITIONS[key]) for key in self.used)
        )
        return _section("Definitions", f'<ol class="definitions">{items}</ol>' if items else "")


def _section(heading: str, content: str) -> str:
    return f"<section><h2>{heading}</h2>{content}</section>\n" if content else ""


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _from_to(before: Any, after: Any, digits: int) -> str:
    was = f'<span class="was">{number(before, digits)} →</span> ' if is_number(before) else ""
    return was + number(after, digits)
