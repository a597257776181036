"""Checkpoint files: what loads, what is kept, and what is refused without being run."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import random
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import torch

from CycleRegLib.checkpoint_making import PUBLISHED, convert, create
from CycleRegLib.checkpoint_text import describe, describe_text
from CycleRegLib.checkpoints import read_checkpoint, write_checkpoint
from CycleRegLib.cli import main
from CycleRegLib.errors import InputError
from CycleRegLib.networks import CycleMorphUNet
from CycleRegLib.networks.preparation import GridRule

State = dict[str, torch.Tensor]


def random_state(seed: int = 0, dimension: int = 3) -> State:
    generator = torch.Generator().manual_seed(seed)
    empty = CycleMorphUNet(dimension).state_dict()
    return {name: torch.randn(value.shape, generator=generator) for name, value in empty.items()}


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "G_X.pth"
    torch.save(random_state(), path)
    return path


class TestReading:
    @pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
    def test_state_dict(self, tmp_path: Path, zipped: bool) -> None:
        path = tmp_path / "weights.pth"
        torch.save(OrderedDict(random_state()), path, _use_new_zipfile_serialization=zipped)
        checkpoint = read_checkpoint(path)
        assert checkpoint.method == "cyclemorph"
        assert list(checkpoint.networks) == ["forward"]
        assert same(checkpoint.networks["forward"], random_state())
        assert checkpoint.config == {"dimension": 3, "in_channels": 2, "out_channels": 3}
        assert checkpoint.normalisation == "unit"
        assert checkpoint.grid == GridRule()
        assert checkpoint.metadata == {}
        assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()

    def test_wrapped_and_half_precision(self, tmp_path: Path) -> None:
        half = {k: v.half() for k, v in random_state().items()}
        torch.save({"epoch": 7, "state_dict": half, "note": "x"}, tmp_path / "w.pt")
        loaded = read_checkpoint(tmp_path / "w.pt", "cyclemorph").networks["forward"]
        assert all(v.dtype == torch.float32 for v in loaded.values())
        assert same(loaded, {k: v.float() for k, v in half.items()})

    def test_two_files(self, plain: Path, tmp_path: Path) -> None:
        torch.save(random_state(1), tmp_path / "G_Y.pth")
        both = read_checkpoint(plain, backward=tmp_path / "G_Y.pth")
        assert same(both.networks["forward"], random_state(0))
        assert same(both.networks["backward"], random_state(1))
        sums = [hashlib.sha256(p.read_bytes()).hexdigest() for p in (plain, tmp_path / "G_Y.pth")]
        assert both.sha256.split(",") == sums

    def test_two_files_that_do_not_belong_together(self, tmp_path: Path) -> None:
        states = {"forward": random_state()}
        write_checkpoint(tmp_path / "a.safetensors", "cyclemorph", states, normalisation="max")
        write_checkpoint(tmp_path / "b.safetensors", "cyclemorph", states, normalisation="unit")
        with pytest.raises(InputError, match="normalisations differ"):
            read_checkpoint(tmp_path / "a.safetensors", backward=tmp_path / "b.safetensors")
        write_checkpoint(tmp_path / "c.safetensors", "cyclemorph", {**states, "backward": random_state(1)})
        with pytest.raises(InputError, match="both directions already"):
            read_checkpoint(tmp_path / "a.safetensors", backward=tmp_path / "c.safetensors")

    def test_content_decides_not_the_name(self, tmp_path: Path) -> None:
        write_checkpoint(tmp_path / "a.safetensors", "cyclemorph", {"forward": random_state()})
        renamed = (tmp_path / "a.safetensors").rename(tmp_path / "a.pth")
        assert read_checkpoint(renamed).metadata["method"] == "cyclemorph"

    def test_safetensors_without_metadata(self, tmp_path: Path) -> None:
        safetensors.torch.save_file(random_state(), tmp_path / "a.safetensors")
        assert read_checkpoint(tmp_path / "a.safetensors").metadata == {}


class TestWriting:
    def test_everything_comes_back(self, tmp_path: Path) -> None:
        rule = GridRule(size=(224, 192, 160), spacing=(1.0, 1.0, 1.0), orientation="AIL")
        states = {"forward": random_state(0), "backward": random_state(1)}
        path = tmp_path / "two.safetensors"
        written = write_checkpoint(
            path, "cyclemorph", states, normalisation="window:-200,300", grid=rule,
            training={"epochs": 30, "loss": "cyclemorph"}, licence="CC-BY-4.0",
        )  # fmt: skip
        read = read_checkpoint(path)
        for checkpoint in (written, read):
            assert all(same(checkpoint.networks[d], states[d]) for d in states)
            assert checkpoint.normalisation == "window:-200,300"
            assert checkpoint.grid == rule
            assert checkpoint.training == {"epochs": 30, "loss": "cyclemorph"}
            assert checkpoint.licence == "CC-BY-4.0"
        header = path.read_bytes()
        header = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])
        assert header["__metadata__"]["method"] == "cyclemorph"
        assert "backward.model.inconv.block.block.0.weight" in header

    def test_weights_that_share_memory(self, tmp_path: Path) -> None:
        state = random_state()
        shared = {"forward": state, "backward": state}
        assert same(write_checkpoint(tmp_path / "a.safetensors", "cyclemorph", shared).networks["backward"], state)

    def test_refusals_leave_no_file(self, tmp_path: Path) -> None:
        state = random_state()
        with pytest.raises(InputError, match=r"\.safetensors"):
            write_checkpoint(tmp_path / "a.pth", "cyclemorph", {"forward": state})
        with pytest.raises(InputError, match="forward network"):
            write_checkpoint(tmp_path / "a.safetensors", "cyclemorph", {"backward": state})
        with pytest.raises(InputError, match="no intensity normalisation"):
            write_checkpoint(tmp_path / "a.safetensors", "cyclemorph", {"forward": state}, normalisation="loud")
        del state["model.keepblock.block.0.bias"]
        with pytest.raises(InputError, match=r"1 missing: model\.keepblock\.block\.0\.bias"):
            write_checkpoint(tmp_path / "a.safetensors", "cyclemorph", {"forward": state})
        with pytest.raises(InputError, match="does not exist"):
            write_checkpoint(tmp_path / "none" / "a.safetensors", "cyclemorph", {"forward": random_state()})
        assert list(tmp_path.iterdir()) == []


class TestConverting:
    def test_two_files_into_one(self, plain: Path, tmp_path: Path) -> None:
        torch.save(random_state(1), tmp_path / "G_Y.pth", _use_new_zipfile_serialization=False)
        result = convert(
            plain, tmp_path / "out.safetensors", backward=tmp_path / "G_Y.pth", grid={"spacing": [1, 1, 1]}
        )
        assert same(result.networks["forward"], random_state(0))
        assert same(result.networks["backward"], random_state(1))
        assert result.grid == GridRule(spacing=(1.0, 1.0, 1.0))
        sources = result.training["converted_from"]
        assert [s["file"] for s in sources] == ["G_X.pth", "G_Y.pth"]
        assert sources[0]["sha256"] == hashlib.sha256(plain.read_bytes()).hexdigest()

    def test_published_facts(self, plain: Path, tmp_path: Path) -> None:
        result = convert(plain, tmp_path / "out.safetensors", published="cyclemorph-brain")
        assert result.grid.to_dict() == PUBLISHED["cyclemorph-brain"]["grid"]
        # The network's array is (z, y, x): METHODS.md's 160x192x224.
        assert result.grid.size[::-1] == (160, 192, 224)
        with pytest.raises(InputError, match="cyclemorph-brain"):
            convert(plain, tmp_path / "x.safetensors", published="brain")

    def test_again_keeps_what_the_source_states(self, plain: Path, tmp_path: Path) -> None:
        first = convert(plain, tmp_path / "a.safetensors", normalisation="max", licence="MIT")
        second = convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
        assert (second.normalisation, second.licence) == ("max", "MIT")
        assert second.training == first.training

    def test_half_of_the_bytes(self, plain: Path, tmp_path: Path) -> None:
        whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
        kept = convert(plain, whole).networks["forward"]
        assert main(["checkpoint", "convert", str(plain), str(half), "--half"]) == 0
        read = read_checkpoint(half).networks["forward"]
        assert half.stat().st_size < 0.6 * whole.stat().st_size
        assert same(read, {name: value.half().float() for name, value in kept.items()})
        large = {name: value * 1e6 for name, value in random_state().items()}
        with pytest.raises(InputError, match="65504"):
            write_checkpoint(tmp_path / "large.safetensors", "cyclemorph", {"forward": large}, half=True)
        assert not (tmp_path / "large.safetensors").exists()

    def test_description(self, plain: Path, tmp_path: Path) -> None:
        assert describe(read_checkpoint(plain))["networks"] == {"forward": 361_299}
        assert "assumed" in describe_text(read_checkpoint(plain))
        text = describe_text(convert(plain, tmp_path / "a.safetensors", published="cyclemorph-brain"))
        for part in ("361,299 parameters", "cyclemorph (CycleMorph)", "224x192x160 voxels of 1x1x1 mm, AIL", "G_X.pth"):
            assert part in text
        assert "assumed" not in text
        json.dumps(describe(read_checkpoint(tmp_path / "a.safetensors")))


class Malicious:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


class TestRefusals:
    @pytest.mark.parametrize("form", ["zip", "legacy", "bare pickle"])
    def test_code_is_named_and_not_run(self, tmp_path: Path, form: str) -> None:
        trace = tmp_path / "ran"
        content = {**random_state(), "extra": Malicious(f"echo > '{trace}'")}
        path = tmp_path / "evil.pth"
        if form == "bare pickle":
            path.write_bytes(pickle.dumps(content["extra"]))
        else:
            torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
        with pytest.raises(InputError, match=rf"would run code: it refers to {os.system.__module__}\.system"):
            read_checkpoint(path)
        assert not trace.exists()
        # The test's own weapon works: Python's unpickler would have run it.
        pickle.loads(pickle.dumps(content["extra"]))
        assert trace.exists()

    def test_whole_network_objects(self, tmp_path: Path) -> None:
        torch.save(CycleMorphUNet(), tmp_path / "net.pth")
        with pytest.raises(InputError, match=r"run code: it refers to CycleRegLib.*CycleMorphUNet.*state_dict"):
            read_checkpoint(tmp_path / "net.pth")
        torch.save(torch.nn.Sequential(torch.nn.Conv3d(2, 3, 3)), tmp_path / "seq.pth")
        with pytest.raises(InputError, match=r"run code: it refers to torch\.nn"):
            read_checkpoint(tmp_path / "seq.pth")

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_torchscript_and_tar(self, tmp_path: Path) -> None:
        torch.jit.save(torch.jit.script(torch.nn.ReLU()), str(tmp_path / "s.pt"))
        with pytest.raises(InputError, match="TorchScript"):
            read_checkpoint(tmp_path / "s.pt")
        with tarfile.open(tmp_path / "t.pth", "w") as archive:
            info = tarfile.TarInfo("pickle")
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
        with pytest.raises(InputError, match="tar file"):
            read_checkpoint(tmp_path / "t.pth")

    @pytest.mark.parametrize(
        "content",
        [b"not weights at all", b"\x00" * 200, b"\x80\x02}q\x00", b"PK\x03\x04 broken", bytes(range(256)) * 40],
        ids=["text", "zeros", "half a pickle", "broken zip", "noise"],
    )
    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_garbage(self, tmp_path: Path, content: bytes, suffix: str) -> None:
        path = tmp_path / f"x{suffix}"
        path.write_bytes(content)
        with pytest.raises(InputError, match="no checkpoint"):
            read_checkpoint(path)

    @pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
    def test_truncated_anywhere(self, tmp_path: Path, form: str) -> None:
        path = tmp_path / "x.safetensors"
        if form == "safetensors":
            write_checkpoint(path, "cyclemorph", {"forward": random_state()})
        else:
            torch.save(random_state(), path, _use_new_zipfile_serialization=form == "zip")
        whole = path.read_bytes()
        for part in (5, 100, len(whole) // 3, len(whole) - 100):
            path.write_bytes(whole[:part])
            with pytest.raises(InputError, match=r"no checkpoint|damaged"):
                read_checkpoint(path)

    @pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
    def test_flipped_bytes_load_or_are_refused(self, tmp_path: Path, form: str) -> None:
        """Whatever breaks inside a reader, the user sees a message and no traceback."""
        path = tmp_path / "x.safetensors"
        small = {"a.weight": torch.zeros(4), "b.weight": torch.ones(2, 3)}
        if form == "safetensors":
            safetensors.torch.save_file(small, path, {"method": "cyclemorph"})
        else:
            torch.save(small, path, _use_new_zipfile_serialization=form == "zip")
        whole, rng = path.read_bytes(), random.Random(0)
        for _ in range(150):
            broken = bytearray(whole)
            for _ in range(rng.randint(1, 4)):
                broken[rng.randrange(len(broken))] = rng.randrange(256)
            path.write_bytes(broken)
            with pytest.raises(InputError):  # even an intact copy lacks the network's weights
                read_checkpoint(path, "cyclemorph")

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="There is no checkpoint"):
            read_checkpoint(tmp_path / "none.pth")
        with pytest.raises(InputError, match="folder"):
            read_checkpoint(tmp_path)
        (tmp_path / "empty.pth").touch()
        with pytest.raises(InputError, match="empty"):
            read_checkpoint(tmp_path / "empty.pth")

    def test_missing_extra_and_misshapen_weights_are_named(self, tmp_path: Path) -> None:
        state = random_state()
        for i in range(1, 5):
            state.pop(f"model.upconv{i}.upconv.bias")
            state[f"model.spare{i}"] = torch.zeros(1)
        state["model.keepblock.block.0.bias"] = torch.zeros(9)
        torch.save(state, tmp_path / "a.pth")
        with pytest.raises(InputError) as caught:
            read_checkpoint(tmp_path / "a.pth", "cyclemorph")
        text = str(caught.value)
        assert "4 missing: model.upconv1.upconv.bias, model.upconv2.upconv.bias, model.upconv3.upconv.bias, …" in text
        assert "4 extra: model.spare1, model.spare2, model.spare3, …" in text
        assert "model.upconv4.upconv.bias" not in text
        assert "model.keepblock.block.0.bias [9] instead of [8]" in text

    def test_names_with_another_prefix(self, tmp_path: Path) -> None:
        torch.save({f"net.{k}": v for k, v in random_state().items()}, tmp_path / "a.pth")
        with pytest.raises(InputError, match=r"30 missing: model\.inconv.*30 extra: net\.model"):
            read_checkpoint(tmp_path / "a.pth", "cyclemorph")
        with pytest.raises(InputError, match=r"no method that CycleReg knows.*net\.model"):
            read_checkpoint(tmp_path / "a.pth")
        torch.save({f"module.{k}": v for k, v in random_state().items()}, tmp_path / "parallel.pth")
        assert same(read_checkpoint(tmp_path / "parallel.pth").networks["forward"], random_state())

    def test_another_architecture_is_named(self, tmp_path: Path) -> None:
        transmorph = {"transformer.patch_embed.proj.weight": torch.zeros(9), "reg_head.0.weight": torch.zeros(3)}
        torch.save(transmorph, tmp_path / "t.pt")
        with pytest.raises(InputError, match=r"belongs to TransMorph, not to cyclemorph"):
            read_checkpoint(tmp_path / "t.pt", "cyclemorph")
        with pytest.raises(InputError, match="belongs to TransMorph"):
            read_checkpoint(tmp_path / "t.pt")

    def test_weights_with_too_few_dimensions(self, tmp_path: Path) -> None:
        state = random_state()
        state["model.inconv.block.block.0.weight"] = torch.zeros(1)
        torch.save(state, tmp_path / "a.pth")
        with pytest.raises(InputError, match=r"model\.inconv\.block\.block\.0\.weight \[1\] instead of"):
            read_checkpoint(tmp_path / "a.pth")

    def test_another_method_by_metadata(self, tmp_path: Path) -> None:
        safetensors.torch.save_file(random_state(), tmp_path / "a.safetensors", {"method": "tomorrows-net"})
        with pytest.raises(InputError, match="belongs to the method tomorrows-net, not to cyclemorph"):
            read_checkpoint(tmp_path / "a.safetensors", "cyclemorph")
        with pytest.raises(InputError, match="tomorrows-net, which this version"):
            read_checkpoint(tmp_path / "a.safetensors")

    def test_method_without_a_network(self, plain: Path) -> None:
        with pytest.raises(InputError, match="optimize uses no network"):
            read_checkpoint(plain, "optimize")

    def test_dimension(self, tmp_path: Path) -> None:
        torch.save(random_state(dimension=2), tmp_path / "a.pth")
        assert read_checkpoint(tmp_path / "a.pth").method == "cyclemorph-2d"
        with pytest.raises(InputError, match="belongs to cyclemorph-2d, not to cyclemorph"):
            read_checkpoint(tmp_path / "a.pth", "cyclemorph")
        torch.save(random_state(), tmp_path / "b.pth")
        with pytest.raises(InputError, match="belongs to cyclemorph, not to cyclemorph-2d"):
            read_checkpoint(tmp_path / "b.pth", "cyclemorph-2d")
        safetensors.torch.save_file(random_state(dimension=2), tmp_path / "c.safetensors", {"method": "cyclemorph"})
        with pytest.raises(InputError, match="2D images, but cyclemorph registers 3D"):
            read_checkpoint(tmp_path / "c.safetensors")

    @pytest.mark.parametrize(
        ("metadata", "message"),
        [
            ({"network": "{"}, "no JSON"),
            ({"network": "[1]"}, "no JSON object"),
            ({"network": '{"dimension": 3, "depth": 5}'}, "cannot have"),
            ({"network": '{"dimension": "three"}'}, "without a dimension"),
            ({"grid": '{"size": [1, 2, -3]}'}, "positive numbers"),
            ({"normalisation": "loud"}, "no intensity normalisation"),
            ({"cyclereg_checkpoint": "99"}, "format 99"),
        ],
    )
    def test_bad_metadata(self, tmp_path: Path, metadata: dict[str, str], message: str) -> None:
        path = tmp_path / "a.safetensors"
        safetensors.torch.save_file(random_state(), path, {"method": "cyclemorph", **metadata})
        with pytest.raises(InputError, match=message):
            read_checkpoint(path)

    def test_weights_that_are_no_numbers(self, tmp_path: Path) -> None:
        state = random_state()
        state["model.inconv.block.block.0.bias"][3] = float("nan")
        torch.save(state, tmp_path / "nan.pth")
        with pytest.raises(InputError, match=r"NaN or infinite numbers in 'model\.inconv"):
            read_checkpoint(tmp_path / "nan.pth")
        torch.save({"model.inconv.block.block.0.bias": "text"}, tmp_path / "text.pth")
        with pytest.raises(InputError, match="holds a str where weights"):
            read_checkpoint(tmp_path / "text.pth")
        torch.save({"a": torch.zeros(3, dtype=torch.int64)}, tmp_path / "int.pth")
        with pytest.raises(InputError, match="int64"):
            read_checkpoint(tmp_path / "int.pth")
        torch.save([torch.zeros(3)], tmp_path / "list.pth")
        with pytest.raises(InputError, match="no state dict"):
            read_checkpoint(tmp_path / "list.pth")

    def test_zip_without_weights(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
            archive.writestr("hello.txt", "hello")
        with pytest.raises(InputError, match="no checkpoint"):
            read_checkpoint(tmp_path / "a.pth")


class TestCreate:
    def test_untrained_weights_are_a_checkpoint_like_any_other(self, tmp_path: Path) -> None:
        created = create(tmp_path / "new.safetensors", "cyclemorph", both=True, seed=3)
        again = create(tmp_path / "again.safetensors", "cyclemorph", both=True, seed=3)
        assert set(created.networks) == {"forward", "backward"}
        key = "model.inconv.block.block.0.weight"
        assert torch.equal(created.networks["forward"][key], again.networks["forward"][key])
        assert not torch.equal(created.networks["forward"][key], created.networks["backward"][key])
        assert created.networks["forward"][key].std() == pytest.approx(1e-5, rel=0.1)
        assert "random initial weights, seed 3" in created.training["summary"]

    def test_the_callers_random_numbers_are_left_alone(self, tmp_path: Path) -> None:
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        create(tmp_path / "new.safetensors", "cyclemorph")
        assert torch.equal(torch.rand(3), expected)

    @pytest.mark.parametrize(
        ("method", "config", "message"),
        [
            ("optimize", {}, "uses no network"),
            ("cyclemorph", {"depth": 3}, "no argument 'depth'; its arguments are dimension, in_channels"),
            ("cyclemorph", {"dimension": 2}, "2D images, but cyclemorph registers 3D"),
            ("cyclemorph", {"in_channels": -1}, "cannot be built so"),
        ],
    )
    def test_what_cannot_be_built(self, tmp_path: Path, method: str, config: dict, message: str) -> None:
        with pytest.raises(InputError, match=message):
            create(tmp_path / "new.safetensors", method, config)
        assert not list(tmp_path.iterdir())

    def test_from_the_command_line(self, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
        path = tmp_path / "new.safetensors"
        assert main(["checkpoint", "create", "cyclemorph", str(path), "--set", "in_channels=4"]) == 0
        assert read_checkpoint(path).config["in_channels"] == 4
        assert "in_channels 4" in capsys.readouterr().out
        assert main(["checkpoint", "create", "cyclemorph", str(path), "--set", "in_channels"]) == 2
        assert "--set takes NAME=VALUE" in capsys.readouterr().err


class TestJoin:
    """CycleMorph's global and local networks are trained one after the other, and come in files of their own."""

    def files(self, folder: Path, names: str) -> dict[str, Path]:
        made = {}
        for seed, name in enumerate(names.split()):
            made[name] = folder / f"{name}.pth"
            torch.save(random_state(seed), made[name])
        return made

    def test_global_and_local_networks_of_both_directions(self, tmp_path: Path) -> None:
        files = self.files(tmp_path, "global local global_back local_back")
        output = tmp_path / "liver.safetensors"
        arguments = ["checkpoint", "convert", str(files["global"]), str(output), "--method", "cyclemorph-multiscale"]
        arguments += ["--local", str(files["local"]), "--backward", str(files["global_back"])]
        arguments += ["--local-backward", str(files["local_back"]), "--set", "global_size=[null, 96, 96]"]
        assert main(arguments) == 0
        joined = read_checkpoint(output)
        assert joined.method == "cyclemorph-multiscale"
        assert joined.config["global_size"] == [None, 96, 96]
        assert len(joined.training["converted_from"]) == 4
        for direction, ending in (("forward", ""), ("backward", "_back")):
            for part in ("global", "local"):
                own = torch.load(files[f"{part}{ending}"])
                held = {
                    name.partition(".")[2]: value
                    for name, value in joined.networks[direction].items()
                    if name.startswith(f"{part}_network.")
                }
                assert same(own, held)

    def test_what_does_not_belong_together(self, tmp_path: Path) -> None:
        files = self.files(tmp_path, "global local back")
        output = tmp_path / "x.safetensors"
        with pytest.raises(InputError, match="give --method cyclemorph-multiscale or ms-dirnet"):
            convert(files["global"], output, "cyclemorph", local=(files["local"], None))
        with pytest.raises(InputError, match=r"for forward and backward, .* for forward\. Give both the same"):
            convert(files["global"], output, "ms-dirnet", files["back"], local=(files["local"], None))
        create(tmp_path / "other.safetensors", "inversenet")
        with pytest.raises(InputError, match="inversenet, but both networks of ms-dirnet are those of cycle"):
            convert(files["global"], output, "ms-dirnet", local=(tmp_path / "other.safetensors", None))
        assert not output.exists()
