"""The panel's ``.ui`` files, icon and description: what Slicer will find."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
import SimpleITK as sitk
from panel_cases import PANEL, ROOT, UI, slicer

# Qt's own containers and layouts, which no pointer rests on.
_WITHOUT_TOOLTIP = {"qMRMLWidget"}
_WITH_SCENE = {"qMRMLNodeComboBox"}
_TREES = {path.name: ElementTree.parse(path).getroot() for path in sorted(UI.glob("*.ui"))}
_WIDGETS = {element.get("name"): element for tree in _TREES.values() for element in tree.iter("widget")}


def test_every_widget_that_the_code_addresses_exists():
    addressed = set()
    for path in PANEL.glob("*.py"):
        addressed |= set(re.findall(r"\bui\.(\w+)", path.read_text(encoding="utf-8")))
    assert len(addressed) > 15
    assert addressed <= set(_WIDGETS)


def test_names_are_unique_over_all_files():
    assert len(_WIDGETS) == sum(len(list(tree.iter("widget"))) for tree in _TREES.values())


@pytest.mark.parametrize("name", _TREES)
class TestUi:
    def test_every_widget_has_a_tooltip(self, name):
        without = [
            element.get("name")
            for element in _TREES[name].iter("widget")
            if element.find("property[@name='toolTip']") is None and element.get("class") not in _WITHOUT_TOOLTIP
        ]
        assert without == []

    def test_the_scene_reaches_every_node_selector(self, name):
        tree = _TREES[name]
        selectors = {w.get("name") for w in tree.iter("widget") if w.get("class") in _WITH_SCENE}
        connected = {
            connection.findtext("receiver")
            for connection in tree.iter("connection")
            if connection.findtext("sender") == tree.find("widget").get("name")
            and connection.findtext("signal") == "mrmlSceneChanged(vtkMRMLScene*)"
            and connection.findtext("slot") == "setMRMLScene(vtkMRMLScene*)"
        }
        assert selectors == connected

    def test_custom_classes_are_declared(self, name):
        declared = {element.findtext("class") for element in _TREES[name].iter("customwidget")}
        used = {w.get("class") for w in _TREES[name].iter("widget") if not w.get("class").startswith("Q")}
        assert used == declared

    def test_labels_belong_to_their_fields(self, name):
        buddies = [label.find("property[@name='buddy']") for label in _TREES[name].iter("widget")]
        assert {buddy.findtext("cstring") for buddy in buddies if buddy is not None} <= set(_WIDGETS)


def test_the_module_describes_itself(panel):
    entry = slicer.modules.cyclereg
    assert entry.title == "CycleReg"
    assert entry.categories == ["Registration"]
    assert entry.contributors == ["CycleReg developers"]
    assert len(entry.helpText) > 100
    assert entry.acknowledgementText


def test_the_icon_is_what_slicer_expects():
    icon = sitk.ReadImage(str(ROOT / "CycleReg" / "Resources" / "Icons" / "CycleReg.png"))
    assert icon.GetSize() == (128, 128)
    # RGBA, clear at the corners and not everywhere.
    alpha = sitk.GetArrayFromImage(icon)[..., 3]
    assert alpha[0, 0] == alpha[-1, -1] == 0
    assert alpha.max() == 255
