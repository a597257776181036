"""Presets: a method and its numbers under a name that says what they are for.

The panel lists them before the methods, the command line has them as ``--preset``.
"""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import InputError
from .methods import DEFAULT_METHOD

if TYPE_CHECKING:
    from .optimize import Settings

PRESETS = ("fast", "accurate", "large")
DEFAULT_PRESET = "accurate"
# A quarter of the steps takes most of the error off in a fraction of the time; without a GPU the network that ships is
# neither faster nor better (Testing/benchmarks/results/shipped_checkpoint.md).
_FAST_STEPS, _FAST_VOXELS = 0.25, 2_000_000
_LARGE_VOXELS = 3_000_000


@dataclass(frozen=True)
class Preset:
    """What a preset is.

    Attributes
    ----------
    id, title, summary
        The name on the command line; a heading; what it is and when to choose it, one line.
    method
        Id of the method, see :mod:`CycleRegLib.methods`.
    refine_steps
        See :func:`CycleRegLib.registration.register`; what is asked for besides is added.
    max_voxels
        Largest grid of the pair optimisation; None is its default.
    steps
        Share of the pair optimisation's usual steps.
    """

    id: str
    title: str
    summary: str
    method: str = DEFAULT_METHOD
    refine_steps: int = 0
    max_voxels: int | None = None
    steps: float = 1.0

    def settings(self) -> Settings:
        """The numbers of the pair optimisation."""
        # Needs PyTorch, which is not there yet when the panel lists the presets.
        from .optimize import Settings

        usual = Settings()
        stages = tuple(dataclasses.replace(s, steps=max(1, round(self.steps * s.steps))) for s in usual.stages)
        return dataclasses.replace(usual, stages=stages, max_voxels=self.max_voxels or usual.max_voxels)


def list_presets() -> list[Preset]:
    """Every preset, in the order in which they are shown."""
    text = "The pair optimisation in a quarter of the steps: a few seconds, for a first look."
    fast = Preset("fast", "Fast", text, max_voxels=_FAST_VOXELS, steps=_FAST_STEPS)
    text = "The pair optimisation: the best that ships, any contrast, below a minute for most volumes."
    accurate = Preset("accurate", "Accurate", text)
    text = "The pair optimisation with less memory and time, for volumes such as 512 x 512 x 200."
    return [fast, accurate, Preset("large", "Large volume", text, max_voxels=_LARGE_VOXELS)]


def get_preset(preset_id: str) -> Preset:
    """The preset of that id.

    Raises
    ------
    InputError
        If there is none; names the nearest and all ids.
    """
    found = {preset.id: preset for preset in list_presets()}
    if preset_id in found:
        return found[preset_id]
    near = difflib.get_close_matches(str(preset_id).lower(), found, n=1, cutoff=0.6)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise InputError(f"There is no preset '{preset_id}'.{hint} Presets: {', '.join(found)}.")


def method_of(method: str | None, preset: str | None) -> str:
    """The id of the method that a choice of method or preset means.

    Raises
    ------
    InputError
        If both are given, or there is no such preset.
    """
    if preset is None:
        return method or DEFAULT_METHOD
    if method is not None:
        raise InputError(f"The preset {preset} chooses the method itself. Give a preset or a method, not both.")
    return get_preset(preset).method
