"""``cyclereg-train ablation``: what each term of CycleMorph's loss does, on synthetic pairs with known fields."""

from __future__ import annotations

import argparse
import shlex


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="in place of the configuration's, such as optimizer.lr=1e-3"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of tables and trainings; goes on there")
    parser.add_argument(
        "--config", default="ablation", metavar="CONFIG", help="of the full objective (default 'ablation': 2D, minutes)"
    )
    parser.add_argument("--dimension", type=int, choices=(2, 3), help="of the images; in 3D the network is cyclemorph")
    parser.add_argument("--size", type=int, metavar="N", help="voxels of each side")
    parser.add_argument("--epochs", type=int, metavar="N", help="of each training")
    parser.add_argument("--pairs", type=int, metavar="N", help="pairs that are learnt from")
    parser.add_argument("--test-pairs", type=int, default=40, metavar="N", help="pairs for testing (default 40)")
    parser.add_argument("--seeds", type=int, default=1, metavar="K", help="trainings of each variant (default 1)")


def main(arguments: argparse.Namespace) -> int:
    """Run it; the exit status."""
    from ..ablation.report import write_report
    from ..ablation.run import run_ablation
    from ..config import read_config

    base = read_config(arguments.config, [*_overrides(arguments), *arguments.overrides])
    outcomes = run_ablation(base, arguments.output, arguments.seeds, arguments.test_pairs)
    for line in write_report(arguments.output, outcomes, base, _command(arguments)):
        print(line.replace("**", ""))
    print(f"Tables: {arguments.output}/ablation.md")
    return 0


def _overrides(arguments: argparse.Namespace) -> list[str]:
    from ..config import read_config

    found = []
    if arguments.dimension is not None:
        found.append(f"method={'cyclemorph' if arguments.dimension == 3 else 'cyclemorph-2d'}")
    if arguments.size is not None or arguments.dimension is not None:
        base = read_config(arguments.config, [*found, *[o for o in arguments.overrides if o.startswith("method=")]])
        dimension = 2 if base.method.endswith("-2d") else 3
        found.append(f"data.shape={[arguments.size or base.data['shape'][0]] * dimension}")
    if arguments.epochs is not None:
        found.append(f"trainer.max_epochs={arguments.epochs}")
    if arguments.pairs is not None:
        found.append(f"data.pairs_per_epoch={arguments.pairs}")
    return found


def _command(arguments: argparse.Namespace) -> str:
    """The command that gives the same again."""
    words = ["cyclereg-train", "ablation", *arguments.overrides, "--output", "DIR"]
    for name, usual in (("config", "ablation"), ("dimension", None), ("size", None), ("epochs", None), ("pairs", None)):
        if getattr(arguments, name) != usual:
            words += [f"--{name}", str(getattr(arguments, name))]
    return shlex.join([*words, "--test-pairs", str(arguments.test_pairs), "--seeds", str(arguments.seeds)])
