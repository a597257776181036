"""Telling a label image from an image of intensities, so that one is not registered as the other."""

from __future__ import annotations

import math

import numpy as np

# Judged on whole slices that together have about this many voxels.
_SAMPLE_VOXELS = 2_000_000
# Parcellations of the brain have up to about a thousand labels.
_MOST_LABELS = 1024
# Of a label's neighbours within the slice, the share that carries the same label; the median over labels.
_LEAST_EQUAL = 0.5
# Mean step between unequal neighbours, in ranks of the values, as a share of their number.
_LEAST_STEP = 1 / 7


def looks_like_labels(array: np.ndarray) -> bool:
    """Whether a (z, y, x) array holds labels rather than intensities.

    Labels are few whole numbers from 0 to 65535, nearly all of which (not only the background) fill connected regions;
    and where two regions meet, their numbers have nothing to do with each other.  Intensities fail one of the two:
    noise and edges break up the regions of quantised images, and where an image is smooth enough to have regions,
    neighbouring ones differ by a grey level or two.  Between images and label maps of real CT and brain MR both
    thresholds have room.  Nothing but the meaning tells a piecewise constant image, such as a synthetic cube, from
    labels.
    """
    slices = array[:: max(1, math.ceil(array.size / _SAMPLE_VOXELS))]
    low, high = float(array.min()), float(array.max())
    if low < 0 or high > 65535 or np.unique(slices[:, ::4, ::4]).size > _MOST_LABELS:
        return False
    whole = slices.astype(np.int32)
    if not np.array_equal(whole, slices):
        return False
    counts = np.bincount(whole.ravel())
    known = counts > 0
    number = int(known.sum())
    if number > _MOST_LABELS:
        return False
    rank = (np.cumsum(known) - 1).astype(np.int32)[whole]
    equal, neighbours, steps, unequal = np.zeros(number), np.zeros(number), 0, 0
    for one, other in ((rank[:, 1:], rank[:, :-1]), (rank[:, :, 1:], rank[:, :, :-1])):
        same = one == other
        equal += 2 * np.bincount(one[same], minlength=number)
        for side in (one, other):
            neighbours += np.bincount(side.ravel(), minlength=number)
        steps += int(np.abs(one[~same] - other[~same]).sum())
        unequal += int(np.count_nonzero(~same))
    if not unequal:
        return False
    regions = equal[1:] / np.maximum(neighbours[1:], 1)
    return bool(np.median(regions) >= _LEAST_EQUAL and steps >= _LEAST_STEP * number * unequal)
