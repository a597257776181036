"""Several moving images on one fixed image, such as the phases of a contrast series, with the network loaded once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Callable

import SimpleITK as sitk

from .checkpoints import Checkpoint, read_checkpoint
from .errors import Cancelled, CycleRegError
from .methods import get_method
from .presets import method_of
from .registration import Progress, RegistrationResult, register


@dataclass(frozen=True)
class SeriesResult:
    """What became of one moving image: its result, or why there is none."""

    name: str
    registration: RegistrationResult | None
    reason: str = ""


def register_series(
    fixed: sitk.Image,
    moving: Mapping[str, Callable[[], dict[str, Any]]],
    progress: Progress | None = None,
    **options: Any,
) -> Iterator[SeriesResult]:
    """Register several moving images onto one fixed image, one after the other.

    Parameters
    ----------
    fixed
        As in :func:`CycleRegLib.registration.register`.
    moving
        By name, what gives the arguments of ``register`` that belong to one moving image: ``moving`` at least, and
        ``moving_mask``.  Called when its turn comes, so that only one is in memory.
    progress
        As in ``register``; stages begin with the name of the image, the fraction is of the whole series.
    options
        The other arguments of ``register``.

    An image that cannot be registered does not end the series: its result says why.

    Raises
    ------
    InputError
        If the checkpoint cannot be used.
    Cancelled
        As ``progress`` does.
    """
    report = progress or (lambda stage, fraction: None)
    options = {**options, **_loaded_once(options)}
    for number, (name, read) in enumerate(moving.items()):

        def tell(stage: str, fraction: float, number: int = number, name: str = name) -> None:
            report(f"{name}: {stage}", (number + fraction) / len(moving))

        try:
            result = register(fixed, **read(), **options, progress=tell)
        except Cancelled:
            raise
        except CycleRegError as error:
            yield SeriesResult(name, None, str(error))
        else:
            yield SeriesResult(name, result)


def _loaded_once(options: Mapping[str, Any]) -> dict[str, Any]:
    """The checkpoint as it is in memory, where the method uses one and it was given as a file or ships."""
    method = get_method(method_of(options.get("method"), options.get("preset")))
    given = options.get("checkpoint")
    if given is None and method.uses_checkpoint:
        given = method.shipped_checkpoint()
    if given is None or isinstance(given, Checkpoint) or not method.uses_checkpoint:
        return {}
    backward = options.get("backward_checkpoint")
    return {"checkpoint": read_checkpoint(given, method=method.id, backward=backward), "backward_checkpoint": None}
