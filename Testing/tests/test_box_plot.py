"""Box plots: statistics against NumPy and plain searching, and what is drawn, read back from the SVG alone."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from CycleRegLib.box_plot import box_plot, box_statistics

SVG = "{http://www.w3.org/2000/svg}"
numbers = st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=60)


def number(text: str) -> float:
    return float(text.replace("−", "-").split()[0])


class Drawing:
    """A plot as a reader sees it: values are found from positions by the axis's own texts."""

    def __init__(self, text: str) -> None:
        self.root = ET.fromstring(text)
        lines = [float(e.get("x1")[:-1]) for e in self.find("line", "grid")]
        places = [float(e.get("x")[:-1]) for e in self.find("text", "tick")]
        ticks = [number(e.text) for e in self.find("text", "tick")]
        assert len(ticks) >= 2
        assert set(places) <= set(lines)
        assert (places[0], places[-1]) == (min(lines), max(lines))
        self.slope, self.start = np.polyfit(places, ticks, 1)
        assert self.slope * np.array(places) + self.start == pytest.approx(ticks, abs=1e-3 * abs(ticks[-1] - ticks[0]))
        self.span = abs(ticks[-1] - ticks[0])
        self.groups = {
            next(e.text for e in g.iter(f"{SVG}text") if e.get("class") == "name"): g for g in self.find("g", "group")
        }

    def find(self, tag: str, kind: str, within: ET.Element | None = None) -> list[ET.Element]:
        root = self.root if within is None else within
        return [e for e in root.iter(SVG + tag) if e.get("class") == kind]

    def values(self, group: str, tag: str, kind: str, attribute: str) -> list[float]:
        found = [float(e.get(attribute)[:-1]) for e in self.find(tag, kind, self.groups[group])]
        return [self.slope * x + self.start for x in found]


@settings(max_examples=80, deadline=None)
@given(numbers)
def test_quartiles_are_numpys_and_every_value_is_in_reach_or_an_outlier(values):
    box = box_statistics(values)
    expected = np.percentile(values, [25, 50, 75])
    assert [box.q1, box.median, box.q3] == pytest.approx(expected, rel=1e-9, abs=1e-6)
    assert box.mean == pytest.approx(np.mean(values), rel=1e-9, abs=1e-6)
    assert box.low <= box.q1 <= box.median <= box.q3 <= box.high
    reach = 1.5 * (box.q3 - box.q1)
    beyond = [v for v in values if not box.q1 - reach <= v <= box.q3 + reach]
    assert sorted(v for v, _ in box.outliers) == sorted(beyond)
    assert all(values[place] == value for value, place in box.outliers)
    assert box.count == len(values)


def test_statistics_of_a_case_done_by_hand():
    box = box_statistics([1, 2, 3, 4, 5, 6, 7, 8, 30])
    assert (box.q1, box.median, box.q3) == (3, 5, 7)
    assert (box.low, box.high, box.outliers) == (1, 8, ((30.0, 8),))
    assert box.sd == pytest.approx(np.std([1, 2, 3, 4, 5, 6, 7, 8, 30], ddof=1))
    assert box_statistics([math.nan, math.inf]) is None
    assert box_statistics([math.nan, 2.0]).count == 1


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        (np.random.default_rng(1).gamma(2, 3, 200), None),
        (np.random.default_rng(2).normal(-4, 0.01, 50), None),
        (np.random.default_rng(3).uniform(0.7, 0.95, 20), (0.0, 1.0)),
        (1e-5 * np.arange(9), None),
        ([3.0], None),
        ([0.0, 0.0], None),
    ],
)
def test_everything_is_drawn_where_its_value_is(values, limits):
    drawing = Drawing(box_plot({"a": list(values), "b": [float(np.mean(values))]}, "mm", "A title", limits=limits))
    near = {"abs": 2e-3 * drawing.span}
    q1, median, q3 = np.percentile(values, [25, 50, 75])
    reach = 1.5 * (q3 - q1)
    inside = [v for v in values if q1 - reach <= v <= q3 + reach]
    beyond = [v for v in values if not q1 - reach <= v <= q3 + reach]
    assert drawing.values("a", "line", "median", "x1") == pytest.approx([median], **near)
    assert drawing.values("a", "svg", "mean", "x") == pytest.approx([np.mean(values)], **near)
    assert drawing.values("a", "line", "cap", "x1") == pytest.approx([min(inside), max(inside)], **near)
    assert sorted(drawing.values("a", "circle", "outlier", "cx")) == pytest.approx(sorted(beyond), **near)
    (box,) = drawing.find("rect", "box", drawing.groups["a"])
    left, share = float(box.get("x")[:-1]), float(box.get("width")[:-1])
    assert drawing.slope * left + drawing.start == pytest.approx(q1, **near)
    assert drawing.slope * (left + share) + drawing.start == pytest.approx(q3, **near)


def test_nothing_leaves_the_picture_and_limits_are_covered():
    drawing = Drawing(box_plot({"dice": [0.4, 0.8, 0.81, 0.82, 0.83]}, limits=(0.0, 1.0)))
    places = [
        float(e.get(key)[:-1]) for e in drawing.root.iter() for key in ("x", "x1", "x2", "cx") if "%" in e.get(key, "")
    ]
    assert all(0 <= place <= 100 for place in places)
    ticks = [number(e.text) for e in drawing.find("text", "tick")]
    assert (ticks[0], ticks[-1]) == (0, 1)


def test_units_title_and_numbers_can_be_read_and_heard():
    values = [1.0, 2.0, 2.0, 3.0, 50.0]
    root = Drawing(box_plot({"after": values}, "mm", "TRE", names={"after": list("abcde")})).root
    assert root.get("role") == "img"
    assert root[0].tag == f"{SVG}title"
    assert root[0].text == "TRE"
    assert "median 2.00 mm" in root[1].text
    assert [e.text for e in root.iter(f"{SVG}text") if e.get("class") == "tick"][-1].endswith(" mm")
    outlier = next(root.iter(f"{SVG}circle"))
    assert outlier[0].text == "e: 50.0 mm"


def test_ticks_do_not_run_into_each_other_where_the_plot_is_narrow():
    for values in ([0.001, 0.119], [0.0, 23456.0], [-0.0012, 0.0009], [101.1, 101.6]):
        drawing = Drawing(box_plot({"a": values}, "mm"))
        ticks = [(float(e.get("x")[:-1]) * 3.3, e.get("text-anchor"), e.text) for e in drawing.find("text", "tick")]
        # Seven pixels a letter, in a plot of 330.
        ends = []
        for x, anchor, text in ticks:
            left = x - {"start": 0, "middle": 0.5, "end": 1}[anchor] * 7 * len(text)
            ends += [left, left + 7 * len(text)]
        assert ends == sorted(ends), ticks


def test_a_group_without_numbers_is_named_and_others_are_drawn():
    drawing = Drawing(box_plot({"none": [math.nan], "some": [1, 2, 3]}))
    assert list(drawing.groups) == ["none", "some"]
    assert drawing.find("rect", "box", drawing.groups["none"]) == []
    with pytest.raises(ValueError, match="finite"):
        box_plot({"none": []})


def test_texts_from_outside_stay_texts():
    evil = '<script>alert(1)</script>"&'
    text = box_plot({evil: [1, 2, 3, 99]}, evil, evil, names={evil: [evil] * 4})
    drawing = Drawing(text)
    assert list(drawing.groups) == [evil]
    assert not list(drawing.root.iter(f"{SVG}script"))
