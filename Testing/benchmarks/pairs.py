"""Registration pairs whose answer is known, made from real images.

Two kinds of pairs:

* ``ct_pair``: a real abdominal CT and the same CT deformed by a smooth random field, with the contrast of the organs
  changed between the two and independent noise on both.  The true displacement of every point is known.
* ``brain_pair``: a T1 brain of one subject and the MNI152 (2009) template.  No true field exists; what counts is the
  overlap of tissues.

Direction, everywhere: the field belongs to the **fixed** grid, ``p_moving = p_fixed + u(p_fixed)``, LPS millimetres.
Arrays are (z, y, x), vectors (x, y, z).

Preview: ``python Testing/benchmarks/pairs.py --ct CT.nii.gz --labels LABELS.nii.gz --preview out.png``
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from CycleRegLib.fields import DisplacementField
from CycleRegLib.geometry import Grid

# Gaussian kernel widths (mm) of the two scales of the random fields, by ``scale`` of the pair.  The large field is
# smoother because three times the moderate one would fold.
FIELD_SIGMAS_MM = {1.0: (25.0, 40.0), 3.0: (40.0, 60.0)}
# Mean length (mm) of the true displacement inside the body, by ``scale``.
FIELD_MEAN_MM = {1.0: 6.8, 3.0: 18.9}
FIELD_MIN_DETERMINANT = {1.0: 0.3, 3.0: 0.1}

# HU added to the native CT to make a later contrast phase, by TotalSegmentator label.
PHASE_SHIFT_HU = {
    1: 70.0,  # spleen
    2: 100.0,  # kidneys
    3: 100.0,
    5: 50.0,  # liver
    6: 20.0,  # stomach (wall and content are one label)
    7: 45.0,  # pancreas
    8: 35.0,  # adrenal glands
    9: 35.0,
    18: 25.0,  # small bowel
    19: 25.0,  # duodenum
    52: 90.0,  # aorta
    63: 80.0,  # inferior vena cava
    64: 100.0,  # portal and splenic vein
    65: 70.0,  # iliac arteries
    66: 70.0,
    67: 55.0,  # iliac veins
    68: 55.0,
    80: 10.0,  # gluteal, back and iliopsoas muscles
    81: 10.0,
    82: 10.0,
    83: 10.0,
    86: 10.0,
    87: 10.0,
    88: 10.0,
    89: 10.0,
}
OUTSIDE_HU = -1000.0
NOISE_SD_HU = 17.0
# Labels whose overlap is reported: soft organs and large vessels, not muscles and bones.
ORGANS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 18, 19, 20, 21, 52, 63, 64)

# FreeSurfer labels of the brain's tissues: cortex, deep and cerebellar grey; cerebral and cerebellar white, corpus
# callosum, brain stem, ventral diencephalon, hypointensities and optic chiasm.
GREY_LABELS = (3, 42, 8, 47, 10, 49, 11, 50, 12, 51, 13, 52, 17, 53, 18, 54, 26, 58)
WHITE_LABELS = (2, 41, 7, 46, 16, 28, 60, 77, 85, 251, 252, 253, 254, 255)


@dataclass
class Pair:
    """Two images to be registered and what is known about them.

    ``truth`` and the points are empty where no true field exists.  ``point_set`` names the set of each point:
    ``"organ"`` (inside labelled organs, bones, vessels) or ``"body"`` (anywhere in the body).
    """

    name: str
    fixed: sitk.Image
    moving: sitk.Image
    fixed_labels: sitk.Image
    moving_labels: sitk.Image
    labels: tuple[int, ...]
    truth: sitk.Image | None
    fixed_points: np.ndarray
    moving_points: np.ndarray
    point_set: np.ndarray

    _IMAGES = ("fixed", "moving", "fixed_labels", "moving_labels", "truth")

    def write(self, folder: Path) -> None:
        """Write images as MetaImage and the points as ``.npz`` into ``folder`` (made if needed)."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in self._IMAGES:
            image = getattr(self, name)
            if image is not None:
                sitk.WriteImage(image, str(folder / f"{name}.mha"))
        np.savez(folder / "points.npz", fixed=self.fixed_points, moving=self.moving_points, set=self.point_set)
        (folder / "pair.json").write_text(json.dumps({"name": self.name, "labels": list(self.labels)}))

    @classmethod
    def read(cls, folder: Path) -> Pair:
        """Read what ``write`` wrote."""
        about = json.loads((folder / "pair.json").read_text())
        points = np.load(folder / "points.npz")
        images = {
            name: sitk.ReadImage(str(folder / f"{name}.mha")) if (folder / f"{name}.mha").exists() else None
            for name in cls._IMAGES
        }
        return cls(
            name=about["name"],
            labels=tuple(about["labels"]),
            fixed_points=points["fixed"],
            moving_points=points["moving"],
            point_set=points["set"],
            **images,
        )


def _smooth_noise(grid: Grid, sigma_mm: float, rng: np.random.Generator) -> np.ndarray:
    """White noise smoothed by a Gaussian of ``sigma_mm``, unit variance, (z, y, x, 3)."""
    step = sigma_mm / 3.0
    extent = (np.array(grid.size) - 1) * np.array(grid.spacing)
    margin = 5  # coarse samples beyond the grid, for the support of the cubic spline
    size = np.ceil(extent / step).astype(int) + 1 + 2 * margin
    wide = 12  # further samples whose noise reaches into the coarse grid through the Gaussian
    noise = rng.standard_normal((*(size[::-1] + 2 * wide), 3))
    noise = ndimage.gaussian_filter(noise, (3.0, 3.0, 3.0, 0.0), truncate=4.0)
    noise = noise[wide:-wide, wide:-wide, wide:-wide]
    # white noise of unit variance has this standard deviation after a Gaussian of 3 samples in 3 dimensions
    noise /= (2.0 * np.sqrt(np.pi) * 3.0) ** -1.5
    first = grid.to_world(-margin * step / np.array(grid.spacing))
    coarse = Grid(tuple(size), (step,) * 3, tuple(first), grid.direction)
    channels = [
        sitk.GetArrayFromImage(
            sitk.Resample(
                coarse.image(np.ascontiguousarray(noise[..., c])),
                grid.empty_image(),
                sitk.Transform(3, sitk.sitkIdentity),
                sitk.sitkBSpline3,
            )
        )
        for c in range(3)
    ]
    return np.stack(channels, axis=-1)


def random_field(
    grid: Grid,
    rms_mm: float = 7.0,
    seed: int = 0,
    max_mm: float | None = None,
    wavelength_mm: Sequence[float] = (25.0, 40.0),
    mean_mm: float | None = None,
    weights: np.ndarray | None = None,
    min_determinant: float = 0.2,
) -> np.ndarray:
    """A smooth random displacement field without folding, (z, y, x, 3), LPS mm, float32.

    The sum, in equal parts, of white noise smoothed by Gaussians of each of ``wavelength_mm`` (their standard
    deviations).  Its root mean square length is ``rms_mm``, or, with ``mean_mm``, its mean length is that; both
    weighted with ``weights`` (z, y, x) when given.  Draws whose Jacobian determinant falls to ``min_determinant`` or
    whose longest vector exceeds ``max_mm`` are discarded; the same ``seed`` always gives the same field.

    Raises
    ------
    RuntimeError
        When 50 draws all fail: the field asked for is too large for its smoothness.
    """
    for attempt in range(50):
        rng = np.random.default_rng([seed, attempt])
        field = sum(_smooth_noise(grid, sigma, rng) for sigma in wavelength_mm)
        length = np.linalg.norm(field, axis=-1)
        if mean_mm is not None:
            field *= mean_mm / np.average(length, weights=weights)
        else:
            field *= rms_mm / np.sqrt(np.average(length**2, weights=weights))
        field = field.astype(np.float32)
        if max_mm is not None and np.linalg.norm(field, axis=-1).max() > max_mm:
            continue
        if DisplacementField(field, grid).jacobian_determinant().min() > min_determinant:
            return field
    raise RuntimeError(
        f"no field of {mean_mm or rms_mm} mm with smoothness {tuple(wavelength_mm)} mm keeps its Jacobian determinant "
        f"above {min_determinant} and its length below {max_mm} mm; make it smoother or smaller"
    )


def _body(array: np.ndarray, erode: int = 0) -> np.ndarray:
    """The largest connected region above -300 HU, eroded by ``erode`` voxels (not from the image's border)."""
    mask = ndimage.binary_opening(array > -300, iterations=2)
    regions, count = ndimage.label(mask)
    if count > 1:
        mask = regions == 1 + np.argmax(np.bincount(regions.ravel())[1:])
    return ndimage.binary_erosion(mask, iterations=erode, border_value=1) if erode else mask


def _inside(points: np.ndarray, grid: Grid, margin_mm: float) -> np.ndarray:
    index = grid.to_index(points)
    margin = margin_mm / np.array(grid.spacing)
    return np.all((index >= margin) & (index <= np.array(grid.size) - 1 - margin), axis=-1)


def ct_pair(
    ct_path: str | Path, labels_path: str | Path, seed: int = 0, scale: float = 1.0, noise_hu: float = NOISE_SD_HU
) -> Pair:
    """A CT (moving) and its deformed, contrast-changed copy (fixed), with the true field and landmarks.

    ``scale`` 1 is the moderate field (mean displacement in the body 6.8 mm), 3 the large one (18.9 mm).

    * fixed(p) = (CT + contrast)(p + u(p)), third-order B-spline, -1000 HU outside; ``PHASE_SHIFT_HU`` by label, blurred
      by a Gaussian of 4 mm.
    * moving = CT.  White Gaussian noise of ``noise_hu`` on both, drawn independently.
    * landmarks: up to 6 random voxels of every label ("organ") and 300 random voxels of the body ("body": above
      -300 HU, eroded by 2 voxels).  All lie at least 5 mm inside both images: what leaves a cut end of the scan
      has no counterpart to be found.
    """
    moving = sitk.ReadImage(str(ct_path), sitk.sitkFloat32)
    moving_labels = sitk.ReadImage(str(labels_path), sitk.sitkUInt16)
    grid = Grid.of(moving)
    if not grid.same_as(Grid.of(moving_labels)):
        raise ValueError("the labels do not lie on the CT's grid")
    ct = np.maximum(sitk.GetArrayFromImage(moving), -1024)
    labels = sitk.GetArrayFromImage(moving_labels)
    moving_labels = grid.image(labels)  # without the NIfTI header's entries, which other formats cannot hold

    field = random_field(
        grid,
        seed=seed,
        mean_mm=FIELD_MEAN_MM[scale],
        weights=_body(ct),
        wavelength_mm=FIELD_SIGMAS_MM[scale],
        max_mm=22.0 * scale,
        min_determinant=FIELD_MIN_DETERMINANT[scale],
    )
    truth = grid.image(field)
    transform = sitk.DisplacementFieldTransform(sitk.Cast(truth, sitk.sitkVectorFloat64))

    contrast = np.zeros(labels.shape, np.float32)
    for label, shift in PHASE_SHIFT_HU.items():
        contrast[labels == label] = shift
    contrast = ndimage.gaussian_filter(contrast, 4.0 / np.array(grid.spacing[::-1]))
    clean = sitk.GetArrayFromImage(
        sitk.Resample(grid.image(ct + contrast), grid.empty_image(), transform, sitk.sitkBSpline3, OUTSIDE_HU)
    )
    clean = np.clip(clean, ct.min(), ct.max())
    fixed_labels = sitk.Resample(moving_labels, grid.empty_image(), transform, sitk.sitkNearestNeighbor, 0)

    rng = np.random.default_rng([seed, 1000])
    fixed = clean + rng.normal(0.0, noise_hu, clean.shape)
    noisy = ct + rng.normal(0.0, noise_hu, ct.shape)

    points = grid.points()
    targets = points + field
    label_array = sitk.GetArrayFromImage(fixed_labels)
    known = _inside(points, grid, 5.0) & _inside(targets, grid, 5.0)
    chosen: list[tuple[np.ndarray, str]] = []
    for label in np.unique(label_array)[1:]:
        candidates = np.flatnonzero((label_array == label) & known)
        if len(candidates):
            chosen.append((rng.choice(candidates, min(6, len(candidates)), replace=False), "organ"))
    candidates = np.flatnonzero(_body(clean, erode=2) & known)
    chosen.append((rng.choice(candidates, 300, replace=False), "body"))
    index = np.concatenate([c for c, _ in chosen])
    return Pair(
        name=f"ct-{'moderate' if scale == 1.0 else 'large'}-{seed}",
        fixed=grid.image(fixed.astype(np.float32)),
        moving=grid.image(noisy.astype(np.float32)),
        fixed_labels=fixed_labels,
        moving_labels=moving_labels,
        labels=tuple(label for label in ORGANS if np.any(label_array == label)),
        truth=truth,
        fixed_points=points.reshape(-1, 3)[index],
        moving_points=targets.reshape(-1, 3)[index],
        point_set=np.concatenate([[name] * len(c) for c, name in chosen]),
    )


def _nifti_image(image) -> sitk.Image:
    """A nibabel image (RAS affine) as a SimpleITK image (LPS)."""
    matrix = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    array = np.asarray(image.dataobj, dtype=np.float32)
    direction = tuple((matrix[:3, :3] / spacing).ravel())
    return Grid(array.shape, tuple(spacing), tuple(matrix[:3, 3]), direction).image(array.transpose(2, 1, 0))


def read_oasis(path: str | Path) -> tuple[sitk.Image, sitk.Image]:
    """The OASIS scan as (T1 0..1, FreeSurfer labels), placed in space with its middle at the origin.

    The file's axes go right to left, superior to inferior, posterior to anterior.
    """
    data = np.load(path)
    # index (i, j, k) grows to the left (+x), inferior (-z), anterior (-y): a left-handed grid
    direction = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, -1.0, 0.0)
    size = np.array(data["vol"].shape)
    origin = -np.array(direction).reshape(3, 3) @ ((size - 1) / 2.0)
    grid = Grid(tuple(size), (1.0, 1.0, 1.0), tuple(origin), direction)
    t1 = grid.image(np.ascontiguousarray(data["vol"].transpose(2, 1, 0)).astype(np.float32))
    return t1, grid.image(np.ascontiguousarray(data["seg"].transpose(2, 1, 0)).astype(np.uint16))


def affine_to_template(fixed: sitk.Image, moving: sitk.Image) -> sitk.AffineTransform:
    """Affine transform fixed -> moving points: Mattes mutual information, three resolutions, SimpleITK."""
    moments = sitk.CenteredTransformInitializerFilter.MOMENTS
    transform = sitk.AffineTransform(sitk.CenteredTransformInitializer(fixed, moving, sitk.AffineTransform(3), moments))
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(0.2)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsGradientDescentLineSearch(1.0, 60, 1e-5, 8)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 2])
    method.SetSmoothingSigmasPerLevel([3, 2, 1])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(fixed, moving)
    return transform


def brain_pair(oasis_npz: str | Path, cache: str | Path) -> Pair:
    """An OASIS brain (moving, affinely resampled onto the template's grid first) and the MNI152 template (fixed).

    The affine transform is found once and kept in ``cache``, so that every method starts from the same images.
    Tissue labels: 1 grey, 2 white.  Fixed: the more probable of the template's grey and white maps where it exceeds
    0.5; moving: ``GREY_LABELS`` and ``WHITE_LABELS`` of FreeSurfer, nearest neighbour.
    """
    from nilearn import datasets

    template = _nifti_image(datasets.load_mni152_template(resolution=1))
    mask = sitk.GetArrayFromImage(_nifti_image(datasets.load_mni152_brain_mask(resolution=1))) > 0.5
    grey = sitk.GetArrayFromImage(_nifti_image(datasets.load_mni152_gm_template(resolution=1)))
    white = sitk.GetArrayFromImage(_nifti_image(datasets.load_mni152_wm_template(resolution=1)))
    grid = Grid.of(template)
    array = sitk.GetArrayFromImage(template) * mask
    fixed = grid.image(array / array.max())
    tissue = np.where((grey > 0.5) & (grey >= white), 1, np.where(white > 0.5, 2, 0)).astype(np.uint8)

    t1, segmentation = read_oasis(oasis_npz)
    path = Path(cache) / "brain_affine.tfm"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteTransform(affine_to_template(fixed, t1), str(path))
    affine = sitk.ReadTransform(str(path))
    array = sitk.GetArrayFromImage(segmentation)
    tissues = np.select([np.isin(array, GREY_LABELS), np.isin(array, WHITE_LABELS)], [1, 2]).astype(np.uint8)
    tissues = Grid.of(segmentation).image(tissues)
    return Pair(
        name="brain",
        fixed=fixed,
        moving=sitk.Resample(t1, fixed, affine, sitk.sitkLinear, 0.0),
        fixed_labels=grid.image(tissue),
        moving_labels=sitk.Resample(tissues, fixed, affine, sitk.sitkNearestNeighbor, 0),
        labels=(1, 2),
        truth=None,
        fixed_points=np.zeros((0, 3)),
        moving_points=np.zeros((0, 3)),
        point_set=np.zeros(0, dtype=str),
    )


# What a T1 intensity (0..1) becomes in the other contrast, where fluid is bright: no monotone function of it.
OTHER_CONTRAST = ((0.0, 0.04, 0.2, 0.45, 0.7, 1.0), (0.0, 0.05, 0.95, 0.6, 0.35, 0.3))
BRAIN_MEAN_MM, BRAIN_SIGMAS_MM, BRAIN_NOISE = 6.0, (18.0, 30.0), 0.02


def brain_known_pair(oasis_npz: str | Path, seed: int = 0) -> Pair:
    """A T1 brain (moving) and its deformed copy in another contrast (fixed), with the true field and landmarks.

    * fixed(p) = contrast(T1(p + u(p))), third-order B-spline, 0 outside; ``OTHER_CONTRAST`` by intensity.
    * the field's mean length in the brain is ``BRAIN_MEAN_MM``; Gaussian noise of ``BRAIN_NOISE`` on both images.
    * landmarks: 600 random voxels of labelled tissue, at least 5 mm inside both images.
    """
    moving, segmentation = read_oasis(oasis_npz)
    grid = Grid.of(moving)
    array, labels = sitk.GetArrayFromImage(moving), sitk.GetArrayFromImage(segmentation)
    field = random_field(
        grid, seed=seed, mean_mm=BRAIN_MEAN_MM, weights=labels > 0, wavelength_mm=BRAIN_SIGMAS_MM, max_mm=22.0
    )
    truth = grid.image(field)
    transform = sitk.DisplacementFieldTransform(sitk.Cast(truth, sitk.sitkVectorFloat64))
    deformed = sitk.GetArrayFromImage(
        sitk.Resample(moving, grid.empty_image(), transform, sitk.sitkBSpline3, 0.0)
    )  # fmt: skip
    fixed_labels = sitk.Resample(segmentation, grid.empty_image(), transform, sitk.sitkNearestNeighbor, 0)
    rng = np.random.default_rng([seed, 2000])
    fixed = np.interp(np.clip(deformed, 0, 1), *OTHER_CONTRAST) + rng.normal(0.0, BRAIN_NOISE, deformed.shape)
    noisy = array + rng.normal(0.0, BRAIN_NOISE, array.shape)
    points = grid.points()
    targets = points + field
    inside = _inside(points, grid, 5.0) & _inside(targets, grid, 5.0)
    known = np.flatnonzero((sitk.GetArrayFromImage(fixed_labels) > 0) & inside)
    index = rng.choice(known, 600, replace=False)
    return Pair(
        name=f"brain-known-{seed}",
        fixed=grid.image(fixed.astype(np.float32)),
        moving=grid.image(noisy.astype(np.float32)),
        fixed_labels=fixed_labels,
        moving_labels=segmentation,
        labels=(2, 3, 10, 17),
        truth=truth,
        fixed_points=points.reshape(-1, 3)[index],
        moving_points=targets.reshape(-1, 3)[index],
        point_set=np.array(["brain"] * 600),
    )


def describe(pair: Pair) -> str:
    """A few lines about a pair: distances before registration, smoothness of the truth, number of landmarks."""
    lines = [f"{pair.name}: {Grid.of(pair.fixed).describe()}"]
    if pair.truth is not None:
        vectors = sitk.GetArrayFromImage(pair.truth)
        length = np.linalg.norm(vectors, axis=-1)
        determinant = DisplacementField.from_image(pair.truth).jacobian_determinant()
        lines.append(
            f"  true field: r.m.s. {np.sqrt((length**2).mean()):.2f} mm, largest {length.max():.1f} mm, Jacobian "
            f"determinant {determinant.min():.2f} to {determinant.max():.2f}"
        )
        error = np.linalg.norm(pair.moving_points - pair.fixed_points, axis=-1)
        for name in ("organ", "body"):
            here = pair.point_set == name
            lines.append(f"  {name}: {here.sum()} landmarks, {error[here].mean():.2f} mm before")
        lines.append(f"  all: {len(error)} landmarks, {error.mean():.2f} mm before")
    before, after = (sitk.GetArrayFromImage(i) for i in (pair.fixed_labels, pair.moving_labels))
    dice = [
        2 * np.sum((before == k) & (after == k)) / max(1, np.sum(before == k) + np.sum(after == k)) for k in pair.labels
    ]
    lines.append(
        f"  Dice before: {np.mean(dice):.3f} ({', '.join(f'{k}: {d:.3f}' for k, d in zip(pair.labels, dice))})"
    )
    return "\n".join(lines)


def preview(pairs: Sequence[Pair], path: str | Path) -> None:
    """One row per pair: coronal and axial slices with the labels' outlines, and the true field's length.

    Radiological display: the patient's right on the left, front and head up.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(pairs), 5, figsize=(20, 4.4 * len(pairs)), squeeze=False)
    for row, pair in zip(axes, pairs):
        shape = Grid.of(pair.fixed).shape
        cuts = {
            "coronal": np.s_[::-1, shape[1] // 2, ::-1],
            "axial": np.s_[int(shape[0] * (0.8 if pair.truth is not None else 0.5)), ::-1, ::-1],
        }
        window = (-200, 300) if pair.truth is not None else (0, 1)
        views = [(name, view) for name in ("fixed", "moving") for view in cuts]
        for show, (name, view) in zip(row, views):
            # the slices above suit axes that run to the patient's right, front and head (RAS)
            image, labels = (
                sitk.GetArrayFromImage(sitk.DICOMOrient(i, "RAS"))[cuts[view]]
                for i in (getattr(pair, name), getattr(pair, f"{name}_labels"))
            )
            show.imshow(image, cmap="gray", vmin=window[0], vmax=window[1])
            for label in np.unique(labels)[1:]:
                show.contour(labels == label, [0.5], colors=[plt.cm.tab20(int(label) % 20)], linewidths=0.6)
            show.set_title(f"{pair.name}: {name}, {view}")
            show.axis("off")
        if pair.truth is not None:
            length = sitk.GetArrayFromImage(sitk.VectorMagnitude(sitk.DICOMOrient(pair.truth, "RAS")))
            shown = row[4].imshow(length[cuts["coronal"]], cmap="viridis")
            figure.colorbar(shown, ax=row[4], label="true displacement, mm")
        row[4].axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=60)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ct", help="abdominal CT, NIfTI")
    parser.add_argument("--labels", help="its TotalSegmentator labels")
    parser.add_argument("--brain", help="OASIS scan, .npz with vol and seg")
    parser.add_argument("--seeds", default="0", help="seeds of the random fields, separated by commas")
    parser.add_argument("--cache", default="bench-cache", help="folder that keeps the brain's affine transform")
    parser.add_argument("--preview", help="PNG file to write")
    arguments = parser.parse_args()
    pairs = []
    if arguments.ct:
        for seed in (int(s) for s in arguments.seeds.split(",")):
            pairs += [ct_pair(arguments.ct, arguments.labels, seed, scale) for scale in (1.0, 3.0)]
    if arguments.brain:
        pairs.append(brain_pair(arguments.brain, arguments.cache))
    if not pairs:
        parser.error("name a CT with its labels (--ct, --labels) or a brain (--brain)")
    for pair in pairs:
        print(describe(pair))
    if arguments.preview:
        preview(pairs, arguments.preview)


if __name__ == "__main__":
    main()
