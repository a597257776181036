"""``cyclereg-train ablation``: variants, measures against plain computations, files, resuming, words from numbers."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.ndimage import map_coordinates

from cyclereg_training.ablation.measuring import MEASURES, measure_pair
from cyclereg_training.ablation.report import Findings, conclusions
from cyclereg_training.ablation.run import TEST, TEST_SEED, Outcome, held_out_batches
from cyclereg_training.ablation.variants import FULL, UNREGISTERED, VARIANTS, check_base, config_of
from cyclereg_training.cli import main
from cyclereg_training.config import read_config
from cyclereg_training.data import build_data
from cyclereg_training.objectives import build_objective
from CycleRegLib.errors import InputError

SMALL = ["--size", "16", "--epochs", "1", "--pairs", "4", "--test-pairs", "3"]
BASE = read_config("ablation")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ablation of two steps each."""
    place = tmp_path_factory.mktemp("ablation")
    assert main(["ablation", "batch_size=2", *SMALL, "--output", str(place / "out")]) == 0
    return place / "out"


def test_all_files_are_written_with_the_raw_numbers_in_them(folder: Path) -> None:
    with (folder / "ablation.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = [UNREGISTERED, *(variant.name for variant in VARIANTS)]
    assert list(dict.fromkeys(row["method"] for row in rows)) == names
    assert len(rows) == 3 * len(names)
    content = json.loads((folder / "ablation.json").read_text(encoding="utf-8"))
    assert content["command"] == (
        "cyclereg-train ablation batch_size=2 --output DIR --size 16 --epochs 1 --pairs 4 --test-pairs 3 --seeds 1"
    )
    assert len(content["scores"]) == len(rows)
    ours, theirs = ([float(r["endpoint"]) for r in rows if r["method"] == n] for n in (FULL, "supervised"))
    assert content["means"]["supervised"]["endpoint"]["mean"] == pytest.approx(np.mean(theirs))
    assert content["means"]["supervised"]["endpoint"]["sd"] == pytest.approx(np.std(theirs, ddof=1))
    test = next(
        t for t in content["wilcoxon"] if (t["first"], t["second"], t["measure"]) == (FULL, "supervised", "endpoint")
    )
    assert test["p"] == pytest.approx(stats.wilcoxon(ours, theirs).pvalue)
    text = (folder / "ablation.md").read_text(encoding="utf-8")
    assert all(f"| {name} |" in text for name in names)
    assert all(line in text for line in content["conclusions"])
    assert "2 steps of 2 pairs" in text
    assert (folder / "ablation.svg").read_text(encoding="utf-8").startswith("<svg")
    assert str(folder) not in text + json.dumps(content)


def test_what_is_complete_is_kept_and_what_was_lost_is_made_again(folder: Path) -> None:
    kept, lost = (folder / "seed-0" / variant.folder / TEST for variant in VARIANTS[-2:])
    before, table = kept.stat().st_mtime_ns, (folder / "ablation.csv").read_text()
    lost.unlink()
    weights = (lost.parent / "last.safetensors").read_bytes()
    assert main(["ablation", "batch_size=2", *SMALL, "--output", str(folder)]) == 0
    assert kept.stat().st_mtime_ns == before
    # The training was complete: only the test was made again.
    assert lost.exists()
    assert (lost.parent / "last.safetensors").read_bytes() == weights
    assert (folder / "ablation.csv").read_text() == table


def test_wrong_input_is_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    out = ["--output", str(tmp_path / "out")]
    for words, message in (
        ([*SMALL, "batch_size=2", "optimizer.lr=1e-5", "--output", str(folder)], "with another optimizer"),
        (["method=voxelmorph1", *out], "that of CycleMorph's objective, not of voxelmorph1's"),
        (["objective.weights.cycle=0", *out], "The weight of 'cycle' is 0"),
        (["data={source: folder, path: x}", *out], "give data.source=synthetic"),
        (["--config", "ablatio", *out], "Did you mean ablation"),
        (["--seeds", "0", *out], "at least 1 seed"),
        (["--test-pairs", "1", *out], "2 pairs for testing"),
        ([f"seed={TEST_SEED}", *out], "tested on other pairs"),
        (["--output", str(tmp_path / "file")], "it is a file"),
        (["data.fresh=true", *out], "needs data.fresh=false"),
    ):
        assert main(["ablation", *words]) == 2, words
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        assert message in lines[0]
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------- parts


def test_variants_lack_their_terms_and_share_everything_else() -> None:
    found = {variant.name: config_of(variant, BASE, 3) for variant in VARIANTS}
    for config in found.values():
        assert replace(config, objective=BASE.objective, seed=BASE.seed) == BASE
        assert config.seed == 3
    used = {name: {k for k, w in c.objective["weights"].items() if w} for name, c in found.items()}
    assert used == {
        "full objective": {"similarity", "smoothness", "cycle", "identity"},
        "without cycle": {"similarity", "smoothness", "identity"},
        "without identity": {"similarity", "smoothness", "cycle"},
        "without both": {"similarity", "smoothness"},
        "cycle alone": {"smoothness", "cycle"},
        "supervised": {"endpoint"},
    }
    for config in found.values():
        settings = dict(config.objective)
        build_objective(settings.pop("name", config.method), settings)
    with pytest.raises(InputError):
        check_base(read_config("pyramid"))


def test_pairs_for_testing_are_no_pairs_of_a_training_or_validation() -> None:
    base = read_config("ablation", ["data.shape=[16, 16]", "data.pairs_per_epoch=6", "data.validation_pairs=3"])
    tested = held_out_batches(base, 4)
    assert list(tested) == ["pair-001", "pair-002", "pair-003", "pair-004"]
    assert all(torch.equal(a["fixed"], tested[name]["fixed"]) for name, a in held_out_batches(base, 4).items())
    for seed in (0, 1):
        data = build_data(replace(base, seed=seed))
        seen = [*data.make(0, list(range(6)))["fixed"], *(b["fixed"][0] for b in data.validation_batches())]
        assert not any(torch.equal(a, b["fixed"][0]) for a in seen for b in tested.values())


def test_pairs_that_are_kept_are_the_same_in_every_epoch() -> None:
    values = ["data.shape=[16, 16]", "data.pairs_per_epoch=3"]
    kept, made = (build_data(read_config("ablation", [*values, f"data.keep={k}"])) for k in ("true", "false"))
    first = kept.make(0, [2, 0])
    for again in (kept.make(5, [2, 0]), made.make(1, [2, 0])):
        assert all(torch.equal(first[name], again[name]) for name in first)


def test_measures_against_plain_computations() -> None:
    base = read_config("ablation", ["data.shape=[24, 24]"])
    pair = held_out_batches(base, 2)["pair-002"]
    flow, inverse = (pair[name].double()[0].numpy() for name in ("flow", "inverse_flow"))
    guess, back = 0.5 * flow, 0.8 * inverse
    found = measure_pair(torch.tensor(guess[None]).float(), torch.tensor(back[None]).float(), pair)
    here = np.indices((24, 24)).astype(float)

    def within(points: np.ndarray) -> np.ndarray:
        return ((points >= 0) & (points <= 23)).all(axis=0)

    def taken(image: np.ndarray, points: np.ndarray, order: int = 1) -> np.ndarray:
        return map_coordinates(image, points, order=order, mode="nearest")

    known = within(here + flow)
    assert found["endpoint"] == pytest.approx(np.linalg.norm(guess - flow, axis=0)[known].mean(), rel=1e-4)
    assert found["length"] == pytest.approx(np.linalg.norm(guess, axis=0)[known].mean(), rel=1e-4)
    trip = guess + np.stack([taken(component, here + guess) for component in back])
    both = known & within(here + guess)
    assert found["roundtrip"] == pytest.approx(np.linalg.norm(trip, axis=0)[both].mean(), rel=1e-3)
    moving, fixed = (pair[name][0, 0].double().numpy() for name in ("moving", "fixed"))
    warped = taken(moving, here + guess)
    nmse = ((warped - fixed)[known] ** 2).sum() / (fixed[known] ** 2).sum()
    assert found["nmse"] == pytest.approx(nmse, rel=1e-3)
    again = taken(warped, here + back)[within(here + inverse)]
    assert found["cycle"] == pytest.approx(np.abs(again - moving[within(here + inverse)]).mean(), rel=1e-3)
    names = [n for n in np.unique(pair["fixed_labels"]) if n and (pair["moving_labels"] == n).any()]
    ours, theirs = pair["fixed_labels"][0, 0].numpy(), taken(pair["moving_labels"][0, 0].numpy(), here + guess, 0)
    dice = np.mean([2 * ((ours == n) & (theirs == n)).sum() / ((ours == n).sum() + (theirs == n).sum()) for n in names])
    assert found["dice"] == pytest.approx(dice, abs=0.01)
    assert found["folding_percent"] == 0
    assert set(found) == {measure.key for measure in MEASURES}
    # The true field is the best there is.
    best = measure_pair(pair["flow"], pair["inverse_flow"], pair)
    assert best["endpoint"] == 0
    assert best["nmse"] < found["nmse"]
    assert best["dice"] > found["dice"]
    folded = measure_pair(torch.tensor(-3 * here[None]).float(), torch.tensor(back[None]).float(), pair)
    # Two axes turned round leave the determinant positive, one does not.
    assert folded["folding_percent"] == 0
    turned = torch.tensor(np.stack([-3 * here[0], 0 * here[1]])[None]).float()
    assert measure_pair(turned, turned, pair)["folding_percent"] == 100


def outcome(name: str, shift: float, seed: int = 0, length: float = 1.0, spread: float = 0.01) -> Outcome:
    """Errors about 1 + shift on twelve pairs."""
    noise = np.random.default_rng(len(name) + seed).normal(0, spread, 12)
    values = {
        f"pair-{n}": {"endpoint": 1 + n / 10 + shift + noise[n], "length": length, "cycle": 0.1, "roundtrip": 0.2}
        for n in range(12)
    }
    return Outcome(name, seed, 1.0, values)


def said_of(*outcomes: Outcome) -> str:
    return "\n".join(conclusions(Findings(list(outcomes))))


def test_words_follow_the_numbers() -> None:
    none, full = outcome(UNREGISTERED, 0), outcome(FULL, -0.5)
    text = said_of(none, full, outcome("without cycle", -0.3), outcome("without identity", -0.7))
    assert "It learnt" in text
    assert "**The cycle term.** Without cycle the end-point error rises by" in text.replace("\n", " ")
    assert text.split("**The cycle term.**")[1].split("**The identity")[0].count("it helps here") == 1
    assert "it does not help but hurts here" in text.split("**The identity term.**")[1]
    same = said_of(none, full, outcome("without cycle", -0.5))
    assert "do not show to be more than chance" in same
    assert "did not show that it learnt" in said_of(none, outcome(FULL, 0.0))
    still = said_of(none, full, outcome("cycle alone", 0.0, length=0.01))
    assert "does it identify the right field?** No. " in still
    assert "next to zero" in still
    hardly = said_of(none, full, outcome("cycle alone", -0.01, length=0.01, spread=0.0), outcome(UNREGISTERED, 0))
    assert "identify the right field?** No. " in hardly
    assert "In part: the error falls by" in said_of(none, full, outcome("cycle alone", -0.3))
    assert "further from the true field" in said_of(none, full, outcome("cycle alone", 0.4))
    assert "Yes, mostly" in said_of(none, full, outcome("cycle alone", -1.2))
    assert "Knowing the true fields is worth more" in said_of(none, full, outcome("supervised", -0.8))
    assert "better than knowing the true fields" in said_of(none, full, outcome("supervised", -0.2))


def test_seeds_that_disagree_show_nothing_and_pairs_count_once() -> None:
    trainings = [outcome(FULL, -0.5, seed) for seed in (0, 1)]
    agree = [outcome("without cycle", shift, seed) for seed, shift in ((0, -0.1), (1, -0.3))]
    differ = [outcome("without cycle", shift, seed) for seed, shift in ((0, 0.2), (1, -0.6))]
    none = outcome(UNREGISTERED, 0)
    findings = Findings([none, *trainings, *differ])
    sign, comparison = findings.verdict(FULL, "without cycle")
    assert (sign, comparison.pairs) == (0, 12)
    assert comparison.p < 0.05
    assert Findings([none, *trainings, *agree]).verdict(FULL, "without cycle")[0] == 1
    expected = np.mean([v["endpoint"] for o in trainings for v in o.values.values()])
    assert findings.scores.mean(FULL, "endpoint").mean == pytest.approx(expected)
