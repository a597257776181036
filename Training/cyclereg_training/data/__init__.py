"""Training data: synthetic pairs (:mod:`.synthetic`), or volumes from a folder or list (:mod:`.volumes`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from CycleRegLib.errors import InputError

from ..objectives.base import refuse_unknown

if TYPE_CHECKING:
    import lightning

    from ..config import Config

SOURCES = ("synthetic", "folder", "list")

__all__ = ["SOURCES", "build_data", "require_labels"]


def build_data(config: Config, progress: Callable[[str, float], None] | None = None) -> lightning.LightningDataModule:
    """The data of a training, by ``config.data["source"]``.

    Its attributes are ``shape`` (D, H, W), ``spacing_mm`` (x, y, z; or None), ``normalisation``, ``validation_pair``
    (a batch of one), ``description``; batches are what objectives take
    (:class:`~cyclereg_training.objectives.base.Objective`), and ``index``.

    Parameters
    ----------
    progress
        Called with a stage and a fraction 0..1 while volumes are prepared; not at all where all are in the cache.

    Raises
    ------
    InputError
        For settings that are not known, and data that cannot be used.
    """
    source = config.data.get("source", "synthetic")
    refuse_unknown([source], SOURCES, "source of data (data.source)")
    if source == "synthetic":
        from .synthetic import SyntheticData

        return SyntheticData(config)
    from .volumes import VolumeData

    return VolumeData(config, progress)


def require_labels(data: Any) -> None:
    """Make sure that every pair has label maps, for a Dice loss.

    Raises
    ------
    InputError
        If a volume has none; names up to three.
    """
    missing = list(getattr(data, "without_labels", ()))
    if missing:
        named = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise InputError(
            f"A Dice loss needs label maps of every volume, but there are none for {named}. Put them beside the "
            "volumes (NAME_seg.nii.gz or NAME.seg.nrrd), name them in the list's column segmentation, or set the "
            "weight of 'dice' to 0."
        )
