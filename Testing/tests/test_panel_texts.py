"""What the module shows can be translated, and what it asks of Qt's, CTK's and Slicer's classes is there.

Read from the sources: what Slicer's translators get is what its tools find in them, and a signal or property that the
host's stand-ins take may be unknown to Slicer.
"""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest
from panel_cases import MODULE, PANEL, UI, slicer
from PySide6 import QtCore, QtWidgets

_FILES = [MODULE, *sorted(PANEL.glob("*.py"))]
_SOURCES = {path.name: path.read_text(encoding="utf-8") for path in _FILES}
_TREES = {path.name: ElementTree.parse(path).getroot() for path in sorted(UI.glob("*.ui"))}
_CLASSES = {w.get("name"): w.get("class") for tree in _TREES.values() for w in tree.iter("widget")}

# The product's name is the same in every language.
_NAMES = {"CycleReg"}
_SHOWN = {"text", "toolTip", "plainText", "windowTitle", "title", "helpText", "acknowledgementText", "statusTip"}
# Which arguments of a function are shown to the user.
_SHOWING = {
    "say": (0,), "_say": (0,), "fail": (0,), "_fail": (0,), "addItem": (0,), "setItemText": (1,), "setItemData": (1,),
    "setToolTip": (0,), "setText": (0,), "setWindowTitle": (0,), "setHorizontalHeaderLabels": (0,),
    "QListWidgetItem": (0,), "QTableWidgetItem": (0,), "QLabel": (0,), "QPushButton": (0,),
    "errorDisplay": (0,), "warningDisplay": (0,), "infoDisplay": (0,), "confirmOkCancelDisplay": (0,),
    "confirmYesNoDisplay": (0,), "getExistingDirectory": (1,), "getSaveFileName": (1, 3), "getOpenFileName": (1, 3),
}  # fmt: skip
_SHOWING_KEYWORDS = {"text", "windowTitle", "detailedText", "caption", "filter"}

# Signals and properties of the classes that Qt does not have, as their headers declare them.
_SIGNALS = {
    "qMRMLWidget": {"mrmlSceneChanged(vtkMRMLScene*)"},
    "qMRMLNodeComboBox": {
        "currentNodeChanged(vtkMRMLNode*)", "currentNodeChanged(bool)", "currentNodeIDChanged(QString)",
        "nodeActivated(vtkMRMLNode*)", "nodeAdded(vtkMRMLNode*)", "nodeAboutToBeEdited(vtkMRMLNode*)",
    },
    "ctkCollapsibleButton": {"contentsCollapsed(bool)"},
    "ctkPathLineEdit": {"currentPathChanged(QString)", "validInputChanged(bool)"},
}  # fmt: skip
_PROPERTIES = {
    "qMRMLWidget": set(),
    "qMRMLNodeComboBox": {
        "nodeTypes", "showHidden", "showChildNodeTypes", "hideChildNodeTypes", "baseName", "noneEnabled", "addEnabled",
        "removeEnabled", "editEnabled", "renameEnabled", "interactionNodeSingletonTag", "selectNodeUponCreation",
        "noneDisplay", "sizeAdjustPolicy",
    },
    "ctkCollapsibleButton": {"collapsed", "collapsedHeight", "contentsFrameShape", "contentsFrameShadow"},
    "ctkPathLineEdit": {
        "label", "filters", "currentPath", "options", "settingKey", "showBrowseButton", "showHistoryButton",
        "sizeAdjustPolicy", "minimumContentsLength", "nameFilters",
    },
}  # fmt: skip
_PATH_LINE_VALUES = {"Files", "Readable", "AdjustToMinimumContentsLength"}
_BASES = {"ctkCollapsibleButton": "QAbstractButton"}
# Signals that Qt 6 has and Qt 5.15, which Slicer 5.8 is built with, has not.
_ONLY_QT6 = {"checkStateChanged(Qt::CheckState)", "textHighlighted(QString)", "textActivated(QString)"}
# What Qt's loader knows of a class besides its properties.
_LOADED = {"QLabel": {"buddy"}}
# Settings that are no text, although they are written as one.
_NOT_TRANSLATED = {"nodeTypes", "SlicerParameterName", "settingKey"}


# ---------------------------------------------------------------------- texts in the code


def translations(tree: ast.AST) -> list[ast.Call]:
    """The calls of ``_``."""
    return [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "_"]


def untranslatable(source: str) -> list[str]:
    """Calls of ``_`` that Slicer's tools would not find, or not whole.

    They look for ``_(`` and a quotation mark, and take all up to the next such mark before a closing parenthesis.
    Literals that follow each other are one text, if all are written with the same mark.
    """
    found = []
    for call in translations(ast.parse(source)):
        text = ast.get_source_segment(source, call)
        literal = len(call.args) == 1 and not call.keywords and isinstance(call.args[0], ast.Constant)
        begin = re.match(r"_\(\s*([\"'])(?!\1)", text)
        if not literal or not isinstance(call.args[0].value, str) or begin is None:
            found.append(f"line {call.lineno}: not one plain literal: {text}")
            continue
        end = re.search(begin.group(1) + r"\s*\)", text[begin.end() :])
        if end is None or begin.end() + end.end() != len(text):
            found.append(f"line {call.lineno}: its end is not found: {text}")
    return found


def literals(node: ast.AST | None) -> Iterator[str]:
    """The literal texts that an expression may have for its value, as a whole or in part; not what ``_`` translates."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        for part in node.values:
            yield from literals(part)
    elif isinstance(node, (ast.IfExp, ast.BoolOp, ast.BinOp, ast.List, ast.Tuple, ast.NamedExpr)):
        condition = node.test if isinstance(node, ast.IfExp) else None
        for part in ast.iter_child_nodes(node):
            if part is not condition:
                yield from literals(part)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        # Of "...".format(...) and ", ".join([...]).
        yield from literals(node.func.value)
        if node.func.attr == "join":
            for part in node.args:
                yield from literals(part)


def shown(node: ast.AST) -> Iterator[ast.AST | None]:
    """The expressions whose value a statement shows to the user."""
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(target, ast.Attribute) and target.attr in _SHOWN for target in targets):
            yield node.value
    elif isinstance(node, ast.Call):
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        for position in _SHOWING.get(name, ()):
            yield from node.args[position : position + 1]
        if name in _SHOWING:
            yield from (keyword.value for keyword in node.keywords if keyword.arg in _SHOWING_KEYWORDS)
    elif isinstance(node, ast.FunctionDef) and node.name.lower().endswith("problem"):
        # What keeps something from being done is shown as a tool tip.
        yield from (inner.value for inner in ast.walk(node) if isinstance(inner, ast.Return))


def untranslated(source: str) -> list[str]:
    """Texts for the user that are not given to ``_``."""
    return [
        f"line {node.lineno}: {text!r}"
        for node in ast.walk(ast.parse(source))
        for value in shown(node)
        for text in literals(value)
        if re.search(r"[^\W\d_]", text) and text not in _NAMES
    ]


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def unfilled(source: str) -> list[str]:
    """Calls of ``_`` whose placeholders are not what ``format`` is given, at once or later in the same function."""
    tree = ast.parse(source)
    formats = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "attr", "") == "format"]
    given = {id(call): {keyword.arg for keyword in call.keywords} for call in formats}
    direct = {id(call.func.value): call for call in formats}
    found = []
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    for call in translations(tree):
        wanted = placeholders(call.args[0].value)
        if id(call) in direct:
            ok = given[id(direct[id(call)])] == wanted and not direct[id(call)].args
        else:
            around = [f for f in functions if f.lineno <= call.lineno <= (f.end_lineno or f.lineno)]
            inside = [n for f in around for n in ast.walk(f) if id(n) in given]
            ok = not wanted or any(given[id(n)] == wanted for n in inside)
        if not ok:
            found.append(f"line {call.lineno}: {sorted(wanted)} in {call.args[0].value!r}")
    return found


@pytest.mark.parametrize("name", _SOURCES)
class TestTexts:
    def test_every_text_is_found_by_slicers_tools(self, name):
        assert untranslatable(_SOURCES[name]) == []

    def test_every_text_for_the_user_is_translatable(self, name):
        assert untranslated(_SOURCES[name]) == []

    def test_placeholders_are_filled(self, name):
        assert unfilled(_SOURCES[name]) == []


@pytest.mark.parametrize(
    ("check", "source"),
    [
        (untranslatable, '_(f"{count} images")'),
        (untranslatable, '_("one " + name)'),
        (untranslatable, '_("one", "two")'),
        (untranslatable, "_(text)"),
        (untranslatable, '_("a text",)'),
        (untranslatable, '_(\'"{name}" is none; \'\n  "take another.")'),
        (untranslatable, '_("say \\"no\\")")'),
        (untranslated, 'self.ui.label.text = "Ready"'),
        (untranslated, 'self.ui.label.toolTip = problem or f"Press {key}"'),
        (untranslated, 'self.ui.label.text = _("Ready") if done else "Busy"'),
        (untranslated, 'panel.say("{n} done".format(n=n))'),
        (untranslated, 'panel.fail("No " + name)'),
        (untranslated, 'combo.addItem("None", "none")'),
        (untranslated, 'item = qt.QListWidgetItem("None")'),
        (untranslated, 'slicer.util.errorDisplay(message, windowTitle="Trouble")'),
        (untranslated, 'qt.QFileDialog.getSaveFileName(parent, _("Save"), name, "Tables (*.csv)")'),
        (untranslated, 'def problem(self):\n    return "No volume."'),
        (unfilled, '_("{a} and {b}").format(a=1)'),
        (unfilled, '_("{a}").format(a=1, b=2)'),
        (unfilled, '_("{}").format(1)'),
        (unfilled, 'def f():\n    text = _("{a}")\n    return text'),
    ],
)
def test_what_is_wrong_is_found(check, source):
    assert len(check(source)) == 1


def test_what_is_right_is_let_pass():
    source = (
        'def f(self):\n    question = _("Take {a}?")\n    self.say(question.format(a="x"))\n'
        '    self.ui.label.text = problem or _("one "\n "text")\n    self.ui.label.text = f"{name}: {value}"\n'
        '    combo.addItem(device.name, "cpu")\n    errorDisplay(text, windowTitle="CycleReg")\n'
    )
    assert untranslatable(source) == untranslated(source) == unfilled(source) == []


# ---------------------------------------------------------------------- signals


def meta_of(name: str) -> QtCore.QMetaObject:
    """Of a Qt class, or of the one that a class of CTK's or Slicer's inherits from."""
    return getattr(QtWidgets, name if name.startswith("Q") else _BASES.get(name, "QWidget")).staticMetaObject


def has_signal(name: str, signature: str) -> bool:
    """Whether a class has that signal, in Qt 5.15 and in Qt 6, and it is written as Qt writes it."""
    if signature in _SIGNALS.get(name, ()):
        return True
    if signature in _ONLY_QT6 or QtCore.QMetaObject.normalizedSignature(signature) != signature.encode():
        return False
    return meta_of(name).indexOfSignal(signature) >= 0


def senders(tree: ast.AST, sender: ast.AST) -> set[str]:
    """The names of the widgets that an expression may mean: ``ui.name``, ``getattr(ui, f"...")``, a local name."""
    if isinstance(sender, ast.Attribute):
        return {sender.attr}
    if isinstance(sender, ast.Call) and getattr(sender.func, "id", "") == "getattr":
        parts = sender.args[1].values if isinstance(sender.args[1], ast.JoinedStr) else [sender.args[1]]
        pattern = "".join(re.escape(part.value) if isinstance(part, ast.Constant) else r"\w+" for part in parts)
        return {name for name in _CLASSES if re.fullmatch(pattern, name)}
    if not isinstance(sender, ast.Name):
        return set()
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and sender.id in _names(node.targets):
            found |= {node.value.attr} if isinstance(node.value, ast.Attribute) else set()
        elif isinstance(node, ast.For) and sender.id in _names([node.target]):
            found |= {inner.attr for inner in ast.walk(node.iter) if getattr(inner, "attr", None) in _CLASSES}
    return found


def _names(targets: list[ast.expr]) -> set[str]:
    return {inner.id for target in targets for inner in ast.walk(target) if isinstance(inner, ast.Name)}


def connections(source: str) -> Iterator[tuple[int, set[str], str]]:
    """Line, names of the senders and signature of every signal that is connected by its signature."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "connect" and len(node.args) == 2:
            signal = node.args[0]
            if isinstance(signal, ast.Constant):
                yield node.lineno, senders(tree, node.func.value), signal.value


def unknown_signals(source: str) -> list[str]:
    """Connections whose sender is not a widget of the panel or has no such signal."""
    return [
        f"line {line}: {signature} of {name or 'nobody'}"
        for line, names, signature in connections(source)
        for name in sorted(names) or [""]
        if name not in _CLASSES or not has_signal(_CLASSES[name], signature)
    ]


@pytest.mark.parametrize("name", [path.name for path in _FILES if path != MODULE])
def test_every_signal_is_one_of_its_widget(name):
    assert unknown_signals(_SOURCES[name]) == []


def test_every_button_is_connected():
    names = {name for source in _SOURCES.values() for _, senders, _ in connections(source) for name in senders}
    buttons = {name for name, kind in _CLASSES.items() if kind == "QPushButton"}
    assert buttons <= names


@pytest.mark.parametrize(
    "source",
    [
        'self.ui.applyButton.connect("clicked( bool )", f)',
        'self.ui.applyButton.connect("pressed(bool)", f)',
        'self.ui.fixedSelector.connect("currentNodeChanged(vtkMRMLNode *)", f)',
        'self.ui.noSuchButton.connect("clicked(bool)", f)',
        'ui.carryList.connect("itemChanged(QTableWidgetItem*)", f)',
        'ui.deviceComboBox.connect("currentIndexChanged(QString)", f)',
        'ui.organSlicesCheckBox.connect("checkStateChanged(Qt::CheckState)", f)',
        'line = ui.checkpointPathLineEdit\nline.connect("currentPathChanged(const QString&)", f)',
        'for button in (ui.applyButton, ui.carryList):\n    button.connect("clicked(bool)", f)',
        'widgets[0].connect("clicked(bool)", f)',
    ],
)
def test_a_wrong_signal_is_found(source):
    assert len(unknown_signals(source)) == 1


def test_bindings_know_the_signals_of_their_widgets():
    tree = ast.parse(_SOURCES["Bindings.py"])
    kinds = next(n.value for n in ast.walk(tree) if isinstance(n, ast.AnnAssign) and n.target.id == "_KINDS")
    signals = {kind.value: entry.elts[0].value for kind, entry in zip(kinds.keys, kinds.values)}
    bound = {
        w.get("class")
        for t in _TREES.values()
        for w in t.iter("widget")
        if w.find("property[@name='SlicerParameterName']") is not None
    }
    assert bound <= set(signals)
    assert [kind for kind, signal in signals.items() if not has_signal(kind, signal)] == []
    inner = [n.args[1].value for n in ast.walk(tree) if getattr(getattr(n, "func", None), "attr", "") == "_connect"
             and isinstance(n.args[1], ast.Constant)]  # fmt: skip
    assert inner
    assert all(has_signal("QComboBox", signal) for signal in inner)


def test_signals_that_are_attributes_are_those_of_a_process():
    tree = ast.parse(_SOURCES["Worker.py"])
    connected = {
        node.func.value.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "connect" and len(node.args) == 1
    }
    meta = QtCore.QProcess.staticMetaObject
    methods = [meta.method(i) for i in range(meta.methodCount())]
    signals = {bytes(m.name()).decode() for m in methods if m.methodType() == QtCore.QMetaMethod.Signal}
    assert {"finished", "errorOccurred"} <= connected <= signals


# ---------------------------------------------------------------------- .ui files


def unknown_properties(tree: ElementTree.Element) -> list[str]:
    """Properties that a file sets and the class of the widget does not have, and values that it does not know."""
    found = []
    for widget in tree.iter("widget"):
        kind = widget.get("class")
        meta, others = meta_of(kind), _PROPERTIES.get(kind, set()) | _LOADED.get(kind, set())
        for given in widget.findall("property"):
            name = given.get("name")
            index = meta.indexOfProperty(name)
            # Those that are written with stdset="0" are the file's own.
            if given.get("stdset") != "0" and index < 0 and name not in others:
                found.append(f"{widget.get('name')}: {name}")
            values = re.findall(r"\w+(?=\||$)", given.findtext("set") or given.findtext("enum") or "")
            if index >= 0 and name not in others:
                enumerator = meta.property(index).enumerator()
                known = {enumerator.key(i) for i in range(enumerator.keyCount())}
            else:
                known = _PATH_LINE_VALUES
            found += [f"{widget.get('name')}: {name} {value}" for value in values if value not in known]
    return found


@pytest.mark.parametrize("name", _TREES)
class TestUi:
    def test_every_property_is_one_of_its_class(self, name):
        assert unknown_properties(_TREES[name]) == []

    def test_custom_classes_have_the_headers_of_their_names(self, name):
        for custom in _TREES[name].iter("customwidget"):
            assert custom.findtext("header") == f"{custom.findtext('class')}.h"
            assert custom.findtext("class") in _SIGNALS

    def test_node_types_exist_and_come_before_what_needs_them(self, name):
        for widget in _TREES[name].iter("widget"):
            if widget.get("class") != "qMRMLNodeComboBox":
                continue
            order = [given.get("name") for given in widget.findall("property")]
            # Slicer gives a base name to the node types that are set already.
            assert "baseName" not in order or order.index("nodeTypes") < order.index("baseName")
            types = [text.text for text in widget.find("property[@name='nodeTypes']").iter("string")]
            assert types
            assert all(hasattr(slicer, one) for one in types)

    def test_settings_are_no_texts_to_translate(self, name):
        for given in _TREES[name].iter("property"):
            if given.get("name") in _NOT_TRANSLATED:
                value = given.find("stringlist") if given.get("name") == "nodeTypes" else given.find("string")
                assert value.get("notr") == "true", given.get("name")

    def test_tool_tips_say_something(self, name):
        for widget in _TREES[name].iter("widget"):
            tip = widget.find("property[@name='toolTip']/string")
            assert tip is None or re.search(r"[\w)]\.$", tip.text or ""), widget.get("name")


def test_an_unknown_property_is_found():
    widget = '<ui><widget class="{}" name="w"><property name="{}"><{}>{}</{}></property></widget></ui>'
    for kind, name, element, value in (
        ("qMRMLNodeComboBox", "noneText", "string", "None"),
        ("QSlider", "maximun", "number", "1"),
        ("QComboBox", "sizeAdjustPolicy", "enum", "QComboBox::AdjustToMinimumContentsLength"),
        ("ctkPathLineEdit", "filters", "set", "ctkPathLineEdit::Reading"),
    ):
        tree = ElementTree.fromstring(widget.format(kind, name, element, value, element))
        assert len(unknown_properties(tree)) == 1, name
