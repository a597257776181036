"""Weights out of files that nobody vouches for: tensors only, and code is never run."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import pickle
import pickletools
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from .errors import InputError

State = dict[str, torch.Tensor]
# Where the functions lie that torch.save names to rebuild weights; a file that names others is more than weights.
_MODULES_OF_WEIGHTS = ("collections", "torch", "torch._utils", "torch.storage", "torch.serialization")


# Under which names training programs keep the weights in what they save.
_WRAPPERS = ("state_dict", "model_state", "model_state_dict", "model")
_DATA_PARALLEL = "module."


def read_weights_file(path: Path) -> tuple[State, dict[str, str], str]:
    """Weights, metadata and SHA-256 of a file, read once so that they belong together.

    Metadata are those of a safetensors file; of PyTorch's formats only ``published_config``, as JSON: what a training
    program keeps under ``config`` beside the weights.
    """
    if path.is_dir():
        raise InputError(f"The checkpoint '{path}' is a folder; give the file itself.")
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"There is no checkpoint '{path}'. Check the path.") from error
    except OSError as error:
        raise InputError(f"The checkpoint '{path}' cannot be read: {error.strerror}.") from error
    if not data:
        raise InputError(f"The checkpoint '{path}' is empty. Fetch or copy it again.")
    sha256 = hashlib.sha256(data).hexdigest()
    if data[8:9] == b"{" and not zipfile.is_zipfile(io.BytesIO(data)):
        try:
            length = int.from_bytes(data[:8], "little")
            tensors = safetensors.torch.load(data)
            metadata = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
        except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"The checkpoint '{path}' is damaged or cut short: {first_line(error)}. Fetch or copy it again."
            ) from error
        return as_weights(tensors, str(path)), metadata, sha256
    state, metadata = _load_state_dict(data, path)
    return as_weights(state, str(path)), metadata, sha256


def _load_state_dict(data: bytes, path: Path) -> tuple[dict[Any, Any], dict[str, str]]:
    """A state dict and metadata from PyTorch's formats, by ``weights_only=True`` alone."""
    code = f"The checkpoint '{path}' is not used because loading it would run code"
    remedy = "CycleReg loads plain weights only: save the network's state_dict() instead."
    # Older PyTorch releases run code from TorchScript archives, and from tar files, in spite of weights_only.
    if any(name.endswith("constants.pkl") or "/code/" in name for name, _ in _members(data, content=False)):
        raise InputError(f"{code}: it is a TorchScript program. {remedy}")
    if tarfile.is_tarfile(io.BytesIO(data)):
        raise InputError(f"The checkpoint '{path}' is a tar file, which is not read. Unpack it, or save it anew.")
    try:
        with warnings.catch_warnings():
            # About pickle protocols, which say nothing to a user: the file either loads or is refused below.
            warnings.simplefilter("ignore", UserWarning)
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in the unpickler, with any type
        called = _foreign_name(data)
        if called:
            raise InputError(f"{code}: it refers to {called}. {remedy}") from error
        raise InputError(
            f"'{path}' is no checkpoint, or a damaged one. Give a .safetensors file or a state dict (.pth, .pt)."
        ) from error
    metadata = {}
    wrapper = next((w for w in _WRAPPERS if isinstance(loaded, Mapping) and isinstance(loaded.get(w), Mapping)), None)
    if wrapper is not None:
        if isinstance(loaded.get("config"), Mapping):
            metadata["published_config"] = _as_json(loaded["config"], path)
        loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping) or not loaded:
        raise InputError(f"'{path}' holds no state dict (names and weights), so it is no checkpoint.")
    if all(isinstance(name, str) and name.startswith(_DATA_PARALLEL) for name in loaded):
        loaded = {name[len(_DATA_PARALLEL) :]: value for name, value in loaded.items()}
    return dict(loaded), metadata


def _as_json(settings: Mapping[Any, Any], path: Path) -> str:
    """Settings as JSON; what JSON lacks becomes text."""
    try:
        return json.dumps({str(name): value for name, value in settings.items()}, default=str)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"The checkpoint '{path}' is damaged: its 'config' cannot be read.") from error


def _members(data: bytes, content: bool = True) -> list[tuple[str, bytes]]:
    """Names and contents of a zip archive's members, as far as they can be read; none of anything else."""
    members: list[tuple[str, bytes]] = []
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                members.append((name, archive.read(name) if content else b""))
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        struct.error,
        ArithmeticError,
        LookupError,
        RuntimeError,
        ValueError,
        EOFError,
        OSError,
    ):
        return members  # damaged: PyTorch's reader has the last word on it
    return members


def _foreign_name(data: bytes) -> str | None:
    """The first thing that a pickle would import beyond what weights need, found without running it."""
    pickles = [content for name, content in _members(data) if name.endswith(".pkl")]
    for content in pickles or [data]:
        stream, strings = io.BytesIO(content), ["", ""]
        try:
            while stream.tell() < len(content):  # the legacy format is several pickles in a row
                for opcode, argument, _ in pickletools.genops(stream):
                    if opcode.name == "GLOBAL":
                        module, name = str(argument).split(" ", 1)
                    elif opcode.name == "STACK_GLOBAL":
                        module, name = strings[-2:]
                    else:
                        if "UNICODE" in opcode.name or "STRING" in opcode.name:
                            strings.append(str(argument))
                        continue
                    if module not in _MODULES_OF_WEIGHTS:
                        return f"{module}.{name}"
        except (ValueError, pickle.UnpicklingError, LookupError, ArithmeticError):
            continue  # not a pickle from here on: nothing more to name in this part
    return None


def as_weights(values: Mapping[Any, Any], what: str) -> State:
    """Names and float32 CPU weights; refuses anything else."""
    state = {}
    for key, value in values.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise InputError(
                f"'{what}' is no state dict: '{key}' holds a {type(value).__name__} where weights are expected. "
                "Save the network's state_dict()."
            )
        if not value.is_floating_point() or value.layout != torch.strided:
            raise InputError(f"'{what}' holds '{key}' as {value.dtype}; weights are floating-point numbers.")
        state[key] = value.detach().to("cpu", torch.float32)
        if not bool(torch.isfinite(state[key]).all()):
            raise InputError(f"'{what}' holds NaN or infinite numbers in '{key}', so its training went wrong.")
    return state


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, for quoting it in a message."""
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
