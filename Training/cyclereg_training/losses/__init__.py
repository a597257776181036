"""Losses of deformable registration: pure functions of tensors, one idea per file.

Conventions of all of them: images are (B, C, D, H, W), in 2D (B, C, H, W); flows are (B, n, ...) in voxels, channels in
array-axis order, ``warped(x) = moving(x + flow(x))``; a loss is a float32 scalar (float64 for float64 input), the mean
over the batch, and smaller is better.  Input of 16 bits is taken as float32, under autocast too.
"""

from .affine import affine_determinant, orthogonality
from .consistency import absolute_difference, invertibility, round_trip
from .endpoint import endpoint_error
from .overlap import one_hot_labels, soft_dice
from .regularity import bending_energy, folding, jacobian_determinant, smoothness, total_variation
from .similarity import global_correlation, lncc, mean_squares, mind

__all__ = [
    "absolute_difference",
    "affine_determinant",
    "bending_energy",
    "endpoint_error",
    "folding",
    "global_correlation",
    "invertibility",
    "jacobian_determinant",
    "lncc",
    "mean_squares",
    "mind",
    "one_hot_labels",
    "orthogonality",
    "round_trip",
    "smoothness",
    "soft_dice",
    "total_variation",
]
