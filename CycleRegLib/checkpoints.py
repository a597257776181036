"""Checkpoints: trained weights in files, read without ever running code from them.

CycleReg's own files are ``.safetensors``.  Their metadata (strings) are ``cyclereg_checkpoint`` (format version),
``method``, ``network`` (JSON: arguments that rebuild the architecture), ``normalisation``, ``grid`` (JSON, see
:class:`~CycleRegLib.networks.preparation.GridRule`), ``training`` (JSON summary) and ``licence``; the names of weights
carry the prefix ``forward.`` or ``backward.``.  Plain PyTorch state dicts (``.pth``, ``.pt``) in a published layout
load too, also inside a dictionary under ``state_dict``, ``model_state``, ``model_state_dict`` or ``model``; settings
that such a dictionary holds under ``config`` are honoured where the network knows them
(:meth:`~CycleRegLib.networks.blocks.RegistrationNetwork.from_published`) and kept under ``training``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union

import safetensors.torch
import torch

from .errors import InputError
from .methods import Method, get_method, list_methods
from .networks.preparation import GridRule, check_normalisation
from .outputs import OutputTransaction
from .weights import State, as_weights, first_line, read_weights_file

FORMAT_VERSION = "1"
DIRECTIONS = ("forward", "backward")
_NAMED = 3
PathLike = Union[str, Path]

# Published layouts of other architectures, so that a refusal can say what the file is.
_OTHER_LAYOUTS = {
    "TransMorph": ("transformer.patch_embed.", "reg_head."),
}


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights of one or two networks and what must be known to use them.

    Attributes
    ----------
    method
        Id of the method, see :mod:`CycleRegLib.methods`.
    networks
        State dicts (float32, CPU) by direction: ``forward`` always, ``backward`` where there is a second network.
    config
        Arguments that rebuild the architecture.
    normalisation, grid
        See :mod:`CycleRegLib.networks.preparation`.
    training, licence
        What is known of the training, and the weights' licence.
    metadata
        The file's raw metadata; empty for a plain state dict, whose normalisation and grid are only assumed.
    sha256
        Of the file; of two files, both sums joined by a comma.
    path, backward_path
        Where it was read; the second is ``None`` for a single file.
    """

    method: str
    networks: dict[str, State]
    config: dict[str, Any]
    normalisation: str
    grid: GridRule
    training: dict[str, Any]
    licence: str
    metadata: dict[str, str]
    sha256: str
    path: Path
    backward_path: Path | None = None
    built: dict[Any, Any] = field(default_factory=dict, repr=False)  # networks in use, kept between pairs


def read_checkpoint(
    path: PathLike,
    method: str | None = None,
    backward: PathLike | None = None,
    config: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Read and check weights.

    Parameters
    ----------
    path
        A ``.safetensors`` file or a plain state dict (``.pth``, ``.pt``); told apart by content, not by name.
    method
        The method that the weights must belong to; recognised from the file when left out.
    backward
        A second file, for the backward network, where the directions come in two files.
    config
        Arguments of the network that the file does not tell, or tells wrongly.

    Raises
    ------
    InputError
        If the file is missing, empty, damaged or no checkpoint; would run code; belongs to another method; has
        missing, extra or misshapen weights (up to three of each are named), or weights that are not finite.
    """
    checkpoint = _read_one(Path(path), method, config)
    if backward is None:
        return checkpoint
    second = _read_one(Path(backward), checkpoint.method, config)
    for one in (checkpoint, second):
        if len(one.networks) != 1:
            raise InputError(f"The checkpoint '{one.path}' holds both directions already; give it alone.")
    with torch.device("meta"):
        network = get_method(checkpoint.method).build_network(**checkpoint.config)
    if network.both_directions:
        raise InputError(f"One network of {checkpoint.method} gives both directions; give a single checkpoint.")
    for name in ("config", "normalisation", "grid"):
        if getattr(checkpoint, name) != getattr(second, name):
            raise InputError(
                f"The checkpoints '{checkpoint.path}' and '{second.path}' do not belong together: their "
                f"{'network configurations' if name == 'config' else name + 's'} differ."
            )
    return Checkpoint(
        method=checkpoint.method,
        networks={"forward": checkpoint.networks["forward"], "backward": second.networks["forward"]},
        config=checkpoint.config,
        normalisation=checkpoint.normalisation,
        grid=checkpoint.grid,
        training=checkpoint.training,
        licence=checkpoint.licence,
        metadata=checkpoint.metadata,
        sha256=f"{checkpoint.sha256},{second.sha256}",
        path=checkpoint.path,
        backward_path=second.path,
    )


def write_checkpoint(
    path: PathLike,
    method: str,
    networks: Mapping[str, Mapping[str, torch.Tensor]],
    config: Mapping[str, Any] | None = None,
    normalisation: str | None = None,
    grid: GridRule | Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    licence: str = "",
    half: bool = False,
) -> Checkpoint:
    """Write a ``.safetensors`` checkpoint, whole or not at all, and return it as read back.

    Parameters
    ----------
    path
        Ends in ``.safetensors``.
    method, config, normalisation, grid, training, licence
        See :class:`Checkpoint`; configuration and normalisation are the weights' and the method's when left out.
    networks
        State dicts: ``{"forward": ...}`` or ``{"forward": ..., "backward": ...}``.
    half
        Keep the weights as float16: half the size, rounded to 11 bits.  Networks compute in float32 as ever.

    Raises
    ------
    InputError
        If the path has another ending or cannot be written, or the weights do not fit the method.
    """
    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        raise InputError(f"Checkpoints are written as .safetensors; '{path}' ends otherwise. Change the name.")
    entry = get_method(method)
    states = {name: as_weights(dict(state), str(path)) for name, state in networks.items()}
    config = _checked(states, entry, None if config is None else dict(config), "The network to be written")
    rule = grid if isinstance(grid, GridRule) else GridRule.from_dict(grid)
    metadata = {
        "cyclereg_checkpoint": FORMAT_VERSION,
        "method": entry.id,
        "network": json.dumps(config, sort_keys=True),
        "normalisation": check_normalisation(normalisation or entry.normalisation),
        "grid": json.dumps(rule.to_dict()),
        "training": json.dumps(dict(training or {}), sort_keys=True),
        "licence": licence,
    }
    # Copies: the format refuses weights that share memory.
    flat = {
        f"{name}.{key}": (value.half() if half else value.clone()).contiguous()
        for name, state in states.items()
        for key, value in state.items()
    }
    if half and not all(bool(value.isfinite().all()) for value in flat.values()):
        raise InputError("The network has weights above 65504, which float16 cannot hold. Keep them as float32.")
    with OutputTransaction() as out:
        safetensors.torch.save_file(flat, str(out.path(path)), metadata)
    return read_checkpoint(path, entry.id)


# ---------------------------------------------------------------------- what a file is


def _read_one(path: Path, method: str | None, config: Mapping[str, Any] | None) -> Checkpoint:
    requested = None if method is None else get_method(method)
    if requested is not None:
        requested.network_class()  # refuses a method without a network before anything is read
    tensors, metadata, sha256 = read_weights_file(path)
    entry = _method_of(tensors, metadata, requested, path)
    states = _by_direction(tensors)
    subject = f"The checkpoint '{path}'"
    settings = _json(metadata, "published_config", path)
    published, published_grid = entry.network_class().from_published(settings)
    stated = _json(metadata, "network", path) if "network" in metadata else {**_told(states, entry), **published}
    states = {direction: entry.network_class().adapted(state) for direction, state in states.items()}
    config = _checked(states, entry, {**stated, **(config or {})}, subject)
    return Checkpoint(
        method=entry.id,
        networks=states,
        config=config,
        normalisation=check_normalisation(metadata.get("normalisation") or entry.normalisation),
        grid=GridRule.from_dict(_json(metadata, "grid", path) or published_grid),
        training=_json(metadata, "training", path) or ({"settings": settings} if settings else {}),
        licence=metadata.get("licence", ""),
        metadata=metadata if "method" in metadata else {},
        sha256=sha256,
        path=path,
    )


def _json(metadata: Mapping[str, str], name: str, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(metadata.get(name, "{}"))
    except json.JSONDecodeError as error:
        raise InputError(f"The checkpoint '{path}' is damaged: its '{name}' metadata is no JSON.") from error
    if not isinstance(value, dict):
        raise InputError(f"The checkpoint '{path}' is damaged: its '{name}' metadata is no JSON object.")
    return value


def _by_direction(tensors: State) -> dict[str, State]:
    """One state dict per direction; names without a direction's prefix are those of a single network."""
    if not all(key.startswith(tuple(f"{d}." for d in DIRECTIONS)) for key in tensors):
        return {"forward": tensors}
    found = {d: {k[len(d) + 1 :]: v for k, v in tensors.items() if k.startswith(f"{d}.")} for d in DIRECTIONS}
    return {d: state for d, state in found.items() if state}


def _method_of(tensors: State, metadata: Mapping[str, str], requested: Method | None, path: Path) -> Method:
    """The method that a file belongs to: as its metadata say, else as the names of its weights tell."""
    version = metadata.get("cyclereg_checkpoint", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise InputError(
            f"The checkpoint '{path}' has format {version}, but this CycleReg reads {FORMAT_VERSION}. Update."
        )
    declared = metadata.get("method")
    if declared is not None:
        if requested is not None and declared != requested.id:
            raise InputError(
                f"The checkpoint '{path}' belongs to the method {declared}, not to {requested.id}. "
                f"Choose the method {declared}, or another checkpoint."
            )
        known = [m.id for m in list_methods()]
        if declared not in known:
            raise InputError(
                f"The checkpoint '{path}' belongs to the method {declared}, which this version of CycleReg does not "
                f"have (it has {', '.join(known)})."
            )
        return get_method(declared)
    state = next(iter(_by_direction(tensors).values()))
    names = list(state)
    alike = [m for m in list_methods() if _has_layout(names, m.key_signature)]
    fitting = [m for m in alike if _is_built_as(m, state)]
    others = [name for name, signature in _OTHER_LAYOUTS.items() if _has_layout(names, signature)]
    if requested is not None and (requested in fitting or (requested in alike and not fitting)):
        return requested
    if requested is None and alike:
        return (fitting or alike)[0]
    if alike or others:
        owner = (fitting or alike)[0].id if alike else others[0]
        wanted = requested.id if requested is not None else "any method that CycleReg has"
        raise InputError(f"The checkpoint '{path}' belongs to {owner}, not to {wanted}.")
    if requested is None:
        raise InputError(
            f"The checkpoint '{path}' belongs to no method that CycleReg knows; its weights are named {_some(names)}."
        )
    return requested  # the strict check then names what is missing and what is extra


def _is_built_as(method: Method, state: State) -> bool:
    """Whether weights of the method's layout have its dimension and its options too (several methods share one)."""
    try:
        config = method.network_class().configuration_from(state)
    except (KeyError, IndexError):
        return False
    return config.get("dimension") in method.dimensions and _contradiction(method, config) is None


def _contradiction(method: Method, config: Mapping[str, Any]) -> str | None:
    """The first option of the method that a configuration states otherwise."""
    return next((name for name, value in method.options.items() if config.get(name, value) != value), None)


def _has_layout(names: list[str], signature: tuple[str, ...]) -> bool:
    return bool(signature) and all(any(n.startswith(prefix) for n in names) for prefix in signature)


def _checked(
    states: Mapping[str, State], method: Method, config: dict[str, Any] | None, subject: str
) -> dict[str, Any]:
    """The configuration, after every state dict proved to fit the method's network exactly."""
    if "forward" not in states or not set(states) <= set(DIRECTIONS):
        raise InputError(f"{subject} must have a forward network, and may have a backward one; found {list(states)}.")
    network_class = method.network_class()
    if config is None:
        config = _told(states, method)
    if not isinstance(config.get("dimension", method.dimensions[0]), int):
        raise InputError(f"{subject} has a network configuration without a dimension: {config}.")
    dimension = config.get("dimension", method.dimensions[0])
    if dimension not in method.dimensions:
        allowed = " or ".join(f"{d}D" for d in method.dimensions)
        raise InputError(f"{subject} is for {dimension}D images, but {method.id} registers {allowed} images.")
    contradicted = _contradiction(method, config)
    if contradicted is not None:
        raise InputError(
            f"{subject} has a network with {contradicted} {config[contradicted]}, but that of {method.id} has "
            f"{contradicted} {method.options[contradicted]}. Choose the method that it was trained for."
        )
    config = {**method.options, **config}
    try:
        with torch.device("meta"):  # shapes only: no memory, whatever a file claims
            network = network_class(**config)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{subject} has a network configuration that {method.id} cannot have: {first_line(error)}."
        ) from error
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    for direction, state in states.items():
        _compare({name: tuple(v.shape) for name, v in state.items()}, expected, method, f"{subject} ({direction})")
    return dict(network.configuration)


def _told(states: Mapping[str, State], method: Method) -> dict[str, Any]:
    """The configuration that weights tell by themselves; empty where they are incomplete."""
    try:
        return method.network_class().configuration_from(states["forward"])
    except (KeyError, IndexError):  # missing, or with too few dimensions
        return {}  # the comparison of names and shapes says what is missing


def _compare(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], method: Method, subject: str
) -> None:
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    wrong = [
        f"{n} {list(found[n])} instead of {list(shape)}"
        for n, shape in expected.items()
        if n in found and found[n] != shape
    ]
    parts = [f"{len(v)} {what}: {_some(v)}" for what, v in (("missing", missing), ("extra", extra)) if v]
    if wrong:
        parts.append(f"{len(wrong)} of another shape: {_some(wrong)}")
    if parts:
        raise InputError(f"{subject} does not fit the network of {method.id}; weights {'; '.join(parts)}.")


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
