"""The page of a batch as text: every pair and every number in it, nothing from outside, whatever names and reasons."""

from __future__ import annotations

import base64
import csv
import hashlib
import re
import time
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from batch_cases import FAST, rows, write_images
from batch_page_cases import PLANES, records, write_batch
from test_report import EVIL, Document

from CycleRegLib.batch import run_batch
from CycleRegLib.batch.page import render_page
from CycleRegLib.batch.page_columns import measure
from CycleRegLib.batch.results import summary_text

SOME = 120


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    output = tmp_path_factory.mktemp("pages") / "out"
    output.mkdir()
    found = records(SOME, output)
    write_batch(output, found, pictures=3)
    return output, found


@pytest.fixture(scope="module")
def document(batch: tuple[Path, list[dict]]) -> Document:
    return Document((batch[0] / "report.html").read_text(encoding="utf-8"))


def columns_of(page: Path) -> list[str]:
    """The table's columns, as a screen reader tells them."""
    heads = re.findall(
        r'<th [^>]*data-column="(\d+)"([^>]*)><button[^>]*>(.*?)</button>', page.read_text(encoding="utf-8")
    )
    found = {}
    for number, attributes, text in heads:
        label = re.search('aria-label="([^"]*)"', attributes)
        found[int(number)] = label.group(1) if label else re.sub("<[^>]*>", "", text)
    assert sorted(found) == list(range(len(found)))
    return [found[number] for number in sorted(found)]


class TestTable:
    def test_every_pair_is_a_row_in_the_manifests_order(self, batch, document):
        body = document.tables[0][2:]
        assert [row[0]["text"] for row in body] == [record["id"] for record in batch[1]]
        assert [row[1]["text"] for row in body] == [record["status"] for record in batch[1]]

    def test_every_number_is_the_pairs_own_exactly(self, batch, document):
        columns = columns_of(batch[0] / "report.html")
        keys = {
            "TRE, mm, before": "tre_before_mm",
            "TRE, mm, after": "tre_after_mm",
            "TRE, mm, max. after": "tre_max_after_mm",
            "Dice, before": "dice_mean_before",
            "Dice, after": "dice_mean_after",
            "HD95, mm, before": "hd95_mean_before_mm",
            "HD95, mm, after": "hd95_mean_after_mm",
            "Similarity (LNCC), before": "similarity_before",
            "Similarity (LNCC), after": "similarity_after",
            "Folding, %": "folding_percent",
            "Round trip, mm": "roundtrip_mean_mm",
            "Time, s": None,
        }
        assert columns == ["Pair", "Status", *keys]
        for row, record in zip(document.tables[0][2:], batch[1]):
            if record["status"] == "failed":
                assert len(row) == 3
                assert row[2]["text"].startswith(record["reason"])
                continue
            assert len(row) == len(columns) + 1
            numbers = [cell["value"] for cell in row[2:-1]]
            own = [record["measures"].get(key) if key else record["seconds"]["total"] for key in keys.values()]
            assert numbers == own
            assert all(cell["text"] == "–" for cell, value in zip(row[2:], own) if value is None)

    def test_rows_are_as_long_as_the_heading(self, batch, document):
        spans = [int(a["colspan"]) for tag, a in document.elements if tag == "td" and "colspan" in a]
        assert spans
        assert set(spans) == {len(columns_of(batch[0] / "report.html")) - 2 + 1}

    def test_links_are_relative_and_lead_to_files(self, batch, document):
        links = [a["href"] for a in document.all("a")]
        assert len([link for link in links if link.endswith("summary.json")]) == len(batch[1]) - 3
        assert len([link for link in links if "/pictures/" in link]) == 3
        for link in set(links) - {"manifest.json"}:  # the run writes that one
            assert not link.startswith(("/", "http", "file", ".."))
            assert (batch[0] / unquote(link)).is_file()

    def test_a_pair_that_was_begun_often_tells(self, batch, document):
        often = [r for r in batch[1] if r["status"] == "failed" and r["attempts"] == 3]
        said = "".join(document.text)
        assert often
        assert f"{often[0]['reason']} (begun 3 times)" in said


class TestNumbers:
    def test_statistics_are_numpys(self, batch, document):
        complete = [r for r in batch[1] if r["status"] != "failed"]
        shown = document.table("Measure")
        keys = {key for record in complete for key in record["measures"]}
        assert set(shown) == {measure(key).name for key in keys}
        for key in keys:
            values = [r["measures"][key] for r in complete if key in r["measures"]]
            expected = [np.mean(values), np.std(values, ddof=1), np.median(values), min(values), max(values)]
            assert shown[measure(key).name][1:6] == pytest.approx(expected, rel=1e-12)

    def test_the_summary_says_the_same(self, batch):
        text = summary_text(batch[1])
        values = [r["measures"]["tre_after_mm"] for r in batch[1] if "tre_after_mm" in r["measures"]]
        mean, sd, median = np.mean(values), np.std(values, ddof=1), np.median(values)
        assert f"| tre_after_mm | {mean:.4g} | {sd:.4g} | {median:.4g} | {len(values)} |" in text
        assert text.count("ends before its last slice") == 3

    def test_box_plots_are_there_and_outliers_tell_their_pairs(self, batch, document):
        pictures = [a for tag, a in document.elements if tag == "svg" and a.get("class") == "boxes"]
        assert len(pictures) == 8  # seven groups of columns, and Dice by segment
        values = {r["id"]: r["measures"]["roundtrip_mean_mm"] for r in batch[1] if r["measures"]}
        worst = max(values, key=values.get)
        q1, q3 = np.percentile(list(values.values()), [25, 75])
        assert values[worst] > q3 + 1.5 * (q3 - q1), "the case should have an outlier"
        assert any(text.startswith(f"{worst}: ") for text in document.text)

    @pytest.mark.parametrize(
        ("key", "name", "unit"),
        [
            ("tre_after_mm", "TRE, after", "mm"),
            ("tre_sd_before_mm", "TRE SD, before", "mm"),
            ("dice_left_kidney_after", "Dice left kidney, after", ""),
            ("hd95_mean_after_mm", "HD95 mean of segments, after", "mm"),
            ("bir_all_after", "BIR all segments, after", ""),
            ("tumor_volume_difference_after_ml", "Tumour volume difference, after", "mL"),
            ("folding_percent", "Folding", "%"),
            ("jacobian_sd_log", "Jacobian SD of log", ""),
            ("mutual_information_before", "Mutual information, before", ""),
            ("something_new", "Something new", ""),
        ],
    )
    def test_names_of_measures_can_be_read(self, key, name, unit):
        assert (measure(key).name, measure(key).unit) == (name, unit)


class TestSafety:
    def test_nothing_comes_from_outside(self, batch):
        text = (batch[0] / "report.html").read_text(encoding="utf-8")
        assert "data:image" not in text
        assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", text)
        policy = re.search(r'Content-Security-Policy" content="([^"]+)"', text).group(1)
        rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
        assert rules["default-src"] == "'none'"
        assert rules["img-src"] == "'self' file:"
        (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert rules["script-src"] == f"'sha256-{digest}'"

    def test_names_and_reasons_stay_text(self, tmp_path):
        found = records(30, tmp_path)
        found[0]["id"] = found[17]["id"] = EVIL
        found[17]["reason"] = f"{EVIL} cannot be read."
        found[1]["measures"][f"dice_{EVIL}_after"] = 0.5
        document = Document(render_page(found, tmp_path, [{"id": "a", "method": EVIL, "checkpoint": EVIL}]))
        assert len(document.all("script")) == 1
        assert f"{EVIL} cannot be read." in "".join(document.text)
        assert document.tables[0][2][0]["text"] == EVIL


class TestOtherBatches:
    def test_all_failed(self, tmp_path):
        found = [r for r in records(60, tmp_path) if r["status"] == "failed"]
        document = Document(render_page(found, tmp_path))
        assert [row[1]["text"] for row in document.tables[0][2:]] == ["failed"] * 2
        assert not document.all("svg")

    def test_one_pair_and_none(self, tmp_path):
        Document(render_page(records(1, tmp_path), tmp_path))
        assert "No pairs" not in render_page(records(1, tmp_path), tmp_path)
        Document(render_page([], tmp_path))

    def test_numbers_that_do_not_exist(self, tmp_path):
        found = records(3, tmp_path)
        for record in found:
            record["measures"] = {"tre_after_mm": float("nan")}
            record["seconds"] = {}
        document = Document(render_page(found, tmp_path))
        assert all(cell["value"] is None for row in document.tables[0][2:] for cell in row)

    def test_pairs_that_were_not_reached_tell_why(self, tmp_path):
        found = records(4, tmp_path)
        for record in found[2:]:
            record.update(status="skipped", reason="the run was cancelled before it", folder=None, measures={})
        said = "".join(Document(render_page(found, tmp_path)).text)
        assert "2 pairs not reached: the run was cancelled before it. The same command goes on from there." in said

    def test_a_thousand_pairs_are_small_and_quick(self, tmp_path):
        found = records(1000, tmp_path)
        began = time.perf_counter()
        text = render_page(found, tmp_path)
        assert time.perf_counter() - began < 3
        assert len(text.encode()) < 1.2e6


class TestRealRun:
    def test_pictures_are_linked_and_the_page_agrees_with_the_table(self, tmp_path):
        write_images(tmp_path)
        (tmp_path / "bad.nrrd").write_bytes(b"NRRD0004\ntype: short\n")
        given = [
            {**row, "fixed": str(tmp_path / row["fixed"]), "moving": str(tmp_path / row["moving"])} for row in rows(3)
        ]
        given[1]["moving"] = str(tmp_path / "bad.nrrd")
        output = tmp_path / "out"
        assert [r.status for r in run_batch(given, output, pictures=True)] == ["done", "failed", "done"]
        document = Document((output / "report.html").read_text(encoding="utf-8"))
        links = [a["href"] for a in document.all("a")]
        for name in ("p00", "p02"):
            assert f"pairs/{name}/pictures/checkerboard-after-axial.png" in links
        assert all((output / link).is_file() for link in links)
        (groups,) = [a["data-pictures"] for a in document.all("div") if "data-pictures" in a]
        drawn = {path.stem for path in (output / "pairs/p00/pictures").iterdir()}
        assert set(re.findall(r'\["([a-z-]+)", "', groups)) == drawn
        assert {f"warped-{plane}" for plane in PLANES} <= drawn
        with open(output / "results.csv", newline="", encoding="utf-8") as file:
            table = {row["id"]: row for row in csv.DictReader(file)}
        column = columns_of(output / "report.html").index("Similarity (LNCC), after")
        shown = {row[0]["text"]: row for row in document.tables[0][2:]}
        assert shown["p00"][column]["value"] == float(table["p00"]["similarity_after"])
        assert shown["p01"][2]["text"] == table["p01"]["reason"]

    def test_reports_of_pairs_are_written_and_linked_if_asked(self, tmp_path):
        write_images(tmp_path)
        (given,) = [
            {**row, "fixed": str(tmp_path / row["fixed"]), "moving": str(tmp_path / row["moving"])} for row in rows(1)
        ]
        output = tmp_path / "out"
        assert [r.status for r in run_batch([given], output)] == ["done"]
        assert "report.html" not in {path.name for path in (output / "pairs/p00").iterdir()}
        # What was asked for is missing, so that the pair is not complete; then it is.
        assert [r.status for r in run_batch([given], output, reports=True)] == ["done"]
        assert [r.status for r in run_batch([given], output, reports=True)] == ["kept"]
        assert not (output / "pairs/p00/pictures").exists()
        report = Document((output / "pairs/p00/report.html").read_text(encoding="utf-8"))
        assert "Pair p00" in report.text
        assert len([a for a in report.all("img") if a["src"].startswith("data:image/png")]) > 10
        links = [a["href"] for a in Document((output / "report.html").read_text(encoding="utf-8")).all("a")]
        assert "pairs/p00/report.html" in links

    def test_it_is_there_after_a_run_that_was_stopped(self, tmp_path):
        write_images(tmp_path)
        given = [
            {**row, "fixed": str(tmp_path / row["fixed"]), "moving": str(tmp_path / row["moving"])} for row in rows(4)
        ]
        running = run_batch(given, tmp_path / "out", **FAST)
        next(running)
        running.close()
        document = Document((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
        found = [row[1]["text"] for row in document.tables[0][2:]]
        assert found[0] == "done"
        assert found[-1] == "skipped"
