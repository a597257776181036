"""The registry of methods: one place that says what each registration method is.

The panel, the command line and training read it.  Adding a method is one file in :mod:`CycleRegLib.networks` and one
entry here.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import InputError

if TYPE_CHECKING:
    from .networks.blocks import RegistrationNetwork

DEFAULT_METHOD = "optimize"
SHIPPED = Path(__file__).parent / "shipped"


@dataclass(frozen=True)
class Method:
    """What a method is and what it needs.

    Attributes
    ----------
    id, title, summary, advice, paper
        The name used everywhere (command line, panel, checkpoints, training); a heading; what it is and when to
        choose it, one line each; the reference.
    needs_checkpoint
        Whether weights must be given.
    shipped
        File in ``CycleRegLib/shipped`` with the weights that are used where none are given; empty without.
    dimensions
        Dimensions of the images it registers.
    directions
        How the two directions come about, one line.
    normalisation
        Intensity normalisation that is assumed where a checkpoint names none, see
        :func:`CycleRegLib.networks.preparation.normalise`; empty where the method takes images as they are.
    grid_rule
        On which grid it works, one line.
    trained_with, recipe
        The loss it is trained with, and the name of the training configuration; empty without training.
    network
        ``module:Class`` of its network, relative to this package; imported only when it is used.
    options
        Arguments of the network that make it this method, where several methods share a class.
    key_signature
        Prefixes of weight names that together tell a state dict of this architecture.
    """

    id: str
    title: str
    summary: str
    advice: str
    paper: str
    needs_checkpoint: bool
    dimensions: tuple[int, ...]
    directions: str
    normalisation: str
    grid_rule: str
    trained_with: str = ""
    recipe: str = ""
    network: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    key_signature: tuple[str, ...] = ()
    shipped: str = ""

    @property
    def uses_checkpoint(self) -> bool:
        """Whether weights may be given."""
        return bool(self.network)

    def shipped_checkpoint(self) -> Path | None:
        """The weights that come with the library; None where there are none."""
        return SHIPPED / self.shipped if self.shipped else None

    def network_class(self) -> type[RegistrationNetwork]:
        """The class of the method's network.

        Raises
        ------
        InputError
            If the method uses no network.
        """
        if not self.network:
            raise InputError(f"The method {self.id} uses no network, so there is no checkpoint for it.")
        module, name = self.network.split(":")
        return getattr(importlib.import_module(module, __package__), name)

    def build_network(self, **configuration: Any) -> RegistrationNetwork:
        """A new network of the method, with the initial weights of its training.

        ``configuration`` holds arguments of the network's class; the method's own options and its first dimension
        hold where it says nothing.

        Raises
        ------
        InputError
            If the configuration contradicts the method's options, or names something that the network does not have.
        """
        network_class = self.network_class()
        known = list(inspect.signature(network_class).parameters)
        for name in configuration:
            if name not in known:
                raise InputError(
                    f"The network of {self.id} has no argument '{name}'; its arguments are {', '.join(known)}."
                )
        for name, value in self.options.items():
            if configuration.get(name, value) != value:
                raise InputError(f"The method {self.id} has a network with {name} {value}, not {configuration[name]}.")
        return network_class(**{"dimension": self.dimensions[0], **self.options, **configuration})


_METHODS = {
    method.id: method
    for method in (
        Method(
            id="optimize",
            title="Pair optimisation",
            summary="Optimises the two fields of this very pair; nothing to train, any modality, accurate.",
            advice="The first choice: no weights are needed, and it is the most accurate that ships.",
            paper="CycleReg's own; similarities LNCC (Avants et al. 2008) and MIND-SSC (Heinrich et al. 2013)",
            needs_checkpoint=False,
            dimensions=(3,),
            directions="both fields optimised together, their round trip penalised",
            normalisation="",
            grid_rule="the fixed image's grid, coarse to fine",
        ),
        Method(
            id="pyramid",
            title="CycleReg pyramid",
            summary="CycleReg's own network, trained on synthetic images alone: any contrast, both directions at once.",
            advice="A first field of any contrast in two or three seconds; the pair optimisation is more accurate.",
            paper="CycleReg's own; after MIND-SSC (Heinrich et al. 2013), PWC-Net (Sun et al. 2018), ConvexAdam "
            "(Siebert et al. 2021) and SynthMorph (Hoffmann et al. 2022)",
            needs_checkpoint=False,
            dimensions=(3,),
            directions="one pass gives both, each from the other by exchanging the images",
            normalisation="percentile:0.5,99.5",
            grid_rule="the checkpoint's; the shipped one asks for about 2.2 million cubic voxels in the fixed image's "
            "extent",
            trained_with="end-point error of every resolution, on synthetic pairs",
            recipe="pyramid",
            network=".networks.pyramid:PyramidNetwork",
            key_signature=("encoder.0.0.", "levels.0.layers.", "levels.0.head."),
            shipped="pyramid.safetensors",
        ),
        Method(
            id="cyclemorph",
            title="CycleMorph",
            summary="Two U-Nets trained with cycle and identity losses; seconds per pair, needs trained weights.",
            advice="Many pairs of one kind of image, with weights trained on that kind.",
            paper="Kim et al., CycleMorph: cycle consistent unsupervised deformable image registration, "
            "Medical Image Analysis 71:102036, 2021",
            needs_checkpoint=True,
            dimensions=(3,),
            directions="one network per direction; a single network is run twice with the images exchanged",
            normalisation="unit",
            grid_rule="the checkpoint's grid about the fixed image's centre, else the fixed image's grid limited to "
            "192^3 voxels; sides padded to multiples of 16",
            trained_with="CycleMorph loss",
            recipe="cyclemorph-brain",
            network=".networks.cyclemorph:CycleMorphUNet",
            key_signature=("model.inconv.", "model.downconv4.", "model.keepblock.", "model.outconv."),
        ),
        Method(
            id="cyclemorph-2d",
            title="CycleMorph 2D",
            summary="CycleMorph for pictures and single slices; the field of the grey image moves every channel.",
            advice="Pictures (PNG, JPEG) and single slices, with weights trained on that kind.",
            paper="Kim et al., CycleMorph: cycle consistent unsupervised deformable image registration, "
            "Medical Image Analysis 71:102036, 2021",
            needs_checkpoint=True,
            dimensions=(2,),
            directions="one network per direction; a single network is run twice with the images exchanged",
            normalisation="unit",
            grid_rule="the checkpoint's grid about the fixed image's centre, else the fixed image's own pixels; sides "
            "padded to multiples of 16",
            trained_with="CycleMorph loss, 2D",
            recipe="cyclemorph-2d-faces",
            network=".networks.cyclemorph:CycleMorphUNet",
            options={"dimension": 2},
            key_signature=("model.inconv.", "model.downconv4.", "model.keepblock.", "model.outconv."),
        ),
        Method(
            id="cyclecnn",
            title="Cycle-consistent CNN",
            summary="CycleMorph's first version, for phases of liver CT: the same network, one for each direction.",
            advice="Phases of liver CT, with weights of that training; to repeat the MICCAI paper.",
            paper="Kim et al., Unsupervised deformable image registration using cycle-consistent CNN, MICCAI 2019",
            needs_checkpoint=True,
            dimensions=(3,),
            directions="one network per direction; a single network is run twice with the images exchanged",
            normalisation="max",
            grid_rule="as cyclemorph",
            trained_with="CycleMorph loss without the later changes",
            recipe="cyclecnn-liver",
            network=".networks.cyclemorph:CycleMorphUNet",
            key_signature=("model.inconv.", "model.downconv4.", "model.keepblock.", "model.outconv."),
        ),
        Method(
            id="cyclemorph-multiscale",
            title="CycleMorph, multiscale",
            summary="A global network on the down-sampled pair, then a local one on patches; bounded memory.",
            advice="Large volumes such as CT with slices of 512 x 512 voxels, at full resolution.",
            paper="Kim et al., CycleMorph: cycle consistent unsupervised deformable image registration, "
            "Medical Image Analysis 71:102036, 2021, section III.C",
            needs_checkpoint=True,
            dimensions=(3,),
            directions="a pair of networks per direction; a single pair is run twice with the images exchanged",
            normalisation="max",
            grid_rule="the checkpoint's grid, else the fixed image's own, of any size; the global network sees slices "
            "of at most 128 x 128 voxels, the local one patches of 64^3",
            trained_with="CycleMorph loss, per stage",
            recipe="cyclemorph-multiscale",
            network=".networks.multiscale:MultiscaleNetwork",
            key_signature=("global_network.model.", "local_network.model."),
        ),
        Method(
            id="ms-dirnet",
            title="MS-DIRNet",
            summary="The same two scales with VoxelMorph-1 networks that were trained without cycle consistency.",
            advice="A baseline for cyclemorph-multiscale: what cycle consistency brings.",
            paper="Lei et al., 4D-CT deformable image registration using multiscale unsupervised deep learning, "
            "Physics in Medicine and Biology 65:085003, 2020; networks as in CycleMorph's comparison",
            needs_checkpoint=True,
            dimensions=(3,),
            directions="the pair of networks is run twice with the images exchanged",
            normalisation="max",
            grid_rule="as cyclemorph-multiscale",
            trained_with="similarity + gradient, per stage",
            recipe="ms-dirnet",
            network=".networks.multiscale:MultiscaleNetwork",
            key_signature=("global_network.model.", "local_network.model."),
        ),
        Method(
            id="kuang-cycle",
            title="Kuang, cycle-consistent",
            summary="One small VoxelMorph-like network, trained to register the warped image back; few foldings.",
            advice="Aligned images of one kind, where folding matters; small and fast.",
            paper="Kuang, On reducing negative Jacobian determinant of the deformation predicted by deep registration "
            "networks, arXiv:1907.00068, 2019",
            needs_checkpoint=True,
            dimensions=(3, 2),
            directions="the network is run twice with the images exchanged",
            normalisation="max",
            grid_rule="as cyclemorph",
            trained_with="Kuang cycle loss",
            recipe="kuang-cycle",
            network=".networks.kuang:KuangNetwork",
            options={"refinement": False},
            key_signature=("displacement.", "flow."),
        ),
        Method(
            id="kuang-refine",
            title="Kuang, refined",
            summary="The same network followed by a module that makes its field smoother; trained in alternation.",
            advice="As kuang-cycle, with weights trained in alternating phases.",
            paper="Kuang, On reducing negative Jacobian determinant of the deformation predicted by deep registration "
            "networks, arXiv:1907.00068, 2019",
            needs_checkpoint=True,
            dimensions=(3, 2),
            directions="the network is run twice with the images exchanged",
            normalisation="max",
            grid_rule="as cyclemorph",
            trained_with="alternating phases",
            recipe="kuang-refine",
            network=".networks.kuang:KuangNetwork",
            options={"refinement": True},
            key_signature=("displacement.", "flow."),
        ),
        Method(
            id="inversenet",
            title="InverseNet",
            summary="One encoder with two decoders: a single pass gives the fields of both directions.",
            advice="Aligned images of one kind, both directions at the price of one.",
            paper="Nazib et al., A multiple decoder CNN for inverse consistent 3D image registration, "
            "arXiv:2002.06468, 2020",
            needs_checkpoint=True,
            dimensions=(3, 2),
            directions="one pass gives both",
            normalisation="unit",
            grid_rule="as cyclemorph",
            trained_with="InverseNet loss",
            recipe="inversenet",
            network=".networks.inversenet:InverseNet",
            key_signature=("encoder.0.block.", "forward_decoder.", "backward_decoder."),
        ),
        Method(
            id="vtn",
            title="Volume Tweening Network",
            summary="A cascade of networks, each of which registers what is left; the first may be affine (ADDD).",
            advice="Large displacements, and images that are not aligned beforehand (a cascade with A).",
            paper="Zhao et al., Unsupervised 3D end-to-end medical image registration with volume tweening network, "
            "IEEE JBHI 24(5):1394-1404, 2020",
            needs_checkpoint=True,
            dimensions=(3,),
            directions="one network per direction; a single network is run twice with the images exchanged",
            normalisation="percentile:0.5,99.5",
            grid_rule="the checkpoint's grid about the fixed image's centre, else the fixed image's grid limited to "
            "192^3 voxels; dense sub-networks pad sides to multiples of 64",
            trained_with="VTN losses, optional invertibility",
            recipe="vtn",
            network=".networks.vtn:VTN",
            key_signature=("subnetworks.0.encoder.",),
        ),
        Method(
            id="voxelmorph",
            title="VoxelMorph (published torch models)",
            summary="The U-Net of VoxelMorph's torch releases of both ages; files saved by them load as they are.",
            advice="You have weights trained with VoxelMorph itself.",
            paper="Balakrishnan et al., VoxelMorph: a learning framework for deformable medical image registration, "
            "IEEE TMI 38(8):1788-1800, 2019; Dalca et al., Medical Image Analysis 57:226-236, 2019",
            needs_checkpoint=True,
            dimensions=(3, 2),
            directions="with integration_steps one pass gives both; else run twice with the images exchanged",
            normalisation="unit",
            grid_rule="the size that the published file states, divided over the fixed image; else as cyclemorph",
            trained_with="similarity + gradient",
            recipe="voxelmorph",
            network=".networks.voxelmorph:VoxelMorph",
            key_signature=("unet_model.", "flow."),
        ),
        Method(
            id="voxelmorph1",
            title="VoxelMorph-1",
            summary="The smaller U-Net of VoxelMorph's first paper, CycleMorph's baseline; velocity as an option.",
            advice="A baseline to compare with, or the lightest of the U-Nets.",
            paper="Balakrishnan et al., An unsupervised learning model for deformable medical image registration, "
            "CVPR 2018",
            needs_checkpoint=True,
            dimensions=(3, 2),
            directions="with integration_steps one pass gives both; else run twice with the images exchanged",
            normalisation="unit",
            grid_rule="as cyclemorph",
            trained_with="similarity + gradient",
            recipe="voxelmorph1",
            network=".networks.voxelmorph:VoxelMorphPaper",
            options={"version": 1},
            key_signature=("unet.stem.", "flow."),
        ),
        Method(
            id="voxelmorph2",
            title="VoxelMorph-2",
            summary="The larger U-Net of VoxelMorph's first paper, one more layer at full size; velocity as an option.",
            advice="A baseline to compare with; with integration_steps=7 smooth fields that are each other's inverse.",
            paper="Balakrishnan et al., An unsupervised learning model for deformable medical image registration, "
            "CVPR 2018",
            needs_checkpoint=True,
            dimensions=(3, 2),
            directions="with integration_steps one pass gives both; else run twice with the images exchanged",
            normalisation="unit",
            grid_rule="as cyclemorph",
            trained_with="similarity + gradient",
            recipe="voxelmorph2",
            network=".networks.voxelmorph:VoxelMorphPaper",
            options={"version": 2},
            key_signature=("unet.stem.", "flow."),
        ),
    )
}


def list_methods() -> list[Method]:
    """Every method, the default first."""
    return sorted(_METHODS.values(), key=lambda method: method.id != DEFAULT_METHOD)


def methods_table() -> str:
    """The registry as a Markdown table, which the documentation holds word for word."""
    rows = ["| id | what it is | when to choose it | images | weights | paper |", "|---|---|---|---|---|---|"]
    for method in list_methods():
        images = " or ".join(f"{d}D" for d in sorted(method.dimensions))
        weights = "needed" if method.needs_checkpoint else "shipped" if method.shipped else "none"
        rows.append(
            f"| `{method.id}` | {method.title}: {method.summary} | {method.advice} | {images} | {weights} "
            f"| {method.paper} |"
        )
    return "\n".join(rows)


def describe_methods() -> str:
    """The registry in lines for people."""
    blocks = []
    for method in list_methods():
        shipped = "its weights are shipped" if method.shipped else "needs no weights"
        needs = "needs --checkpoint" if method.needs_checkpoint else shipped
        images = " or ".join(f"{d}D" for d in sorted(method.dimensions))
        lines = [f"{method.title} ({images}; {needs})", method.summary, f"When: {method.advice}"]
        lines += [f"Directions: {method.directions}", f"Grid: {method.grid_rule}"]
        if method.trained_with:
            lines.append(f"Trained with: {method.trained_with}")
        lines.append(method.paper)
        blocks.append("\n".join(f"{method.id if not i else '':<23} {line}" for i, line in enumerate(lines)))
    return "\n\n".join(blocks)


def get_method(method_id: str) -> Method:
    """The method of that id.

    Raises
    ------
    InputError
        If there is none; names the nearest and all ids.
    """
    if method_id in _METHODS:
        return _METHODS[method_id]
    near = difflib.get_close_matches(str(method_id).lower(), _METHODS, n=1, cutoff=0.6)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise InputError(f"There is no method '{method_id}'.{hint} Methods: {', '.join(m.id for m in list_methods())}.")
