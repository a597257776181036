"""The sections of the panel, in the order in which they are set up."""

from __future__ import annotations

from .InputsSection import InputsSection
from .MeasureSection import MeasureSection
from .MethodSection import MethodSection
from .OutputsSection import OutputsSection
from .PhasesSection import PhasesSection
from .RunSection import RunSection
from .Section import Section
from .ViewsSection import ViewsSection

SECTIONS: tuple[type[Section], ...] = (
    InputsSection,
    MethodSection,
    OutputsSection,
    RunSection,
    PhasesSection,
    ViewsSection,
    MeasureSection,
)
