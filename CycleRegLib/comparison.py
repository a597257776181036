"""Two images compared before and after a registration, and an image with itself after going there and back."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import SimpleITK as sitk

from . import measures
from .evaluation_result import Change
from .fields import DisplacementField
from .geometry import Grid
from .planar import is_flat


def zero_of(image: sitk.Image) -> float:
    """The intensity that counts as zero, which NMSE and SSIM depend on.

    Of volumes the least one, so that Hounsfield and shifted units agree; of pictures and single slices zero itself
    (black), as in the papers, or the least one where that is negative.
    """
    low = float(sitk.GetArrayViewFromImage(image).min())
    return min(low, 0.0) if is_flat(image) else low


def compare(
    fixed: sitk.Image,
    moving: sitk.Image,
    before: DisplacementField,
    after: DisplacementField,
    keys: Iterable[str],
    region: np.ndarray | None = None,
) -> tuple[dict[str, Change], float]:
    """Measures of :mod:`CycleRegLib.measures`, by name, between the fixed image and the moving one before and after.

    Parameters
    ----------
    fixed, moving
        Scalar images.
    before, after
        On the fixed grid, fixed to moving points.
    region
        Bool array on the fixed grid; all of it when left out.

    Returns
    -------
    The measures over voxels that see the moving image both before and after, and the share of such voxels in per cent.
    Where there is none, each is taken over what is seen then.
    """
    whole = np.ones(after.grid.shape, bool) if region is None else region
    everywhere = Grid.of(moving).image(np.ones(Grid.of(moving).shape, np.uint8))
    seen = [whole & (sitk.GetArrayFromImage(f.warp(everywhere, "nearest")) > 0) for f in (before, after)]
    common = seen[0] & seen[1]
    low = zero_of(fixed)
    target = sitk.GetArrayFromImage(fixed) - low
    values: dict[str, list[float]] = {key: [] for key in keys}
    for f, own in zip((before, after), seen):
        part = common if common.any() else own
        warped = sitk.GetArrayFromImage(f.warp(moving)) - low
        box = measures.bounding_box(part) if part.any() else tuple(slice(0, 0) for _ in part.shape)
        inside = None if part[box].all() else part[box]
        for key in values:
            values[key].append(getattr(measures, key)(warped[box], target[box], inside))
    share = 100.0 * np.count_nonzero(common) / np.count_nonzero(whole)
    return {key: Change(*pair) for key, pair in values.items()}, share


def there_and_back(image: sitk.Image, there: DisplacementField, back: DisplacementField) -> dict[str, float]:
    """NMSE and SSIM between an image and itself warped twice, there and back (CycleMorph, table II).

    Over voxels whose whole way stays inside both images; NaN where there is none.

    Parameters
    ----------
    image
        Scalar.
    there
        The field that warps the image, on the other image's grid.
    back
        The field that warps it back, on any grid.
    """
    grid = Grid.of(image)
    back = back.resampled(grid)
    twice = sitk.GetArrayFromImage(back.warp(there.warp(image)))
    seen = there.warp(grid.image(np.ones(grid.shape, np.uint8)), "nearest")
    region = sitk.GetArrayFromImage(back.warp(seen, "linear", default=0.0)) > 0.999
    if not region.any():
        return {"nmse": float("nan"), "ssim": float("nan")}
    original = sitk.GetArrayFromImage(image)
    low = zero_of(image)
    return {name: getattr(measures, name)(twice - low, original - low, region) for name in ("nmse", "ssim")}
