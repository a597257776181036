"""The command line ``cyclereg``: arguments, exit statuses, and errors of one line.  The work is in ``commands``."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from .errors import Cancelled, CycleRegError, CycleRegWarning, InputError, OutOfMemoryError
from .presets import PRESETS
from .progress import STYLES


class OneLineParser(argparse.ArgumentParser):
    """Usage errors in one line, as every other error."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message[:1].upper()}{message[1:]}. See {self.prog} --help.")


def add_pair_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """What is registered and how; in a batch every one may be a column of the manifest, so that none is required."""
    images = parser.add_argument_group("images (NRRD, NIfTI, MetaImage or a DICOM folder; in 2D also PNG or JPEG)")
    images.add_argument("--fixed", required=required, metavar="F", help="image that stays; the result lies on its grid")
    images.add_argument("--moving", required=required, metavar="M", help="image that is brought onto the fixed one")
    images.add_argument("--fixed-mask", metavar="FM", help="where the fixed image counts (non-zero), on any grid")
    images.add_argument("--moving-mask", metavar="MM", help="where the moving image counts (non-zero), on any grid")
    add_method_arguments(parser)


def add_method_arguments(parser: argparse.ArgumentParser) -> None:
    """How images are registered."""
    how = parser.add_argument_group("method")
    how.add_argument("--preset", choices=PRESETS, help="a method and its numbers under one name, in place of --method")
    how.add_argument("--method", metavar="ID", help="see 'cyclereg methods'; the best that ships when left out")
    how.add_argument("--checkpoint", metavar="FILE", help="weights of a network method (.safetensors, .pth, .pt)")
    how.add_argument(
        "--backward-checkpoint",
        metavar="FILE",
        help="weights of the second network, if they are in a file of their own",
    )
    how.add_argument("--device", default="auto", metavar="D", help="auto (default), cpu, cuda, cuda:N or mps")
    how.add_argument(
        "--initial-transform", metavar="T", help="where to start, fixed to moving points (.h5 .tfm .nrrd .nii.gz .mha)"
    )
    how.add_argument(
        "--affine",
        default="auto",
        choices=("auto", "none", "rigid", "affine"),
        help="alignment before the deformation; auto is affine, or none after an initial transform that deforms",
    )
    how.add_argument(
        "--refine-steps",
        type=int,
        default=0,
        metavar="N",
        help="steps of pair optimisation after a network (default 0)",
    )
    how.add_argument(
        "--smoothness",
        type=float,
        default=1.0,
        metavar="X",
        help="of the pair optimisation, a multiple of the default 1; more (4, say) for gentle motion such as breathing",
    )
    run = parser.add_argument_group("how a network is run")
    run.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="auto (default) is the fastest that the device computes in; it differs by hundredths of a voxel",
    )
    run.add_argument(
        "--patch-size", type=int, default=64, metavar="N", help="side of a multiscale method's patches (default 64)"
    )
    run.add_argument(
        "--patch-overlap",
        default="0.5",
        metavar="X[,Y,Z]",
        help="share of a patch that the next covers again (default 0.5); 'paper' for CycleMorph's 0.75,0.75,0.875",
    )
    run.add_argument(
        "--composition",
        default="compose",
        choices=("compose", "add"),
        help="how a multiscale method joins its global and local fields (default compose, exactly)",
    )
    run.add_argument("--organ-slices", action="store_true", help="leave out the slices on which the masks are empty")


def add_register_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``cyclereg register``; the headless runner in Slicer takes the same."""
    add_pair_arguments(parser)
    out = parser.add_argument_group("outputs (they appear whole or not at all)")
    out.add_argument("--output-transform", metavar="T", help="displacement field, fixed to moving points, LPS mm")
    out.add_argument("--output-inverse-transform", metavar="TI", help="the other direction, on the moving grid")
    out.add_argument("--output-volume", metavar="W", help="moving image resampled onto the fixed grid")
    out.add_argument("--output-jacobian", metavar="J", help="Jacobian determinant image; <= 0 is folding")
    out.add_argument("--output-roundtrip", metavar="E", help="round-trip error image, mm; -1 outside the moving image")
    out.add_argument("--json", metavar="SUMMARY", help="figures of the run")
    out.add_argument("--report", metavar="DIR", help="folder for report.html with pictures")
    parser.add_argument("--progress", default="bar", choices=STYLES, help="how progress is shown (default bar)")


def add_series_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``cyclereg series``."""
    images = parser.add_argument_group("images (NRRD, NIfTI, MetaImage or a DICOM folder)")
    images.add_argument("--fixed", required=True, metavar="F", help="image that stays; the results lie on its grid")
    images.add_argument("--moving", required=True, nargs="+", metavar="M", help="images that are brought onto it")
    images.add_argument("--fixed-mask", metavar="FM", help="where the fixed image counts (non-zero), on any grid")
    add_method_arguments(parser)
    out = parser.add_argument_group("outputs")
    out.add_argument(
        "--output", required=True, metavar="DIR", help="new folder; in it one folder for each moving image"
    )
    out.add_argument("--no-volumes", action="store_true", help="do not write the moving images resampled")
    out.add_argument("--inverse-transforms", action="store_true", help="write the transforms back, too")
    parser.add_argument("--progress", default="bar", choices=STYLES, help="how progress is shown (default bar)")


def add_measure_arguments(parser: argparse.ArgumentParser, lines: bool = False) -> None:
    """Landmarks and segmentations to measure with, and ``lines`` drawn across a tumour."""
    group = parser.add_argument_group("known anatomy to measure with")
    for side in ("fixed", "moving"):
        group.add_argument(
            f"--{side}-landmarks", metavar="FILE", help=f"landmarks in the {side} image (.mrk.json, .fcsv, .csv)"
        )
        group.add_argument(
            f"--{side}-segmentation", metavar="FILE", help=f"segments of the {side} image (.seg.nrrd or label image)"
        )
    group.add_argument(
        "--tumor-segment", metavar="NAME", help="segment measured as the tumour; by default the one called so"
    )
    for side in ("fixed", "moving") if lines else ():
        group.add_argument(
            f"--{side}-tumor-lines",
            nargs="+",
            metavar=("LONG", "SHORT"),
            help=f"the tumour's diameters drawn in the {side} image, in place of a segment: a file with the two ends "
            "of the long one (a line markup .mrk.json, or .fcsv, .csv) and, where it was drawn, a file with those of "
            "the short one",
        )


def add_batch_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``cyclereg batch``; those of ``register`` are what the manifest leaves open."""
    pairs = parser.add_argument_group("pairs")
    pairs.add_argument(
        "manifest",
        nargs="?",
        metavar="MANIFEST",
        help="CSV or JSON with the columns id, fixed, moving, and any argument below; see Docs/batch.md",
    )
    pairs.add_argument("--output", metavar="OUT", help="folder of the batch; with --make-manifest the CSV to write")
    pairs.add_argument("--make-manifest", metavar="FOLDER", help="propose a manifest for a folder of phases or BIDS")
    pairs.add_argument("--pairs", metavar="A[:B]", help="only the Ath (to the Bth) pair, counted from 1")
    pairs.add_argument("--ids", metavar="ID[,ID]", help="only these pairs")
    pairs.add_argument("--overwrite", action="store_true", help="compute again what is complete and unchanged")
    pairs.add_argument("--pictures", action="store_true", help="write pictures of every pair")
    pairs.add_argument("--reports", action="store_true", help="write a report.html of every pair, pictures in it")
    pairs.add_argument("--scenes", action="store_true", help="write a scene of every pair that 3D Slicer opens (.mrb)")
    workers = parser.add_argument_group("workers")
    workers.add_argument("--workers", type=int, default=1, metavar="N", help="processes on this machine (default 1)")
    workers.add_argument("--scheduler", metavar="ADDRESS", help="a Dask scheduler whose workers are used instead")
    workers.add_argument("--threads", type=int, metavar="N", help="processor threads of each worker")
    workers.add_argument("--progress", default="bar", choices=STYLES, help="how progress is shown (default bar)")
    add_pair_arguments(parser, required=False)
    add_measure_arguments(parser)


_SCALE_HELP = "voxels of the sample this many times larger, 0.5 to 8 (default 1)"


def _scale(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.5 <= value <= 8:
        raise argparse.ArgumentTypeError(f"it must be a number from 0.5 to 8, not '{text}'")
    return value


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"it must be a whole number, 0 or more, not '{text}'")
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    from . import __version__

    about = "Deformable registration of medical images, in both directions."
    parser = OneLineParser(prog="cyclereg", description=about)
    parser.add_argument("--version", action="version", version=f"cyclereg {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=OneLineParser)
    commands.required = True

    register = commands.add_parser("register", help="register a moving image onto a fixed one")
    add_register_arguments(register)

    series = commands.add_parser("series", help="register several moving images (phases) onto one fixed image")
    add_series_arguments(series)

    evaluate = commands.add_parser("evaluate", help="measure a registration: TRE, tumour, overlap, folding")
    evaluate.add_argument("--fixed", required=True, metavar="F")
    evaluate.add_argument("--moving", required=True, metavar="M")
    evaluate.add_argument("--transform", required=True, metavar="T", help="fixed to moving points")
    evaluate.add_argument("--inverse-transform", metavar="TI", help="for the round trip")
    evaluate.add_argument("--initial-transform", metavar="T0", help="what counts as 'before'; the identity otherwise")
    evaluate.add_argument("--mask", metavar="FM", help="region of the fixed image that image measures are taken over")
    add_measure_arguments(evaluate, lines=True)
    evaluate.add_argument("--json", metavar="OUT")
    evaluate.add_argument("--csv", metavar="OUT")
    evaluate.add_argument("--report", metavar="DIR", help="folder for report.html with pictures")
    evaluate.add_argument("--progress", default="none", choices=STYLES)

    batch = commands.add_parser("batch", help="register many pairs from a manifest; goes on where it was stopped")
    add_batch_arguments(batch)

    methods = commands.add_parser("methods", help="list the registration methods")
    methods.add_argument("--format", default="text", choices=("text", "json", "markdown"), help="default text")

    devices = commands.add_parser("devices", help="list the devices that can register, with their free memory")
    devices.add_argument("--json", action="store_true", help="print JSON instead of text")

    checkpoint = commands.add_parser("checkpoint", help="look into or convert trained weights")
    actions = checkpoint.add_subparsers(dest="action", metavar="ACTION", parser_class=OneLineParser)
    actions.required = True
    info = actions.add_parser("info", help="what a checkpoint is")
    info.add_argument("file")
    info.add_argument("--json", action="store_true", help="print JSON instead of text")
    convert = actions.add_parser("convert", help="a published state dict to .safetensors with metadata")
    convert.add_argument("source")
    convert.add_argument("output")
    convert.add_argument("--method", metavar="ID")
    convert.add_argument("--backward", metavar="FILE", help="weights of the second network")
    convert.add_argument(
        "--local", metavar="FILE", help="local network of a multiscale method; SOURCE is the global one"
    )
    convert.add_argument("--local-backward", metavar="FILE", help="local network of the second direction")
    convert.add_argument(
        "--published", metavar="NAME", help="a published checkpoint whose grid and intensities are known"
    )
    convert.add_argument("--normalisation", metavar="N", help="none, unit, max, percentile[:lo,hi] or window:lo,hi")
    convert.add_argument("--grid-size", type=int, nargs=3, metavar=("X", "Y", "Z"), help="voxels of the training grid")
    convert.add_argument("--grid-spacing", type=float, nargs=3, metavar=("X", "Y", "Z"), help="mm")
    convert.add_argument(
        "--grid-orientation", metavar="CODE", help="directions of the training axes, such as LPS or AIL"
    )
    convert.add_argument("--licence", metavar="TEXT")
    convert.add_argument("--half", action="store_true", help="keep weights as float16, in half of the bytes")

    create = actions.add_parser("create", help="untrained weights of a method, to try it out or to time it")
    create.add_argument("method")
    create.add_argument("output")
    create.add_argument("--seed", type=_seed, default=0, metavar="N", help="of the random weights (default 0)")
    create.add_argument("--both", action="store_true", help="a network of its own for each direction")
    for parser_of in (convert, create):
        parser_of.add_argument(
            "--set",
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="an argument of the network, such as cascade=ADD or dimension=2; may be given several times",
        )

    sample = commands.add_parser("sample", help="write the sample pair: a two-phase abdomen with a known answer")
    sample.add_argument("--output", required=True, metavar="DIR")
    sample.add_argument("--seed", type=_seed, default=0, metavar="N", help="0 (default) or more; varies the anatomy")
    sample.add_argument("--scale", type=_scale, default=1.0, metavar="S", help=_SCALE_HELP)
    sample.add_argument("--progress", default="bar", choices=STYLES)

    demo = commands.add_parser("demo", help="register and measure the sample pair, with pictures, report and scene")
    demo.add_argument("--output", required=True, metavar="DIR")
    demo.add_argument("--device", default="auto", metavar="D")
    demo.add_argument("--scale", type=_scale, default=1.0, metavar="S", help=_SCALE_HELP)
    demo.add_argument("--progress", default="bar", choices=STYLES)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    0 done, 1 some pairs of a batch failed, 2 wrong input, 3 out of memory, 130 cancelled.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a console of few characters must not end the work
    words = list(sys.argv[1:] if arguments is None else arguments)
    given = argparse.Namespace(command_line=shlex.join(["cyclereg", *words]))
    return run(lambda: _dispatch(build_parser().parse_args(words, given)))


def run(work: Any, program: str = "cyclereg") -> int:
    """Call ``work`` with the manners of the command line: one line per warning and error, no traceback, a status."""
    with warnings.catch_warnings(), _stoppable():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", CycleRegWarning)
        warnings.showwarning = functools.partial(_show_warning, program)
        try:
            work()
        except CycleRegError as error:
            _say(f"{program}: error: {error}")
            return error.exit_status
        except KeyboardInterrupt:
            _say(f"{program}: error: {Cancelled()}")
            return Cancelled.exit_status
        except BrokenPipeError:
            return 0  # the reader of the last words is gone (as with `| head`), and all work was done before them
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            _say(f"{program}: error: The system refused. {where}{error.strerror or error}.")
            return InputError.exit_status
        except (MemoryError, RuntimeError) as error:
            from .devices import is_out_of_memory

            if not is_out_of_memory(error):
                raise
            _say(f"{program}: error: Memory ran out. Close other programs, crop the images, or resample them coarser.")
            return OutOfMemoryError.exit_status
        finally:
            _flush_stdout()
    return 0


def _say(text: str) -> None:
    """One line on stderr, over a progress bar that may stand there."""
    line = " ".join(text.splitlines())
    print(f"\r{line:<79}" if sys.stderr.isatty() else line, file=sys.stderr, flush=True)


def _flush_stdout() -> None:
    """Python flushes at exit, and would complain aloud that the reader is gone."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """A polite kill (SIGTERM) cancels as Ctrl-C does: outputs that were begun are removed, undisturbed by a second."""
    before: dict[signal.Signals, Any] = {}

    def stop(*_: Any) -> NoReturn:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # the host handles signals
        yield
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        # Ctrl-C only where Python's own handler would have had it: not where a host listens or it is switched off.
        if number == signal.SIGTERM or signal.getsignal(number) is signal.default_int_handler:
            before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _show_warning(program: str, message: Warning | str, *_: Any, **__: Any) -> None:
    if getattr(message, "pair", None) is None:  # those about a pair of a batch are in its summary
        _say(f"{program}: warning: {message}")


def _dispatch(arguments: argparse.Namespace) -> None:
    # Imported here, so that --help and usage errors need not wait for torch.
    from . import commands

    name = arguments.command if arguments.command != "checkpoint" else f"checkpoint_{arguments.action}"
    getattr(commands, name)(arguments)


if __name__ == "__main__":
    sys.exit(main())
