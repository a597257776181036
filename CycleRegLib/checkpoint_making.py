"""Checkpoints that are made: of untrained weights, of published files, of networks that were trained in two stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .checkpoints import DIRECTIONS, Checkpoint, PathLike, read_checkpoint, write_checkpoint
from .errors import InputError
from .methods import get_method, list_methods
from .networks.preparation import GridRule
from .weights import first_line

# What the authors say about weights that they published as plain state dicts.  The brain scans' array axes run
# to the left, down and to the front, which in (x, y, z) of a SimpleITK image is A, I, L.
PUBLISHED: dict[str, dict[str, Any]] = {
    "cyclemorph-brain": {
        "method": "cyclemorph",
        "normalisation": "unit",
        "grid": {"size": [224, 192, 160], "spacing": [1.0, 1.0, 1.0], "orientation": "AIL"},
        "training": {"summary": "CycleMorph's authors, OASIS-3 T1 brains, affinely normalised and skull-stripped"},
        "licence": "see the authors' repository",
    }
}


def create(
    path: PathLike,
    method: str,
    config: Mapping[str, Any] | None = None,
    seed: int = 0,
    both: bool = False,
    normalisation: str | None = None,
    grid: GridRule | Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Write a checkpoint of untrained weights: where training starts, and for trying a method out or timing it.

    Parameters
    ----------
    config
        Arguments of the network, such as ``{"cascade": "ADD"}``; the method's defaults hold for the rest.
    seed
        Of the random initial weights.
    both
        A network for each direction, where one network does not give both already.

    Raises
    ------
    InputError
        As :func:`write_checkpoint`; if the method uses no network or cannot have the configuration.
    """
    entry = get_method(method)
    config = dict(config or {})
    entry.network_class()  # refuses a method without a network
    states = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for direction in DIRECTIONS[: 1 + both]:
            try:
                network = entry.build_network(**config)
            except (TypeError, ValueError, RuntimeError) as error:
                raise InputError(f"The network of {entry.id} cannot be built so: {first_line(error)}.") from error
            if both and network.both_directions:
                raise InputError(f"One network of {entry.id} gives both directions; it has no second one.")
            states[direction] = network.state_dict()
    training = {"summary": f"none: random initial weights, seed {seed}"}
    return write_checkpoint(path, entry.id, states, network.configuration, normalisation, grid, training)


def convert(
    source: PathLike,
    destination: PathLike,
    method: str | None = None,
    backward: PathLike | None = None,
    published: str | None = None,
    normalisation: str | None = None,
    grid: GridRule | Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    licence: str | None = None,
    config: Mapping[str, Any] | None = None,
    local: tuple[PathLike, PathLike | None] | None = None,
    half: bool = False,
) -> Checkpoint:
    """Turn plain state dicts (or rewrite a checkpoint) into one ``.safetensors`` file with metadata.

    ``local`` gives the local networks, forward and backward or ``None``, of a multiscale method; ``source`` and
    ``backward`` are then the global ones.
    ``half`` as in :func:`write_checkpoint`.
    ``published`` names an entry of ``PUBLISHED``, whose facts hold where no other argument states them; what the
    source states itself comes next.  The sources' names and SHA-256 sums are kept under ``training``.

    Raises
    ------
    InputError
        As :func:`read_checkpoint` and :func:`write_checkpoint`; for an unknown ``published``.
    """
    if published is not None and published not in PUBLISHED:
        raise InputError(f"'{published}' names no published weights; known: {', '.join(PUBLISHED)}.")
    facts = PUBLISHED.get(published or "", {})
    if method and facts and method != facts["method"]:
        raise InputError(f"The published weights {published} belong to {facts['method']}, not to {method}.")
    if local is None:
        read = read_checkpoint(source, method or facts.get("method"), backward, config)
    else:
        read = _joined(
            read_checkpoint(source, None, backward), read_checkpoint(local[0], None, local[1]), method, config
        )
    files = [Path(p) for p in (source, backward, *(local or ())) if p is not None]
    summary = {**read.training, **facts.get("training", {}), **(training or {})}
    summary.setdefault(
        "converted_from", [{"file": f.name, "sha256": s} for f, s in zip(files, read.sha256.split(","))]
    )  # fmt: skip
    return write_checkpoint(
        destination,
        read.method,
        read.networks,
        read.config,
        normalisation or facts.get("normalisation") or read.normalisation,
        grid if grid is not None else facts.get("grid") or read.grid,
        summary,
        licence if licence is not None else facts.get("licence") or read.licence,
        half=half,
    )


def _joined(whole: Checkpoint, local: Checkpoint, method: str | None, config: Mapping[str, Any] | None) -> Checkpoint:
    """The checkpoint of a multiscale method from its global and its local networks."""
    multiscale = [m.id for m in list_methods() if m.network and hasattr(m.network_class(), "joined_state")]
    if method not in multiscale:
        raise InputError(
            f"Global and local networks belong to a multiscale method: give --method {' or '.join(multiscale)}."
        )
    network_class = get_method(method).network_class()
    part = get_method(network_class.PART).network_class()
    for one in (whole, local):
        if get_method(one.method).network_class() is not part:
            raise InputError(
                f"The checkpoint '{one.path}' belongs to {one.method}, but both networks of {method} are those of "
                f"{network_class.PART}."
            )
    if whole.networks.keys() != local.networks.keys():
        raise InputError(
            f"'{whole.path}' has networks for {' and '.join(whole.networks)}, '{local.path}' for "
            f"{' and '.join(local.networks)}. Give both the same directions."
        )
    states = {name: network_class.joined_state(whole.networks[name], local.networks[name]) for name in whole.networks}
    told = network_class.configuration_from(states["forward"])
    return dataclasses.replace(
        whole,
        method=method,
        networks=states,
        config={**told, **(config or {})},
        sha256=f"{whole.sha256},{local.sha256}",
        training={"global": whole.training, "local": local.training},
        built={},
    )
