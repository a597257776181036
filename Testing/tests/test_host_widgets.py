"""The host's widgets: those of Slicer and CTK behave as documented, Qt's have the manners of PythonQt."""

from __future__ import annotations

from typing import Any

import pytest
from panel_cases import add_volume, host, slicer

UI = """<ui version="4.0"><class>Form</class>
<widget class="qMRMLWidget" name="Form"><layout class="QVBoxLayout">
 <item><widget class="ctkCollapsibleButton" name="section">
  <property name="text"><string>More</string></property><property name="collapsed"><bool>true</bool></property>
  <layout class="QVBoxLayout"><item><widget class="QSpinBox" name="steps">
   <property name="maximum"><number>7</number></property>
   <property name="SlicerParameterName" stdset="0"><string>steps</string></property>
  </widget></item></layout></widget></item>
 <item><widget class="qMRMLNodeComboBox" name="selector">
  <property name="nodeTypes"><stringlist><string>vtkMRMLTransformNode</string></stringlist></property>
  <property name="noneEnabled"><bool>true</bool></property>
 </widget></item>
 <item><widget class="ctkPathLineEdit" name="path">
  <property name="filters"><set>ctkPathLineEdit::Files</set></property>
 </widget></item>
</layout></widget>
<connections><connection><sender>Form</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
<receiver>selector</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection></connections></ui>"""


@pytest.fixture
def scene(application):
    slicer.mrmlScene.Clear(0)
    return slicer.mrmlScene


@pytest.fixture
def selector(scene):
    """A selector of volumes with "None", as yet without nodes."""
    return make_selector(noneEnabled=True)


def make_selector(*types: str, **properties: Any) -> Any:
    made = slicer.qMRMLNodeComboBox()
    made.nodeTypes = types or ("vtkMRMLScalarVolumeNode",)
    for name, value in properties.items():
        setattr(made, name, value)
    made.setMRMLScene(slicer.mrmlScene)
    return made


def listed(selector: Any) -> list[str]:
    return [selector.itemText(i) for i in range(selector.count)]


class TestPythonQt:
    def test_properties_are_attributes(self, application):
        import qt

        button = qt.QPushButton("Apply")
        button.enabled = False
        button.toolTip = "Not yet"
        button.name = "applyButton"
        assert (button.text, button.enabled, button.toolTip) == ("Apply", False, "Not yet")
        assert (button.name, button.objectName) == ("applyButton", "applyButton")
        # Functions that Qt calls itself stay functions.
        assert button.sizeHint().isValid()

    def test_signals_are_connected_by_their_signature_to_functions_of_any_length(self, application):
        import qt

        button, told = qt.QPushButton(), []
        button.checkable = True
        button.connect("clicked(bool)", told.append)
        button.connect("clicked()", lambda given="nothing": told.append(given))
        button.connect("clicked(bool)", lambda: told.append("less"))
        button.connect("clicked(bool)", lambda *all_: told.append(all_))
        button.clicked.connect(lambda: told.append("by attribute"))
        button.click()
        assert told == [True, "nothing", "less", (True,), "by attribute"]

    def test_a_class_is_the_same_every_time(self, application):
        import qt

        assert qt.QCheckBox is qt.QCheckBox
        assert type(qt.QCheckBox()) is qt.QCheckBox
        with pytest.raises(AttributeError, match="QNothing"):
            _ = qt.QNothing


class TestUserInterfaceFiles:
    def test_they_are_loaded_with_everything_in_its_place(self, scene, tmp_path):
        path = tmp_path / "Form.ui"
        path.write_text(UI, encoding="utf-8")
        widget = slicer.util.loadUI(str(path))
        ui = slicer.util.childWidgetVariables(widget)
        assert type(widget) is slicer.qMRMLWidget
        assert ui.section.text == "More"
        assert (ui.steps.maximum, ui.steps.property("SlicerParameterName")) == (7, "steps")
        assert list(ui.selector.nodeTypes) == ["vtkMRMLTransformNode"]
        assert not ui.selector.enabled
        widget.setMRMLScene(scene)
        assert ui.selector.mrmlScene() is scene
        assert ui.selector.enabled

    def test_a_missing_one_is_an_error(self, application, tmp_path):
        with pytest.raises(RuntimeError, match="not found"):
            slicer.util.loadUI(str(tmp_path / "Absent.ui"))


class TestNodeSelector:
    def test_nodes_of_its_types_come_and_go(self, selector):
        told = []
        selector.connect("currentNodeChanged(vtkMRMLNode*)", told.append)
        assert (listed(selector), selector.currentNode()) == (["None"], None)
        first, second = add_volume("A"), add_volume("B")
        slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "T")
        assert listed(selector) == ["None", "A", "B"]
        selector.setCurrentNode(second)
        slicer.mrmlScene.RemoveNode(first)
        assert listed(selector) == ["None", "B"]
        assert selector.currentNode() is second
        slicer.mrmlScene.RemoveNode(second)
        assert selector.currentNode() is None
        assert told == [second, None]

    def test_a_subclass_is_one_of_them_unless_told_otherwise(self, scene):
        add_volume("A")
        scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "L")
        assert listed(make_selector(noneEnabled=True)) == ["None", "A", "L"]
        assert listed(make_selector(noneEnabled=True, showChildNodeTypes=False)) == ["None", "A"]

    def test_hidden_nodes_are_left_out(self, scene):
        add_volume("A").SetHideFromEditors(True)
        assert listed(make_selector(noneEnabled=True)) == ["None"]
        assert listed(make_selector(noneEnabled=True, showHidden=True)) == ["None", "A"]

    def test_none_has_the_name_that_it_is_given(self, scene):
        assert listed(make_selector(noneEnabled=True, noneDisplay="Select a volume")) == ["Select a volume"]

    def test_without_none_there_is_always_a_node(self, scene):
        first, second = add_volume("A"), add_volume("B")
        selector = make_selector()
        assert listed(selector) == ["A", "B"]
        assert selector.currentNode() is first
        slicer.mrmlScene.RemoveNode(first)
        assert selector.currentNode() is second

    def test_with_an_attribute_only_nodes_that_have_it_are_listed_and_made(self, scene):
        kind = "vtkMRMLScriptedModuleNode"
        scene.AddNewNodeByClass(kind, "Of another module").SetAttribute("ModuleName", "Other")
        # Slicer hides these nodes.
        selector = make_selector(kind, noneEnabled=True, showHidden=True)
        selector.addAttribute(kind, "ModuleName", "Probe")
        assert listed(selector) == ["None"]
        node = selector.addNode()
        assert node.GetAttribute("ModuleName") == "Probe"
        assert selector.currentNode() is node

    def test_new_nodes_have_a_name_of_their_own(self, scene):
        selector = make_selector("vtkMRMLTransformNode", noneEnabled=True, baseName="Result")
        assert [selector.addNode().GetName() for _ in range(2)] == ["Result", "Result_1"]
        assert make_selector().addNode().GetName() == "Volume"

    def test_a_selector_that_is_gone_is_not_called_by_the_scene(self, scene):
        import shiboken6

        selector = make_selector()
        shiboken6.delete(selector)
        assert add_volume("A").GetScene() is scene


class TestControls:
    def test_a_section_folds_by_a_click_on_its_head(self, application):
        import ctk
        import qt
        from PySide6 import QtCore, QtTest

        section, told = ctk.ctkCollapsibleButton(), []
        inner = qt.QSpinBox()
        qt.QVBoxLayout(section).addWidget(inner)
        section.connect("contentsCollapsed(bool)", told.append)
        section.resize(200, 80)
        section.show()
        assert inner.visible
        QtTest.QTest.mouseClick(section, QtCore.Qt.LeftButton, pos=QtCore.QPoint(30, 10))
        assert (section.collapsed, inner.visible, told) == (True, False, [True])
        section.collapsed = True
        section.collapsed = False
        assert (inner.visible, told) == (True, [True, False])

    def test_a_path_tells_of_its_change_and_remembers_what_was_used(self, application):
        import ctk
        import qt

        line, told = ctk.ctkPathLineEdit(), []
        line.connect("currentPathChanged(QString)", told.append)
        line.currentPath = "/data/weights.pth"
        assert (line.currentPath, told) == ("/data/weights.pth", ["/data/weights.pth"])
        line.addCurrentPathToHistory()
        (box,) = line.findChildren(qt.QComboBox)
        assert (line.currentPath, box.itemText(0), box.count) == ("/data/weights.pth", "/data/weights.pth", 1)

    def test_a_path_that_no_filter_matches_is_taken_in_silence(self, application):
        import ctk

        line, told = ctk.ctkPathLineEdit(), []
        line.nameFilters = ["Checkpoints (*.safetensors *.pth)", "All files (*)"]
        line.connect("currentPathChanged(QString)", told.append)
        for path in ("/data/a.pth", "/data/a.bin", "/data/b.safetensors", ""):
            line.currentPath = path
            assert line.currentPath == path
        assert told == ["/data/a.pth", "/data/b.safetensors"]


class TestAppearance:
    def test_everything_is_as_before_afterwards(self, application):
        before = [application.font(), application.palette(), application.palette("QCheckBox")]
        with host.appearance(1.5, dark=True):
            assert application.font().pointSizeF() == pytest.approx(1.5 * before[0].pointSizeF())
            assert application.palette().window().color().lightness() < 80
        assert [application.font(), application.palette(), application.palette("QCheckBox")] == before

    @pytest.mark.parametrize("dark", [False, True])
    def test_the_frame_of_an_empty_check_box_is_seen(self, application, dark):
        """Alone and in a list: across its left edge there is a shade that neither inside nor outside has."""
        import qt
        from PySide6 import QtCore

        with host.appearance(1.0, dark):
            panel = qt.QWidget()
            box, items = qt.QCheckBox("", panel), qt.QListWidget()
            item = qt.QListWidgetItem("", items)
            item.setCheckState(QtCore.Qt.Unchecked)
            panel.resize(40, 20)
            box.resize(40, 20)
            items.resize(80, 40)
            for widget, y in ((panel, 10), (items.viewport(), items.visualItemRect(item).center().y())):
                picture = widget.grab().toImage()
                shades = [picture.pixelColor(x, y).lightness() for x in range(10)]
                assert max(shades) - min(shades) > 60, shades
                inside = picture.pixelColor(9, y).lightness()
                assert abs(picture.pixelColor(30, y).lightness() - inside) < 60
