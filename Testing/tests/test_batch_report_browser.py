"""The page of a batch of 1,000 pairs in a real browser: opened, sorted, filtered, printed, its pictures followed."""

from __future__ import annotations

import functools
import http.server
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from batch_page_cases import KINDS, PLANES, records, write_batch
from browser import Browser, Page, browser, find_browser

pytestmark = pytest.mark.skipif(find_browser() is None, reason="Chromium is needed; Debian's package is chromium")

COUNT, PICTURES = 1000, 40
#: How long a person is made to wait at most, in milliseconds; a tenth to a third of it on two cores.
OPENING, SORTING, FILTERING = 3000, 1000, 1000
#: Do something, and tell how long it took until it could be seen.
TIMED = """new Promise(function (done) {
  var began = performance.now();
  %s;
  requestAnimationFrame(function () { setTimeout(function () { done(performance.now() - began); }, 0); });
})"""
SHOWN = "Array.from(document.querySelectorAll('.pairs tbody tr')).filter(r => !r.hidden)"


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    output = tmp_path_factory.mktemp("browser") / "many"
    output.mkdir()
    found = records(COUNT, output)
    return write_batch(output, found, PICTURES), found


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


@pytest.fixture
def page(batch: tuple[Path, list[dict]], chromium: Browser) -> Iterator[Page]:
    opened = chromium.open(batch[0].as_uri())
    yield opened
    assert opened.complaints() == []
    folder = batch[0].parent.as_uri() + "/"
    assert all(address.startswith(folder) for address in opened.requests())
    opened.close()


def ids(page: Page) -> list[str]:
    """The pairs that are shown, from top to bottom."""
    return page.run(f"{SHOWN}.map(r => r.cells[0].textContent)")


def head(label: str) -> str:
    """The button above a column."""
    return f'th[aria-label="{label}"] button'


def by(found: list[dict], key: str, descending: bool = False) -> list[str]:
    """The pairs in the order of a measure, those without it last, as they were."""
    have = [r for r in found if key in r["measures"]]
    have.sort(key=lambda r: r["measures"][key], reverse=descending)
    return [r["id"] for r in have] + [r["id"] for r in found if key not in r["measures"]]


def test_it_opens_quickly_and_asks_for_nothing_but_itself(batch, page):
    took = page.run("performance.getEntriesByType('navigation')[0].loadEventEnd")
    print(f"opened in {took:.0f} ms")
    assert took < OPENING
    assert page.requests() == [batch[0].as_uri()]
    assert ids(page) == [record["id"] for record in batch[1]]
    assert page.run("document.querySelector('output').textContent") == "1,000 pairs"


def test_sorting_by_a_number_and_back(batch, page):
    button = head("TRE, mm, after")
    for order, expected in (
        ("ascending", by(batch[1], "tre_after_mm")),
        ("descending", by(batch[1], "tre_after_mm", descending=True)),
    ):
        page.click(button)
        assert ids(page) == expected
        assert page.run("document.querySelectorAll('[aria-sort]').length") == 1
        assert page.run(f"document.querySelector('{button}').closest('th').getAttribute('aria-sort')") == order
    page.click(button)
    assert ids(page) == [record["id"] for record in batch[1]]
    assert page.run("document.querySelectorAll('[aria-sort]').length") == 0


def test_sorting_by_name_takes_numbers_as_numbers_and_by_status_keeps_the_order(batch, page):
    page.click("th[data-column='0'] button")
    found = ids(page)
    assert [name.split("_")[0] for name in found[::4]] == [f"P{n}" for n in range(1, COUNT // 4 + 1)]
    assert found[:4] == ["P1_arterial", "P1_late", "P1_native", "P1_venous"]
    page.click("th[data-column='1'] button")
    place = {name: n for n, name in enumerate(found)}
    statuses = {record["id"]: record["status"] for record in batch[1]}
    assert ids(page) == sorted(found, key=lambda name: (statuses[name], place[name]))


def test_sorting_with_the_keyboard(batch, page):
    page.run(f"document.querySelector('{head('TRE, mm, before')}').focus()")
    page.press("Tab")
    page.press("Enter", "\r")
    assert ids(page) == by(batch[1], "tre_after_mm")


def test_sorting_is_quick(page):
    for button in (head("TRE, mm, after"), head("Dice, before"), 'th[data-column="0"] button'):
        took = page.run(TIMED % f"document.querySelector('{button}').click()")
        print(f"sorted in {took:.0f} ms")
        assert took < SORTING


def test_filtering_by_what_became_of_pairs(batch, page):
    page.click("#show-failures")
    failed = [r for r in batch[1] if r["status"] == "failed"]
    assert ids(page) == [r["id"] for r in failed]
    reasons = page.run(f"{SHOWN}.map(r => r.querySelector('.reason').textContent)")
    assert all(said.startswith(r["reason"]) for said, r in zip(reasons, failed))
    page.click("label:has([value=kept])")
    assert ids(page) == [r["id"] for r in batch[1] if r["status"] == "kept"]


def test_filtering_by_words_in_names_and_reasons(batch, page):
    page.click("[type=search]")
    page.type("venous P12")
    expected = [r["id"] for r in batch[1] if "venous" in r["id"] and "P12" in r["id"]]
    assert ids(page) == expected
    assert page.run("document.querySelector('output').textContent") == f"{len(expected)} of 1,000 pairs"
    page.click(head("TRE, mm, after"))
    assert ids(page) == [name for name in by(batch[1], "tre_after_mm") if name in expected]
    page.run("document.querySelector('[type=search]').value = ''")
    took = page.run(
        TIMED % "document.querySelector('[type=search]').dispatchEvent(new Event('input', {bubbles: true}))"
    )
    print(f"filtered in {took:.0f} ms")
    assert took < FILTERING
    assert len(ids(page)) == COUNT
    page.click("[type=search]")
    page.type("ends before its last slice")
    assert len(ids(page)) == 25
    page.type(" and nothing fits")
    assert page.run("document.getElementById('nothing').hidden") is False


def test_pictures_of_a_pair_are_shown_together_and_the_next_in_the_tables_order(batch, page):
    page.click(head("TRE, mm, after"))
    page.click(head("TRE, mm, after"))
    with_pictures = {r["id"] for r in [r for r in batch[1] if r["folder"]][:PICTURES]}
    order = [name for name in by(batch[1], "tre_after_mm", descending=True) if name in with_pictures]
    page.click("a[data-pictures]")
    loaded = "Array.from(document.querySelectorAll('dialog img')).filter(i => i.naturalWidth > 0).length"
    assert page.run("document.querySelector('dialog').open")
    assert page.run("document.querySelector('dialog h2').textContent") == order[0]
    sources = page.run("Array.from(document.querySelectorAll('dialog img')).map(i => i.src)")
    folder = (batch[0].parent / "pairs" / order[0] / "pictures").as_uri()
    assert sorted(sources) == sorted(f"{folder}/{kind}-{plane}.png" for kind in KINDS for plane in PLANES)
    page.until(lambda: page.run(loaded) >= len(PLANES), "a picture")
    page.press("ArrowRight")
    assert page.run("document.querySelector('dialog h2').textContent") == order[1]
    page.press("ArrowLeft")
    page.press("ArrowLeft")
    assert page.run("document.querySelector('dialog h2').textContent") == order[0]
    page.press("Escape")
    assert not page.run("document.querySelector('dialog').open")
    page.click("a[data-pictures]")
    page.click("dialog .shot")
    page.until(lambda: page.run("document.contentType") == "image/png", "the picture itself")
    assert page.run("location.href").startswith(f"{folder}/fixed-")


def test_it_works_from_a_server_too(batch, chromium):
    """As in a notebook's file browser."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(batch[0].parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = chromium.open(f"http://127.0.0.1:{server.server_port}/report.html")
        page.click("a[data-pictures]")
        page.until(lambda: page.run("(document.querySelector('dialog img') || {}).naturalWidth"), "a picture")
        server.shutdown()
    assert [text for text in page.complaints() if "favicon" not in text and "404" not in text] == []
    page.close()


def test_without_scripts_everything_can_be_read(batch, chromium):
    page = chromium.open("about:blank")
    page.ask("Emulation.setScriptExecutionDisabled", value=True)
    page.go(batch[0].as_uri())
    assert len(ids(page)) == COUNT
    assert page.run("document.getElementById('controls').hidden")
    assert page.run("document.querySelector('a[data-pictures]').href").endswith("checkerboard-after-axial.png")
    page.close()


@pytest.mark.parametrize(("width", "dark"), [(1440, False), (1440, True), (390, False)])
def test_nothing_is_cut_off_or_out_of_line(batch, chromium, width, dark):
    page = chromium.open(batch[0].as_uri(), width, 900, dark)
    assert page.run("document.documentElement.scrollWidth") <= width
    if width > 1200:
        assert (
            page.run("(function (a) { return a.scrollWidth - a.clientWidth; })(document.getElementById('pairs'))") == 0
        )
    # Texts of headings end where the numbers below them do.
    off = page.run("""
      Array.from(document.querySelectorAll('th[data-kind=number]')).map(function (head) {
        var row = document.querySelector('.pairs tbody tr'), range = document.createRange();
        function right(e) { range.selectNodeContents(e); return range.getBoundingClientRect().right; }
        return Math.abs(right(head.querySelector('button')) - right(row.cells[Number(head.dataset.column)]));
      })""")
    assert max(off) < 1
    # The heading stays in sight, and so do names when the table is moved aside.
    page.run("(function (a) { a.scrollTop = 5000; a.scrollLeft = 300; })(document.getElementById('pairs'))")
    where = page.run("""(function (a) {
      var box = a.getBoundingClientRect(), head = a.querySelector('thead').getBoundingClientRect();
      var name = a.querySelector('tbody th').getBoundingClientRect();
      return [head.top - box.top, name.left - box.left];
    })(document.getElementById('pairs'))""")
    assert max(map(abs, where)) <= 2
    # In box plots no text leaves the picture or lies on another.
    beyond = page.run("""
      Array.from(document.querySelectorAll('svg.boxes')).reduce(function (sum, svg) {
        var frame = svg.getBoundingClientRect(), boxes = Array.from(svg.querySelectorAll('text')).map(function (text) {
          return text.getBoundingClientRect();
        });
        boxes.forEach(function (a, i) {
          if (a.left < frame.left - 1 || a.right > frame.right + 1 || a.bottom > frame.bottom + 1) sum += 1;
          boxes.slice(i + 1).forEach(function (b) {
            if (a.left < b.right && b.left < a.right && a.top < b.bottom - 2 && b.top < a.bottom - 2) sum += 1;
          });
        });
        return sum;
      }, 0)""")
    assert beyond == 0
    assert page.complaints() == []
    page.close()


def test_it_can_be_printed(batch, page, tmp_path):
    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext reads the print")
    page.pdf(tmp_path / "print.pdf")
    text = subprocess.run(
        ["pdftotext", "-layout", tmp_path / "print.pdf", "-"], capture_output=True, encoding="utf-8", check=True
    ).stdout
    assert all(record["id"] in text for record in batch[1])
    assert "Find pairs" not in text
    pages = text.split("\f")
    # Headings are on every page of the table.
    assert all("max. after" in sheet for sheet in pages if "P100_" in sheet or "P200_" in sheet)
