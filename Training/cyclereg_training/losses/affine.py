"""VTN's two terms that keep an affine map near a rotation."""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import single

# Added to the squared singular values, so that a matrix on its way through a singular one has a finite loss.
_FLOOR = 1e-5


def _with_identity(matrix: Tensor) -> Tensor:
    matrix = single(matrix)
    return matrix + torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)


def orthogonality(matrix: Tensor) -> Tensor:
    """``-6 + sum(s_i^2 + s_i^-2)`` over the singular values s of I + A in 3D (VTN, equation 9), mean over the batch.

    ``matrix`` is A, (B, n, n); no unit, 0 for a rotation or reflection.  The squared values are the eigenvalues of
    (I + A)^T (I + A): their sum and that of their inverses are traces, no decomposition is needed.
    """
    jacobian = _with_identity(matrix)
    n = jacobian.shape[-1]
    with torch.autocast(matrix.device.type, enabled=False):
        gram = jacobian.mT @ jacobian
        gram = gram + _FLOOR * torch.eye(n, dtype=gram.dtype, device=gram.device)
        # inv_ex: without the check that would make a GPU wait; the floor keeps every matrix regular.
        traces = (gram + torch.linalg.inv_ex(gram).inverse).diagonal(dim1=-2, dim2=-1).sum(dim=-1)
        return (traces - 2 * n).mean()


def affine_determinant(matrix: Tensor) -> Tensor:
    """``(det(I + A) - 1)^2`` (VTN, equation 10), mean over the batch; ``matrix`` is A, (B, n, n).  No unit."""
    with torch.autocast(matrix.device.type, enabled=False):
        return (torch.linalg.det(_with_identity(matrix)) - 1).square().mean()
