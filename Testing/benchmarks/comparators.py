"""One signature for every registration tool of the comparison: two SimpleITK images in, a displacement field out.

Every adapter returns the field as a SimpleITK vector image on the fixed grid, fixed -> moving points, LPS millimetres
(``p_moving = p_fixed + u(p_fixed)``), so that all are judged alike.  Tools other than ``cyclereg`` are used through
their own packages, with their own defaults, when installed.

As a program it makes one run in a process of its own, so that time and peak memory belong to that run alone:

``python comparators.py METHOD --pair FOLDER --output FIELD.mha --json RUN.json [--threads 2] [--window LOW HIGH]``

``python comparators.py METHOD --check`` registers a small synthetic pair on an oblique anisotropic grid and fails
unless the landmark error falls to a third: wrong axis orders, signs and units do not survive it.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

Adapter = Callable[[sitk.Image, sitk.Image, int], sitk.Image]


def _geometry(image: sitk.Image) -> tuple[tuple[float, ...], tuple[float, ...], np.ndarray]:
    """Spacing and origin (x, y, z) and the 3 x 3 direction matrix."""
    return image.GetSpacing(), image.GetOrigin(), np.array(image.GetDirection()).reshape(3, 3)


def _field_image(vectors: np.ndarray, like: sitk.Image) -> sitk.Image:
    """(z, y, x, 3) LPS mm vectors as a vector image with the geometry of ``like``."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(vectors, dtype=np.float32), isVector=True)
    image.CopyInformation(like)
    return image


def run_cyclereg(fixed: sitk.Image, moving: sitk.Image, threads: int) -> sitk.Image:
    """The project's own ``register`` with its defaults, affine stage and inverse field included."""
    from CycleRegLib.registration import register

    return register(fixed, moving).field.to_image()


def run_ants_syn(fixed: sitk.Image, moving: sitk.Image, threads: int) -> sitk.Image:
    """antspyx ``registration(type_of_transform="SyN")``: affine and SyN, Mattes mutual information."""
    import ants

    def to_ants(image: sitk.Image):
        spacing, origin, direction = _geometry(image)
        array = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
        return ants.from_numpy(np.ascontiguousarray(array), list(origin), list(spacing), direction)

    with tempfile.TemporaryDirectory() as folder:
        one, other = to_ants(fixed), to_ants(moving)
        found = ants.registration(one, other, type_of_transform="SyN", outprefix=f"{folder}/syn", random_seed=1)
        # ANTs composes warp and affine into one field of LPS mm on the fixed grid
        path = ants.apply_transforms(one, other, found["fwdtransforms"], compose=f"{folder}/")
        composed = ants.image_read(path)
        # read by ANTs itself: NIfTI vectors change sign between versions of ITK that write and read them
        vectors = composed.numpy().transpose(2, 1, 0, 3)
    return _field_image(vectors, fixed)


def run_elastix(fixed: sitk.Image, moving: sitk.Image, threads: int) -> sitk.Image:
    """itk-elastix with its default affine parameter map followed by its default B-spline one."""
    import itk

    def to_itk(image: sitk.Image):
        spacing, origin, direction = _geometry(image)
        result = itk.image_from_array(sitk.GetArrayFromImage(image).astype(np.float32))
        result.SetSpacing(spacing)
        result.SetOrigin(origin)
        result.SetDirection(itk.matrix_from_array(direction))
        return result

    parameters = itk.ParameterObject.New()
    for stage in ("affine", "bspline"):
        parameters.AddParameterMap(parameters.GetDefaultParameterMap(stage))
    one, other = to_itk(fixed), to_itk(moving)
    # number_of_threads itself crashes the default B-spline stage (ITKElastix issue 160)
    itk.MultiThreaderBase.SetGlobalDefaultNumberOfThreads(threads)
    _, found = itk.elastix_registration_method(one, other, parameter_object=parameters, log_to_console=False)
    with tempfile.TemporaryDirectory() as folder:
        # transformix writes deformationField.nii besides returning it
        field = itk.transformix_deformation_field(other, found, output_directory=folder)
    return _field_image(itk.array_from_image(field), fixed)


def run_convexadam(fixed: sitk.Image, moving: sitk.Image, threads: int) -> sitk.Image:
    """convexAdam's ``convex_adam_pt``: MIND-SSC features, its defaults."""
    import torch
    from convexAdam.convex_adam_MIND import convex_adam_pt

    spacing, _, direction = _geometry(fixed)
    voxels = convex_adam_pt(
        sitk.GetArrayFromImage(fixed), sitk.GetArrayFromImage(moving), dtype=torch.float32, device=torch.device("cpu")
    )
    # voxels along the array's axes (z, y, x) -> index (x, y, z) -> LPS mm
    return _field_image((voxels[..., ::-1] * np.array(spacing)) @ direction.T, fixed)


def run_fireants(fixed: sitk.Image, moving: sitk.Image, threads: int) -> sitk.Image:
    """FireANTs: affine, then greedy compositive registration at scales 4, 2, 1; local cross-correlation; CPU.

    ``smooth_grad_sigma`` is 2 because that did better than its default of 1 on CT and brain alike.
    """
    from fireants.io import BatchedImages, Image
    from fireants.registration.affine import AffineRegistration
    from fireants.registration.greedy import GreedyRegistration

    one, other = (BatchedImages([Image(i, device="cpu")]) for i in (fixed, moving))
    affine = AffineRegistration([8, 4, 2], [100, 50, 25], one, other, optimizer_lr=3e-3, progress_bar=False)
    affine.optimize()
    greedy = GreedyRegistration(
        [4, 2, 1],
        [100, 50, 20],
        one,
        other,
        init_affine=affine.get_affine_matrix().detach(),
        smooth_grad_sigma=2.0,
        progress_bar=False,
    )
    greedy.optimize()
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/warp.mha"
        greedy.save_as_ants_transforms(path)
        return _field_image(sitk.GetArrayFromImage(sitk.ReadImage(path)), fixed)


@dataclass(frozen=True)
class Comparator:
    """A method of the comparison: its adapter, its package, what it loads before the clock starts."""

    name: str
    run: Adapter
    modules: tuple[str, ...]
    package: str
    settings: str
    load: Callable[[], object] | None = None

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.modules[0].split(".")[0]) is not None

    @property
    def version(self) -> str:
        return importlib.metadata.version(self.package)


COMPARATORS = {
    c.name: c
    for c in (
        Comparator(
            "cyclereg",
            run_cyclereg,
            ("CycleRegLib.registration",),
            "cyclereg",
            "`register(fixed, moving)`, all defaults; affine stage and inverse field included",
        ),
        Comparator(
            "ants-syn",
            run_ants_syn,
            ("ants",),
            "antspyx",
            '`ants.registration(type_of_transform="SyN")`: affine + SyN, mutual information',
        ),
        Comparator(
            "elastix",
            run_elastix,
            ("itk",),
            "itk-elastix",
            "default `affine` then default `bspline` parameter map",
            # itk loads its libraries at the first use of a name
            load=lambda: sys.modules["itk"].ElastixRegistrationMethod,
        ),
        Comparator(
            "convexadam",
            run_convexadam,
            ("torch", "convexAdam.convex_adam_MIND"),
            "convexAdam",
            "`convex_adam_pt`: MIND-SSC, all defaults, float32 on the CPU",
        ),
        Comparator(
            "fireants",
            run_fireants,
            ("torch", "fireants.registration.greedy"),
            "fireants",
            "affine (scales 8, 4, 2; 100, 50, 25 steps), then greedy compositive (4, 2, 1; 100, 50, 20 steps), "
            "local cross-correlation, `smooth_grad_sigma` 2, other settings default, float32 on the CPU",
        ),
    )
}


def peak_memory_mb() -> float:
    """Largest resident set of this process so far, in MB (2**20 bytes)."""
    status = Path("/proc/self/status")
    if status.exists():
        # unlike ru_maxrss, this does not start at the size of the process that forked this one
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024.0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def thread_environment(threads: int) -> dict[str, str]:
    """Environment variables that hold the numerical libraries to ``threads`` threads."""
    names = ("OMP", "MKL", "OPENBLAS", "VECLIB_MAXIMUM", "NUMEXPR")
    return {f"{n}_NUM_THREADS": str(threads) for n in names} | {
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": str(threads),
        "CUDA_VISIBLE_DEVICES": "",
    }


def limit_threads(threads: int) -> None:
    """Hold what is already imported to ``threads`` threads."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def timed_run(name: str, fixed: sitk.Image, moving: sitk.Image, threads: int) -> tuple[sitk.Image, dict]:
    """Run a method; the field and seconds of imports, wall and CPU seconds of the run, and memory in MB."""
    comparator = COMPARATORS[name]
    start = time.perf_counter()
    for module in comparator.modules:
        importlib.import_module(module)
    if comparator.load:
        comparator.load()
    limit_threads(threads)
    imported, before, base = time.perf_counter(), os.times(), peak_memory_mb()
    field = comparator.run(fixed, moving, threads)
    done, after = time.perf_counter(), os.times()
    used = sum(after[:4]) - sum(before[:4])
    return field, {
        "import_seconds": round(imported - start, 2),
        "seconds": round(done - imported, 2),
        "cpu_seconds": round(used, 2),
        "memory_before_mb": round(base),
        "peak_memory_mb": round(peak_memory_mb()),
        "version": comparator.version,
    }


def check(name: str, threads: int) -> bool:
    """Register textured noise shifted and deformed on an oblique anisotropic grid; whether it worked."""
    from pairs import OUTSIDE_HU, random_field
    from scipy import ndimage

    from CycleRegLib.fields import DisplacementField
    from CycleRegLib.geometry import Grid

    rotation = np.array([[0.96, -0.28, 0.0], [0.28, 0.96, 0.0], [0.0, 0.0, 1.0]])
    tilt = np.array([[1.0, 0.0, 0.0], [0.0, 0.8, -0.6], [0.0, 0.6, 0.8]])
    grid = Grid((84, 72, 60), (2.0, 2.5, 3.0), (-40.0, 25.0, 300.0), tuple((rotation @ tilt).ravel()))
    field = random_field(grid, rms_mm=3.0, seed=5) + np.array([4.0, -7.0, 5.0], np.float32)
    rng = np.random.default_rng(3)
    texture = sum(a * ndimage.gaussian_filter(rng.standard_normal(grid.shape), s) for a, s in ((400, 2), (3000, 5)))
    index = (grid.to_index(grid.points()) / (np.array(grid.size) - 1) - 0.5) / (0.40, 0.36, 0.38)
    texture = np.where(np.linalg.norm(index, axis=-1) < 1, texture * 4 + 100, OUTSIDE_HU)
    moving = grid.image(ndimage.gaussian_filter(texture, 0.7).astype(np.float32))
    true = DisplacementField(field, grid)
    fixed = sitk.Resample(moving, grid.empty_image(), true.to_transform(), sitk.sitkLinear, OUTSIDE_HU)
    found, measured = timed_run(name, fixed, moving, threads)
    error = sitk.GetArrayFromImage(found) - field
    inside = np.linalg.norm(index, axis=-1) < 0.9
    before, after = (float(np.linalg.norm(v, axis=-1)[inside].mean()) for v in (field, error))
    print(f"{name}: mean error {before:.2f} mm before, {after:.2f} mm after, {measured}")
    return after < before / 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("method", choices=tuple(COMPARATORS))
    parser.add_argument("--pair", type=Path, help="folder written by pairs.Pair.write")
    parser.add_argument("--output", type=Path, help="displacement field to write")
    parser.add_argument("--json", type=Path, help="file for time, memory and version")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--window", type=float, nargs=2, help="clamp both images to these intensities first")
    parser.add_argument("--check", action="store_true", help="try the adapter on a synthetic pair instead")
    arguments = parser.parse_args()
    if arguments.check:
        return 0 if check(arguments.method, arguments.threads) else 1
    if not (arguments.pair and arguments.output and arguments.json):
        parser.error("--pair, --output and --json are needed (or --check)")
    images = [sitk.ReadImage(str(arguments.pair / f"{name}.mha"), sitk.sitkFloat32) for name in ("fixed", "moving")]
    if arguments.window:
        images = [sitk.Clamp(image, sitk.sitkFloat32, *arguments.window) for image in images]
    field, measured = timed_run(arguments.method, *images, arguments.threads)
    sitk.WriteImage(field, str(arguments.output))
    arguments.json.write_text(json.dumps(measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
