"""A registration in the scene: its volumes and its transforms, as nodes and as images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
import slicer

from ...errors import InputError
from ...geometry import Grid
from ...images_2d import warp_channels
from ...node_roles import INVERSE_ROLE, ROUNDTRIP_ROLE, WARPED_ROLE
from ..nodes import field_from_node, image_from_volume_node


@dataclass(frozen=True)
class Registered:
    """A registration in the scene: two volumes and the transform from fixed to moving points.

    ``warped`` and ``roundtrip`` are the volumes that the registration left; those that are missing are made for the
    views and removed by :func:`restore`.
    """

    fixed: Any
    moving: Any
    transform: Any
    warped: Any = None
    roundtrip: Any = None

    @classmethod
    def of(cls, transform: Any, fixed: Any = None, moving: Any = None) -> Registered:
        """What a transform node says of its registration; ``fixed`` and ``moving`` where it does not.

        Raises
        ------
        InputError
            If there is no transform, or a volume is not known.
        """
        if transform is None or not transform.IsA("vtkMRMLTransformNode"):
            raise InputError("No transform is given. Register first, or choose the transform of a registration.")
        base = slicer.vtkMRMLTransformNode
        fixed = transform.GetNodeReference(base.GetFixedNodeReferenceRole()) or fixed
        moving = transform.GetNodeReference(base.GetMovingNodeReferenceRole()) or moving
        for what, node in (("fixed", fixed), ("moving", moving)):
            if node is None:
                raise InputError(
                    f'The transform "{transform.GetName()}" does not know its {what} volume. Choose the {what} volume.'
                )
        return cls(
            fixed,
            moving,
            transform,
            transform.GetNodeReference(WARPED_ROLE),
            transform.GetNodeReference(ROUNDTRIP_ROLE),
        )

    @property
    def inverse(self) -> Any:
        """The transform in the other direction; None where there is none."""
        return self.transform.GetNodeReference(INVERSE_ROLE)

    def fixed_image(self) -> sitk.Image:
        """The fixed image as it lies without the inverse transform, under which it may be shown."""
        return image_from_volume_node(self.fixed, "fixed volume", [self.inverse], True)

    def moving_image(self) -> sitk.Image:
        """The moving image as it lies without the transform, under which it may be shown."""
        return image_from_volume_node(self.moving, "moving volume", [self.transform], True)

    def warped_image(self) -> sitk.Image | None:
        """The warped volume that the registration left, if there is one."""
        return None if self.warped is None else image_from_volume_node(self.warped, "warped volume", [], True)

    def warp(self, fixed: sitk.Image) -> sitk.Image:
        """The moving image on the grid of ``fixed``."""
        moving = self.moving_image()
        field = field_from_node(self.transform, Grid.of(fixed)).resampled(Grid.of(fixed))
        return field.warp(moving) if moving.GetNumberOfComponentsPerPixel() == 1 else warp_channels(moving, field)

    def round_trip(self, fixed: sitk.Image) -> sitk.Image:
        """The round-trip error in mm; -1 where the point leaves the moving image."""
        field = field_from_node(self.transform, Grid.of(fixed))
        inverse = field_from_node(self.inverse, Grid.of(self.moving_image()), "inverse transform")
        return field.grid.image(np.nan_to_num(field.round_trip(inverse), nan=-1.0))
