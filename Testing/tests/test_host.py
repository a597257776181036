"""The stand-in host itself: it behaves as Slicer's documentation says of Slicer.

With ``CYCLEREG_SLICER_PYTHON`` (see ``Testing/host/own_files.py``) the same tests run on Slicer's own Python files.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from panel_cases import add_volume, host, slicer

own_files = host.own_files

PROBE = """
import slicer
from slicer.ScriptedLoadableModule import *

events = []


class Probe(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        events.append(("made", parent.title, parent.categories, parent.dependencies))
        parent.title = "Probe"
        slicer.app.connect("startupCompleted()", lambda: events.append("started"))


class ProbeWidget(ScriptedLoadableModuleWidget):
    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        events.append("panel")
        slicer.app.connect("startupCompleted()", lambda: events.append("too late"))

    def enter(self):
        events.append("entered")


class ProbeLogic(ScriptedLoadableModuleLogic):
    pass


class ProbeTest(ScriptedLoadableModuleTest):
    def runTest(self, which="all"):
        self.delayDisplay("Testing")
        events.append((which, self.messageDelay))
"""


@pytest.fixture
def probe(application, tmp_path, monkeypatch):
    """A small module of Slicer's, in a file with an icon; not opened yet."""
    from PySide6 import QtGui

    slicer.mrmlScene.Clear(0)
    path = tmp_path / "Probe.py"
    path.write_text(PROBE, encoding="utf-8")
    icons = tmp_path / "Resources" / "Icons"
    icons.mkdir(parents=True)
    pixmap = QtGui.QPixmap(16, 16)
    pixmap.fill(QtGui.QColor("teal"))
    assert pixmap.save(str(icons / "Probe.png"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "Probe", raising=False)
    yield path
    sys.modules.pop("Probe", None)
    slicer.selfTests.pop("Probe", None)


@pytest.fixture
def sources(application, monkeypatch):
    """No sample data yet."""
    monkeypatch.setattr(slicer.modules, "sampleDataSources", {})
    return slicer.modules.sampleDataSources


def events() -> list:
    return sys.modules["Probe"].events


class TestStart:
    def test_the_entry_is_made_then_start_up_completes_then_the_panel_is_opened(self, probe):
        host.open_module("Probe", probe)
        assert events() == [("made", "", [], []), "started", "panel", "entered"]

    def test_who_asks_after_start_up_is_never_told(self, probe):
        host.open_module("Probe", probe)
        host.open_module("Probe", probe)
        assert events().count("started") == 2
        assert "too late" not in events()

    def test_a_module_is_known_by_its_name_in_lower_case(self, probe):
        widget = host.open_module("Probe", probe)
        assert slicer.modules.probe.title == "Probe"
        assert slicer.util.modulePath("Probe") == str(probe)
        assert slicer.modules.probe.widgetRepresentation() is widget.parent
        assert slicer.modules.ProbeWidget is widget
        assert type(slicer.modules.ProbeInstance).__name__ == "Probe"

    def test_icon_and_resources_lie_beside_the_module(self, probe):
        widget = host.open_module("Probe", probe)
        assert [(size.width(), size.height()) for size in slicer.modules.probe.icon.availableSizes()] == [(16, 16)]
        icon = probe.parent / "Resources" / "Icons" / "Probe.png"
        assert Path(slicer.modules.ProbeInstance.resourcePath("Icons/Probe.png")) == icon
        assert Path(widget.resourcePath("Icons/Probe.png")) == icon

    def test_a_panel_without_a_parent_makes_its_own_and_is_shown(self, probe):
        host.open_module("Probe", probe)
        del events()[:]
        widget = sys.modules["Probe"].ProbeWidget()
        assert events() == ["panel"]
        assert widget.parent.visible
        assert widget.layout is widget.parent.layout()
        widget.parent.deleteLater()

    def test_settings_are_not_the_users(self, application):
        import qt

        assert not Path(qt.QSettings().fileName()).is_relative_to(Path.home() / ".config")
        assert slicer.util.settingsValue("Developer/DeveloperMode", False) is False

    def test_reload_brings_the_new_code_into_the_same_place(self, probe):
        widget = host.open_module("Probe", probe)
        old = sys.modules["Probe"]
        widget.onReload()
        assert sys.modules["Probe"] is not old
        assert slicer.modules.ProbeWidget is not widget
        assert slicer.modules.ProbeWidget.parent is widget.parent
        # Of a reloaded module the panel alone is made again.
        assert events() == ["panel", "entered"]


class TestSelfTest:
    def test_it_is_found_under_the_modules_name_and_told_the_delay(self, probe):
        host.open_module("Probe", probe)
        slicer.selfTests["Probe"](msec=7, which="one")
        slicer.selfTests["Probe"]()
        assert events()[-2:] == [("one", 7), ("all", 100)]

    def test_it_is_the_one_that_was_imported_last(self, probe):
        host.open_module("Probe", probe).onReload()
        slicer.selfTests["Probe"]()
        assert events()[-1] == ("all", 100)

    def test_a_module_without_one_says_so(self, probe):
        host.open_module("Probe", probe)
        del sys.modules["Probe"].ProbeTest
        with pytest.raises(AssertionError, match="ProbeTest"):
            slicer.selfTests["Probe"]()


def test_the_panel_of_this_module_can_be_made_without_a_parent(panel):
    """As scripts do; Slicer's base class then sets it up before the module's own constructor is through."""
    alone = type(panel)()
    assert alone.parent.visible
    alone.ui.fixedSelector.setCurrentNode(add_volume("Portal"))
    assert alone.parameterNode.fixedNode.GetName() == "Portal"
    # It follows the scene, and is rid of it when it is done.
    slicer.mrmlScene.Clear(0)
    assert alone.ui.fixedSelector.currentNode() is None
    alone.cleanup()
    assert alone.Observations == []
    alone.parent.deleteLater()


class TestLogic:
    def test_one_parameter_node_for_the_scene(self, probe):
        host.open_module("Probe", probe)
        logic = sys.modules["Probe"].ProbeLogic()
        node = logic.getParameterNode()
        assert (node.GetSingletonTag(), node.GetAttribute("ModuleName"), node.GetName()) == ("Probe",) * 3
        assert logic.getParameterNode() is node
        assert logic.getAllParameterNodes() == [node]

    def test_closing_the_scene_empties_it_and_leaves_it_the_modules(self, probe):
        host.open_module("Probe", probe)
        logic = sys.modules["Probe"].ProbeLogic()
        node = logic.getParameterNode()
        node.SetParameter("x", "1")
        slicer.mrmlScene.Clear(0)
        assert logic.getParameterNode() is node
        assert (node.GetAttribute("ModuleName"), node.HasParameter("x")) == ("Probe", False)

    def test_any_number_where_the_module_wants_them(self, probe):
        host.open_module("Probe", probe)
        logic = sys.modules["Probe"].ProbeLogic()
        logic.isSingletonParameterNode = False
        first = logic.getParameterNode()
        second = slicer.mrmlScene.AddNode(logic.createParameterNode())
        assert first.GetSingletonTag() is None
        assert second.GetName() != first.GetName()
        assert logic.getAllParameterNodes() == [first, second]
        assert logic.getParameterNode() is first


ONE = {"category": "Probe", "uris": "https://example.org/one.nrrd", "fileNames": "one.nrrd", "nodeNames": "One"}


class TestSampleData:
    def test_a_source_is_kept_in_its_category_once(self, sources):
        import SampleData

        for _ in range(2):
            SampleData.SampleDataLogic.registerCustomSampleDataSource(sampleName="One", **ONE)
        SampleData.SampleDataLogic.registerCustomSampleDataSource(sampleName="Other", **ONE)
        assert [source.sampleName for source in sources["Probe"]] == ["One", "Other"]
        assert SampleData.SampleDataLogic.sampleDataSourcesByCategory() is sources
        assert SampleData.SampleDataLogic.sampleDataSourcesByCategory("Probe") is sources["Probe"]
        assert SampleData.SampleDataLogic.sampleDataSourcesByCategory("None") == []
        assert SampleData.SampleDataLogic.isSampleDataSourceRegistered("Probe", sources["Probe"][1])
        assert not SampleData.SampleDataLogic.isSampleDataSourceRegistered("None", sources["Probe"][1])

    def test_one_file_is_a_list_of_one(self, sources):
        import SampleData

        SampleData.SampleDataLogic.registerCustomSampleDataSource(sampleName="One", **ONE)
        (source,) = sources["Probe"]
        assert (source.uris, source.fileNames, source.nodeNames) == (
            ["https://example.org/one.nrrd"],
            ["one.nrrd"],
            ["One"],
        )
        assert (source.loadFileType, source.loadFiles, source.checksums) == (["VolumeFile"], [None], [None])
        assert source.sampleDescription == "One"

    def test_of_several_files_what_is_the_same_may_be_left_out(self, application):
        from SampleData import SampleDataSource

        source = SampleDataSource(uris=["u", "v", "w"], fileNames=["a.nrrd", "b.mrb", "c.zip"])
        assert source.nodeNames == source.checksums == source.loadFiles == [None] * 3
        assert source.loadFileType == [None, "SceneFile", "ZipFile"]
        named = SampleDataSource(uris=["u"], fileNames=["a.nrrd"], nodeNames=["A"])
        assert named.loadFileType == ["VolumeFile"]

    def test_what_does_not_fit_together_is_refused(self, application):
        from SampleData import SampleDataLogic, SampleDataSource

        with pytest.raises(ValueError, match="same length"):
            SampleDataSource(uris=["u", "v"], fileNames=["a", "b"], nodeNames=["A"])
        with pytest.raises(TypeError):
            SampleDataSource(sampleName="Without an address", fileNames=["a"], nodeNames=["A"], loadFileType=["x"])
        with pytest.raises(TypeError):
            SampleDataLogic.isSampleDataSourceRegistered("Probe", "One")

    def test_its_button_runs_the_downloader_with_the_source(self, sources):
        from SampleData import SampleDataLogic

        pressed = []
        SampleDataLogic.registerCustomSampleDataSource(sampleName="One", customDownloader=pressed.append, **ONE)
        host.click_sample_data("Probe", "One")
        assert pressed == sources["Probe"]

    def test_the_host_downloads_nothing(self, sources):
        from SampleData import SampleDataLogic

        SampleDataLogic.registerCustomSampleDataSource(sampleName="One", **ONE)
        with pytest.raises(NotImplementedError, match="no network"):
            host.click_sample_data("Probe", "One")


class TestOwnFiles:
    """Slicer's own files take the place of the stand-ins, each where a folder has it."""

    def test_every_module_is_the_one_that_the_environment_says(self, application):
        for name in own_files.NAMES:
            file = own_files.find(name)
            module = sys.modules.get(name)
            assert (None if file is None else str(file)) == getattr(module, "__file__", None), name
            if name.startswith("slicer.") and module is not None:
                assert getattr(slicer, name.split(".")[1]) is module

    def test_several_folders_are_searched_in_turn(self, application, tmp_path, monkeypatch):
        for folder in ("base", "modules", "empty"):
            (tmp_path / folder).mkdir()
        package = tmp_path / "base" / "slicer" / "parameterNodeWrapper"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (tmp_path / "modules" / "SampleData.py").touch()
        folders = os.pathsep.join(str(tmp_path / folder) for folder in ("empty", "base", "modules"))
        monkeypatch.setenv(own_files.VARIABLE, folders)
        assert own_files.find("slicer.parameterNodeWrapper") == package / "__init__.py"
        assert own_files.find("SampleData") == tmp_path / "modules" / "SampleData.py"
        assert own_files.find("slicer.ScriptedLoadableModule") is None

    def test_they_import_each_other_and_what_else_the_host_has(self, application, tmp_path, monkeypatch):
        (tmp_path / "slicer").mkdir()
        (tmp_path / "slicer" / "__init__.py").write_text("raise ImportError('Not to be imported')", encoding="utf-8")
        (tmp_path / "slicer" / "i18n.py").write_text("import qt\n\ntr = str.upper\n", encoding="utf-8")
        (tmp_path / "SampleData.py").write_text("from slicer.i18n import tr\n\nname = tr('here')\n", encoding="utf-8")
        for name in own_files.NAMES:
            monkeypatch.setitem(sys.modules, name, sys.modules.get(name))
        monkeypatch.setattr(slicer, "i18n", None, raising=False)
        monkeypatch.setenv(own_files.VARIABLE, str(tmp_path))
        own_files.load({})
        assert sys.modules["SampleData"].name == "HERE"
        assert slicer.i18n is sys.modules["slicer.i18n"]

    def test_a_folder_that_is_not_there_is_an_error(self, application, tmp_path, monkeypatch):
        monkeypatch.setenv(own_files.VARIABLE, str(tmp_path / "absent"))
        with pytest.raises(NotADirectoryError, match="absent"):
            own_files.find("SampleData")
