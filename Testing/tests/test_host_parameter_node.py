"""The stand-in of ``slicer.parameterNodeWrapper`` behaves as Slicer documents its own.

With ``CYCLEREG_SLICER_PYTHON`` (see ``Testing/host/own_files.py``) the same tests run on Slicer's own.
"""

from __future__ import annotations

import gc
from typing import Annotated, Any

import pytest
from panel_cases import add_volume, slicer

pytestmark = pytest.mark.usefixtures("scene")


@pytest.fixture
def scene(application):
    slicer.mrmlScene.Clear(0)


@pytest.fixture
def node(scene):
    return slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode")


def wrapper(annotations: dict[str, Any], **attributes: Any) -> type:
    """A parameter node class with those members; ``attributes`` are defaults and methods."""
    from slicer.parameterNodeWrapper import parameterNodeWrapper

    return parameterNodeWrapper(type("Parameters", (), {"__annotations__": annotations, **attributes}))


def within(kind: type, low: float, high: float) -> Any:
    from slicer.parameterNodeWrapper import WithinRange

    return Annotated[kind, WithinRange(low, high)]


class TestDefaults:
    def test_what_the_node_lacks_is_written_when_it_is_wrapped(self, node):
        from slicer.parameterNodeWrapper import Default

        volume = slicer.vtkMRMLVolumeNode
        members = {
            "method": str,
            "device": Annotated[str, Default("cpu")],
            "fresh": Annotated[int, Default(generator=lambda: 7)],
            "count": int,
            "factor": float,
            "on": bool,
            "volume": volume,
            "phases": list[volume],
        }
        node.SetParameter("count", "5")
        wrapped = wrapper(members, method="affine")(node)
        found = {name: wrapped.getValue(name) for name in members}
        assert found == {
            "method": "affine",
            "device": "cpu",
            "fresh": 7,
            "count": 5,
            "factor": 0.0,
            "on": False,
            "volume": None,
            "phases": [],
        }
        assert type(found["factor"]) is float
        assert {name: node.GetParameter(name) for name in ("method", "device", "fresh", "count", "on", "volume")} == {
            "method": "affine",
            "device": "cpu",
            "fresh": "7",
            "count": "5",
            "on": "False",
            "volume": "",
        }
        assert node.GetParameter("phases_len") == "0"

    def test_the_default_can_be_asked_for(self, node):
        wrapped = wrapper({"count": int, "factor": float}, factor=1.5)(node)
        wrapped.factor = 3.0
        assert (wrapped.default("factor").value, wrapped.default("count").value) == (1.5, 0)

    def test_a_default_is_checked_as_well(self, node):
        with pytest.raises(ValueError, match="0"):
            wrapper({"count": within(int, 1, 9)}, count=0)(node)

    def test_the_class_keeps_what_else_it_defines(self, node):
        cls = wrapper({"count": int}, count=2, double=lambda self: 2 * self.count)
        assert cls(node).double() == 4
        assert isinstance(cls(node), cls)

    def test_names_of_the_wrapper_are_reserved(self):
        with pytest.raises(ValueError, match="getValue"):
            wrapper({"getValue": int})

    def test_with_a_prefix_a_node_holds_it_more_than_once(self, node):
        cls = wrapper({"count": int, "phases": list[str]})
        first, second = cls(node, "first."), cls(node, "second.")
        first.count, second.count = 1, 2
        first.phases.append("a")
        assert (first.count, second.count) == (1, 2)
        assert (node.GetParameter("first.count"), node.GetParameter("second.count")) == ("1", "2")
        assert (list(first.phases), list(second.phases)) == (["a"], [])


class TestValues:
    @pytest.mark.parametrize(
        ("kind", "value", "text"),
        [(int, 12, "12"), (float, 0.25, "0.25"), (float, 3, "3"), (str, "ä b", "ä b"), (bool, True, "True")],
    )
    def test_they_are_texts_in_the_node(self, node, kind, value, text):
        wrapped = wrapper({"it": kind})(node)
        wrapped.it = value
        assert node.GetParameter("it") == text
        assert wrapped.it == value
        assert type(wrapped.it) is kind
        again = wrapper({"it": kind})(node)
        assert again.it == value

    def test_out_of_range_is_a_value_error_and_changes_nothing(self, node):
        wrapped = wrapper({"count": within(int, 0, 10)}, count=3)(node)
        for value in (0, 10):
            wrapped.count = value
        for value in (-1, 11):
            with pytest.raises(ValueError, match=str(value)):
                wrapped.count = value
        assert (wrapped.count, node.GetParameter("count")) == (10, "10")

    def test_minimum_maximum_and_choice(self, node):
        from slicer.parameterNodeWrapper import Choice, Maximum, Minimum

        members = {
            "low": Annotated[int, Minimum(2)],
            "high": Annotated[float, Maximum(0.5)],
            "one": Annotated[str, Choice(["a", "b"])],
        }
        wrapped = wrapper(members, low=2, high=0.5, one="b")(node)
        for name, value in (("low", 1), ("high", 0.6), ("one", "c")):
            with pytest.raises(ValueError, match=str(value)):
                wrapped.setValue(name, value)
        assert (wrapped.low, wrapped.high, wrapped.one) == (2, 0.5, "b")

    @pytest.mark.parametrize(("kind", "value"), [(int, 1.5), (int, "1"), (float, "1"), (str, 1), (bool, 1)])
    def test_another_type_is_a_type_error(self, node, kind, value):
        wrapped = wrapper({"it": kind})(node)
        with pytest.raises(TypeError):
            wrapped.it = value

    @pytest.mark.parametrize("kind", [int, float, str, bool])
    def test_none_is_a_value_error_before_anything_else_is_asked(self, node, kind):
        wrapped = wrapper({"it": within(kind, 0, 1) if kind in (int, float) else kind})(node)
        with pytest.raises(ValueError, match="None"):
            wrapped.it = None

    def test_an_unknown_name_is_a_value_error(self, node):
        wrapped = wrapper({"count": int})(node)
        for ask in (wrapped.getValue, wrapped.default, wrapped.dataType, lambda name: wrapped.setValue(name, 1)):
            with pytest.raises(ValueError, match="counts"):
                ask("counts")

    def test_the_type_of_a_member_is_the_annotated_one(self, node):
        annotation = within(int, 0, 10)
        assert wrapper({"count": annotation})(node).dataType("count") is annotation


class TestNodes:
    def test_a_node_is_a_reference(self, node):
        wrapped = wrapper({"volume": slicer.vtkMRMLVolumeNode})(node)
        wrapped.volume = volume = add_volume("A")
        assert node.GetNodeReference("volume") is volume
        assert wrapped.volume is volume
        wrapped.volume = None
        assert node.GetNodeReference("volume") is None
        assert wrapped.volume is None

    def test_a_node_of_another_class_is_a_type_error(self, node):
        wrapped = wrapper({"volume": slicer.vtkMRMLVolumeNode})(node)
        with pytest.raises(TypeError):
            wrapped.volume = node
        assert wrapped.volume is None

    def test_one_that_left_the_scene_is_forgotten_once_the_node_is_modified(self, node):
        wrapped = wrapper({"volume": slicer.vtkMRMLVolumeNode, "count": int})(node)
        wrapped.volume = add_volume("A")
        slicer.mrmlScene.RemoveNode(wrapped.volume)
        node.Modified()
        assert wrapped.volume is None


class TestLists:
    def test_a_list_writes_itself_whenever_it_is_changed(self, node):
        wrapped = wrapper({"names": list[str]})(node)
        wrapped.names = ["a", "b", "c"]
        wrapped.names.append("d")
        wrapped.names[0] = "z"
        del wrapped.names[1]
        wrapped.names += ["e"]
        assert wrapped.names == ["z", "c", "d", "e"]
        assert list(wrapper({"names": list[str]})(node).names) == ["z", "c", "d", "e"]
        assert [node.GetParameter(f"names_{i}") for i in range(4)] == ["z", "c", "d", "e"]
        wrapped.names.clear()
        assert node.GetParameter("names_len") == "0"
        assert not node.HasParameter("names_0")

    def test_nodes_in_a_list_are_references(self, node):
        volumes = [add_volume(name) for name in "AB"]
        wrapped = wrapper({"phases": list[slicer.vtkMRMLVolumeNode]})(node)
        wrapped.phases = volumes
        assert [node.GetNodeReference(f"phases_{i}") for i in range(2)] == volumes
        del wrapped.phases[0]
        assert wrapped.phases == volumes[1:]
        assert node.GetNodeReference("phases_1") is None

    def test_one_wrong_element_leaves_it_as_it_was(self, node):
        wrapped = wrapper({"counts": list[within(int, 0, 9)]})(node)
        wrapped.counts = [1, 2]
        with pytest.raises(ValueError, match="10"):
            wrapped.counts = [3, 4, 10]
        with pytest.raises(ValueError, match="11"):
            wrapped.counts.append(11)
        with pytest.raises(TypeError):
            wrapped.counts[0] = "5"
        assert list(wrapped.counts) == [1, 2]
        assert node.GetParameter("counts_len") == "2"
        assert not node.HasParameter("counts_2")

    def test_only_what_changes_it_adds_to_it(self, node):
        wrapped = wrapper({"names": list[str]})(node)
        with pytest.raises(NotImplementedError):
            wrapped.names + ["a"]
        assert wrapped.names == []


class TestCaching:
    def test_what_others_write_is_read(self, node):
        wrapped = wrapper({"count": int, "names": list[str]})(node)
        node.SetParameter("count", "8")
        assert wrapped.count == 8
        other = wrapper({"count": int, "names": list[str]})(node)
        other.names = ["a"]
        assert wrapped.names == ["a"]

    def test_values_are_kept_until_the_node_says_that_it_was_modified(self, node):
        wrapped = wrapper({"count": int})(node)
        with slicer.util.NodeModify(node):
            node.SetParameter("count", "8")
            assert wrapped.count == 0
        assert wrapped.count == 8
        assert wrapped.isCached("count")

    def test_who_is_told_of_a_change_reads_the_new_value(self, node):
        import vtk

        wrapped, seen = wrapper({"count": int, "other": int})(node), []
        tag = wrapped.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: seen.append((wrapped.count, wrapped.other)))
        wrapped.count = 3
        with slicer.util.NodeModify(wrapped):
            wrapped.count = 4
            wrapped.other = 5
        assert seen == [(3, 0), (4, 5)]
        wrapped.RemoveObserver(tag)
        wrapped.count = 6
        assert len(seen) == 2

    def test_after_the_scene_was_closed_defaults_are_back(self, application):
        node = slicer.vtkMRMLScriptedModuleNode()
        node.SetSingletonTag("Parameters")
        node = slicer.mrmlScene.AddNode(node)
        wrapped = wrapper({"count": int, "volume": slicer.vtkMRMLVolumeNode}, count=2)(node)
        wrapped.count, wrapped.volume = 9, add_volume("A")
        slicer.mrmlScene.Clear(0)
        node.Modified()
        assert (wrapped.count, wrapped.volume) == (2, None)

    def test_a_wrapper_that_nobody_holds_stops_listening(self, node):
        wrapped = wrapper({"count": int})(node)
        assert node.HasObserver("ModifiedEvent")
        del wrapped
        gc.collect()
        assert not node.HasObserver("ModifiedEvent")
