"""What the commands of :mod:`CycleRegLib.cli` do, one function each, named after them."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from .checkpoint_making import convert, create
from .checkpoint_text import describe, describe_text
from .checkpoints import read_checkpoint
from .devices import list_memory, resolve_device
from .drawn_tumor import DrawnDiameters, read_diameters
from .errors import InputError
from .evaluation import evaluate as evaluate_registration
from .fields import DisplacementField
from .geometry import Grid
from .images import (
    FIELD_SUFFIXES,
    IMAGE_SUFFIXES,
    PICTURE_SUFFIXES,
    check_output_suffix,
    read_any_image,
    read_label_image,
    read_transform,
    suffix_of,
    write_image,
    write_transform,
)
from .images_2d import as_picture, check_any, check_picture_output, check_slice_output, read_input
from .landmarks import read_landmarks
from .methods import describe_methods, get_method, list_methods, methods_table
from .networks.settings import InferenceSettings, parse_overlap
from .outputs import OutputTransaction
from .phantom import write_sample
from .pictures import render_pictures
from .planar import is_flat
from .presets import method_of
from .progress import make_progress
from .registration import RegistrationResult
from .registration import register as register_images
from .report import render_report
from .segmentations import read_segmentation

WRITTEN_TRANSFORMS = (".h5", ".tfm", *FIELD_SUFFIXES)


def register(arguments: argparse.Namespace) -> None:
    """``cyclereg register``: files in, files out."""
    if not any([*register_outputs(arguments).values(), arguments.json, arguments.report]):
        raise InputError(
            "No output was asked for. Give at least one of --output-transform, --output-inverse-transform, "
            "--output-volume, --output-jacobian, --output-roundtrip, --json, --report."
        )
    with OutputTransaction(input_paths(arguments)) as out:
        report = claim_register_outputs(arguments, out)
        inputs = read_inputs(arguments)
        check_register_outputs(arguments, inputs["moving"])
        progress = make_progress(arguments.progress)
        result = register_images(**inputs, **registration_options(arguments), progress=progress)
        summary = {**result.summary(), **_provenance(arguments)}
        write_register_outputs(result, arguments, out)
        if arguments.json is not None:
            write_json(summary, out.path(arguments.json))
        if report is not None:
            pictures = render_pictures(
                inputs["fixed"],
                inputs["moving"],
                result.field,
                result.warped,
                inverse=result.inverse,
                initial=inputs.get("initial_transform"),
            )
            out.path(report).write_text(render_report(summary, None, pictures), encoding="utf-8")
    if arguments.progress == "json":
        print(json.dumps({"done": True, "seconds": summary["seconds"]["total"]}), flush=True)


def read_inputs(arguments: argparse.Namespace) -> dict[str, Any]:
    """The images, masks and initial transform that the command line names, by their names in ``register``.

    Raises
    ------
    InputError
        If one cannot be read.
    """
    method = get_method(method_of(arguments.method, arguments.preset))
    inputs: dict[str, Any] = {
        side: read_input(getattr(arguments, side), side, method) for side in ("fixed", "moving")
    }  # fmt: skip
    for side in ("fixed", "moving"):
        path = getattr(arguments, f"{side}_mask")
        if path is not None:
            inputs[f"{side}_mask"] = read_label_image(path, f"{side} mask", is_flat(inputs[side]))
    if arguments.initial_transform is not None:
        dimension = inputs["fixed"].GetDimension()
        inputs["initial_transform"] = read_transform(arguments.initial_transform, "initial transform", dimension)
    return inputs


def registration_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """How the command line wants the pair to be registered, by the names of ``register``."""
    return {
        "preset": arguments.preset,
        "method": arguments.method,
        "checkpoint": _at_home(arguments.checkpoint),
        "backward_checkpoint": _at_home(arguments.backward_checkpoint),
        "device": arguments.device,
        "affine": arguments.affine,
        "refine_steps": arguments.refine_steps,
        "smoothness": arguments.smoothness,
        "inference": inference_settings(arguments),
    }


def inference_settings(arguments: argparse.Namespace) -> InferenceSettings:
    """How the command line wants networks to be run."""
    return InferenceSettings(
        arguments.precision,
        arguments.patch_size,
        parse_overlap(arguments.patch_overlap),
        arguments.composition,
        arguments.organ_slices,
    )


def register_outputs(arguments: argparse.Namespace) -> dict[str, str]:
    """The image and transform files that ``cyclereg register`` was asked for, by what they hold."""
    wanted = {
        "transform": arguments.output_transform,
        "inverse transform": arguments.output_inverse_transform,
        "volume": arguments.output_volume,
        "jacobian": arguments.output_jacobian,
        "roundtrip": arguments.output_roundtrip,
    }
    return {what: path for what, path in wanted.items() if path is not None}


def claim_register_outputs(arguments: argparse.Namespace, out: OutputTransaction) -> Path | None:
    """Check and claim every output before anything is computed; returns where the report will be.

    Raises
    ------
    InputError
        If one cannot be written.
    """
    suffixes = {"volume": (*IMAGE_SUFFIXES, *PICTURE_SUFFIXES), "jacobian": IMAGE_SUFFIXES, "roundtrip": IMAGE_SUFFIXES}
    for what, path in register_outputs(arguments).items():
        check_output_suffix(path, suffixes.get(what, WRITTEN_TRANSFORMS), f"output {what}")
        out.claim(path)
    if arguments.json is not None:
        out.claim(arguments.json)
    return claim_report(arguments, out)


def check_register_outputs(arguments: argparse.Namespace, moving: sitk.Image) -> None:
    """Refuse outputs of a kind of file that cannot hold what the moving image will give.

    Raises
    ------
    InputError
        If there is one.
    """
    for what, path in register_outputs(arguments).items():
        if what == "volume":
            check_picture_output(path, moving, "output volume")
        if "transform" in what or (what == "volume" and moving.GetNumberOfComponentsPerPixel() > 1):
            check_slice_output(path, moving, f"output {what}")


def write_register_outputs(result: RegistrationResult, arguments: argparse.Namespace, out: OutputTransaction) -> None:
    """Write what :func:`register_outputs` names."""
    contents = {
        "transform": lambda: result.field,
        "inverse transform": lambda: result.inverse,
        "volume": lambda: result.warped,
        "jacobian": result.jacobian,
        "roundtrip": result.roundtrip_image,
    }
    for what, path in register_outputs(arguments).items():
        content = contents[what]()
        if suffix_of(path) in PICTURE_SUFFIXES:
            content = as_picture(content)
        (write_transform if "transform" in what else write_image)(content, out.path(path))


def evaluate(arguments: argparse.Namespace) -> None:
    """``cyclereg evaluate``: measure a registration that is on disk; the table goes to stdout."""
    with OutputTransaction(input_paths(arguments)) as out:
        for path in (arguments.json, arguments.csv):
            if path is not None:
                out.claim(path)
        report = claim_report(arguments, out)
        for kind in ("landmarks", "segmentation", "tumor-lines"):
            given = [getattr(arguments, f"{side}_{kind.replace('-', '_')}") for side in ("fixed", "moving")]
            if (given[0] is None) != (given[1] is None):
                raise InputError(f"Give --fixed-{kind} and --moving-{kind}, or neither.")
        if arguments.fixed_tumor_lines is not None and arguments.tumor_segment is not None:
            raise InputError("Give the tumour as --tumor-segment or by lines (--fixed-tumor-lines), not both.")
        fixed, moving = (
            check_any(read_any_image(path, f"{side} image"), f"{side} image {path}")
            for side, path in (("fixed", arguments.fixed), ("moving", arguments.moving))
        )
        flat, dimension = is_flat(fixed), fixed.GetDimension()
        transform = read_transform(arguments.transform, dimension=dimension)
        field = DisplacementField.from_transform(transform, Grid.of(fixed))
        inverse = initial = None
        if arguments.inverse_transform is not None:
            back = read_transform(arguments.inverse_transform, "inverse transform", dimension)
            inverse = DisplacementField.from_transform(back, Grid.of(moving))
        if arguments.initial_transform is not None:
            initial = read_transform(arguments.initial_transform, "initial transform", dimension)
        known, lines = read_known(arguments, flat), read_tumor_lines(arguments, flat)
        mask = None if arguments.mask is None else read_label_image(arguments.mask, flat=flat)
        result = evaluate_registration(
            fixed,
            moving,
            field,
            inverse,
            tumor_label=arguments.tumor_segment,
            mask=mask,
            initial=initial,
            progress=make_progress(arguments.progress),
            **known,
            **lines,
        )
        if arguments.json is not None:
            write_json({**result.to_dict(), **_provenance(arguments)}, out.path(arguments.json))
        if arguments.csv is not None:
            result.write_csv(out.path(arguments.csv))
        if report is not None:
            if result.landmarks is not None:
                known.update(fixed_landmarks=result.landmarks.fixed, moving_landmarks=result.landmarks.moving)
            # The slices go through the tumour, as they do through one that is a segment.
            point = lines["fixed_tumor_lines"].long.mean(axis=0) if lines else None
            pictures = render_pictures(fixed, moving, field, inverse=inverse, initial=initial, point=point, **known)
            text = render_report(_provenance(arguments), result.to_dict(), pictures)
            out.path(report).write_text(text, encoding="utf-8")
    print(result.format_table(details=True))


def read_known(arguments: argparse.Namespace, flat: bool = False) -> dict[str, Any]:
    """The landmarks and segmentations that the command line names, by their names in ``evaluate``.

    Parameters
    ----------
    flat
        Whether the images are pictures or single slices, of which segmentations may be such too.

    Raises
    ------
    InputError
        If one cannot be read.
    """
    known: dict[str, Any] = {}
    for side in ("fixed", "moving"):
        path = _at_home(getattr(arguments, f"{side}_landmarks"))
        if path is not None:
            known[f"{side}_landmarks"] = read_landmarks(path, flat)
        path = _at_home(getattr(arguments, f"{side}_segmentation"))
        if path is not None:
            known[f"{side}_segmentation"] = read_segmentation(path, flat=flat)
    return known


def read_tumor_lines(arguments: argparse.Namespace, flat: bool = False) -> dict[str, DrawnDiameters]:
    """The lines that the command line names, by their names in ``evaluate``; see :func:`read_known`."""
    files = {side: getattr(arguments, f"{side}_tumor_lines") for side in ("fixed", "moving")}
    return {
        f"{side}_tumor_lines": read_diameters([os.path.expanduser(path) for path in paths], side, flat)
        for side, paths in files.items()
        if paths is not None
    }


def series(arguments: argparse.Namespace) -> None:
    """``cyclereg series``: several moving images onto one; see :mod:`CycleRegLib.series_files`."""
    from .series_files import run_series

    run_series(arguments)


def devices(arguments: argparse.Namespace) -> None:
    """``cyclereg devices``: where registrations can run."""
    found = list_memory()
    if arguments.json:
        print(json.dumps([dataclasses.asdict(one) for one in found], indent=2))
    else:
        print("\n".join(one.describe() for one in found))


def batch(arguments: argparse.Namespace) -> None:
    """``cyclereg batch MANIFEST --output OUT``; see :mod:`CycleRegLib.batch`."""
    from .batch.command import run_command

    run_command(arguments)


def methods(arguments: argparse.Namespace) -> None:
    """``cyclereg methods``: the registry, for people, as JSON or as the documentation's table."""
    if arguments.format == "json":
        print(json.dumps([dataclasses.asdict(method) for method in list_methods()], indent=2))
    else:
        print(methods_table() if arguments.format == "markdown" else describe_methods())


def checkpoint_info(arguments: argparse.Namespace) -> None:
    """``cyclereg checkpoint info FILE``."""
    found = read_checkpoint(arguments.file)
    print(json.dumps(describe(found), indent=2) if arguments.json else describe_text(found))


def checkpoint_convert(arguments: argparse.Namespace) -> None:
    """``cyclereg checkpoint convert SOURCE OUTPUT``."""
    for source in (arguments.source, arguments.backward, arguments.local, arguments.local_backward):
        if source is not None and os.path.realpath(source) == os.path.realpath(arguments.output):
            raise InputError(f"Cannot write {arguments.output}: it is the input. Give another name.")
    grid = {
        key: value
        for key, value in (
            ("size", arguments.grid_size),
            ("spacing", arguments.grid_spacing),
            ("orientation", arguments.grid_orientation),
        )
        if value is not None
    }
    written = convert(
        arguments.source,
        arguments.output,
        method=arguments.method,
        backward=arguments.backward,
        published=arguments.published,
        normalisation=arguments.normalisation,
        grid=grid or None,
        licence=arguments.licence,
        config=_network_arguments(arguments.set),
        local=None if arguments.local is None else (arguments.local, arguments.local_backward),
        half=arguments.half,
    )
    print(describe_text(written))


def checkpoint_create(arguments: argparse.Namespace) -> None:
    """``cyclereg checkpoint create METHOD OUTPUT``."""
    written = create(
        arguments.output, arguments.method, _network_arguments(arguments.set), arguments.seed, arguments.both
    )
    print(describe_text(written))


def _network_arguments(pairs: list[str]) -> dict[str, Any]:
    """``NAME=VALUE`` as given on the command line; values are JSON where they can be read so, else words."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not (name.isidentifier() and equals and text):
            raise InputError(f"--set takes NAME=VALUE, such as cascade=ADD, not '{pair}'.")
        try:
            found[name] = json.loads(text)
        except json.JSONDecodeError:
            found[name] = text
    return found


def sample(arguments: argparse.Namespace) -> None:
    """``cyclereg sample --output DIR``: the two-phase abdomen on disk."""
    folder = make_folder(arguments.output, "sample data")
    if any(folder.iterdir()):
        raise InputError(f"The folder {folder} is not empty. Give a new one, so that nothing in it is replaced.")
    paths = write_sample(folder, arguments.seed, arguments.scale, make_progress(arguments.progress))
    for name, path in paths.items():
        print(f"{name.replace('_', ' '):<20} {path}")


def demo(arguments: argparse.Namespace) -> None:
    """``cyclereg demo --output DIR``; see :mod:`CycleRegLib.demo`."""
    from .demo import run_demo

    resolve_device(arguments.device)  # before anything is written
    folder = make_folder(arguments.output, "demo")
    if any(folder.iterdir()) and not (folder / "sample").is_dir():
        raise InputError(
            f"The folder {folder} holds something else than an earlier demo. Give a new one, so that nothing in it is "
            "replaced."
        )
    run_demo(folder, arguments.device, arguments.scale, make_progress(arguments.progress))


def make_folder(path: str | Path, what: str) -> Path:
    """The folder, made if its parent exists.

    Raises
    ------
    InputError
        If it cannot be made or is a file.
    """
    folder = Path(path).expanduser()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"Cannot write the {what} into {folder}: it is a file. Give the name of a folder.")
    if not folder.parent.is_dir():
        raise InputError(f"Cannot write the {what} into {folder}: the folder {folder.parent} does not exist.")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"Cannot make the folder {folder}: {error.strerror or error}.") from error
    return folder


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """JSON with two spaces of indentation; NaN, which JSON lacks, becomes null."""
    path.write_text(json.dumps(_finite(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and value - value != 0:
        return None
    return value


def _at_home(path: str | None) -> str | None:
    """``~`` expanded, which shells leave alone after an equals sign."""
    return None if path is None else os.path.expanduser(path)


def input_paths(arguments: argparse.Namespace) -> list[str | None]:
    """Every file that a command reads, so that no output replaces it."""
    names = ["mask", "transform", "inverse_transform", "initial_transform", "checkpoint", "backward_checkpoint"]
    for side in ("fixed", "moving"):
        names += [side, f"{side}_mask", f"{side}_landmarks", f"{side}_segmentation"]
    lines = [getattr(arguments, f"{side}_tumor_lines", None) or [] for side in ("fixed", "moving")]
    return [*[getattr(arguments, name, None) for name in names], *lines[0], *lines[1]]


def _provenance(arguments: argparse.Namespace) -> dict[str, Any]:
    """The inputs and how the command was called, for summaries and reports."""
    pictures = [path for path in (arguments.fixed, arguments.moving) if suffix_of(path) in PICTURE_SUFFIXES]
    return {
        "fixed": str(arguments.fixed),
        "moving": str(arguments.moving),
        "command": arguments.command_line,
        # PNG and JPEG do not say how large a pixel is, so that millimetres are pixels.
        **({"assumed_pixel_size_mm": 1.0} if pictures else {}),
    }


def claim_report(arguments: argparse.Namespace, out: OutputTransaction) -> Path | None:
    """Where the report will be, among the outputs that appear together."""
    return None if arguments.report is None else out.claim(out.folder(arguments.report, "report") / "report.html")
