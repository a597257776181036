"""Single points carried against a displacement field's direction: from the moving image onto the fixed one."""

from __future__ import annotations

import numpy as np

from .fields import DisplacementField

_CLOSE_MM = 1e-4
_MOST_STEPS = 50


def carry_back(field: DisplacementField, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where moving points lie in the fixed image: the solutions x of ``x + u(x) = y``.

    By Newton's method with steps halved until they help, from where the field's best-fit affine part has the points.
    For whole images see :meth:`CycleRegLib.fields.DisplacementField.inverse`.  Beyond the field's grid the displacement
    at its border is used.

    Parameters
    ----------
    points
        (N, n) moving points, LPS mm.

    Returns
    -------
    points, errors
        (N, n) fixed points, and (N,) how far from the moving points the field takes them, mm: up to some thousandths
        where the field can be inverted, more where it folds or tears.
    """
    points = np.atleast_2d(np.asarray(points, np.float64))
    n = points.shape[1]
    matrix = field.fit_affine()
    found = (points - matrix[:n, n]) @ np.linalg.pinv(matrix[:n, :n]).T
    left = points - field.transform_points(found, "border")
    errors = np.linalg.norm(left, axis=1)
    for _ in range(_MOST_STEPS):
        if (errors < _CLOSE_MM).all():
            break
        steps = np.einsum("kij,kj->ki", np.linalg.pinv(_derivatives(field, found)), left)
        better = np.zeros(len(points), bool)
        for halving in range(12):
            tried = found + steps * 0.5**halving
            tried_left = points - field.transform_points(tried, "border")
            tried_errors = np.linalg.norm(tried_left, axis=1)
            helps = ~better & (tried_errors < errors)
            found[helps], left[helps], errors[helps] = tried[helps], tried_left[helps], tried_errors[helps]
            better |= helps
        if not better.any():
            break
    return found, errors


def _derivatives(field: DisplacementField, points: np.ndarray) -> np.ndarray:
    """(N, n, n) derivatives of ``x + u(x)`` at points, by differences over half a voxel along each axis of the grid."""
    axes = field.grid.direction_matrix * np.array(field.grid.spacing) / 4
    columns = [
        (field.transform_points(points + step, "border") - field.transform_points(points - step, "border")) / 2
        for step in axes.T
    ]
    return np.stack(columns, axis=-1) @ np.linalg.inv(axes)
