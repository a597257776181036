"""Networks computed a few slices at a time give what the same network gives when PyTorch computes it as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from network_cases import lively_network
from torch import nn

from CycleRegLib.methods import list_methods
from CycleRegLib.networks import kernels, stand_ins
from CycleRegLib.networks.blocks import RegistrationNetwork
from CycleRegLib.networks.kernels import Doubled, Plain
from CycleRegLib.networks.slicewise import slicewise
from CycleRegLib.networks.stand_ins import Slices

SMALL = {"vtn": {"cascade": "ADD", "channels": 2, "size": 64}}
NETWORKS = [
    (method.id, dimension)
    for method in list_methods()
    if method.network and "multiscale" not in method.network and method.network_class().in_slabs
    for dimension in method.dimensions
]
Flows = tuple[torch.Tensor, ...]


@pytest.fixture(params=[1, 3], ids=["one thread", "three threads"])
def few_slices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Slabs of some slices even of small volumes, and threads to share them."""
    monkeypatch.setitem(stand_ins.SLAB_BYTES, "cpu", 2**17)
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def pair(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    moving, fixed = torch.randn((2, 1, 1, *shape), generator=torch.Generator().manual_seed(seed))
    return moving, fixed


def as_tuple(flows: torch.Tensor | Flows) -> Flows:
    return flows if isinstance(flows, tuple) else (flows,)


def plain_and_sliced(forward: Callable[..., torch.Tensor | Flows], *inputs: torch.Tensor) -> tuple[Flows, Flows]:
    """What PyTorch computes as in training, and what is computed without gradients."""
    plain = slicewise(forward, *inputs)
    with torch.inference_mode():
        return as_tuple(plain), as_tuple(slicewise(forward, *inputs))


# ---------------------------------------------------------------------- networks


@pytest.mark.parametrize(("method", "dimension"), NETWORKS)
def test_every_network_gives_what_pytorch_gives(method: str, dimension: int, few_slices: int) -> None:
    network = lively_network(method, dimension=dimension, **SMALL.get(method, {}))
    images = pair(*(48, 32, 37)[:dimension])  # sides that are no multiples of the stride too
    with torch.enable_grad():
        plain = as_tuple(network(*images))
    with torch.inference_mode():
        sliced = as_tuple(network(*images))
    assert len(plain) == len(sliced)
    for one, other in zip(plain, sliced):
        assert other.shape == one.shape
        assert other.dtype == one.dtype == torch.float32
        assert one.abs().max() > 0.5
        assert torch.allclose(other, one, atol=3e-5, rtol=0)
    assert torch.get_num_threads() == few_slices


@pytest.mark.parametrize(("method", "dimension"), NETWORKS)
def test_autocast_reaches_the_same_layers(method: str, dimension: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounded to bfloat16 at the same places: as far from float32 as PyTorch's autocast is."""
    monkeypatch.setitem(stand_ins.SLAB_BYTES, "cpu", 2**17)
    network = lively_network(method, dimension=dimension, **SMALL.get(method, {}))
    images = pair(*(32, 32, 48)[:dimension])
    with torch.inference_mode():
        exact = as_tuple(network(*images))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            sliced = as_tuple(network(*images))
            with torch.enable_grad():
                plain = as_tuple(network(*(image.clone() for image in images)))
    for truth, one, other in zip(exact, plain, sliced):
        assert other.dtype == torch.float32
        error, theirs = (float((half - truth).abs().mean()) for half in (other, one.detach()))
        assert theirs / 3 < error < 1.5 * theirs


def test_a_pytorch_without_onednn_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    network, images = lively_network("cyclemorph"), pair(32, 32, 48)
    with torch.inference_mode():
        here = network(*images)
        monkeypatch.setattr(kernels, "_onednn_answers", lambda dimension: False)
        there = network(*images)
    assert torch.allclose(here, there, atol=1e-5, rtol=0)


def test_nothing_of_full_resolution_is_computed_at_once(few_slices: int, monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0

    def record(convolve: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def measured(x: torch.Tensor, *others: object) -> torch.Tensor:
            nonlocal largest
            result = convolve(x, *others)
            largest = max(largest, *(t.numel() * t.element_size() for t in (x, result)))
            return result

        return measured

    monkeypatch.setattr("CycleRegLib.networks.kernels.convolve", record(kernels.convolve))
    monkeypatch.setattr("CycleRegLib.networks.stand_in_layers.convolve_transposed", record(kernels.convolve_transposed))
    images = pair(64, 32, 32)
    network = lively_network("cyclemorph")
    with torch.inference_mode():
        network(*images)
    # Two slices more on either side than the slab's two; PyTorch's way, it would be 16 channels of 64 slices.
    assert 0 < largest <= 3 * 2**17 < 4 * 16 * 64 * 32 * 32 / 8


def test_gradients_take_pytorchs_own_way() -> None:
    seen = []

    class Network(RegistrationNetwork):
        def __init__(self) -> None:
            super().__init__(2)
            self.layer = nn.Conv2d(2, 2, 3, padding=1)

        def estimate(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
            seen.append(isinstance(moving, Slices))
            return self.layer(torch.cat([moving, fixed], dim=1))

    network, images = Network(), pair(9, 7)
    flow = network(*images)
    flow.sum().backward()
    with torch.no_grad():
        again = network(*images)
    assert seen == [False, True]
    assert network.layer.weight.grad is not None
    assert torch.allclose(again, flow, atol=1e-6)
    assert not again.requires_grad


# ---------------------------------------------------------------------- layers, known and unknown


GENERATOR = torch.Generator().manual_seed(5)


def weights(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=GENERATOR) / 4


K5, K4, K3, K2, BIAS = (
    weights(4, 1, 5, 3, 1),
    weights(4, 3, 4, 4, 4),
    weights(4, 4, 3, 3, 3),
    weights(4, 8, 2, 2, 2),
    weights(4),
)
FUNCTIONS = {
    "uneven kernel": lambda a, b: F.conv3d(a, K5, BIAS, padding=(2, 1, 0)) + b,
    "stride 3": lambda a, b: F.conv3d(F.conv3d(a, K5, padding=(2, 1, 0)), K3, BIAS, stride=3),
    "strides of their own": lambda a, b: F.conv3d(a, K5, stride=(1, 2, 1), padding=(2, 1, 0)),
    "transposed, kernel 4": lambda a, b: F.conv_transpose3d(F.conv3d(a, K5, BIAS), K4, stride=2, padding=1),
    "transposed, stride 3": lambda a, b: F.conv_transpose3d(F.conv3d(a, K5), K4, stride=3, output_padding=2),
    "transposed, much padding": lambda a, b: F.conv_transpose3d(
        F.conv3d(a, K5), K4, stride=2, padding=2, output_padding=1
    ),
    "padding on all sides": lambda a, b: F.conv3d(F.pad(F.conv3d(a, K5), (1, 2, 0, 3, 9, 4)), K3),
    "padding along one axis": lambda a, b: F.leaky_relu(F.pad(F.conv3d(a, K5), (1, 2)), 0.3),
    "cropping": lambda a, b: F.conv3d(F.conv3d(a, K5)[..., :9, :5, :4], K3),
    "doubled and joined": lambda a, b: _joined_with_doubled(a, b),
    "tripled": lambda a, b: F.conv3d(F.interpolate(F.conv3d(a, K5), scale_factor=3), K3, padding=1),
    "pooling": lambda a, b: F.conv3d(F.max_pool3d(F.conv3d(a, K5), 2), K3),
    "arithmetic": lambda a, b: torch.add(3 * (1.5 - a) / 2, -b, alpha=2) * a,
    "an activation by itself": lambda a, b: (
        F.leaky_relu(a + b, 0.1) - F.leaky_relu(F.leaky_relu(F.conv3d(a, K3[:1, :1], padding=1), 0.2), 0.2)
    ),
    "the same features twice": lambda a, b: _twice(F.leaky_relu(F.conv3d(a, K5, padding=(2, 1, 0)), 0.2)),
    "unknown: pooling by the mean": lambda a, b: F.avg_pool3d(F.conv3d(a, K5), 2),
    "unknown: dilation and groups": lambda a, b: F.conv3d(F.conv3d(a, K5), K3[:, :2], dilation=2, groups=2),
    "unknown: methods and statistics": lambda a, b: a.flip(2) * (b.std() + torch.stack([a, b]).amax()) + b.mean(),
    "unknown: any index": lambda a, b: F.conv3d(a, K5)[:, 1:, 2, None] + b[:, :, ::2][:, :, :, 2:, :1],
    "unknown: concatenated slices": lambda a, b: torch.cat([a, b], dim=2),
    "a tensor of its own": lambda a, b: torch.cat([a, torch.ones(1, 2, 14, 12, 10)], dim=1) * b.shape[2] + a.size(3),
}


def _joined_with_doubled(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    coarse = F.conv3d(F.conv3d(a, K5, padding=(2, 1, 0)), K3, stride=2, padding=1)
    wide = torch.cat([F.interpolate(coarse, scale_factor=2, mode="nearest"), a], dim=1)
    wide = torch.cat([wide, F.conv3d(b, K5[:3], padding=(2, 1, 0))], dim=1)
    return F.conv3d(F.pad(wide, (0, 1) * 3), K2)


def _twice(features: torch.Tensor) -> torch.Tensor:
    return F.conv3d(torch.cat([F.conv3d(features, K3, padding=1), features], dim=1), K2) * 2


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_pytorch(name: str, few_slices: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(stand_ins.SLAB_BYTES, "cpu", 2**12)
    a, b = pair(14, 12, 10, seed=3)
    (plain,), (sliced,) = plain_and_sliced(FUNCTIONS[name], a, b)
    assert sliced.shape == plain.shape
    assert torch.allclose(sliced, plain, atol=1e-5, rtol=1e-5)


def test_images_are_left_alone_and_batches_are_kept_apart(few_slices: int) -> None:
    a, b = torch.randn(2, 3, 1, 20, 8, 8)
    copies = a.clone(), b.clone()
    (plain,), (sliced,) = plain_and_sliced(lambda x, y: F.leaky_relu_(F.conv3d(x, K5)) - F.conv3d(y, K5), a, b)
    assert torch.allclose(sliced, plain, atol=1e-5)
    assert torch.equal(a, copies[0])
    assert torch.equal(b, copies[1])


def test_an_error_within_leaves_no_trace(few_slices: int) -> None:
    def fail(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        F.conv3d(a, K5).sum()
        raise RuntimeError("out of memory")

    with torch.inference_mode(), pytest.raises(RuntimeError, match="out of memory"):
        slicewise(fail, *pair(64, 12, 10))
    assert torch.get_num_threads() == few_slices


# ---------------------------------------------------------------------- kernels


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("outputs", [3, 8, 20])
def test_a_doubled_input_is_never_made(dimension: int, outputs: int) -> None:
    shape, convolve = (5, 4, 6)[:dimension], (F.conv2d, F.conv3d)[dimension - 2]
    x = torch.randn(2, 4, *shape, dtype=torch.float64)
    weight, bias = torch.randn(outputs, 4, *(3,) * dimension, dtype=torch.float64), torch.randn(outputs).double()
    doubled = x
    for axis in range(2, dimension + 2):
        doubled = doubled.repeat_interleave(2, axis)
    truth = convolve(doubled, weight, bias, padding=1)
    layer = Doubled(weight, bias, torch.float64)
    padded = F.pad(x, (0, 0) * (dimension - 1) + (1, 1))
    for start, stop in ((0, 10), (3, 8), (2, 7), (9, 10)):
        first, last = layer.needs(start, stop)
        found = layer(padded[:, :, first + 1 : last + 1], start, stop)
        assert torch.allclose(found, truth[:, :, start:stop], atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("outputs", "width"), [(3, 16), (8, 16), (3, 15), (2, 18), (40, 16)])
def test_neighbours_computed_together_are_the_same(outputs: int, width: int, dtype: torch.dtype) -> None:
    x = torch.randn(1, 8, 6, 5, width).to(dtype).contiguous(memory_format=torch.channels_last_3d)
    weight, bias = torch.randn(outputs, 8, 3, 3, 3), torch.randn(outputs)
    layer = Plain(weight, bias, dtype, (1, 1, 1), (1, 1, 1), width)
    truth = F.conv3d(x.double(), weight.to(dtype).double(), bias.to(dtype).double(), padding=(0, 1, 1))
    found = layer(x, 1, 5)
    assert found.shape == truth.shape
    assert torch.allclose(found.double(), truth, atol=1e-5, rtol=1e-5 if dtype == torch.float32 else 2**-8)
