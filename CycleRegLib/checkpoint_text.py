"""What a checkpoint is, for people and programs."""

from __future__ import annotations

import json
from typing import Any

from .checkpoints import Checkpoint
from .methods import get_method


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a checkpoint is, in JSON types."""
    entry = get_method(checkpoint.method)
    parameters = {name: sum(v.numel() for v in state.values()) for name, state in checkpoint.networks.items()}
    return {
        "files": [str(p) for p in (checkpoint.path, checkpoint.backward_path) if p is not None],
        "sha256": checkpoint.sha256.split(","),
        "method": entry.id,
        "title": entry.title,
        "paper": entry.paper,
        "networks": parameters,
        "configuration": checkpoint.config,
        "normalisation": checkpoint.normalisation,
        "grid": checkpoint.grid.to_dict(),
        "stated_by_file": bool(checkpoint.metadata),
        "training": checkpoint.training,
        "licence": checkpoint.licence,
    }


def describe_text(checkpoint: Checkpoint) -> str:
    """What a checkpoint is, in lines for people."""
    facts = describe(checkpoint)
    assumed = "" if facts["stated_by_file"] else "  (assumed: a plain state dict does not say)"
    rows = [("file", name) for name in facts["files"]]
    rows += [("SHA-256", value) for value in facts["sha256"]]
    rows += [("method", f"{facts['method']} ({facts['title']})"), ("paper", facts["paper"])]
    rows += [(f"{name} network", f"{count:,} parameters") for name, count in facts["networks"].items()]
    rows.append(("configuration", ", ".join(f"{k} {v}" for k, v in facts["configuration"].items())))
    rows.append(("intensities", facts["normalisation"] + assumed))
    rows.append(("grid", checkpoint.grid.describe() + ("" if facts["grid"] else assumed)))
    rows += [(f"training: {k}", v if isinstance(v, str) else json.dumps(v)) for k, v in facts["training"].items()]
    rows.append(("licence", facts["licence"] or "not stated"))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
