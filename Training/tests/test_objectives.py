"""Every objective: its terms are those of its paper, its loss falls, and the right networks learn."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from training_cases import Shift, awake_network, known_pair

from cyclereg_training.losses import (
    endpoint_error,
    folding,
    global_correlation,
    invertibility,
    lncc,
    mind,
    round_trip,
    smoothness,
    total_variation,
)
from cyclereg_training.objectives import OBJECTIVES, Objective, Similarity, build_objective
from cyclereg_training.objectives.multiscale import downsampled
from cyclereg_training.objectives.vtn import default_similarity_weights
from CycleRegLib.errors import InputError
from CycleRegLib.methods import get_method, list_methods
from CycleRegLib.networks.multiscale import GlobalFlow, area_mean
from CycleRegLib.warp import warp

VTN_SMALL = {"cascade": "ADD", "channels": 2, "size": 64}
TWO_SCALES = {"global_size": [12, 16, 16]}


@dataclass(frozen=True)
class Case:
    objective: str
    shape: tuple[int, ...] = (16, 16, 16)
    method: str = ""
    network: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)

    def networks(self, objective: Objective) -> dict[str, nn.Module]:
        return {
            direction: awake_network(self.method or self.objective, seed, **self.network)
            for seed, direction in enumerate(objective.directions)
        }


CASES = {
    "cyclemorph": Case("cyclemorph"),
    "cyclemorph, lncc as published": Case("cyclemorph", settings={"similarity": {"kind": "lncc", "compatible": True}}),
    "cyclemorph-2d": Case("cyclemorph-2d", (32, 32)),
    "cyclemorph-multiscale": Case("cyclemorph-multiscale", (20, 24, 24), "", TWO_SCALES, {"patch_size": 16}),
    "cyclecnn": Case("cyclecnn"),
    "kuang-cycle": Case("kuang-cycle", settings={"weights": {"smoothness": 0.1}}),
    "kuang-refine": Case("kuang-refine"),
    "inversenet": Case("inversenet"),
    "vtn": Case("vtn", network=VTN_SMALL),
    "vtn + inv": Case("vtn", network=VTN_SMALL, settings={"weights": {"invertibility": 1e-3}}),
    "voxelmorph": Case("voxelmorph"),
    "voxelmorph1": Case("voxelmorph1"),
    "voxelmorph1, mse": Case("voxelmorph1", settings={"similarity": "mse", "weights": {"smoothness": 0.01}}),
    "voxelmorph2, velocity": Case("voxelmorph2", (16, 16, 16), "", {"integration_steps": 4}, {"bidirectional": True}),
    "ms-dirnet": Case("ms-dirnet", (20, 24, 24), "", TWO_SCALES, {"patch_size": 16, "patches_per_pair": 2}),
    "pyramid": Case(
        "pyramid",
        (40, 32, 33),
        network={
            "features": [4, 6, 8],
            "widths": [6, 8, 8],
            "radii": [1, 1, 1],
            "compared": [2, 4, 4],
            "rounds": [1, 1, 2],
        },
    ),
    "supervised": Case("supervised", method="voxelmorph1"),
    "supervised vtn": Case("supervised", method="vtn", network=VTN_SMALL),
}


def test_every_method_that_is_trained_has_an_objective_and_a_case() -> None:
    trained = {method.id for method in list_methods() if method.trained_with}
    assert trained <= set(OBJECTIVES)
    assert {case.objective for case in CASES.values()} == set(OBJECTIVES)


@pytest.mark.parametrize("name", CASES)
def test_the_loss_falls_and_only_the_phases_parameters_learn(name: str) -> None:
    case = CASES[name]
    objective = build_objective(case.objective, case.settings)
    networks = case.networks(objective)
    batch = known_pair(*case.shape)
    for phase in objective.phases:
        phase.begin(networks)
        before = {k: p.detach().clone() for k, p in parameters(networks).items()}
        learning = {id(p) for p in phase.parameters(networks)}
        adam = torch.optim.Adam([p for p in parameters(networks).values() if p.requires_grad], lr=1e-3)
        losses = []
        for _ in range(5):
            torch.manual_seed(1)  # the same patches
            adam.zero_grad()
            terms = objective(networks, batch, phase)
            terms["loss"].backward()
            losses.append(terms["loss"].item())
            for key, parameter in parameters(networks).items():
                if id(parameter) in learning:
                    assert parameter.grad is not None, f"{key} gets no gradient"
                    assert parameter.grad.isfinite().all(), key
                else:
                    assert parameter.grad is None, f"{key} rests in the phase {phase.name}"
            adam.step()
        assert min(losses[2:]) < losses[0] - 1e-4, losses
        changed = {k for k, p in parameters(networks).items() if not torch.equal(p, before[k])}
        assert changed == {k for k, p in parameters(networks).items() if id(p) in learning}


def parameters(networks: dict[str, nn.Module]) -> dict[str, nn.Parameter]:
    return {f"{d}.{name}": p for d, network in networks.items() for name, p in network.named_parameters()}


@pytest.mark.parametrize("name", ["cyclemorph", "vtn", "voxelmorph2, velocity", "inversenet"])
def test_terms_and_loss_agree_under_autocast(name: str) -> None:
    case = CASES[name]
    objective = build_objective(case.objective, {**case.settings, "weights": {"folding": 1.0, "round_trip": 0.1}})
    networks, batch = case.networks(objective), known_pair(*case.shape)
    exact = objective(networks, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = objective(networks, batch)
    assert rounded["loss"].dtype == torch.float32
    for term, value in exact.items():
        assert float(rounded[term].detach()) == pytest.approx(float(value.detach()), rel=0.1, abs=0.02), term
    weighted = sum(objective.weights[k] * v for k, v in exact.items() if k != "loss")
    assert float(exact["loss"].detach()) == pytest.approx(float(weighted.detach()), rel=1e-6)


# ---------------------------------------------------------------------- CycleMorph


def test_cyclemorph_gives_its_networks_what_the_paper_says() -> None:
    """X, Y; then the two warped images, exchanged; then each image with itself."""
    batch = known_pair(8, 8, 8)
    x, y = batch["moving"], batch["fixed"]
    networks = {"forward": Shift(1.0, 0, 0), "backward": Shift(0, 2.0, 0)}
    terms = build_objective("cyclemorph")(networks, batch)
    like_y, like_x = torch.zeros_like(x), torch.zeros_like(y)
    like_y[:, :, :-1] = x[:, :, 1:]
    like_x[:, :, :, :-2] = y[:, :, :, 2:]
    expected = {
        "forward": [(x, y), (like_x, like_y), (y, y)],
        "backward": [(y, x), (like_y, like_x), (x, x)],
    }
    for direction, pairs in expected.items():
        for seen, wanted in zip(networks[direction].seen, pairs, strict=True):
            torch.testing.assert_close(seen, wanted)
    again_x, again_y = torch.zeros_like(x), torch.zeros_like(y)
    again_x[:, :, :, :-2] = like_y[:, :, :, 2:]
    again_y[:, :, :-1] = like_x[:, :, 1:]
    cycle = (again_x - x).abs().mean() + (again_y - y).abs().mean()
    same_y, same_x = torch.zeros_like(x), torch.zeros_like(y)
    same_y[:, :, :-1] = y[:, :, 1:]
    same_x[:, :, :, :-2] = x[:, :, :, 2:]
    wanted = {
        "similarity": lncc(like_y, y) + lncc(like_x, x),
        "smoothness": torch.zeros(()),
        "cycle": cycle,
        "identity": lncc(same_y, y) + lncc(same_x, x),
    }
    for name, value in wanted.items():
        assert float(terms[name].detach()) == pytest.approx(float(value), abs=1e-6), name
    total = wanted["similarity"] + 0.1 * wanted["cycle"] + 0.5 * wanted["identity"]
    assert float(terms["loss"].detach()) == pytest.approx(float(total), abs=1e-6)


@pytest.mark.parametrize(
    ("weights", "calls"),
    [
        ({"cycle": 0, "identity": 0}, 1),
        ({"cycle": 0}, 2),
        ({"identity": 0}, 2),
        ({"similarity": 0, "smoothness": 0, "identity": 0}, 2),
    ],
)
def test_ablations_compute_only_what_they_need(weights: dict, calls: int) -> None:
    """Table VI of the paper, and the cycle alone without similarity."""
    networks = {"forward": Shift(0.5, 0, 0), "backward": Shift(0, 0, 0.5)}
    terms = build_objective("cyclemorph", {"weights": weights})(networks, known_pair(8, 8, 8))
    assert not set(weights) & set(terms)
    for network in networks.values():
        assert len(network.seen) == calls
    terms["loss"].backward()
    assert all(network.flow.grad.abs().sum() > 0 for network in networks.values())


def test_one_network_can_do_both_directions() -> None:
    network = Shift(0.5, 0, 0)
    build_objective("cyclemorph")({"forward": network}, known_pair(8, 8, 8))["loss"].backward()
    assert len(network.seen) == 6


# ---------------------------------------------------------------------- VoxelMorph


def test_voxelmorph_penalises_the_velocity_and_not_its_integral() -> None:
    network = awake_network("voxelmorph1", integration_steps=5, integration_downsize=1)
    network.flow.weight.data.mul_(40)
    batch = known_pair(16, 13, 16)
    heads: list[Tensor] = []
    handle = network.flow.register_forward_hook(lambda module, inputs, output: heads.append(output))
    flow, _ = network(batch["moving"], batch["fixed"])
    handle.remove()
    terms = build_objective("voxelmorph1")({"forward": network}, batch)
    velocity = heads[0][..., :16, :13, :16]
    assert float(terms["smoothness"].detach()) == pytest.approx(float(smoothness(velocity).detach()), rel=1e-5)
    assert abs(float(smoothness(flow).detach()) / float(smoothness(velocity).detach()) - 1) > 0.01
    assert float(terms["similarity"].detach()) == pytest.approx(
        float(lncc(warp(batch["moving"], flow), batch["fixed"]).detach()), abs=1e-6
    )


def test_bidirectional_voxelmorph_is_the_mean_of_both_directions() -> None:
    network, batch = awake_network("voxelmorph1", integration_steps=3), known_pair(16, 16, 16)
    flow, inverse = network(batch["moving"], batch["fixed"])
    there = lncc(warp(batch["moving"], flow), batch["fixed"])
    back = lncc(warp(batch["fixed"], inverse), batch["moving"])
    terms = build_objective("voxelmorph1", {"bidirectional": True})({"forward": network}, batch)
    assert float(terms["similarity"].detach()) == pytest.approx(float((there + back).detach()) / 2, abs=1e-6)


# ---------------------------------------------------------------------- Kuang


def test_kuang_cycle_registers_its_result_back() -> None:
    batch = known_pair(8, 8, 8)
    x, y = batch["moving"], batch["fixed"]
    network = Shift(0, 1.0, 0)
    terms = build_objective("kuang-cycle")({"forward": network}, batch)
    like_y, again_x = torch.zeros_like(x), torch.zeros_like(x)
    like_y[:, :, :, :-1] = x[:, :, :, 1:]
    again_x[:, :, :, :-1] = like_y[:, :, :, 1:]
    for seen, wanted in zip(network.seen, [(x, y), (like_y, x)], strict=True):
        torch.testing.assert_close(seen, wanted)
    assert float(terms["similarity"].detach()) == pytest.approx(float(lncc(like_y, y) + lncc(again_x, x)), abs=1e-6)


def test_kuang_refinement_alternates() -> None:
    """Three epochs of the network, three of its refinement, four times."""
    objective = build_objective("kuang-refine")
    names = [objective.phase_at(epoch).name for epoch in range(26)]
    assert names == (["network"] * 3 + ["refinement"] * 3) * 4 + ["refinement"] * 2
    assert objective.epochs == 24


def test_kuang_phases_are_of_the_network_alone_and_of_what_the_refinement_makes_of_it() -> None:
    network, batch = awake_network("kuang-refine"), known_pair(16, 16, 16)
    objective = build_objective("kuang-refine")
    with torch.no_grad():
        refined = network(batch["moving"], batch["fixed"])
        alone = awake_network("kuang-cycle")
        alone.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("refinement.")})
        raw = alone(batch["moving"], batch["fixed"])
        for phase, flow, weight in zip(objective.phases, (raw, refined), (1, 4), strict=True):
            terms = objective({"forward": network}, batch, phase)
            similarity = lncc(warp(batch["moving"], flow), batch["fixed"])
            assert float(terms["smoothness"]) == pytest.approx(float(smoothness(flow)), rel=1e-5)
            assert float(terms["loss"]) == pytest.approx(float(similarity + weight * smoothness(flow)), rel=1e-5)
        assert not torch.equal(raw, refined)
        # Outside training the refinement is back.
        assert torch.equal(network(batch["moving"], batch["fixed"]), refined)


# ---------------------------------------------------------------------- InverseNet


def test_inversenet_warps_twice() -> None:
    class Both(Shift):
        def forward(self, moving: Tensor, fixed: Tensor) -> tuple[Tensor, Tensor]:
            flow = super().forward(moving, fixed)
            return flow, -2 * flow

    batch = known_pair(8, 8, 8)
    s, t = batch["moving"], batch["fixed"]
    terms = build_objective("inversenet")({"forward": Both(1.0, 0, 0)}, batch)
    st, ts = torch.zeros_like(s), torch.zeros_like(t)
    st[:, :, :-1], ts[:, :, 2:] = s[:, :, 1:], t[:, :, :-2]
    st_ts, ts_st = torch.zeros_like(s), torch.zeros_like(t)
    st_ts[:, :, 2:], ts_st[:, :, :-1] = st[:, :, :-2], ts[:, :, 1:]
    cycle = (ts_st - t).abs().mean() + (st_ts - s).abs().mean()
    assert float(terms["cycle"].detach()) == pytest.approx(float(cycle), abs=1e-6)
    assert float(terms["similarity"].detach()) == pytest.approx(float(lncc(st, t) + lncc(ts, s)), abs=1e-6)
    assert "smoothness" not in terms


# ---------------------------------------------------------------------- VTN


@pytest.mark.parametrize(
    ("cascade", "weights"),
    [("ADDD", [1, 0, 0.05, 1]), ("ADD", [1, 0.05, 1]), ("AD", [1, 1]), ("D", [1]), ("DD", [0.05, 1]), ("A", [1])],
)
def test_similarity_weights_of_sub_networks(cascade: str, weights: list) -> None:
    assert default_similarity_weights(cascade) == weights


def test_vtn_weighs_every_sub_network() -> None:
    network, batch = awake_network("vtn", **VTN_SMALL), known_pair(16, 16, 16)
    with torch.no_grad():
        terms = build_objective("vtn", {"weights": {"invertibility": 1e-3}})({"forward": network}, batch)
        a, d1, d2 = network.stages(batch["moving"], batch["fixed"])
        back = network(batch["fixed"], batch["moving"])
    fixed = batch["fixed"]
    jacobian = a.matrix[0] + torch.eye(3)
    singular = torch.linalg.svdvals(jacobian)
    wanted = {
        "similarity": sum(w * global_correlation(s.warped, fixed) for w, s in ((1, a), (0.05, d1), (1, d2))),
        "total_variation": total_variation(d1.flow) + total_variation(d2.flow),
        "orthogonality": (singular**2 + singular**-2).sum() - 6,
        "determinant": (torch.linalg.det(jacobian) - 1) ** 2,
        "invertibility": invertibility(d2.composed, back),
    }
    for name, value in wanted.items():
        assert float(terms[name]) == pytest.approx(float(value), rel=2e-3, abs=1e-5), name
    factors = {"similarity": 1, "total_variation": 1, "orthogonality": 0.1, "determinant": 0.1, "invertibility": 1e-3}
    assert float(terms["loss"]) == pytest.approx(sum(f * float(wanted[n]) for n, f in factors.items()), rel=2e-3)


def test_a_similarity_weight_for_each_sub_network() -> None:
    objective = build_objective("vtn", {"similarity_weights": [1, 1]})
    with pytest.raises(InputError, match="2 similarity weights for the 3 sub-networks of the cascade ADD"):
        objective({"forward": awake_network("vtn", **VTN_SMALL)}, known_pair(16, 16, 16))


def test_weights_that_do_not_apply_to_the_cascade_are_refused() -> None:
    objective = build_objective("vtn", {"weights": {"similarity": 0, "total_variation": 0}})
    with pytest.raises(InputError, match=r"\(orthogonality, determinant\) do not apply"):
        objective({"forward": awake_network("vtn", cascade="D", channels=2)}, known_pair(16, 16, 16))


# ---------------------------------------------------------------------- two scales


def test_the_local_stage_learns_from_what_inference_will_show_it() -> None:
    """Patches of the moving image warped once by the up-sampled global flow, and of the fixed image, at one place."""
    network = awake_network("cyclemorph-multiscale", **TWO_SCALES)
    network.global_network.model.outconv.upconv.weight.data.mul_(100)
    batch = known_pair(20, 24, 24, batch=2)
    objective = build_objective("ms-dirnet", {"patch_size": 16, "patches_per_pair": 3})
    patches = objective.patches(batch, network)
    assert {name: tuple(p.shape) for name, p in patches.items()} == dict.fromkeys(
        ("moving", "fixed", "moving_labels", "fixed_labels"), (6, 1, 16, 16, 16)
    )
    shape = network.global_shape((20, 24, 24))
    assert shape == (12, 16, 16)
    with torch.no_grad():
        for pair in range(2):
            moving, fixed = batch["moving"][pair, 0], batch["fixed"][pair, 0]
            small = [area_mean(image, shape)[None, None] for image in (moving, fixed)]
            whole = GlobalFlow(network.global_network(*small), (20, 24, 24)).warped(moving, slice(0, 20))
            assert (whole - moving).abs().max() > 0.05
            for one in range(3 * pair, 3 * pair + 3):
                corner = place_of(patches["fixed"][one, 0], fixed)
                box = tuple(slice(c, c + 16) for c in corner)
                torch.testing.assert_close(patches["moving"][one, 0], whole[box], atol=1e-5, rtol=0)
                assert torch.equal(patches["fixed_labels"][one, 0], batch["fixed_labels"][pair, 0][box])


def place_of(patch: Tensor, volume: Tensor) -> tuple[int, ...]:
    windows = volume.unfold(0, 16, 1).unfold(1, 16, 1).unfold(2, 16, 1)
    found = torch.nonzero((windows == patch).flatten(3).all(dim=3))
    assert len(found) == 1
    return tuple(found[0].tolist())


def test_down_sampling_is_not_rounded_under_autocast() -> None:
    network, batch = awake_network("cyclemorph-multiscale", **TWO_SCALES), known_pair(20, 24, 24)
    exact = downsampled(batch, network)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = downsampled(batch, network)
    for name, value in exact.items():
        assert torch.equal(rounded[name], value), name


def test_volumes_smaller_than_a_patch_are_taken_whole() -> None:
    network = awake_network("cyclemorph-multiscale", **TWO_SCALES)
    patches = build_objective("ms-dirnet", {"patch_size": 64}).patches(known_pair(20, 24, 24), network)
    assert patches["fixed"].shape == (1, 1, 20, 24, 24)


def test_the_global_stage_sees_labels_at_its_own_size() -> None:
    objective = build_objective("cyclemorph-multiscale", {"weights": {"dice": 1.0}})
    networks = {"forward": awake_network("cyclemorph-multiscale", **TWO_SCALES)}
    terms = objective(networks, known_pair(20, 24, 24), objective.phases[0])
    assert 0 < float(terms["dice"].detach()) < 1
    assert [phase.name for phase in objective.phases] == ["global", "local"]


def test_phases_take_their_length_and_learning_rate_from_the_configuration() -> None:
    settings = {"phases": {"global": {"epochs": 2, "learning_rate": 2e-4}, "local": {"epochs": 3}}}
    objective = build_objective("cyclemorph-multiscale", settings)
    assert [objective.phase_at(epoch).name for epoch in range(6)] == ["global"] * 2 + ["local"] * 4
    assert (objective.phases[0].learning_rate, objective.phases[1].learning_rate) == (2e-4, None)
    assert objective.epochs == 5


# ---------------------------------------------------------------------- supervised


def test_supervised_error_is_zero_for_the_truth() -> None:
    batch = known_pair(8, 8, 8)
    batch["flow"] = torch.tensor([1.0, -2.0, 0.5]).view(1, 3, 1, 1, 1).expand(1, 3, 8, 8, 8)
    terms = build_objective("supervised")({"forward": Shift(1.0, -2.0, 0.5)}, batch)
    assert float(terms["loss"].detach()) == 0
    terms = build_objective("supervised")({"forward": Shift(1.0, -2.0, 4.5)}, batch)
    assert float(terms["endpoint"].detach()) == pytest.approx(4)


def test_supervised_takes_both_directions_where_both_are_known() -> None:
    batch = known_pair(8, 8, 8)
    batch["inverse_flow"] = -batch["flow"]
    networks = {"forward": Shift(1.0, 0, 0), "backward": Shift(0, 1.0, 0)}
    terms = build_objective("supervised")(networks, batch)
    there = endpoint_error(networks["forward"].flow.view(1, 3, 1, 1, 1), batch["flow"])
    back = endpoint_error(networks["backward"].flow.view(1, 3, 1, 1, 1), -batch["flow"])
    assert float(terms["endpoint"].detach()) == pytest.approx(float((there + back).detach()) / 2, rel=1e-5)
    torch.testing.assert_close(networks["backward"].seen[0], (batch["fixed"], batch["moving"]))


def test_supervised_training_without_a_field_is_refused() -> None:
    batch = known_pair(8, 8, 8)
    del batch["flow"]
    with pytest.raises(InputError, match="needs the true displacement field"):
        build_objective("supervised")({"forward": Shift(0, 0, 0)}, batch)


# ---------------------------------------------------------------------- terms that any objective can add


def test_added_terms_are_means_over_the_directions_that_there_are() -> None:
    batch = known_pair(10, 10, 10)
    weights = {"folding": 1.0, "bending": 1.0, "round_trip": 0.5, "mind": 2.0}
    networks = {"forward": awake_network("cyclemorph"), "backward": awake_network("cyclemorph", 1)}
    for network in networks.values():
        network.model.outconv.upconv.weight.data.mul_(30)
    with torch.no_grad():
        terms = build_objective("cyclemorph", {"weights": weights})(networks, batch)
        there = networks["forward"](batch["moving"], batch["fixed"])
        back = networks["backward"](batch["fixed"], batch["moving"])
    like_fixed, like_moving = (
        warp(batch["moving"], there, padding="border"),
        warp(batch["fixed"], back, padding="border"),
    )
    wanted = {
        "folding": (folding(there) + folding(back)) / 2,
        "round_trip": round_trip(there, back),
        "mind": (mind(like_fixed, batch["fixed"]) + mind(like_moving, batch["moving"])) / 2,
    }
    assert wanted["folding"] > 0
    for name, value in wanted.items():
        assert float(terms[name]) == pytest.approx(float(value), rel=1e-5), name


def test_a_round_trip_estimates_the_backward_flow_where_the_method_has_none() -> None:
    batch = known_pair(8, 8, 8)
    network = Shift(1.0, 0, 0)
    terms = build_objective("voxelmorph1", {"weights": {"round_trip": 1.0}})({"forward": network}, batch)
    assert float(terms["round_trip"].detach()) == pytest.approx(4)
    torch.testing.assert_close(network.seen[1], (batch["fixed"], batch["moving"]))


def test_dice_of_warped_labels() -> None:
    batch = known_pair(8, 8, 8)
    labels = torch.zeros(1, 1, 8, 8, 8, dtype=torch.long)
    labels[:, :, 2:6, 2:6, 2:6] = 5
    batch["moving_labels"], batch["fixed_labels"] = labels, F.pad(labels, (0, 0, 0, 0, 0, 2))[:, :, 2:]
    settings = {"weights": {"dice": 1.0}}
    for shift, dice in ((2.0, 1.0), (1.0, 0.75), (0.0, 0.5)):
        terms = build_objective("voxelmorph1", settings)({"forward": Shift(shift, 0, 0)}, batch)
        assert float(terms["dice"].detach()) == pytest.approx(1 - dice, abs=1e-6)
    network = Shift(1.0, 0, 0)
    build_objective("voxelmorph1", {"weights": {"dice": 1.0, "similarity": 0}})({"forward": network}, batch)[
        "loss"
    ].backward()
    assert network.flow.grad[0] < 0  # further along z


def test_dice_without_labels_is_refused() -> None:
    batch = known_pair(8, 8, 8)
    del batch["fixed_labels"]
    with pytest.raises(InputError, match=r"no fixed_labels.*set the weight of 'dice' to 0"):
        build_objective("voxelmorph1", {"weights": {"dice": 1.0}})({"forward": Shift(0, 0, 0)}, batch)


def test_images_without_any_label_cost_nothing() -> None:
    batch = known_pair(8, 8, 8)
    batch["moving_labels"] = batch["fixed_labels"] = torch.zeros(1, 1, 8, 8, 8, dtype=torch.long)
    terms = build_objective("voxelmorph1", {"weights": {"dice": 1.0}})({"forward": Shift(0, 0, 0)}, batch)
    assert float(terms["dice"].detach()) == 0


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("cyclemorf", {}, "no objective 'cyclemorf'. Did you mean 'cyclemorph'"),
        ("optimize", {}, "no objective 'optimize'"),
        ("cyclemorph", {"weight": {}}, "no setting of the objective cyclemorph: 'weight'. Did you mean 'weights'"),
        ("cyclemorph", {"patch_size": 64}, "no setting of the objective cyclemorph: 'patch_size'"),
        ("cyclemorph", {"weights": {"cycles": 1}}, "no term 'cycles'. Did you mean 'cycle'"),
        ("cyclemorph", {"weights": {"cycle": -1}}, "weight of 'cycle' is a number of 0 or more, not -1"),
        ("cyclemorph", {"weights": {"cycle": "high"}}, "not 'high'"),
        ("voxelmorph1", {"weights": {"similarity": 0, "smoothness": 0}}, "nothing to learn"),
        ("voxelmorph1", {"similarity": "ncc"}, "no similarity 'ncc'. Did you mean 'lncc'"),
        ("voxelmorph1", {"similarity": {"kind": "lncc", "size": 9}}, "no setting of a similarity 'size'"),
        ("voxelmorph1", {"similarity": {"window": 8}}, "odd number of voxels"),
        ("kuang-refine", {"phases": {"refine": {}}}, "no phase 'refine'. Did you mean 'refinement'"),
        ("kuang-refine", {"phases": {"refinement": {"epoch": 1}}}, "Did you mean 'epochs'"),
        ("kuang-refine", {"phases": {"network": {"epochs": 0}}}, "epochs of the phase 'network' are a positive whole"),
        ("kuang-refine", {"phases": {"network": {"learning_rate": -1}}}, "learning rate of the phase 'network' is a"),
        ("voxelmorph1", {"similarity": {"compatible": "yes"}}, "'compatible' is true or false, not 'yes'"),
        ("vtn", {"similarity_weights": "high"}, "one number of 0 or more for each sub-network, not 'high'"),
        ("ms-dirnet", {"patch_size": 0}, "patch_size is a positive whole number"),
    ],
)
def test_settings_that_do_not_exist_are_refused_with_what_is_near(name: str, settings: dict, message: str) -> None:
    with pytest.raises(InputError) as refusal:
        build_objective(name, settings)
    assert message in str(refusal.value)


def test_settings_of_the_stages_objective_reach_it() -> None:
    objective = build_objective(
        "ms-dirnet", {"bidirectional": True, "similarity": "mse", "weights": {"smoothness": 0.02}}
    )
    assert objective.stage.bidirectional
    assert objective.stage.similarity == Similarity("mse")
    assert objective.stage.weights["smoothness"] == 0.02


@pytest.mark.parametrize(
    ("name", "network"),
    [("voxelmorph1", Shift(0, 0, 0)), ("ms-dirnet", get_method("ms-dirnet").build_network(**TWO_SCALES))],
)
def test_images_of_two_sizes_or_missing_ones_are_refused(name: str, network: nn.Module) -> None:
    objective, networks = build_objective(name), {"forward": network}
    with pytest.raises(InputError, match="bring all volumes to one grid"):
        objective(networks, {"moving": torch.zeros(1, 1, 8, 8, 8), "fixed": torch.zeros(1, 1, 8, 8, 9)})
    with pytest.raises(InputError, match="no fixed image; it holds moving"):
        objective(networks, {"moving": torch.zeros(1, 1, 8, 8, 8)})


def test_what_else_a_batch_holds_is_left_alone() -> None:
    batch = {**known_pair(8, 8, 8), "name": ["patient 7"]}
    assert build_objective("voxelmorph1")({"forward": Shift(0, 0, 0)}, batch)["loss"].isfinite()


def test_images_of_16_bits_and_whole_numbers_are_taken_in_float32() -> None:
    batch = known_pair(8, 8, 8)
    exact = build_objective("voxelmorph1")({"forward": Shift(0.5, 0, 0)}, batch)
    rounded = build_objective("voxelmorph1")(
        {"forward": Shift(0.5, 0, 0)}, {**batch, "moving": batch["moving"].half(), "fixed": batch["fixed"].half()}
    )
    assert float(rounded["loss"].detach()) == pytest.approx(float(exact["loss"].detach()), abs=1e-3)
