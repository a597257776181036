"""Image similarity for optimisation: LNCC with an analytic gradient, and MIND-SSC descriptors.

Window sums are separable shifted additions with doubling (a window of 9 costs four additions per axis), never a
convolution with a cube of ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

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


@dataclass
class LocalReference:
    """What LNCC needs of the image that does not move, computed once: see :func:`local_reference`."""

    image: Tensor  # weighted by the mask
    weight: Tensor | None
    count: Tensor
    mean: Tensor
    variance: Tensor
    share: Tensor  # each window's share in the mean over the image
    radius: int
    blocks: bool
    floor: Tensor


def local_reference(
    image: Tensor, radius: int, floor: Tensor | float, weight: Tensor | None = None, blocks: bool = False
) -> LocalReference:
    """Window statistics of the reference image of :func:`lncc_loss`.

    Parameters
    ----------
    image
        (B, 1, *spatial).
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
    """
    pool = block_sum if blocks else (lambda x: x)
    if weight is None:
        ones = torch.ones_like(image[:1])
        count = box_sum(pool(ones), radius)
        weighted, share = image, torch.full_like(count, 1.0 / count.numel())
    else:
        per_window = pool(weight)
        count = box_sum(per_window, radius).clamp_min(1e-3)
        weighted = image * weight
        share = per_window / per_window.flatten(1).sum(1).clamp_min(1e-6).view(-1, *[1] * (image.dim() - 1))
    mean = box_sum(pool(weighted), radius) / count
    variance = (box_sum(pool(weighted * image), radius) / count - mean * mean).clamp_min(0) + floor
    return LocalReference(
        weighted, weight, count, mean, variance, share, radius, blocks, torch.as_tensor(floor, device=image.device)
    )


class _LNCC(torch.autograd.Function):
    """Mean squared local correlation with its gradient with respect to the moving image, in eight window sums.

    With window means written <.>: cc = cov^2 / (vI vJ), and for p = 2 share cov / (vI vJ n), q = p cov / vJ the
    gradient at a voxel is  w (J B(q) - I B(p) + B(p <I> - q <J>)),  B being the window sum (its own transpose).
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, warped: Tensor, ref: LocalReference) -> Tensor:
        pool = block_sum if ref.blocks else (lambda x: x)
        weighted = warped if ref.weight is None else warped * ref.weight
        mean = box_sum(pool(weighted), ref.radius) / ref.count
        variance = (box_sum(pool(weighted * warped), ref.radius) / ref.count - mean * mean).clamp_min_(0) + ref.floor
        # ref.image carries the weight already.
        covariance = box_sum(pool(warped * ref.image), ref.radius) / ref.count - mean * ref.mean
        slope = covariance / (ref.variance * variance)
        loss = -(covariance * slope * ref.share).sum()
        if ctx.needs_input_grad[0]:
            p = slope.mul_(2 * ref.share / ref.count)
            q = p * covariance / variance
            shift = box_sum(p * ref.mean - q * mean, ref.radius)
            p, q = box_sum(p, ref.radius), box_sum(q, ref.radius)
            if ref.blocks:
                gradient = _times_blocks(weighted, q).sub_(_times_blocks(ref.image, p))
                shift = _expand_blocks(shift)
                gradient.add_(shift if ref.weight is None else shift.mul_(ref.weight))
            else:
                gradient = weighted * q - ref.image * p + (shift if ref.weight is None else shift * ref.weight)
            ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None


def lncc_loss(warped: Tensor, reference: LocalReference) -> Tensor:
    """Negative squared local normalised cross-correlation (CycleMorph, equation 6), a scalar.

    The mean over the windows of each image, added over the batch: -B for perfect agreement.  Windows count the voxels
    inside the image and the mask only, so that borders are not biased.  The gradient is analytic, with respect to
    ``warped`` (B, 1, *spatial).
    """
    return _LNCC.apply(warped, reference)


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
