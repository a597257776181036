"""``cyclereg-train fit``: train a network."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("config", metavar="CONFIG", help="a YAML file, or a name from 'cyclereg-train configs'")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="in place of the file's, such as optimizer.lr=1e-4"
    )
    parser.add_argument("--output", metavar="DIR", help="folder of the run; the configuration's 'output' by default")
    parser.add_argument(
        "--ckpt_path", "--ckpt-path", metavar="last|FILE", help="go on where the run was kept at the end of an epoch"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only read the data and make a step; says how long and how much memory"
    )


def main(arguments: argparse.Namespace) -> int:
    """Run it; the exit status."""
    from ..config import read_config
    from ..fit import fit, try_out

    config = read_config(arguments.config, arguments.overrides)
    if arguments.dry_run:
        try_out(config)
        return 0
    fit(config, arguments.output, arguments.ckpt_path)
    return 0
