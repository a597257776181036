"""Make the screenshots of README and extension page: a whole session on the sample data, clicked and photographed.

Run from the root of the repository:

    .venv/bin/python Testing/make_screenshots.py Docs/Screenshots

The registration and the measurements are real; the panel is Qt's, the views are drawn by Slicer's own displayable
managers.  The frame around them is the stand-in host's, not the application's (see ``Testing/host``).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "Testing"), str(ROOT / "CycleReg"), str(ROOT)]

import host  # noqa: E402
import slicer  # noqa: E402
from PySide6 import QtGui  # noqa: E402

from CycleRegLib.mrml import views  # noqa: E402
from CycleRegLib.node_roles import DIAMETER_ROLES  # noqa: E402

MODULE = ROOT / "CycleReg" / "CycleReg.py"
THUMBNAIL = ROOT / "CycleReg" / "Resources" / "Icons" / "CycleRegSample.png"


class Session:
    """The open panel, with what a user does to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.panel = host.open_module("CycleReg", MODULE)
        self.ui = self.panel.ui

    def wait(self, condition: Any, seconds: float = 180.0) -> None:
        if not host.process_events_until(condition, seconds):
            raise SystemExit(f"Nothing happened for {seconds:.0f} s: {self.ui.statusLabel.text}")

    def unfold(self, *names: str) -> None:
        """Only these parts of the panel."""
        for name in ("inputs", "method", "outputs", "phases", "views", "measure", "log", "results"):
            getattr(self.ui, f"{name}CollapsibleButton").collapsed = name not in names

    def choose(self, combo: str, data: str) -> None:
        box = getattr(self.ui, combo)
        box.setCurrentIndex(box.findData(data))

    def load_sample(self) -> Any:
        self.ui.sampleButton.click()
        self.wait(lambda: self.ui.applyButton.enabled)

    def register(self) -> None:
        for output in ("InverseTransform", "Volume", "Roundtrip"):
            getattr(self.ui, f"output{output}Selector").addNode()
        self.ui.applyButton.click()
        self.wait(lambda: not self.panel.running)
        if self.ui.statusLabel.text != "Done.":
            raise SystemExit(self.ui.statusLabel.text)

    def measure(self) -> None:
        """What there is to measure with is chosen already."""
        self.ui.measureButton.click()
        self.wait(lambda: not self.panel.sectionOf("MeasureSection").measuring)

    def compare(self, comparison: str, orientation: str, grid: bool) -> None:
        self.choose("viewsComparisonComboBox", comparison)
        self.choose("viewsOrientationComboBox", orientation)
        self.ui.viewsGridCheckBox.checked = grid
        self.ui.viewsCompareButton.click()

    def show_pair(self, label: str) -> None:
        """Select a landmark in the table, and centre the views on it."""
        table = self.ui.measurePairsTable
        row = next(row for row in range(table.rowCount) if table.item(row, 0).text() == label)
        table.selectRow(row)
        self.ui.measureJumpButton.click()

    def show_tumor(self, field_mm: float = 110.0) -> None:
        """Centre the views on the tumour's diameters, each image's on its own."""
        transform = self.ui.measureTransformSelector.currentNode()
        for name, node in views.slice_views(slicer.mrmlScene).items():
            line = transform.GetNodeReference(DIAMETER_ROLES["moving" if name == views.MOVING else "fixed", "long"])
            ends = [line.GetNthControlPointPositionWorld(i) for i in (0, 1)]
            node.JumpSliceByCentering(*((low + high) / 2 for low, high in zip(*ends)))
            width, height, depth = node.GetFieldOfView()
            node.SetFieldOfView(field_mm, field_mm * height / width, depth)

    def photograph(self, name: str) -> None:
        host.process_events_until(lambda: False, 0.3)
        host.photograph_window(self.panel.parent, self.folder / f"{name}.png")
        print(self.folder / f"{name}.png")


def show_drawn(visible: bool, *names: str) -> None:
    """Points and outlines away, where the images themselves are to be compared, and back."""
    for kind in ("vtkMRMLMarkupsNode", "vtkMRMLSegmentationNode"):
        for node in slicer.util.getNodesByClass(kind):
            node.SetDisplayVisibility(visible and node.GetName() in names)


def thumbnail(path: Path) -> None:
    """The first view alone, as the Sample Data module wants it."""
    pixels = slicer.app.layoutManager().sliceWidget("Green").sliceView().draw(280, 260)
    QtGui.QImage(pixels.data, 280, 260, 3 * 280, QtGui.QImage.Format_RGB888).save(str(path))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    host.start()
    session = Session(folder)
    session.unfold("inputs", "method", "outputs")
    session.load_sample()
    thumbnail(THUMBNAIL)
    session.photograph("panel")
    session.register()
    show_drawn(False)
    session.unfold("views", "results")
    session.compare("checkerboard", "Coronal", grid=True)
    session.photograph("compare")
    session.compare("roundtrip", "Coronal", grid=False)
    session.photograph("roundtrip")
    session.unfold("measure")
    session.measure()
    session.compare("blend", "Axial", grid=False)
    session.show_pair("hepatic cyst")
    show_drawn(True, "Sample portal landmarks", "Sample arterial landmarks")
    session.photograph("measure")
    session.choose("measureTableComboBox", "tumor")
    show_drawn(True, *(node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLMarkupsLineNode")))
    session.show_tumor()
    session.photograph("tumor")
    host.stop()


if __name__ == "__main__":
    main()
