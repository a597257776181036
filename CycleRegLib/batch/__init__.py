"""Batches: many pairs from one manifest, on one machine or on a cluster, resumable.

``manifest`` reads and checks; ``fingerprint`` tells what a finished pair was made from; ``folders`` is the disk;
``pair`` does one pair; ``runner`` and ``cluster`` do all; ``record`` and ``results`` are the figures.
"""

from __future__ import annotations

import importlib
from typing import Any

# Loaded on first use: Dask's workers import this package before they have set up anything.
_PUBLIC = {
    "run_batch": "runner",
    "read_manifest": "manifest",
    "ManifestError": "manifest",
    "PairSpec": "manifest",
    "BatchRecord": "record",
    "propose_manifest": "manifest_proposal",
}

__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
