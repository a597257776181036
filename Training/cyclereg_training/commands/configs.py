"""``cyclereg-train configs``: the configurations that come with the package."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="print this one, to save it and change it")


def main(arguments: argparse.Namespace) -> int:
    """Run it; the exit status."""
    from ..config import CONFIGS, config_names, read_values

    if arguments.name is not None:
        read_values(arguments.name)  # refuses a name that is none
        print((CONFIGS / f"{arguments.name}.yaml").read_text(encoding="utf-8"), end="")
        return 0
    for name in config_names():
        first = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
        print(f"{name:<28} {read_values(name)['method']:<22} {first.lstrip('# ')}")
    return 0
