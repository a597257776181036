"""``cyclereg-train evaluate``: compare methods on test pairs: tables, box plots, Wilcoxon tests."""

from __future__ import annotations

import argparse

from CycleRegLib.progress import STYLES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "list", metavar="LIST", help="manifest of a batch, or list of pairs of which those with split test are taken"
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        required=True,
        metavar="SPEC",
        help="[NAME:]ID[=CHECKPOINT][,OPTION=VALUE...], such as optimize, pyramid or mine:voxelmorph1=best.safetensors",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the tables; goes on if it was begun")
    parser.add_argument(
        "--options",
        nargs="+",
        default=[],
        metavar="OPTION=VALUE",
        help="of all methods, as columns of a manifest, such as affine=none",
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        action="append",
        metavar="NAME",
        help="test the difference between these two methods only (may be repeated); every two by default",
    )
    parser.add_argument("--overwrite", action="store_true", help="register again what is complete")
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--threads", type=int, help="processor threads of each")
    parser.add_argument("--progress", default="bar", choices=STYLES, help="how progress is shown (default bar)")


def main(arguments: argparse.Namespace) -> int:
    """Run it; the exit status, 1 if a pair failed."""
    from ..evaluation.run import evaluate_methods
    from ..evaluation.specs import read_specs
    from ..evaluation.tables import means_table
    from ..evaluation.test_list import read_test_list

    specs = read_specs(arguments.methods, arguments.options)
    rows = read_test_list(arguments.list)
    compared = None if arguments.compare is None else [(first, second) for first, second in arguments.compare]
    scores = evaluate_methods(
        rows,
        specs,
        arguments.output,
        compared,
        arguments.overwrite,
        arguments.workers,
        arguments.threads,
        arguments.progress,
    )
    if scores.measures:
        print(means_table(scores))
    print(f"Tables: {arguments.output}")
    if scores.failures:
        print(f"{len(scores.failures)} registrations failed; why is in {arguments.output}/evaluation.md.")
        return 1
    return 0
