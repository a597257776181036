"""The sections of the panel, in the order in which they are set up."""

from __future__ import annotations

from .Section import Section

SECTIONS: tuple[type[Section], ...] = ()
