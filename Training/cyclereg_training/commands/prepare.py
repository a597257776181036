"""``cyclereg-train prepare``: read, check and prepare the volumes of a configuration, and report on them."""

from __future__ import annotations

import argparse

from CycleRegLib.progress import STYLES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("config", metavar="CONFIG", help="a YAML file, or a name from 'cyclereg-train configs'")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="in place of the file's, such as data.path=FOLDER"
    )
    parser.add_argument(
        "--output", metavar="DIR", help="folder for preparation.json and, of the pairs for testing, test.csv"
    )
    parser.add_argument("--progress", default="bar", choices=STYLES, help="how progress is shown (default bar)")


def main(arguments: argparse.Namespace) -> int:
    """Run it; the exit status."""
    from CycleRegLib.errors import InputError
    from CycleRegLib.progress import make_progress

    from ..config import read_config
    from ..data import build_data, require_labels
    from ..objectives import build_objective

    config = read_config(arguments.config, arguments.overrides)
    if config.data.get("source", "synthetic") == "synthetic":
        raise InputError(
            "Synthetic data need no preparation. To prepare volumes, give data.source=folder data.path=FOLDER, or "
            "data.source=list data.path=FILE."
        )
    settings = dict(config.objective)
    objective = build_objective(settings.pop("name", None) or config.method, settings)
    data = build_data(config, make_progress(arguments.progress))
    for line in data.report.lines():
        print(line)
    if arguments.output is not None:
        for path in data.report.write(arguments.output):
            print(f"wrote {path}")
    if objective.weights["dice"]:
        require_labels(data)
    return 0
