"""What the parts of the measuring section have in common."""

from __future__ import annotations

from typing import Any

from .Section import Section


class MeasurePart(Section):
    """A part of :class:`CycleRegPanel.MeasureSection.MeasureSection`; all of them share one ``.ui`` file."""

    def node(self, what: str) -> Any:
        """The node that is selected, such as ``"FixedLandmarks"``; None where there is none."""
        return getattr(self.ui, f"measure{what}Selector").currentNode()

    def given(self) -> dict[str, Any]:
        """What is to be measured with, by the names of ``CycleRegLib.mrml.prepare_evaluation``."""
        return {}

    def say(self, text: str) -> None:
        """One line below the button."""
        self.ui.measureStatusLabel.text = text
        self.ui.measureStatusLabel.visible = bool(text)

    def fail(self, message: str) -> None:
        """The same with a pop-up."""
        self.say(message)
        self.panel.fail(message)

    def both(self, fixed: str, moving: str) -> bool:
        """Whether two nodes are selected, or neither."""
        return (self.node(fixed) is None) == (self.node(moving) is None)
