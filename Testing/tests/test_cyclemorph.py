"""CycleMorph's network, its input and its output in millimetres, against slow independent references."""

from __future__ import annotations

import warnings
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from geometries import random_grid, random_image, seeds
from hypothesis import given, settings
from scipy.ndimage import map_coordinates

from CycleRegLib.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from CycleRegLib.errors import Cancelled, CycleRegWarning, InputError
from CycleRegLib.geometry import Grid
from CycleRegLib.methods import DEFAULT_METHOD, get_method, list_methods
from CycleRegLib.networks import CycleMorphUNet
from CycleRegLib.networks.inference import network_grid, predict_fields, run_network
from CycleRegLib.networks.preparation import GridRule, normalise, to_network_grid
from CycleRegLib.networks.settings import InferenceSettings

State = dict[str, torch.Tensor]

EXACT = InferenceSettings("float32")


def lively_state(seed: int, dimension: int = 3) -> State:
    """Random weights that keep activations of order one, and a last layer that gives flows of two or three voxels."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in CycleMorphUNet(dimension).state_dict().items():
        fan_in = max(1, value[0].numel()) if value.dim() > 1 else 1
        scale = (2 / fan_in) ** 0.5 if value.dim() > 1 else 0.1
        if name == "model.outconv.upconv.weight":
            scale *= 2
        state[name] = torch.randn(value.shape, generator=generator) * scale
    return state


def constant_state(flow_zyx: tuple[float, ...]) -> State:
    """Weights whose flow is the same everywhere, whatever the images."""
    state = {name: torch.zeros_like(value) for name, value in CycleMorphUNet(len(flow_zyx)).state_dict().items()}
    state["model.outconv.upconv.bias"] = torch.tensor(flow_zyx)
    return state


def checkpoint_of(
    forward: State, backward: State | None = None, rule: GridRule | None = None, normalisation: str = "none"
) -> Checkpoint:
    dimension = forward["model.inconv.block.block.0.weight"].dim() - 2
    return Checkpoint(
        method="cyclemorph",
        networks={"forward": forward, **({"backward": backward} if backward is not None else {})},
        config={"dimension": dimension, "in_channels": 2, "out_channels": dimension},
        normalisation=normalisation,
        grid=rule or GridRule(),
        training={},
        licence="",
        metadata={"method": "cyclemorph"},
        sha256="0" * 64,
        path=Path("weights.safetensors"),
    )


def reference_flow(state: State, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
    """The published architecture, call by call, from the state dict alone, in float64."""
    w = {name.replace("model.", ""): value.double() for name, value in state.items()}
    n = moving.dim() - 2
    conv = (F.conv2d, F.conv3d)[n - 2]
    up = (F.conv_transpose2d, F.conv_transpose3d)[n - 2]

    def act(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x >= 0, x, 0.2 * x)

    def block(x: torch.Tensor, name: str, stride: int) -> torch.Tensor:
        return act(conv(x, w[f"{name}.block.0.weight"], w[f"{name}.block.0.bias"], stride=stride, padding=1))

    def raised(x: torch.Tensor, name: str) -> torch.Tensor:
        return up(x, w[f"{name}.upconv.weight"], w[f"{name}.upconv.bias"], stride=2, padding=1, output_padding=1)

    x1 = block(torch.cat([moving, fixed], 1).double(), "inconv.block", 1)
    x2 = block(x1, "downconv1.block", 2)
    x3 = block(x2, "downconv2.block", 2)
    x4 = block(x3, "downconv3.block", 2)
    x5 = block(x4, "downconv4.block", 2)
    y = block(torch.cat([x4, raised(x5, "upconv1")], 1), "upconv1.block", 1)
    y = block(torch.cat([x3, raised(y, "upconv2")], 1), "upconv2.block", 1)
    y = block(torch.cat([x2, raised(y, "upconv3")], 1), "upconv3.block", 1)
    y = block(y, "keepblock", 1)
    y = block(torch.cat([x1, raised(y, "upconv4")], 1), "upconv4.block", 1)
    return conv(y, w["outconv.upconv.weight"], w["outconv.upconv.bias"], padding=1)


def oblique_pair(seed: int) -> tuple[sitk.Image, sitk.Image, np.ndarray]:
    """Two images on unlike oblique grids, and an affine map that takes one's centre near the other's."""
    rng = np.random.default_rng(seed)
    fixed_grid, moving_grid = random_grid(seed, low=12, high=20), random_grid(seed + 1, low=12, high=20)
    matrix = np.eye(4)
    matrix[:3, :3] += rng.normal(0, 0.1, (3, 3))
    matrix[:3, 3] = moving_grid.center + rng.normal(0, 2, 3) - matrix[:3, :3] @ fixed_grid.center
    return random_image(fixed_grid, seed), random_image(moving_grid, seed + 1), matrix


# ---------------------------------------------------------------------- the network


class TestNetwork:
    def test_parameter_count_and_published_names(self) -> None:
        state = CycleMorphUNet().state_dict()
        steps = [f"model.{n}.block.block.0" for n in ("inconv", *(f"downconv{i}" for i in range(1, 5)))]
        steps += [f"model.upconv{i}.{part}" for i in range(1, 5) for part in ("upconv", "block.block.0")]
        steps += ["model.keepblock.block.0", "model.outconv.upconv"]
        assert set(state) == {f"{s}.{kind}" for s in steps for kind in ("weight", "bias")}
        assert sum(value.numel() for value in state.values()) == 361_299

    def test_initial_weights(self) -> None:
        for name, value in CycleMorphUNet().state_dict().items():
            if name.endswith("bias"):
                assert not value.any(), name
            elif value.numel() > 5000:
                assert abs(float(value.std()) / 1e-5 - 1) < 0.05, name
                assert abs(float(value.mean())) < 1e-6, name

    @pytest.mark.parametrize(("dimension", "shape"), [(3, (32, 16, 48)), (2, (64, 32))])
    def test_flow_equals_step_by_step_reference(self, dimension: int, shape: tuple[int, ...]) -> None:
        state = lively_state(3, dimension)
        network = CycleMorphUNet(dimension).eval()
        network.load_state_dict(state, strict=True)
        moving, fixed = torch.rand(2, 1, 1, *shape)
        with torch.inference_mode():
            flow = network(moving, fixed)
        truth = reference_flow(state, moving, fixed)
        assert flow.shape == (1, dimension, *shape)
        assert 0.5 < truth.abs().max() < 20  # a flow that would show a mistake
        assert torch.allclose(flow.double(), truth, atol=1e-4, rtol=0)
        with torch.inference_mode():
            assert not torch.allclose(network(fixed, moving).double(), truth, atol=1e-2)

    def test_any_size_is_padded_with_zeros_and_cropped(self) -> None:
        network = CycleMorphUNet().eval()
        network.load_state_dict(lively_state(5))
        moving, fixed = torch.rand(2, 1, 1, 17, 16, 5)
        with torch.inference_mode():
            flow = network(moving, fixed)
            padded = [F.pad(v, [0, 11, 0, 0, 0, 15]) for v in (moving, fixed)]
            whole = network(*padded)
        assert flow.shape == (1, 3, 17, 16, 5)
        assert torch.equal(flow, whole[..., :17, :16, :5])

    def test_gradients_reach_every_weight(self) -> None:
        network = CycleMorphUNet(2)
        network.load_state_dict(lively_state(1, 2))
        network(torch.rand(1, 1, 20, 20), torch.rand(1, 1, 20, 20)).square().sum().backward()
        assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in network.parameters())

    def test_shapes_that_do_not_fit_are_named(self) -> None:
        with pytest.raises(ValueError, match=r"\(1, 1, 16, 16\)"):
            CycleMorphUNet()(torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16))
        with pytest.raises(ValueError, match="dimension 2 or 3"):
            CycleMorphUNet(4)


# ---------------------------------------------------------------------- flows in voxels


class TestRunNetwork:
    arrays = np.random.default_rng(0).random((2, 20, 18, 33), dtype=np.float32)

    @staticmethod
    def reference(state: State, moving: np.ndarray, fixed: np.ndarray) -> torch.Tensor:
        pads = [amount for size in reversed(moving.shape) for amount in (0, -size % 16)]
        pair = [F.pad(torch.from_numpy(a)[None, None], pads) for a in (moving, fixed)]
        return reference_flow(state, *pair)[0][(slice(None), *[slice(0, s) for s in moving.shape])]

    def test_two_networks(self) -> None:
        fixed, moving = self.arrays
        states = lively_state(1), lively_state(2)
        forward, backward = run_network(checkpoint_of(*states), fixed, moving, settings=EXACT)
        assert torch.allclose(forward.double(), self.reference(states[0], moving, fixed), atol=1e-4, rtol=0)
        assert torch.allclose(backward.double(), self.reference(states[1], fixed, moving), atol=1e-4, rtol=0)

    def test_one_network_runs_twice_with_images_exchanged(self) -> None:
        fixed, moving = self.arrays
        state = lively_state(1)
        forward, backward = run_network(checkpoint_of(state), fixed, moving, settings=EXACT)
        assert torch.allclose(forward.double(), self.reference(state, moving, fixed), atol=1e-4, rtol=0)
        assert torch.allclose(backward.double(), self.reference(state, fixed, moving), atol=1e-4, rtol=0)

    def test_input_is_untouched_and_network_is_built_once(self) -> None:
        fixed, moving = self.arrays.copy()
        checkpoint = checkpoint_of(lively_state(1))
        first = run_network(checkpoint, fixed, moving)
        network = checkpoint.built["cpu"]["forward"]
        second = run_network(checkpoint, fixed, moving)
        assert checkpoint.built["cpu"]["forward"] is network
        assert torch.equal(first[0], second[0])
        assert np.array_equal(np.stack([fixed, moving]), self.arrays)

    def test_bfloat16_agrees(self) -> None:
        fixed, moving = self.arrays
        checkpoint = checkpoint_of(lively_state(1))
        full = run_network(checkpoint, fixed, moving, settings=EXACT)[0]
        half = run_network(checkpoint, fixed, moving, settings=InferenceSettings("bfloat16"))[0]
        assert half.dtype == torch.float32
        assert 0 < float((half - full).abs().mean()) < 0.05
        with pytest.raises(InputError, match="float8"):
            run_network(checkpoint, fixed, moving, settings=InferenceSettings("float8"))

    def test_progress_and_cancel(self) -> None:
        seen: list[float] = []

        def stop(stage: str, fraction: float) -> None:
            seen.append(fraction)
            if fraction >= 0.5:
                raise Cancelled

        with pytest.raises(Cancelled):
            run_network(checkpoint_of(lively_state(1)), *self.arrays, progress=stop)
        assert seen == [0.0, 0.5]

    def test_refusals(self) -> None:
        checkpoint = checkpoint_of(lively_state(1))
        with pytest.raises(InputError, match="shapes"):
            run_network(checkpoint, self.arrays[0], self.arrays[1][:-1])
        with pytest.raises(InputError, match="3D images"):
            run_network(checkpoint, self.arrays[0, 0], self.arrays[1, 0])
        with pytest.raises(InputError, match=r"NaN.*normalisation \(none\)"):
            run_network(checkpoint, self.arrays[0], np.full_like(self.arrays[0], np.inf))


# ---------------------------------------------------------------------- fields in millimetres


class TestFields:
    @given(seeds)
    @settings(max_examples=6)
    def test_constant_flow_is_the_right_vector_in_both_directions(self, seed: int) -> None:
        fixed, moving, matrix = oblique_pair(seed)
        flows = ((1.5, -2.0, 0.75), (-0.5, 1.0, 3.0))
        checkpoint = checkpoint_of(*(constant_state(f) for f in flows))
        forward, backward = predict_fields(checkpoint, fixed, moving, matrix, settings=EXACT)
        # By SimpleITK: where does a voxel land whose (x, y, z) index has moved by (kx, ky, kz)?
        shifts = []
        for flow in flows:
            start = np.array(fixed.TransformContinuousIndexToPhysicalPoint([2.0, 3.0, 4.0]))
            end = fixed.TransformContinuousIndexToPhysicalPoint([2.0 + flow[2], 3.0 + flow[1], 4.0 + flow[0]])
            shifts.append(np.array(end) - start)
        p = Grid.of(fixed).points()
        truth = (p + shifts[0]) @ matrix[:3, :3].T + matrix[:3, 3] - p
        assert forward.grid == Grid.of(fixed)
        assert np.abs(forward.vectors - truth).max() < 1e-3
        q = Grid.of(moving).points()
        inverse = np.linalg.inv(matrix)
        truth = q @ inverse[:3, :3].T + inverse[:3, 3] + shifts[1] - q
        assert backward.grid == Grid.of(moving)
        assert np.abs(backward.vectors - truth).max() < 1e-3

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_each_array_axis_alone(self, axis: int) -> None:
        """A left-handed, oblique grid: k voxels along one array axis are k spacings along that axis' direction."""
        grid = random_grid(11, mirrored=True)
        flow = [0.0, 0.0, 0.0]
        flow[axis] = 2.5
        image = random_image(grid, 1)
        forward, _ = predict_fields(checkpoint_of(constant_state(tuple(flow))), image, image)
        xyz = 2 - axis
        expected = 2.5 * grid.spacing[xyz] * grid.direction_matrix[:, xyz]
        assert np.abs(forward.vectors - expected).max() < 1e-4

    def test_varying_flow_with_a_network_grid_of_its_own(self) -> None:
        """Point by point with SimpleITK's resampling, the reference network and SciPy's interpolation."""
        fixed, moving, matrix = oblique_pair(5)
        rule = GridRule(spacing=(2.0, 1.7, 2.3), orientation="RAS")
        states = lively_state(8), lively_state(9)
        checkpoint = checkpoint_of(*states, rule, "unit")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", "What the network sees has only", CycleRegWarning)
            forward, backward = predict_fields(checkpoint, fixed, moving, matrix, settings=EXACT)
        grid = rule.place(Grid.of(fixed))
        affine = sitk.AffineTransform(matrix[:3, :3].ravel().tolist(), matrix[:3, 3].tolist())
        inputs = []
        for image, transform in ((fixed, sitk.Transform(3, sitk.sitkIdentity)), (moving, affine)):
            own = Grid.of(image)
            values = sitk.GetArrayFromImage(image)
            image = own.image((values - values.min()) / (values.max() - values.min()))
            linear = (own.world_to_index @ (matrix if transform is affine else np.eye(4)) @ grid.index_to_world)[:3, :3]
            for a in range(3):  # blur to the step of the coarser grid
                step = float(np.sqrt((linear[a] ** 2).sum()))
                if step > 1.2:
                    image = sitk.RecursiveGaussian(image, own.spacing[a] * 0.5 * (step**2 - 1) ** 0.5, direction=a)
            background = 0.0
            inputs.append(
                sitk.GetArrayFromImage(sitk.Resample(image, grid.empty_image(), transform, sitk.sitkLinear, background))
            )
        flows = [
            TestRunNetwork.reference(states[0], inputs[1], inputs[0]).numpy(),
            TestRunNetwork.reference(states[1], inputs[0], inputs[1]).numpy(),
        ]

        def displacement(flow: np.ndarray, points: np.ndarray) -> np.ndarray:
            index = grid.to_index(points)[..., ::-1].reshape(-1, 3).T
            voxels = np.stack([map_coordinates(c, index, order=1, mode="nearest") for c in flow[::-1]], -1)
            return ((voxels * grid.spacing) @ grid.direction_matrix.T).reshape(points.shape)

        p = Grid.of(fixed).points()
        truth = (p + displacement(flows[0], p)) @ matrix[:3, :3].T + matrix[:3, 3] - p
        assert np.abs(displacement(flows[0], p)).max() > 1.0
        assert np.abs(forward.vectors - truth).max() < 2e-3
        q = Grid.of(moving).points()
        inverse = np.linalg.inv(matrix)
        back = q @ inverse[:3, :3].T + inverse[:3, 3]
        assert np.abs(backward.vectors - (back + displacement(flows[1], back) - q)).max() < 2e-3

    def test_exactly_inverse_flows_make_a_round_trip_of_zero(self) -> None:
        fixed, moving, matrix = oblique_pair(4)
        checkpoint = checkpoint_of(constant_state((1.0, -1.0, 2.0)), constant_state((-1.0, 1.0, -2.0)))
        forward, backward = predict_fields(checkpoint, fixed, moving, matrix, settings=EXACT)
        points = np.random.default_rng(0).normal(Grid.of(fixed).center, 1.0, (50, 3))
        there = forward.transform_points(points)
        plain = points @ matrix[:3, :3].T + matrix[:3, 3]
        assert np.abs(there - plain).min(0).max() > 1.0  # more than the affine map alone
        index = Grid.of(moving).to_index(there)
        inside = ((index >= 0) & (index <= np.array(moving.GetSize()) - 1)).all(-1)  # nothing is extrapolated there
        assert inside.sum() > 10
        assert np.abs(backward.transform_points(there[inside]) - points[inside]).max() < 1e-3

    def test_singular_matrix_and_wrong_dimension(self) -> None:
        image = random_image(random_grid(1), 1)
        checkpoint = checkpoint_of(constant_state((0.0, 0.0, 0.0)))
        with pytest.raises(InputError, match="singular"):
            predict_fields(checkpoint, image, image, np.diag([1.0, 1.0, 0.0, 1.0]))
        flat = random_image(random_grid(1, dimension=2), 1)
        with pytest.raises(InputError, match="3D images but the fixed image is 2D"):
            predict_fields(checkpoint, flat, flat)

    def test_warnings_say_what_was_assumed(self, tmp_path: Path) -> None:
        image = random_image(random_grid(1), 1)
        torch.save(constant_state((0.0, 0.0, 0.0)), tmp_path / "plain.pth")
        with pytest.warns(CycleRegWarning, match=r"plain\.pth.*'unit' are assumed"):
            predict_fields(read_checkpoint(tmp_path / "plain.pth"), image, image)
        with pytest.warns(CycleRegWarning, match="within memory"):
            predict_fields(checkpoint_of(constant_state((0.0, 0.0, 0.0))), image, image, max_voxels=200)


# ---------------------------------------------------------------------- network grid and intensities


class TestGridRule:
    @given(seeds)
    def test_every_orientation_keeps_the_voxels_in_place(self, seed: int) -> None:
        grid = random_grid(seed)
        for order in permutations(("LR", "PA", "SI")):
            letters = "".join(pair[seed >> i & 1] for i, pair in enumerate(order))
            placed = GridRule(orientation=letters).place(grid)
            assert sorted(placed.size) == sorted(grid.size)
            corners = {tuple(np.round(c, 3)) for c in grid.corners()}
            assert {tuple(np.round(c, 3)) for c in placed.corners()} == corners

    @pytest.mark.parametrize("letters", ["LPS", "RAS", "AIL", "SRA", "PIR"])
    def test_orientation_is_simpleitks(self, letters: str) -> None:
        rng = np.random.default_rng(7)
        tilt = sitk.Euler3DTransform((0, 0, 0), *rng.normal(0, 0.15, 3)).GetMatrix()
        image = sitk.GetImageFromArray(rng.random((5, 6, 7)))
        image.SetSpacing((1.0, 2.0, 3.0))
        image.SetOrigin((10.0, -20.0, 30.0))
        image.SetDirection(tilt)
        oriented = sitk.DICOMOrient(image, letters)
        placed = GridRule(orientation=letters).place(Grid.of(image))
        assert placed.same_as(Grid.of(oriented))
        matrix = np.eye(4)
        assert np.allclose(to_network_grid(image, placed, matrix, "none"), sitk.GetArrayFromImage(oriented), atol=1e-6)

    def test_stated_size_and_spacing_are_centred(self) -> None:
        grid = random_grid(3)
        placed = GridRule(size=(32, 48, 64), spacing=(1.0, 1.5, 2.0)).place(grid)
        assert placed.size == (32, 48, 64)
        assert placed.spacing == (1.0, 1.5, 2.0)
        assert np.allclose(placed.center, grid.center)
        assert np.allclose(placed.direction, grid.direction)

    def test_open_parts_follow_the_fixed_image(self) -> None:
        grid = Grid((100, 100, 30), (1.0, 1.0, 4.0), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel()))
        assert GridRule().place(grid) == grid
        assert GridRule(spacing=(2.0, 2.0, 2.0)).place(grid).size == (50, 50, 60)
        liver = GridRule(size=(32, 32, None)).place(grid)
        assert liver.size == (32, 32, 30)
        assert liver.spacing == (100 / 32, 100 / 32, 4.0)
        edges = grid.to_world(np.array([[-0.5, -0.5, -0.5]])), liver.to_world(np.array([[-0.5, -0.5, -0.5]]))
        assert np.allclose(*edges)

    def test_limit_coarsens_the_finest_axes_and_keeps_the_extent(self) -> None:
        grid = Grid((512, 512, 60), (0.7, 0.7, 5.0), (1.0, 2.0, 3.0), tuple(np.eye(3).ravel()))
        placed = GridRule().place(grid)
        assert 0.9 * 192**3 < np.prod(placed.size) <= 192**3
        assert placed.size[2] == 60
        assert np.allclose(np.array(placed.size) * placed.spacing, np.array(grid.size) * grid.spacing)
        assert np.allclose(placed.center, grid.center)
        stated = GridRule(size=(512, 512, 60))
        assert stated.place(grid).size == (512, 512, 60)
        assert np.prod(stated.place(grid, max_voxels=10_000).size) <= 10_000

    def test_a_number_of_voxels_makes_them_cubic_and_keeps_the_extent(self) -> None:
        grid = Grid((200, 150, 30), (1.0, 1.2, 6.0), (1.0, 2.0, 3.0), random_grid(4).direction)
        rule = GridRule.from_dict(GridRule(voxels=1_000_000).to_dict())
        placed = rule.place(grid)
        assert 0.93e6 < np.prod(placed.size) <= 1e6
        assert max(placed.spacing) / min(placed.spacing) < 1.02
        assert np.allclose(np.array(placed.size) * placed.spacing, np.array(grid.size) * grid.spacing)
        assert np.allclose(placed.center, grid.center)
        assert np.prod(rule.place(grid, max_voxels=10_000).size) <= 10_000
        # Small images are not blown up to millions of voxels.
        assert min(GridRule(voxels=10**9).place(grid).spacing) >= 0.5
        assert "1,000,000 cubic voxels" in rule.describe()

    def test_network_grid_reads_the_checkpoint(self, tmp_path: Path) -> None:
        rule = {"size": [32, 16, 16], "spacing": [1, 1, 1.5], "orientation": "AIL"}
        saved = write_checkpoint(tmp_path / "a.safetensors", "cyclemorph", {"forward": lively_state(1)}, grid=rule)
        placed = network_grid(random_grid(2), saved)
        assert placed.size == (32, 16, 16)
        assert placed.spacing == (1.0, 1.0, 1.5)

    @pytest.mark.parametrize(
        "values",
        [
            {"size": [1, 2]},
            {"size": [0, 1, 1]},
            {"spacing": ["a", 1, 1]},
            {"orientation": "LRS"},
            {"shape": [1, 1, 1]},
            {"voxels": 0},
            {"voxels": 1.5},
            {"voxels": 1000, "size": [8, 8, 8]},
        ],
    )
    def test_refusals(self, values: dict) -> None:
        with pytest.raises(InputError):
            GridRule.from_dict(values).place(random_grid(1))

    def test_downsampling_does_not_alias(self) -> None:
        """Stripes finer than the network grid come out as their mean, not as other stripes."""
        stripes = np.zeros((64, 64, 64), np.float32)
        stripes[:, :, ::2] = 1.0
        image = sitk.GetImageFromArray(stripes)
        coarse = Grid.of(image).with_size((21, 21, 21))
        values = to_network_grid(image, coarse, np.eye(4), "none")[2:-2, 2:-2, 2:-2]
        assert np.abs(values - 0.5).max() < 0.1


class TestNormalisation:
    values = np.array([[-100.0, 0.0], [50.0, 300.0]], np.float32)

    def test_definitions(self) -> None:
        assert np.array_equal(normalise(self.values, "none"), self.values)
        assert np.allclose(normalise(self.values, "unit"), (self.values + 100) / 400)
        assert np.allclose(normalise(self.values, "max"), self.values / 300)
        assert np.allclose(normalise(self.values, "window:0,100"), [[0, 0], [0.5, 1]])
        ramp = np.arange(1001, dtype=np.float32)
        assert np.allclose(normalise(ramp, "percentile:10,60"), np.clip((ramp - 100) / 500, 0, 1), atol=1e-6)
        assert np.array_equal(normalise(ramp, "percentile"), normalise(ramp, "percentile:1,99"))
        assert not normalise(np.full((3, 3), 7.0), "unit").any()

    @pytest.mark.parametrize("text", ["", "mean", "window", "window:5,1", "window:a,b", "percentile:0,101", "unit:1,2"])
    def test_refusals(self, text: str) -> None:
        with pytest.raises(InputError, match="no intensity normalisation"):
            normalise(self.values, text)

    def test_maximum_must_be_positive(self) -> None:
        with pytest.raises(InputError, match="maximum, which is -1"):
            normalise(np.full((2, 2), -1.0), "max")


# ---------------------------------------------------------------------- the registry


class TestMethods:
    def test_default_comes_first_and_ids_are_unique(self) -> None:
        ids = [m.id for m in list_methods()]
        assert ids[0] == DEFAULT_METHOD == "optimize"
        assert len(ids) == len(set(ids))
        assert "cyclemorph" in ids

    def test_unknown_names_the_nearest_and_all(self) -> None:
        known = r"no method 'CycleMorf'. Did you mean cyclemorph\?.*optimize, pyramid, cyclemorph"
        with pytest.raises(InputError, match=known):
            get_method("CycleMorf")
        with pytest.raises(InputError) as caught:
            get_method("zzz")
        assert "Did you mean" not in str(caught.value)

    @pytest.mark.parametrize("method", list_methods(), ids=lambda m: m.id)
    def test_every_network_is_what_its_entry_says(self, method) -> None:
        if not method.network:
            assert not method.needs_checkpoint
            with pytest.raises(InputError, match="uses no network"):
                method.build_network()
            return
        normalise(np.ones((2, 2)), method.normalisation)
        for dimension in method.dimensions:
            network = method.build_network(dimension=dimension)
            names = list(network.state_dict())
            assert all(any(n.startswith(p) for n in names) for p in method.key_signature)
            assert type(network)(**network.configuration).state_dict().keys() == network.state_dict().keys()
            assert type(network).configuration_from(network.state_dict()) == network.configuration
