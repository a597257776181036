"""Image similarity for optimisation and training: LNCC with an analytic gradient, and MIND-SSC descriptors.

Window sums are separable shifted additions with doubling (a window of 9 costs four additions per axis), never a
convolution with a cube of ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# ---------------------------------------------------------------------- window sums


def box_sum(x: Tensor, radius: int) -> Tensor:
    """Sums over windows of ``2 radius + 1`` voxels per spatial axis; voxels outside count as zero.

    ``x`` is (B, C, *spatial) in 2D or 3D; the result has its shape.
    """
    if radius == 0:
        return x
    for axis in range(2, x.dim()):
        x = _window_sum(x, axis, radius)
    return x


def _window_sum(x: Tensor, axis: int, radius: int) -> Tensor:
    """Sum over a window along one axis by doubling: partial sums of 1, 2, 4, … voxels, joined as binary digits."""
    length, window = x.shape[axis], 2 * radius + 1
    partial = F.pad(x, [0, 0] * (x.dim() - 1 - axis) + [radius, radius])
    total, offset, size = None, 0, 1
    while True:
        if window & size:
            piece = partial.narrow(axis, offset, length)
            total = piece if total is None else total + piece
            offset += size
        if 2 * size > window:
            return total
        left = partial.shape[axis] - size
        partial = partial.narrow(axis, 0, left) + partial.narrow(axis, size, left)
        size *= 2


def block_sum(x: Tensor) -> Tensor:
    """Sums over blocks of two voxels per spatial axis; every side must be even.  (B, C, *spatial) to half size."""
    n = x.dim() - 2
    # Slow axes first: their additions run along contiguous rows.
    for axis in range(2, 2 + n):
        shape = (*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :])
        x = x.view(shape)
        x = x.select(axis + 1, 0) + x.select(axis + 1, 1)
    return x


def _times_blocks(x: Tensor, blocks: Tensor) -> Tensor:
    """``x`` multiplied voxel by voxel with the value of its block of two voxels per axis."""
    n = x.dim() - 2
    # Only the fastest axis is expanded in memory; the others are broadcast over rows.
    rows = blocks.repeat_interleave(2, dim=-1)
    shape, row_shape = [x.shape[0], x.shape[1]], [x.shape[0], x.shape[1]]
    for axis in range(2, 1 + n):
        shape += [x.shape[axis] // 2, 2]
        row_shape += [x.shape[axis] // 2, 1]
    return (x.view(*shape, x.shape[-1]) * rows.view(*row_shape, x.shape[-1])).view(x.shape)


def _expand_blocks(blocks: Tensor) -> Tensor:
    """Every block's value at each of its voxels."""
    for axis in range(2, blocks.dim()):
        blocks = blocks.repeat_interleave(2, dim=axis)
    return blocks


# ---------------------------------------------------------------------- LNCC

# What published training code adds to the product of both sums of squared deviations, per window.
COMPATIBLE_EPSILON = 1e-5
# Images are taken together up to this many voxels: temporary tensors stay few and, on CPUs, in the cache.
_VOXELS_AT_ONCE = 2**21


@dataclass
class LocalReference:
    """What LNCC needs of the image that does not move, computed once: see :func:`local_reference`."""

    source: Tensor  # the image as it came, to which a gradient may flow
    image: Tensor  # weighted by the mask
    weight: Tensor | None
    count: Tensor
    mean: Tensor
    variance: Tensor
    share: Tensor  # each window's share in the mean over the image
    radius: int
    blocks: bool
    floor: Tensor
    epsilon: float = 0.0  # added to the product of the variances

    def part(self, images: slice) -> LocalReference:
        """The same of some images of the batch."""

        def of(x: Tensor | None) -> Tensor | None:
            return x if x is None or x.dim() == 0 or x.shape[0] == 1 else x[images]

        tensors = ("source", "image", "weight", "count", "mean", "variance", "share", "floor")
        return replace(self, **{name: of(getattr(self, name)) for name in tensors})


def local_reference(
    image: Tensor,
    radius: int,
    floor: Tensor | float,
    weight: Tensor | None = None,
    blocks: bool = False,
    compatible: bool = False,
) -> LocalReference:
    """Window statistics of the reference image of :func:`lncc_loss`.

    Parameters
    ----------
    image
        (B, 1, *spatial); float16 and bfloat16 are taken as float32.
    radius
        Window radius in voxels, or in blocks of two voxels with ``blocks``.
    floor
        Variance added to both images' local variances: about the variance of the noise, so that windows which hold
        nothing but noise do not pull.  A number or (B, 1, 1, 1[, 1]).
    weight
        (B, 1, *spatial) in 0..1: voxels of weight zero have no influence.
    blocks
        Evaluate windows at every second voxel only, on sums over blocks of 2 voxels per axis; the images stay at full
        resolution.  An eighth of the windows, almost the same gradient.
    compatible
        The numbers of published training code: outside the image there are zeros, which count, and 1e-5 is added to
        the product of both sums of squared deviations in place of ``floor``.  It pulls at borders and lets windows of
        noise count in full: only to repeat or to go on with a training that did the same.

    Raises
    ------
    ValueError
        If ``compatible`` is combined with ``weight`` or ``blocks``, which published code does not have.
    """
    if compatible and (weight is not None or blocks):
        raise ValueError("LNCC as in published training code has neither weights nor blocks")
    source = image
    image = _single(image.detach())
    pool = block_sum if blocks else (lambda x: x)
    epsilon, floor = 0.0, torch.as_tensor(floor, device=image.device)
    if weight is not None:
        per_window = pool(weight)
        count = box_sum(per_window, radius).clamp_min(1e-3)
        weighted = image * weight
        share = per_window / per_window.flatten(1).sum(1).clamp_min(1e-6).view(-1, *[1] * (image.dim() - 1))
    else:
        weighted = image
        shape = [s // 2 for s in image.shape[2:]] if blocks else image.shape[2:]
        if compatible:
            window = float((2 * radius + 1) ** len(shape))
            count = image.new_full((1,) * image.dim(), window)
            epsilon, floor = COMPATIBLE_EPSILON / window**2, torch.zeros_like(floor)
        else:
            count = _window_counts(shape, radius, image) * (2 ** len(shape) if blocks else 1)
        share = image.new_full((1,) * image.dim(), 1.0 / math.prod(shape))
    mean = box_sum(pool(weighted), radius) / count
    variance = _variance(box_sum(pool(weighted * image), radius), count, mean, floor)
    return LocalReference(source, weighted, weight, count, mean, variance, share, radius, blocks, floor, epsilon)


def _single(image: Tensor) -> Tensor:
    """float32 instead of 16 bits: squares of intensities lose everything else."""
    return image.float() if image.dtype in (torch.float16, torch.bfloat16) else image


def _window_counts(shape: Sequence[int], radius: int, like: Tensor) -> Tensor:
    """How many voxels of the image each window holds, (1, 1, *shape)."""
    count = like.new_ones((1,) * (2 + len(shape)))
    for axis, length in enumerate(shape):
        along = box_sum(like.new_ones(1, 1, length), radius)
        count = count * along.view([-1 if a == 2 + axis else 1 for a in range(2 + len(shape))])
    return count


def _variance(squares: Tensor, count: Tensor, mean: Tensor, floor: Tensor) -> Tensor:
    """Local variance from window sums of squares; rounding makes none negative."""
    return (squares / count).addcmul_(mean, mean, value=-1).clamp_min_(0).add_(floor)


def _correlation(
    warped: Tensor, ref: LocalReference, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Negative LNCC added over some images, and its gradients with respect to both images where they are wanted.

    With window means written <.>, I the reference and J the warped image: cc = cov^2 / d with d = vI vJ + epsilon.
    For p = 2 share cov / (d n), q = p cov vI / d and r = p cov vJ / d the gradients at a voxel are

    * of J:  w (J B(q) - I B(p) + B(p <I> - q <J>)),
    * of I:  w (I B(r) - J B(p) + B(p <J> - r <I>)),

    B being the window sum (its own transpose): five window sums for the value, three to five for the gradients.
    """
    pool = block_sum if ref.blocks else (lambda x: x)
    weighted = warped if ref.weight is None else warped * ref.weight
    mean = box_sum(pool(weighted), ref.radius) / ref.count
    variance = _variance(box_sum(pool(weighted * warped), ref.radius), ref.count, mean, ref.floor)
    # ref.image carries the weight already.
    covariance = box_sum(pool(warped * ref.image), ref.radius) / ref.count
    covariance.addcmul_(mean, ref.mean, value=-1)
    product = ref.variance * variance
    p = covariance / (product.add_(ref.epsilon) if ref.epsilon else product)
    loss = -(covariance * p * ref.share).sum()
    if not any(wanted):
        return loss, None, None
    p.mul_(2 * ref.share / ref.count)
    shared = covariance.mul_(p)
    if ref.epsilon:
        q, r = (shared * own / product if want else None for own, want in zip((ref.variance, variance), wanted))
    else:
        q, r = (shared / own if want else None for own, want in zip((variance, ref.variance), wanted))
    sum_p = box_sum(p, ref.radius)
    gradients: list[Tensor | None] = []
    for own, other, slope, own_mean, other_mean in (
        (weighted, ref.image, q, mean, ref.mean),
        (ref.image, weighted, r, ref.mean, mean),
    ):
        if slope is None:
            gradients.append(None)
            continue
        shift = box_sum((p * other_mean).addcmul_(slope, own_mean, value=-1), ref.radius)
        slope = box_sum(slope, ref.radius)
        if ref.blocks:
            gradient = _times_blocks(own, slope).sub_(_times_blocks(other, sum_p))
            shift = _expand_blocks(shift)
        else:
            gradient = (own * slope).addcmul_(other, sum_p, value=-1)
        gradients.append(gradient.add_(shift) if ref.weight is None else gradient.addcmul_(shift, ref.weight))
    return loss, gradients[0], gradients[1]


class _LNCC(torch.autograd.Function):
    """LNCC of a batch, some images at a time; the gradients are computed on the way and are all that is kept."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        warped: Tensor,
        source: Tensor,
        reference: Callable[[slice], LocalReference],
    ) -> Tensor:
        wanted = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        gradients = [torch.empty_like(x) if want else None for x, want in zip((warped, source), wanted)]
        batch, together = warped.shape[0], max(1, _VOXELS_AT_ONCE // max(1, warped[0].numel()))
        total = torch.zeros((), dtype=_single(warped[:0]).dtype, device=warped.device)
        for first in range(0, batch, together):
            images = slice(first, first + together)
            loss, *parts = _correlation(_single(warped[images]), reference(images), wanted)
            total = total + loss
            for gradient, part in zip(gradients, parts):
                if part is not None:
                    gradient[images] = part
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    @once_differentiable
    def backward(
        ctx: torch.autograd.function.FunctionCtx, upstream: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None]:
        warped, source = (None if g is None else g * upstream for g in ctx.saved_tensors)
        return warped, source, None


def lncc_loss(warped: Tensor, reference: LocalReference) -> Tensor:
    """Negative squared local normalised cross-correlation (CycleMorph, equation 6), a scalar.

    The mean over the windows of each image, added over the batch: -B for perfect agreement.  Windows count the voxels
    inside the image and the mask only, so that borders are not biased.  The gradient is analytic, with respect to
    ``warped`` (B, 1, *spatial) and, where it needs one, to the image that the reference was made of.
    """
    return _LNCC.apply(warped, reference.source, reference.part)


def lncc_between(
    first: Tensor,
    second: Tensor,
    radius: int,
    floor: float,
    weight: Tensor | None = None,
    compatible: bool = False,
) -> Tensor:
    """:func:`lncc_loss` of two images once, averaged over batch and channels: -1 (perfect agreement) to 0.

    Parameters
    ----------
    first, second
        (B, C, *spatial), each channel by itself; gradients flow to both.  Window statistics are kept for some images
        at a time, so that beside one gradient for each input little memory is taken.
    radius, floor, compatible
        See :func:`local_reference`.
    weight
        (B, 1, *spatial) in 0..1, for all channels.

    Raises
    ------
    ValueError
        If the images differ in shape; see also :func:`local_reference`.
    """
    if first.shape != second.shape:
        raise ValueError(f"LNCC compares images of one shape, not {tuple(first.shape)} and {tuple(second.shape)}")
    batch, channels = first.shape[:2]
    first, second = (x.reshape(batch * channels, 1, *x.shape[2:]) for x in (first, second))
    if weight is not None:
        weight = weight.repeat_interleave(channels, dim=0)

    def reference(images: slice) -> LocalReference:
        part = None if weight is None else weight[images]
        return local_reference(second[images], radius, floor, part, compatible=compatible)

    return _LNCC.apply(first, second, reference) / (batch * channels)


# ---------------------------------------------------------------------- MIND-SSC

# The six face neighbours of the central voxel in a block of three, and the twelve pairs at distance sqrt(2).
_FACES = ((0, 1, 1), (1, 1, 0), (1, 0, 1), (1, 1, 2), (2, 1, 1), (1, 2, 1))
_PAIRS = tuple(
    (i, j) for i in range(6) for j in range(i + 1, 6) if sum((a - b) ** 2 for a, b in zip(_FACES[i], _FACES[j])) == 2
)


def mind_ssc(image: Tensor, radius: int = 1, dilation: int = 1) -> Tensor:
    """MIND-SSC descriptors (Heinrich et al., MICCAI 2013): (B, 1, D, H, W) to (B, 12, D, H, W) in 0..1.

    Twelve patch distances between face neighbours, made relative to the smallest and to their mean, so that they do
    not depend on the contrast.  ``radius`` is that of the patch, ``dilation`` the distance of the neighbours.
    """
    d = dilation
    padded = F.pad(image, (d,) * 6, mode="replicate")
    depth, height, width = image.shape[2:]
    shifted = [padded[:, :, a * d : a * d + depth, b * d : b * d + height, c * d : c * d + width] for a, b, c in _FACES]
    distance = torch.cat([(shifted[i] - shifted[j]).square_() for i, j in _PAIRS], dim=1)
    distance = F.pad(distance, (radius,) * 6, mode="replicate")
    inner = [slice(radius, -radius)] * 3 if radius else [slice(None)] * 3
    distance = box_sum(distance, radius)[(slice(None), slice(None), *inner)]
    distance = distance - distance.amin(dim=1, keepdim=True)
    mean = distance.mean(dim=1, keepdim=True)
    typical = mean.mean(dim=(2, 3, 4), keepdim=True).clamp_min(1e-12)
    mean = torch.minimum(torch.maximum(mean, typical * 1e-3), typical * 1e3)
    return torch.exp(-distance / mean)


class _WeightedDifference(torch.autograd.Function):
    """Weighted mean squared difference of descriptors, the gradient computed in the same pass."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, warped: Tensor, fixed: Tensor, share: Tensor) -> Tensor:
        difference = warped - fixed
        gradient = difference * share
        ctx.save_for_backward(gradient)
        return torch.dot(gradient.flatten(), difference.flatten())

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * (2 * upstream), None, None


def descriptor_loss(warped: Tensor, fixed: Tensor, weight: Tensor) -> Tensor:
    """Squared difference summed over channels, averaged over voxels by ``weight`` (B, 1, ...), added over the batch."""
    total = weight.flatten(1).sum(1).clamp_min(1e-6).view(-1, *[1] * (weight.dim() - 1))
    return _WeightedDifference.apply(warped, fixed, weight / total)
