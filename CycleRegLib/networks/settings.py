"""How networks are run: precision, patches and composition; every number has a default that suits most."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
COMPOSITIONS = ("compose", "add")
# CycleMorph's (Kim et al. 2021, section IV.B): along the paper's axes; the last one is the array's first here.
PAPER_OVERLAP = (7 / 8, 3 / 4, 3 / 4)


def parse_overlap(text: str) -> tuple[float, ...]:
    """The overlap in array order from ``X``, ``X,Y,Z`` or ``paper``, as the command line has it.

    Raises
    ------
    InputError
        If it is none of these.
    """
    if text == "paper":
        return PAPER_OVERLAP
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = []
    if len(shares) not in (1, 2, 3):
        raise InputError(f"An overlap of patches is one share or one for each axis, such as 0.5, not '{text}'.")
    return tuple(reversed(shares)) if len(shares) > 1 else (shares[0],) * 3


@dataclass(frozen=True)
class InferenceSettings:
    """How a checkpoint's networks are run.

    Attributes
    ----------
    precision
        ``auto`` takes bfloat16 where the processor computes in it (float16 on GPUs without), else ``float32``.
    patch_size
        Side in voxels of the local network's patches; a multiple of the network's stride, else the next smaller one is
        taken.  64, as in CycleMorph's paper, which found 80 and 96 no better.
    patch_overlap
        Share of a patch that the next one covers again, along the array's axes (z, y, x), each 0 <= x < 1.  At one half
        every voxel is in 8 patches; CycleMorph's paper took 7/8, 3/4 and 3/4, where it is in 128, which takes twelve
        times as long on 512 x 512 x 160 voxels.
    composition
        ``compose``: the local field after the global one, exactly; ``add``: their sum, as CycleMorph's paper has it.
    organ_slices
        Leave out the slices on which the masks are empty (the papers' liver slice extraction; see
        :mod:`CycleRegLib.networks.organ_slices`).

    Raises
    ------
    InputError
        For values that are none of these.
    """

    precision: str = "auto"
    patch_size: int = 64
    patch_overlap: tuple[float, ...] = (0.5, 0.5, 0.5)
    composition: str = "compose"
    organ_slices: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InputError(f"There is no precision '{self.precision}'; use one of {', '.join(PRECISIONS)}.")
        if self.composition not in COMPOSITIONS:
            raise InputError(f"Fields are joined by {' or '.join(COMPOSITIONS)}, not by '{self.composition}'.")
        if self.patch_size < 16:
            raise InputError(f"A patch has a side of 16 voxels or more, not {self.patch_size}.")
        if len(self.patch_overlap) not in (2, 3) or not all(0 <= share < 1 for share in self.patch_overlap):
            raise InputError(
                f"The overlap of patches is a share from 0 to below 1 for each axis, not {self.patch_overlap}."
            )


DEFAULTS = InferenceSettings()
