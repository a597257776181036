"""Train every variant through the one trainer, and test it on pairs that no training saw."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from CycleRegLib.errors import InputError

from ..config import Config
from ..data import build_data
from ..evaluation.scores import Score
from ..fit import LAST_WORD, fit
from ..networks import build_networks
from ..objectives import build_objective
from ..run_folder import CONFIG, LAST, LAST_WEIGHTS
from .measuring import measure_pair
from .variants import UNREGISTERED, VARIANTS, Variant, check_base, config_of

TEST = "test.json"
#: Seed of the pairs for testing; those of trainings count from 0.
TEST_SEED = 1_000_003


@dataclass(frozen=True)
class Outcome:
    """One variant trained with one seed; ``seconds`` of training, None where it was resumed."""

    variant: str
    seed: int
    seconds: float | None
    values: dict[str, dict[str, float]]

    def scores(self) -> list[Score]:
        """By pair."""
        return [Score(pair, self.variant, dict(values)) for pair, values in self.values.items()]


def run_ablation(
    base: Config,
    output: str | Path,
    seeds: int = 1,
    test_pairs: int = 40,
    variants: Sequence[Variant] = VARIANTS,
) -> list[Outcome]:
    """Train and test all variants with all seeds; what is complete from an earlier run is kept.

    A training that was stopped goes on after its last whole epoch.

    Parameters
    ----------
    base
        The full objective's configuration, for synthetic data.
    output
        A folder ``seed-N/VARIANT`` of each training is made in it.

    Returns
    -------
    First that of no registration.

    Raises
    ------
    InputError
        If the configuration cannot be taken apart, or the folder holds trainings with other settings.
    """
    if seeds < 1 or test_pairs < 2:
        raise InputError("An ablation needs at least 1 seed and 2 pairs for testing.")
    if base.seed + seeds > TEST_SEED:
        raise InputError(f"'seed' of an ablation is below {TEST_SEED - seeds}, so that it is tested on other pairs.")
    check_base(base)
    folder = Path(output).expanduser()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"Cannot write the ablation into {folder}: it is a file. Give the name of a folder.")
    todo = [(seed, variant) for seed in range(base.seed, base.seed + seeds) for variant in variants]
    configs = [config_of(variant, base, seed) for seed, variant in todo]
    places = [folder / f"seed-{seed}" / variant.folder for seed, variant in todo]
    for place, config in zip(places, configs):
        _check_same(place, config)
    pairs = held_out_batches(base, test_pairs)
    outcomes = [Outcome(UNREGISTERED, base.seed, 0.0, _unregistered(pairs))]
    for number, ((seed, variant), config, place) in enumerate(zip(todo, configs, places), start=1):
        print(f"{variant.name}, seed {seed} ({number} of {len(todo)})", flush=True)
        outcomes.append(_outcome(variant, config, place, pairs))
    return outcomes


def held_out_batches(base: Config, count: int) -> dict[str, Mapping[str, torch.Tensor]]:
    """Pairs that are in no training and in no validation, whatever the seed: a batch of one each, by name."""
    data = build_data(replace(base, seed=TEST_SEED, data={**base.data, "validation_pairs": count}))
    return {f"pair-{number:03d}": batch for number, batch in enumerate(data.validation_batches(), start=1)}


def _outcome(variant: Variant, config: Config, place: Path, pairs: Mapping[str, Mapping[str, torch.Tensor]]) -> Outcome:
    kept = _kept(place, list(pairs))
    if kept is not None:
        return Outcome(variant.name, config.seed, kept["seconds"], kept["pairs"])
    resumed = (place / LAST).exists()
    began = time.perf_counter()
    fit(config, place, LAST_WORD if resumed else None)
    seconds = None if resumed else round(time.perf_counter() - began, 1)
    values = _tested(config, place, pairs)
    content = {"variant": variant.name, "seed": config.seed, "seconds": seconds, "pairs": values}
    beside = place / f"{TEST}.part"
    beside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    beside.replace(place / TEST)
    return Outcome(variant.name, config.seed, seconds, values)


def _tested(config: Config, place: Path, pairs: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, Any]:
    """By the last weights: the best ones were chosen by true fields, which only the supervised baseline may know."""
    settings = dict(config.objective)
    objective = build_objective(settings.pop("name", None) or config.method, settings)
    networks = build_networks(replace(config, initial=str(place / LAST_WEIGHTS)), objective)
    values = {}
    with torch.no_grad():
        for name, batch in pairs.items():
            moving, fixed = batch["moving"], batch["fixed"]
            forward = objective.estimate(networks, moving, fixed).float()
            backward = objective.estimate(networks, fixed, moving, backward=True).float()
            values[name] = measure_pair(forward, backward, batch)
    return values


def _unregistered(pairs: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, dict[str, float]]:
    return {
        name: measure_pair(torch.zeros_like(batch["flow"]), torch.zeros_like(batch["flow"]), batch)
        for name, batch in pairs.items()
    }


def _kept(place: Path, names: Sequence[str]) -> dict[str, Any] | None:
    """What an earlier run found, if on the same pairs."""
    try:
        content = json.loads((place / TEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if list(content["pairs"]) == list(names) else None


def _check_same(place: Path, config: Config) -> None:
    """Refuse a folder whose training was another one."""
    try:
        earlier = yaml.safe_load((place / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{place / CONFIG} cannot be read: {error}. Give another --output.") from error
    now = yaml.safe_load(config.to_yaml())
    changed = sorted(name for name in now if now[name] != earlier.get(name))
    if changed:
        raise InputError(
            f"The folder {place} holds a training with another {' and '.join(changed)}. Give another --output, or the "
            "settings that it was begun with."
        )
