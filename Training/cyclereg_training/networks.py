"""The networks of a training: built, initialised, started from other weights, and recognised again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from CycleRegLib.checkpoints import read_checkpoint
from CycleRegLib.errors import InputError
from CycleRegLib.methods import get_method
from CycleRegLib.networks import RegistrationNetwork
from CycleRegLib.weights import first_line

from .config import Config
from .objectives import Objective

_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_SLOPE = 0.2
_QUIET = 0.05


def build_networks(config: Config, objective: Objective) -> dict[str, RegistrationNetwork]:
    """The networks by direction, with the weights that the training starts from.

    Raises
    ------
    InputError
        If the network cannot be built so, or the initial weights do not fit it.
    """
    checkpoint = None
    arguments = dict(config.network)
    if config.initial is not None:
        path = Path(config.initial).expanduser()
        checkpoint = None if path.suffix == ".ckpt" else read_checkpoint(path, config.method)
        stated = _of_run(path, config.method) if checkpoint is None else (checkpoint.config, checkpoint.networks)
        arguments = {**stated[0], **arguments}
    networks = {}
    for direction in objective.directions:
        network = _built(config.method, arguments)
        if config.initialisation == "he":
            initialise_he(network)
        if config.initial is not None:
            # A single network that did both directions is where two may start from.
            state = stated[1].get(direction, stated[1]["forward"])
            _load(network, state, config.initial)
        networks[direction] = network
    return networks


def _built(method: str, arguments: Mapping[str, Any]) -> RegistrationNetwork:
    try:
        return get_method(method).build_network(**arguments)
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"The network of {method} cannot be built so: {first_line(error)}.") from error


def _load(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    try:
        network.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        raise InputError(
            f"The initial weights in {source} do not fit the network of this configuration; leave out 'network', or "
            "give it the arguments that they were trained with."
        ) from error


def _of_run(path: Path, method: str) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Configuration and state dicts in the ``last.ckpt`` of another run of the same method."""
    found = read_run_checkpoint(path)
    told = found["cyclereg"]
    if told["method"] != method:
        raise InputError(f"The weights in {path} belong to the method {told['method']}, not to {method}.")
    states: dict[str, dict[str, Tensor]] = {}
    for key, value in found["state_dict"].items():
        owner, _, name = key.partition(".")
        states.setdefault(owner.removesuffix("_network"), {})[name] = value
    return told["network"], states


def read_run_checkpoint(path: Path) -> dict[str, Any]:
    """A ``.ckpt`` that a run left; nothing in it is ever run as code.

    Raises
    ------
    InputError
        If the file is missing, damaged, or of another program.
    """
    if not path.is_file():
        raise InputError(f"There is no checkpoint {path}. Check the path.")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes of the unpickler
        raise InputError(f"The checkpoint {path} cannot be read: {first_line(error)}.") from error
    if not isinstance(found, dict) or "cyclereg" not in found or "state_dict" not in found:
        raise InputError(f"The checkpoint {path} was not left by 'cyclereg-train fit'.")
    return found


@torch.no_grad()
def initialise_he(network: RegistrationNetwork) -> None:
    """He's initial weights for every convolution, biases 0; layers that give a flow start a twentieth as large."""
    for module in network.modules():
        if not isinstance(module, _CONVOLUTIONS):
            continue
        nn.init.kaiming_normal_(module.weight, _SLOPE)
        if module.out_channels == network.dimension:
            module.weight.mul_(_QUIET)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
