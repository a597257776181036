"""Registration networks.

One file per architecture; :mod:`~CycleRegLib.networks.blocks` holds what they share (2D and 3D are one code),
:mod:`~CycleRegLib.networks.preparation` how images come to a network (intensities, network grid) and
:mod:`~CycleRegLib.networks.inference` runs any of them on a pair of images.  A new network is a subclass of
:class:`~CycleRegLib.networks.blocks.RegistrationNetwork` and one entry in :mod:`CycleRegLib.methods`.
"""

from __future__ import annotations

from .blocks import RegistrationNetwork
from .cyclemorph import CycleMorphUNet
from .multiscale import MultiscaleNetwork

__all__ = ["CycleMorphUNet", "MultiscaleNetwork", "RegistrationNetwork"]
