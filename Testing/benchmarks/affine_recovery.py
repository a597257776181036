"""Does the affine stage find known affine maps on real images?  Writes a Markdown table.

    python Testing/benchmarks/affine_recovery.py --ct CT.nii.gz --ct-labels LABELS.nii.gz --brain BRAIN.npz \
        --output Testing/benchmarks/results/affine_recovery.md

A moving image is made from each image by a known random map T about the image's centre (rotation 5-20 degrees about
a random axis, shift 10-60 mm in a random direction, every axis scaled by 0.85-1.15; each fourth round at the limits:
20 degrees, 60 mm, scales 0.85 or 1.15), resampled once with linear interpolation, and registered back onto the
original.  The moving grid either stays where it was, so that the shift pushes anatomy out of view, or follows the
shift up to 30 mm.  Eight scenarios change contrast (CT: every labelled structure gets its own HU offset as another
contrast phase would; brain: intensities inverted and bent, as T2 against T1), add noise and cut 25-40 % of the slices
off one end of the moving or of the fixed image.

The error of a result is the mean over the fixed foreground, where the true position lies inside the moving image, of
|A p - T p|.  Success is a mean error under one voxel of the fixed image.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from CycleRegLib.affine import register_affine
from CycleRegLib.geometry import Grid

SCENARIOS = (
    "plain",
    "contrast",
    "noise",
    "moving cropped",
    "fixed cropped",
    "contrast, noise",
    "contrast, noise, moving cropped",
    "contrast, fixed cropped",
)


@dataclass(frozen=True)
class Subject:
    """An image, the same image with another contrast, its foreground and what a test needs to know about it."""

    name: str
    image: sitk.Image
    other_contrast: sitk.Image
    foreground: sitk.Image
    background: float
    noise: float
    crop_axis: int
    voxel: float


@dataclass(frozen=True)
class Case:
    scenario: str
    fixed: sitk.Image
    moving: sitk.Image
    truth: np.ndarray
    points: np.ndarray
    degrees: float
    shift: float

    def error(self, matrix: np.ndarray) -> tuple[float, float]:
        """Mean and largest |A p - T p| over the evaluated points, mm."""
        difference = (matrix - self.truth)[:3]
        distance = np.linalg.norm(self.points @ difference[:, :3].T + difference[:, 3], axis=1)
        return float(distance.mean()), float(distance.max())


def load_ct(path: Path, labels_path: Path) -> Subject:
    """The CT; its other phase gives every labelled soft structure an offset of -40 to 140 HU."""
    image = sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkFloat32)
    array = sitk.GetArrayFromImage(image)
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(labels_path)))
    random = np.random.default_rng(7)
    other = array.copy()
    for label in np.unique(labels)[1:]:
        other[labels == label] += random.uniform(-40, 140)
    grid = Grid.of(image)
    foreground = largest_component(sitk.BinaryMorphologicalOpening(grid.image(array > -300), [2, 2, 2]))
    return Subject("CT", image, grid.image(other), foreground, -1000.0, 20.0, 2, 3.0)


def load_brain(path: Path) -> Subject:
    """The T1 brain on its LPS grid; the other contrast is bent and inverted inside the brain."""
    array = np.load(path)["vol"].astype(np.float32)
    size = array.shape[::-1]
    # array axes: 0 right to left (+x), 1 superior to inferior (-z), 2 posterior to anterior (-y)
    grid = Grid(size, (1.0, 1.0, 1.0), (-80.0, 112.0, 96.0), (0, 0, 1, -1, 0, 0, 0, -1, 0))
    brain = array > 0.02
    other = np.where(brain, (1.0 - array / array.max()) ** 1.3, 0.0).astype(np.float32)
    return Subject("brain", grid.image(array), grid.image(other), grid.image(brain), 0.0, 0.03, 1, 1.0)


def largest_component(mask: sitk.Image) -> sitk.Image:
    return sitk.RelabelComponent(sitk.ConnectedComponent(mask)) == 1


def random_affine(random: np.random.Generator, center: np.ndarray, extreme: bool) -> tuple[np.ndarray, float, float]:
    """A 4x4 map about ``center`` with its rotation angle (degrees) and shift (mm)."""
    axis, direction = random.normal(size=3), random.normal(size=3)
    degrees = 20.0 if extreme else random.uniform(5, 20)
    shift = 60.0 if extreme else random.uniform(10, 60)
    scales = random.choice([0.85, 1.15], 3) if extreme else random.uniform(0.85, 1.15, 3)
    versor = sitk.VersorTransform((axis / np.linalg.norm(axis)).tolist(), np.deg2rad(degrees))
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(versor.GetMatrix()).reshape(3, 3) @ np.diag(scales)
    matrix[:3, 3] = center - matrix[:3, :3] @ center + shift * direction / np.linalg.norm(direction)
    return matrix, degrees, shift


def as_transform(matrix: np.ndarray) -> sitk.AffineTransform:
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation(matrix[:3, 3].tolist())
    return transform


def crop(image: sitk.Image, axis: int, fraction: float, low_end: bool) -> sitk.Image:
    drop = round(fraction * image.GetSize()[axis])
    lower, upper = [0, 0, 0], [0, 0, 0]
    (lower if low_end else upper)[axis] = drop
    return sitk.Crop(image, lower, upper)


def make_case(subject: Subject, number: int, seed: int) -> Case:
    """Case ``number``: its scenario is number modulo 8, its round number // 8."""
    random = np.random.default_rng([seed, number])
    scenario, rounds = SCENARIOS[number % len(SCENARIOS)], number // len(SCENARIOS)
    grid = Grid.of(subject.image)
    truth, degrees, shift = random_affine(random, grid.center, extreme=rounds % 4 == 3)
    offset = (truth[:3, :3] @ grid.center + truth[:3, 3] - grid.center) if rounds % 2 else np.zeros(3)
    offset = offset + (random.uniform(-17, 17, 3) if rounds % 2 else 0)
    moving_grid = Grid(grid.size, grid.spacing, tuple(np.array(grid.origin) + offset), grid.direction)
    source = subject.other_contrast if "contrast" in scenario else subject.image
    moving = sitk.Resample(
        source, moving_grid.empty_image(), as_transform(np.linalg.inv(truth)), sitk.sitkLinear, subject.background
    )
    if "noise" in scenario:
        noise = random.normal(0, subject.noise, grid.shape).astype(np.float32)
        moving = moving_grid.image(sitk.GetArrayFromImage(moving) + noise)
    fixed, foreground = subject.image, subject.foreground
    fraction, low_end = random.uniform(0.25, 0.40), bool(random.integers(2))
    if "moving cropped" in scenario:
        moving = crop(moving, subject.crop_axis, fraction, low_end)
    if "fixed cropped" in scenario:
        fixed, foreground = (crop(i, subject.crop_axis, fraction, low_end) for i in (fixed, foreground))
    mask = sitk.GetArrayFromImage(foreground) > 0
    points = Grid.of(fixed).points()[mask]
    points = points[:: max(1, len(points) // 20000)]
    inside = Grid.of(moving).contains(points @ truth[:3, :3].T + truth[:3, 3])
    return Case(scenario, fixed, moving, truth, points[inside], degrees, shift)


def register_cyclereg(fixed: sitk.Image, moving: sitk.Image) -> np.ndarray:
    return register_affine(fixed, moving).matrix


def register_simpleitk(fixed: sitk.Image, moving: sitk.Image) -> np.ndarray:
    """Mattes mutual information of SimpleITK: similarity then affine map, started from moments and from centres."""
    best, best_value = np.eye(4), np.inf
    for start in (sitk.CenteredTransformInitializerFilter.MOMENTS, sitk.CenteredTransformInitializerFilter.GEOMETRY):
        transform: sitk.Transform = sitk.CenteredTransformInitializer(
            fixed, moving, sitk.Similarity3DTransform(), start
        )
        value = np.inf
        for kind in ("similarity", "affine"):
            if kind == "affine":
                affine = sitk.AffineTransform(3)
                affine.SetMatrix(transform.GetMatrix())
                affine.SetCenter(transform.GetCenter())
                affine.SetTranslation(transform.GetTranslation())
                transform = affine
            method = sitk.ImageRegistrationMethod()
            method.SetMetricAsMattesMutualInformation(32)
            method.SetMetricSamplingStrategy(method.RANDOM)
            method.SetMetricSamplingPercentagePerLevel([0.3, 0.1], seed=1)
            spacing = fixed.GetSpacing()[0]
            method.SetShrinkFactorsPerLevel([max(1, round(8 / spacing)), max(1, round(4 / spacing))])
            method.SetSmoothingSigmasPerLevel([4.0, 2.0])
            method.SetSmoothingSigmasAreSpecifiedInPhysicalUnits(True)
            method.SetInterpolator(sitk.sitkLinear)
            method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 100, relaxationFactor=0.6)
            method.SetOptimizerScalesFromPhysicalShift()
            method.SetInitialTransform(transform, inPlace=True)
            try:
                method.Execute(fixed, moving)
            except RuntimeError:  # the metric lost its overlap: this start has failed
                value = np.inf
                break
            value = method.GetMetricValue()
        if value < best_value:
            best_value = value
            center = np.array(transform.GetCenter())
            best = np.eye(4)
            best[:3, :3] = np.array(transform.GetMatrix()).reshape(3, 3)
            best[:3, 3] = center + np.array(transform.GetTranslation()) - best[:3, :3] @ center
    return best


METHODS = {"CycleReg": register_cyclereg, "SimpleITK": register_simpleitk}


@dataclass(frozen=True)
class Row:
    method: str
    image: str
    scenario: str
    number: int
    before: float
    mean: float
    largest: float
    seconds: float
    cpu_seconds: float
    voxel: float

    @property
    def success(self) -> bool:
        return self.mean < self.voxel


def run(subjects: list[Subject], methods: list[str], numbers: list[int], seed: int) -> Iterator[Row]:
    for subject in subjects:
        for number in numbers:
            case = make_case(subject, number, seed)
            before, _ = case.error(np.eye(4))
            for method in methods:
                start, cpu_start = time.perf_counter(), time.process_time()
                matrix = METHODS[method](case.fixed, case.moving)
                seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
                mean, largest = case.error(matrix)
                row = Row(
                    method, subject.name, case.scenario, number, before, mean, largest, seconds, cpu, subject.voxel
                )
                mark = "" if row.success else f"   MISSED ({case.degrees:.0f} degrees, {case.shift:.0f} mm)"
                print(
                    f"{subject.name:5} {number:3} {case.scenario:32} {method:9} before {before:6.1f}  mean {mean:7.3f} "
                    f"largest {largest:7.2f} mm  {seconds:5.2f} s{mark}",
                    flush=True,
                )
                yield row


def summary_line(rows: list[Row], title: str) -> str:
    mean = np.array([row.mean for row in rows])
    seconds = np.array([row.seconds for row in rows])
    cpu = np.array([row.cpu_seconds for row in rows])
    hits = sum(row.success for row in rows)
    return (
        f"| {title} | {hits} / {len(rows)} | {np.median(mean):.2f} | {mean.mean():.2f} | {mean.max():.2f} "
        f"| {np.mean([row.before for row in rows]):.1f} | {np.median(seconds):.2f} | {np.median(cpu):.2f} |"
    )


def report(rows: list[Row], command: str) -> str:
    head = "| {} | under one voxel | median | mean | worst | before (mean) | seconds | CPU seconds |"
    rule = "|---|---|---|---|---|---|---|---|"
    machine = f"torch {torch.__version__}, SimpleITK {sitk.Version_VersionString()}"
    lines = [
        "# Recovery of known affine maps",
        "",
        "Error of a case: mean distance (mm) between found and true position over the fixed foreground that the moving",
        "image shows. Rotations to 20 degrees, shifts to 60 mm, scales 0.85-1.15 per axis; see the script's docstring.",
        "One voxel is 3 mm in the CT and 1 mm in the brain. Seconds are medians; CPU seconds are the sum over threads.",
        "",
        f"Made by `{command}` with {machine}, Python {platform.python_version()}.",
        "",
        head.format("image, method"),
        rule,
    ]
    pairs = sorted({(row.image, row.method) for row in rows})
    for image, method in pairs:
        chosen = [row for row in rows if (row.image, row.method) == (image, method)]
        lines.append(summary_line(chosen, f"{image}, {method}"))
    for image, method in pairs:
        lines += ["", f"## {image}, {method}, by scenario", "", head.format("scenario"), rule]
        for scenario in SCENARIOS:
            chosen = [row for row in rows if (row.image, row.method, row.scenario) == (image, method, scenario)]
            if chosen:
                lines.append(summary_line(chosen, scenario))
        missed = [row for row in rows if (row.image, row.method) == (image, method) and not row.success]
        if missed:
            lines += ["", "Missed: " + "; ".join(f"case {r.number} ({r.scenario}) {r.mean:.2f} mm" for r in missed)]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Recovery of known affine maps on real images.")
    parser.add_argument("--ct", type=Path, help="abdominal CT")
    parser.add_argument("--ct-labels", type=Path, help="its organ labels, on the same grid")
    parser.add_argument(
        "--brain", type=Path, help="npz with vol: axes right-left, superior-inferior, posterior-anterior"
    )
    parser.add_argument("--cases", type=int, default=32, help="cases per image")
    parser.add_argument("--only", type=int, nargs="*", help="only these case numbers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="Markdown file to write")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(args.threads)
    subjects = []
    if args.ct:
        if not args.ct_labels:
            parser.error("--ct needs --ct-labels")
        subjects.append(load_ct(args.ct, args.ct_labels))
    if args.brain:
        subjects.append(load_brain(args.brain))
    if not subjects:
        parser.error("give --ct with --ct-labels, or --brain, or all")
    rows = list(run(subjects, args.methods, args.only or list(range(args.cases)), args.seed))
    images = (" --ct CT --ct-labels LABELS" if args.ct else "") + (" --brain BRAIN" if args.brain else "")
    options = f"--cases {args.cases} --seed {args.seed} --threads {args.threads} --methods {' '.join(args.methods)}"
    text = report(rows, f"python Testing/benchmarks/affine_recovery.py{images} {options}")
    if args.output:
        args.output.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
