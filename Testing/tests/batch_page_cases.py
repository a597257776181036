"""A batch's folder with as many pairs as wanted, made without registering anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from CycleRegLib.batch.results import write_results
from CycleRegLib.png import png_bytes

KINDS = ("fixed", "moving", "warped", "checkerboard-before", "checkerboard-after", "grid")
PLANES = ("axial", "coronal", "sagittal")
SEGMENTS = ("liver", "spleen", "kidney left", "kidney right", "pancreas")


def records(count: int, output: Path, seed: int = 0) -> list[dict[str, Any]]:
    """Records as a run gives them: one pair in 40 failed, one in 100 without landmarks, the last ones kept."""
    rng = np.random.default_rng(seed)
    found = []
    for n in range(count):
        name = f"P{n // 4 + 1}_{('arterial', 'venous', 'late', 'native')[n % 4]}"
        if n % 40 == 17:
            reason = f"The image /data/{name}/moving.nrrd cannot be read: it ends before its last slice. Copy it again."
            found.append(_record(name, "failed", reason, attempts=1 + n % 3))
            continue
        tre = float(rng.gamma(9, 1.1))
        after = float(tre * rng.beta(2, 9))
        measures = {
            "similarity_before": float(rng.uniform(0.2, 0.5)),
            "similarity_after": float(rng.uniform(0.6, 0.9)),
            "folding_percent": float(rng.exponential(0.02)) if n % 3 else 0.0,
            "jacobian_mean": float(rng.normal(1, 0.02)),
            "jacobian_sd_log": float(rng.gamma(8, 0.02)),
            "roundtrip_mean_mm": float(rng.gamma(4, 0.01)),
            "roundtrip_p95_mm": float(rng.gamma(4, 0.03)),
        }
        if n % 100 != 5:
            measures |= {"tre_before_mm": tre, "tre_after_mm": after, "tre_max_after_mm": after * 2.2}
        before = rng.uniform(0.3, 0.8, len(SEGMENTS))
        measures["dice_mean_before"] = float(before.mean())
        measures["dice_mean_after"] = float(before.mean() + 0.17)
        for segment, value in zip(SEGMENTS, before):
            key = "_".join(segment.split())
            measures |= {f"dice_{key}_before": float(value), f"dice_{key}_after": float(min(0.99, value + 0.17))}
        measures |= {f"hd95_mean_{when}_mm": float(rng.gamma(6, x)) for when, x in (("before", 2.2), ("after", 0.6))}
        status = "kept" if n > 0.9 * count else "done"
        record = _record(name, status, folder=str(output / "pairs" / name), measures=measures)
        seconds = {"read": 0.4, "register": float(rng.gamma(30, 0.3)), "evaluate": 1.2, "write": 0.8}
        record["seconds"] = {**seconds, "total": sum(seconds.values())}
        found.append(record)
    return found


def _record(name: str, status: str, reason: str = "", **more: Any) -> dict[str, Any]:
    usual = {"attempts": 1, "folder": None, "worker": "main", "seconds": {}, "measures": {}}
    return {"id": name, "status": status, "reason": reason, **usual, **more}


def write_batch(output: Path, found: list[dict[str, Any]], pictures: int = 0) -> Path:
    """The folders of the pairs, small pictures in the first few, and the tables; gives the page's path."""
    content = png_bytes(np.full((24, 32, 3), 90, np.uint8))
    for place, record in enumerate(r for r in found if r["folder"] is not None):
        folder = Path(record["folder"])
        (folder / "pictures").mkdir(parents=True)
        (folder / "summary.json").write_text('{"status": "done"}')
        if place < pictures:
            for kind in KINDS:
                for plane in PLANES:
                    (folder / "pictures" / f"{kind}-{plane}.png").write_bytes(content)
    write_results(output, found, [{"id": record["id"]} for record in found])
    return output / "report.html"
