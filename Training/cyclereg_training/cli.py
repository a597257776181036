"""The command line ``cyclereg-train``: verbs, exit statuses, and errors of one line, as the library's has them."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Sequence

from CycleRegLib.cli import OneLineParser, run

from . import commands

PROGRAM = "cyclereg-train"


def verbs() -> list[str]:
    """Every module in ``commands`` is one."""
    return sorted(module.name for module in pkgutil.iter_modules(commands.__path__) if module.name[0] != "_")


def build_parser() -> OneLineParser:
    """The whole command line."""
    parser = OneLineParser(prog=PROGRAM, description="Training of CycleReg's registration networks.")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=OneLineParser)
    subparsers.required = True
    for verb in verbs():
        module = importlib.import_module(f"{commands.__name__}.{verb}")
        what = (module.__doc__ or "").partition("\n")[0].partition(": ")[2].rstrip(".")
        own = subparsers.add_parser(verb, help=what, description=f"{what[:1].upper()}{what[1:]}.")
        module.add_arguments(own)
        own.set_defaults(main=module.main)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    0 done, 1 the training diverged, 2 wrong input, 3 out of memory, 130 cancelled.  Without a verb, ``fit`` is meant.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] not in (*verbs(), "-h", "--help"):
        words.insert(0, "fit")
    status = 0

    def work() -> None:
        nonlocal status
        parser = build_parser()
        given, rest = parser.parse_known_args(words)
        if rest and hasattr(given, "overrides") and all("=" in word and word[0] != "-" for word in rest):
            given.overrides += rest  # those after options, which argparse does not join to the others
        elif rest:
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        status = given.main(given) or 0

    return run(work, PROGRAM) or status


if __name__ == "__main__":
    sys.exit(main())
