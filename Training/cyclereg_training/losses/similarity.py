"""How alike two images are: local and global correlation, squared differences, and descriptors across contrasts."""

from __future__ import annotations

from torch import Tensor

from CycleRegLib.errors import InputError
from CycleRegLib.similarity import lncc_between, mind_ssc

from .precision import single

# Added to the local variances of intensities 0..1: a standard deviation of 0.003 counts as noise.
LNCC_FLOOR = 1e-5
_CORRELATION_FLOOR = 1e-6


def lncc(
    warped: Tensor,
    fixed: Tensor,
    window: int = 9,
    compatible: bool = False,
    weight: Tensor | None = None,
    floor: float = LNCC_FLOOR,
) -> Tensor:
    """Negative squared local normalised cross-correlation (CycleMorph, equation 6): -1 (best) to 0.

    Parameters
    ----------
    warped, fixed
        (B, C, *spatial), intensities of the order of one; each channel by itself.  Symmetric, gradients to both.
    window
        Side of the cubic window in voxels, odd.
    compatible
        The numbers of the published training code, which counts zeros outside the image (METHODS.md, "Losses"), up to
        the mean in place of the paper's sum over voxels.  The default counts voxels inside the image only.
    weight
        (B, 1, *spatial) in 0..1: where the images count; not with ``compatible``.
    floor
        Variance added to both local variances; ``compatible`` has its own.

    Raises
    ------
    ValueError
        If the window is even, or ``compatible`` has a weight.
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"the window of LNCC is an odd number of voxels, not {window}")
    return lncc_between(warped, fixed, window // 2, floor, weight, compatible)


def mean_squares(warped: Tensor, fixed: Tensor) -> Tensor:
    """Mean squared difference of intensities (VoxelMorph, equation 3): 0 (best) and above."""
    return (single(warped) - single(fixed)).square().mean()


def global_correlation(warped: Tensor, fixed: Tensor) -> Tensor:
    """``1 - Pearson correlation`` over the whole volume (VTN, equations 5 to 7): 0 (best) to 2.

    ``warped`` and ``fixed`` are (B, C, *spatial); each image and channel by itself.  1e-6 is added to both variances,
    so that a constant image has the value 1 and no gradient blows up.
    """
    a, b = (single(x).flatten(2) for x in (warped, fixed))
    a, b = a - a.mean(dim=2, keepdim=True), b - b.mean(dim=2, keepdim=True)
    variances = (a.square().mean(dim=2) + _CORRELATION_FLOOR) * (b.square().mean(dim=2) + _CORRELATION_FLOOR)
    return (1 - (a * b).mean(dim=2) / variances.sqrt()).mean()


def mind(warped: Tensor, fixed: Tensor, radius: int = 1, dilation: int = 2) -> Tensor:
    """Mean squared difference of MIND-SSC descriptors (Heinrich et al., MICCAI 2013): 0 (best) to 1.

    It does not see contrast: images of other modalities or phases compare as well.

    Parameters
    ----------
    warped, fixed
        (B, C, D, H, W), each channel by itself.
    radius, dilation
        Of the patches and between them, voxels.

    Raises
    ------
    InputError
        For 2D images, which have no such descriptors.
    """
    if warped.dim() != 5:
        raise InputError("MIND-SSC compares 3D images only; choose another similarity for 2D images.")
    a, b = (mind_ssc(single(x).flatten(0, 1).unsqueeze(1), radius, dilation) for x in (warped, fixed))
    return (a - b).square().mean()
