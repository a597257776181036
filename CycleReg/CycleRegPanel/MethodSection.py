"""Method, checkpoint and device, each with what it is, and the expert options."""

from __future__ import annotations

import os
from typing import Any

import qt

from CycleRegLib.errors import InputError
from CycleRegLib.methods import list_methods
from CycleRegLib.presets import list_presets

from . import Environment
from .Host import _
from .Parameters import AFFINE_STAGES, DEVICES, PRECISIONS, PRESET, Parameters, methodOf
from .Query import Query
from .Section import Section

_EXPERT = ("affine", "refineSteps", "smoothness", "precision", "patchSize", "patchOverlap", "organSlices")


class MethodSection(Section):
    UI = "CycleRegMethod.ui"
    PLACE = "methodCollapsibleButton"

    def setup(self) -> None:
        self._devicesQuery: Query | None = None
        self._checkpointQuery: Query | None = None
        # What is known of files, by path and time of change: (one line, all).
        self._known: dict[tuple[str, float], tuple[str, str]] = {}
        self._asked: tuple[str, float] | None = None
        self._fillMethods()
        titles = {
            "auto": _("Automatic"),
            "cpu": _("CPU"),
            "cuda": _("NVIDIA GPU (CUDA)"),
            "mps": _("Apple GPU (Metal)"),
            "none": _("None"),
            "rigid": _("Rigid"),
            "affine": _("Affine"),
            "float32": _("32 bits"),
            "bfloat16": _("16 bits (bfloat16)"),
            "float16": _("16 bits (float16)"),
        }
        for combo, choices in (
            (self.ui.deviceComboBox, DEVICES),
            (self.ui.affineComboBox, AFFINE_STAGES),
            (self.ui.precisionComboBox, PRECISIONS),
        ):
            for choice in choices:
                combo.addItem(titles[choice], choice)
        self.ui.expertDefaultsButton.connect("clicked(bool)", self.restoreDefaults)

    def cleanup(self) -> None:
        for query in (self._devicesQuery, self._checkpointQuery):
            if query is not None:
                query.stop()

    def _fillMethods(self) -> None:
        combo = self.ui.methodComboBox
        for preset in list_presets():
            combo.addItem(preset.title, PRESET + preset.id)
            combo.setItemData(combo.count - 1, preset.summary, qt.Qt.ToolTipRole)
        combo.insertSeparator(combo.count)
        for method in list_methods():
            combo.addItem(method.title, method.id)
            combo.setItemData(combo.count - 1, f"{method.summary}\n{method.advice}", qt.Qt.ToolTipRole)

    def updateState(self, running: bool) -> None:
        self.ui.methodCollapsibleButton.enabled = not running
        node = self.parameterNode
        if node is None:
            return
        parameters = Parameters.of(node)
        uses = parameters.usesCheckpoint
        for widget in (self.ui.checkpointPathLineEdit, self.ui.checkpointLabel):
            widget.enabled = uses
        for widget in (
            self.ui.precisionLabel, self.ui.precisionComboBox, self.ui.patchSizeLabel, self.ui.patchSizeSpinBox,
            self.ui.patchOverlapLabel, self.ui.patchOverlapSpinBox, self.ui.organSlicesCheckBox,
        ):  # fmt: skip
            widget.enabled = uses

    def onParameterNodeModified(self) -> None:
        self._showSummary()
        self._showCheckpoint()

    def _showSummary(self) -> None:
        choice = self.parameterNode.method
        texts = {PRESET + preset.id: preset.summary for preset in list_presets()}
        texts.update({method.id: f"{method.summary} {method.advice}" for method in list_methods()})
        self.ui.methodSummaryLabel.text = texts.get(choice, _("This version of CycleReg has no such method."))

    # ------------------------------------------------------------------ expert options

    def restoreDefaults(self, checked: bool = False) -> None:
        """All expert options back to what they are in a new parameter set."""
        state = self.parameterNode.StartModify()
        for field in _EXPERT:
            self.parameterNode.setValue(field, self.parameterNode.default(field).value)
        self.parameterNode.EndModify(state)

    # ------------------------------------------------------------------ checkpoint

    def _showCheckpoint(self) -> None:
        """Say what the checkpoint is; asks the library in a child process, which never executes what is in the file."""
        node = self.parameterNode
        try:
            method = methodOf(node.method)
        except InputError:
            return
        shipped = method.shipped_checkpoint()
        path = node.checkpoint or (str(shipped) if shipped else "")
        label = self.ui.checkpointInfoLabel
        label.visible = method.uses_checkpoint
        label.toolTip = _("What the checkpoint is.")
        if not method.uses_checkpoint:
            return
        if not path:
            label.text = _("Choose a file with trained weights; none come with this method.")
        elif not os.path.isfile(path):
            label.text = _("{path} does not exist.").format(path=path)
        else:
            key = path, os.path.getmtime(path)
            origin = "" if node.checkpoint else _("Comes with CycleReg. ")
            if key in self._known:
                label.text = origin + self._known[key][0]
                label.toolTip = self._known[key][1]
            else:
                label.text = origin + _("{size:.1f} MB").format(size=os.path.getsize(path) / 1e6)
                self._ask(key)

    def _ask(self, key: tuple[str, float]) -> None:
        if key == self._asked or not Environment.has_torch():
            return
        self._asked = key
        if self._checkpointQuery is not None:
            self._checkpointQuery.stop()

        def know(line: str, everything: str) -> None:
            self._known[key] = line, everything
            if self.parameterNode is not None:
                self._showCheckpoint()

        self._checkpointQuery = Query(
            ["checkpoint", "info", key[0], "--json"],
            lambda facts: know(_line(facts), _everything(facts)),
            lambda message: know(message, message),
        )

    # ------------------------------------------------------------------ devices

    def askDevices(self) -> None:
        """Find out, in a child process, which devices there are and how much memory they have left."""
        if Environment.has_torch():
            if self._devicesQuery is not None:
                self._devicesQuery.stop()
            self._devicesQuery = Query(["devices", "--json"], self._showDevices)

    def _showDevices(self, found: list[dict[str, Any]]) -> None:
        """Name what there is; kinds of devices that this machine lacks go, unless one is chosen."""
        combo = self.ui.deviceComboBox
        ids = {device["id"] for device in found}
        blocked = combo.blockSignals(True)
        chosen = combo.currentData
        for kind in ("cuda", "mps"):
            index = combo.findData(kind)
            there = any(one.startswith(kind) for one in ids)
            if index >= 0 and kind != chosen and (not there or kind not in ids):
                combo.removeItem(index)
        for device in found:
            text = device["name"] if device["id"] != "cpu" else _("CPU")
            text = f"{device['id']}: {text}" if device["id"].startswith("cuda") else text
            if device["free"] is not None:
                text += _(", {free:.1f} of {total:.1f} GB free").format(
                    free=device["free"] / 1e9, total=device["total"] / 1e9
                )
            index = combo.findData(device["id"])
            if index < 0:
                combo.addItem(text, device["id"])
            else:
                combo.setItemText(index, text)
        combo.setCurrentIndex(combo.findData(chosen))
        combo.blockSignals(blocked)


def _line(facts: dict[str, Any]) -> str:
    """What a checkpoint is, in a line; ``facts`` as :func:`CycleRegLib.checkpoint_text.describe` gives them."""
    count = sum(facts["networks"].values())
    parts = [facts["title"], _("{count:.1f} million weights").format(count=count / 1e6)]
    if not facts["stated_by_file"]:
        parts.append(_("plain state dict: intensities and grid are assumed"))
    parts.append(facts["licence"] or _("licence not stated"))
    return "; ".join(parts) + "."


def _everything(facts: dict[str, Any]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in facts.items() if value not in ("", {}, []))
