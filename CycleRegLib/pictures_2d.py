"""Two-dimensional registrations for the report's pictures: everything as slices in space, and colours as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional, Union

import numpy as np
import SimpleITK as sitk

from .colors import to_uint8
from .errors import InputError
from .fields import DisplacementField
from .geometry import Grid
from .images_2d import channels_of, grey
from .planar import FlatPair, slice_field, slice_image
from .segmentations import Segmentation
from .slices import PICTURE, Plane, intensity_window

_Labels = Optional[Union[sitk.Image, Segmentation]]


@dataclass(frozen=True)
class FlatInputs:
    """The inputs of :func:`CycleRegLib.pictures.render_pictures` as slices in space.

    Attributes
    ----------
    fixed, moving, warped
        Grey, 3D, of one slice.
    field, inverse, initial
        From points of one slice to points of the other.
    determinant
        Of the Jacobian within the plane.
    fixed_segmentation, moving_segmentation
        As :attr:`fixed`, or None.
    colours
        ``fixed``, ``moving`` and ``warped`` as three channels each; empty for grey images.
    top
        The intensity shown as full colour.
    is_picture
        Whether the images are pictures, which have no anatomical sides.
    """

    fixed: sitk.Image
    moving: sitk.Image
    warped: sitk.Image | None
    field: DisplacementField
    inverse: DisplacementField | None
    initial: DisplacementField
    determinant: sitk.Image
    fixed_segmentation: _Labels
    moving_segmentation: _Labels
    colours: dict[str, list[sitk.Image]]
    top: float
    is_picture: bool

    def planes(self, planes: list[Plane]) -> list[Plane]:
        """The planes of a slice, which of a picture has no anatomical name."""
        return [replace(plane, name=PICTURE) for plane in planes] if self.is_picture else planes

    def windows(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """What is shown as black and white of the fixed and of the moving image; of pictures their whole range."""
        if not self.is_picture:
            return intensity_window(self.fixed), intensity_window(self.moving)
        fixed, moving = (sitk.GetArrayViewFromImage(image) for image in (self.fixed, self.moving))
        return (float(fixed.min()), float(fixed.max())), (float(moving.min()), float(moving.max()))

    def panels(self, views: Sequence[Any]) -> dict[str, np.ndarray]:
        """The panels of images in colours, in these colours; none of grey images.

        ``views`` are those of :func:`CycleRegLib.pictures.render_pictures`.
        """
        pictures = {}
        for view in views if self.colours else ():
            moving, warped = self.colours["moving"], self.colours.get("warped")
            channels = {
                "fixed": [view.plane.take(channel) for channel in self.colours["fixed"]],
                "moving": [view.warp(channel, "before") for channel in moving],
                "warped": [view.plane.take(c) for c in warped] if warped else [view.warp(c, "after") for c in moving],
            }
            for name, arrays in channels.items():
                shown = np.stack([view.plane.enlarge(np.clip(array, 0, self.top)) for array in arrays], axis=-1)
                pictures[f"{name}-{view.plane.name}"] = to_uint8(shown * (255.0 / self.top))
        return pictures


def flat_inputs(
    fixed: sitk.Image,
    moving: sitk.Image,
    field: DisplacementField,
    warped: sitk.Image | None,
    inverse: DisplacementField | None,
    initial: sitk.Transform | DisplacementField | None,
    segmentations: tuple[_Labels, _Labels],
) -> FlatInputs:
    """Two pictures or two single slices, and what belongs to them, for pictures.

    Raises
    ------
    InputError
        If the images are not both pictures or both single slices, or the field has another dimension.
    """
    flat = FlatPair(fixed, moving)
    if field.grid.dimension != flat.dimension:
        raise InputError(f"The field is {field.grid.dimension}D but the images are {flat.dimension}D.")
    grid = Grid.of(flat.fixed)
    if initial is None:
        start = DisplacementField.identity(grid)
    elif isinstance(initial, DisplacementField):
        start = flat.field_in_plane(initial)
    else:
        start = DisplacementField.from_transform(flat.transform_in_plane(initial), grid)
    given = {"fixed": fixed, "moving": moving, "warped": warped}
    shown = {name: slice_image(grey(image)) for name, image in given.items() if image is not None}
    colours = {
        name: [slice_image(channel) for channel in channels_of(image)]
        for name, image in given.items()
        if image is not None and image.GetNumberOfComponentsPerPixel() == 3
    }
    values = np.concatenate([sitk.GetArrayViewFromImage(image).ravel() for image in (fixed, moving)])
    return FlatInputs(
        shown["fixed"],
        shown["moving"],
        shown.get("warped"),
        slice_field(field),
        None if inverse is None else slice_field(inverse),
        slice_field(flat.field_in_space(start)),
        slice_image(flat.determinant(field)),
        *[_labels(labels) for labels in segmentations],
        colours=colours if {"fixed", "moving"} <= set(colours) else {},
        top=255.0 if values.dtype == np.uint8 else float(values.max()),
        is_picture=flat.dimension == 2,
    )


def _labels(labels: _Labels) -> _Labels:
    if labels is None or isinstance(labels, sitk.Image):
        return labels and slice_image(labels)
    return labels.with_layers([slice_image(layer) for layer in labels.to_label_images()])
