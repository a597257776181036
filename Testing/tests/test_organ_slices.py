"""The organ's slices alone: which ones a network sees, what of them is blank, and the fields beyond."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from geometries import random_direction
from network_cases import lively_network
from small_pair import fixed_image, image_of, moving_image

import CycleRegLib
from CycleRegLib.checkpoints import Checkpoint
from CycleRegLib.errors import CycleRegWarning, InputError
from CycleRegLib.geometry import Grid
from CycleRegLib.networks import inference
from CycleRegLib.networks.inference import predict_fields
from CycleRegLib.networks.preparation import GridRule, normalise, to_network_grid
from CycleRegLib.networks.settings import InferenceSettings

ORGAN = InferenceSettings("float32", organ_slices=True)
ALL = InferenceSettings("float32")
pytestmark = pytest.mark.filterwarnings("ignore::CycleRegLib.errors.CycleRegWarning")


def checkpoint_of(method: str = "cyclemorph", rule: GridRule | None = None) -> Checkpoint:
    network = lively_network(method)
    return Checkpoint(
        method, {"forward": network.state_dict()}, network.configuration, "unit", rule or GridRule(), {}, "",
        {"method": method}, "0" * 64, Path("weights.safetensors"),
    )  # fmt: skip


def box_mask(image: sitk.Image, first: int, last: int) -> sitk.Image:
    """Label 5 in a block of those slices."""
    array = np.zeros(image.GetSize()[::-1], np.uint8)
    array[first : last + 1, 8:20, 5:25] = 5
    mask = sitk.GetImageFromArray(array)
    mask.CopyInformation(image)
    return mask


def shift_along_slices(slices: float) -> np.ndarray:
    """Fixed to moving points: as many slices of 2.5 mm up."""
    matrix = np.eye(4)
    matrix[2, 3] = 2.5 * slices
    return matrix


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict:
    """What reaches the network: ``fixed`` and ``moving`` arrays."""
    found, real = {}, inference.run_network

    def look(checkpoint, fixed, moving, *rest):
        found.update(fixed=fixed.copy(), moving=moving.copy())
        return real(checkpoint, fixed, moving, *rest)

    monkeypatch.setattr(inference, "run_network", look)
    return found


class TestWhatTheNetworkSees:
    fixed, moving = fixed_image(), moving_image()

    def run(self, fixed_slices, moving_slices, matrix=None, checkpoint=None):
        masks = tuple(
            None if slices is None else box_mask(image, *slices)
            for image, slices in ((self.fixed, fixed_slices), (self.moving, moving_slices))
        )
        return predict_fields(
            checkpoint or checkpoint_of(), self.fixed, self.moving, matrix, settings=ORGAN, masks=masks
        )

    def test_both_organs_are_covered_and_what_lies_beyond_each_is_zero(self, seen) -> None:
        """The paper's figure: slices 6 to 17 of one and 10 to 21 of the other become 16 with zeros above or below."""
        self.run((6, 17), (10, 21))
        whole = [normalise(sitk.GetArrayFromImage(image), "unit") for image in (self.fixed, self.moving)]
        assert seen["fixed"].shape == seen["moving"].shape == (16, 30, 32)
        assert np.allclose(seen["fixed"][:12], whole[0][6:18], atol=1e-5)
        assert not seen["fixed"][12:].any()
        assert np.allclose(seen["moving"][4:], whole[1][10:22], atol=1e-5)
        assert not seen["moving"][:4].any()
        assert (whole[0][6:18] > 0).mean() > 0.99  # so zeros are not there by themselves

    def test_the_affine_map_brings_the_moving_organ_into_place(self, seen) -> None:
        """Moving slices 12 to 20 lie at fixed slices 9 to 17, so nothing beyond 8 to 17 is needed."""
        self.run((8, 15), (12, 20), shift_along_slices(3))
        assert len(seen["fixed"]) == 10
        shifted = to_network_grid(self.moving, Grid.of(self.fixed), shift_along_slices(3), "unit")
        assert np.allclose(seen["moving"][1:], shifted[9:18], atol=1e-6)
        assert not seen["moving"][:1].any()
        assert not seen["fixed"][8:].any()

    def test_the_grid_goes_on_where_the_moving_organ_leaves_the_fixed_image(self, seen) -> None:
        self.run((20, 27), (18, 25), shift_along_slices(-6))
        assert len(seen["fixed"]) == 12  # fixed slices 20 to 31, of which the image has those to 27
        assert not seen["fixed"][8:].any()
        whole = normalise(sitk.GetArrayFromImage(self.moving), "unit")
        assert np.allclose(seen["moving"][4:], whole[18:26], atol=1e-5)

    @pytest.mark.parametrize(("fixed_slices", "moving_slices"), [((5, 20), None), (None, (5, 20))])
    def test_one_mask_is_enough(self, seen, fixed_slices, moving_slices) -> None:
        self.run(fixed_slices, moving_slices)
        for name, image in (("fixed", self.fixed), ("moving", self.moving)):
            assert np.allclose(seen[name], normalise(sitk.GetArrayFromImage(image), "unit")[5:21], atol=1e-5)

    def test_masks_may_lie_on_grids_of_their_own(self, seen) -> None:
        mask = box_mask(self.fixed, 6, 17)
        own = Grid.of(self.fixed).with_size((64, 60, 56))  # half the voxels' edges
        finer = sitk.Resample(mask, own.empty_image(), sitk.Transform(), sitk.sitkNearestNeighbor, 0)
        predict_fields(checkpoint_of(), self.fixed, self.moving, settings=ORGAN, masks=(finer, None))
        assert seen["fixed"].shape == (12, 30, 32)

    def test_the_axis_is_the_fixed_images_slowest_also_for_a_turned_network_grid(self, seen) -> None:
        self.run((6, 17), (6, 17), checkpoint=checkpoint_of(rule=GridRule(orientation="SRA")))
        expected = sitk.GetArrayFromImage(sitk.DICOMOrient(self.fixed[:, :, 6:18], "SRA"))
        low, high = (float(f(sitk.GetArrayViewFromImage(self.fixed))) for f in (np.min, np.max))
        assert seen["fixed"].shape == expected.shape == (30, 32, 12)
        assert np.allclose(seen["fixed"], (expected - low) / (high - low), atol=1e-5)

    def test_oblique_images(self, seen) -> None:
        """Slices are the image's, however it lies in space."""
        images = []
        for image in (self.fixed, self.moving):
            turned = sitk.Image(image)
            turned.SetDirection(random_direction(np.random.default_rng(3), mirrored=True).ravel().tolist())
            images.append(turned)
        masks = box_mask(images[0], 3, 20), box_mask(images[1], 8, 22)
        predict_fields(checkpoint_of(), *images, settings=ORGAN, masks=masks)
        assert len(seen["fixed"]) == 20
        whole = [normalise(sitk.GetArrayFromImage(image), "unit") for image in images]
        assert np.allclose(seen["fixed"][:18], whole[0][3:21], atol=1e-5)
        assert np.allclose(seen["moving"][5:], whole[1][8:23], atol=1e-4)
        assert not seen["fixed"][18:].any()
        assert not seen["moving"][:5].any()


class TestFields:
    @pytest.mark.parametrize("method", ["cyclemorph", "cyclemorph-multiscale"])
    def test_inside_they_are_those_of_the_slices_and_beyond_the_border_goes_on(self, method: str) -> None:
        fixed, moving = fixed_image(), moving_image()
        masks = box_mask(fixed, 6, 21), box_mask(moving, 6, 21)
        checkpoint = checkpoint_of(method)
        fields = predict_fields(checkpoint, fixed, moving, settings=ORGAN, masks=masks)
        cut = []
        for image in (fixed, moving):  # one scale of intensities: that of the whole image
            values = sitk.GetArrayFromImage(image)
            scaled = sitk.GetImageFromArray((values - values.min()) / (values.max() - values.min()))
            scaled.CopyInformation(image)
            cut.append(scaled[:, :, 6:22])
        plain = Checkpoint(**{**checkpoint.__dict__, "normalisation": "none", "built": {}})
        alone = predict_fields(plain, *cut, settings=ALL)
        for whole, part in zip(fields, alone):
            assert np.abs(whole.vectors).max() > 1
            assert np.abs(whole.vectors[6:22] - part.vectors).max() < 2e-3
            for index in (0, 5):
                assert np.abs(whole.vectors[index] - part.vectors[0]).max() < 2e-3
            for index in (22, 27):
                assert np.abs(whole.vectors[index] - part.vectors[-1]).max() < 2e-3

    def test_through_register(self, tmp_path: Path) -> None:
        fixed, moving = fixed_image(), moving_image()
        how = {"method": "cyclemorph", "checkpoint": checkpoint_of(), "affine": "none"}
        masks = {"fixed_mask": box_mask(fixed, 4, 23), "moving_mask": box_mask(moving, 4, 23)}
        result = CycleRegLib.register(fixed, moving, **how, **masks, inference=ORGAN)
        whole = CycleRegLib.register(fixed, moving, **how)
        assert result.field.grid == Grid.of(fixed)
        assert np.array_equal(result.field.vectors[0], result.field.vectors[3])
        assert not np.allclose(result.field.vectors, whole.field.vectors, atol=0.05)


class TestRefusals:
    image = fixed_image()

    def test_without_a_mask(self) -> None:
        with pytest.raises(InputError, match=r"no mask that shows the organ. Give --fixed-mask, --moving-mask or both"):
            predict_fields(checkpoint_of(), self.image, self.image, settings=ORGAN)

    def test_with_an_empty_mask(self) -> None:
        empty = image_of(np.zeros(self.image.GetSize()[::-1], np.uint8))
        with pytest.raises(InputError, match="The moving mask is empty"):
            predict_fields(checkpoint_of(), self.image, self.image, settings=ORGAN, masks=(None, empty))

    def test_with_a_mask_beside_the_image(self) -> None:
        mask = box_mask(self.image, 3, 5)
        mask.SetOrigin((500.0, 0.0, 0.0))
        with pytest.raises(InputError, match="The fixed mask does not overlap its image"):
            predict_fields(checkpoint_of(), self.image, self.image, settings=ORGAN, masks=(mask, None))

    def test_masks_change_nothing_unless_asked_for(self) -> None:
        mask = box_mask(self.image, 3, 5)
        with_mask = predict_fields(checkpoint_of(), self.image, self.image, settings=ALL, masks=(mask, mask))
        without = predict_fields(checkpoint_of(), self.image, self.image, settings=ALL)
        assert np.array_equal(with_mask[0].vectors, without[0].vectors)

    def test_one_slice_is_filled_up_with_a_warning(self) -> None:
        mask = box_mask(self.image, 9, 9)
        with pytest.warns(CycleRegWarning, match="only 1 voxels along z"):
            field, _ = predict_fields(checkpoint_of(), self.image, self.image, settings=ORGAN, masks=(mask, mask))
        assert np.array_equal(field.vectors[0], field.vectors[-1])
