"""The compiled inner loops of point augmentation."""

import numpy as np

from p2pkit.geometry.jit import kernel

Array = np.ndarray


@kernel
def bounds(points: Array) -> tuple[Array, Array]:
    """Smallest and largest coordinate per axis of [points, 3], not empty (numpy is 10 x slower)."""
    low, high = points[0].copy(), points[0].copy()
    for row in range(1, points.shape[0]):
        for axis in range(3):
            low[axis] = min(low[axis], points[row, axis])
            high[axis] = max(high[axis], points[row, axis])
    return low, high


@kernel
def add_noise_field(
    points: Array, origin: Array, spacing: float, field: Array, magnitude: float
) -> None:
    """Move float64 `points` by magnitude times the field at them, in place.

    `field` is [x, y, z, 3] with its node 0 at `origin`, nodes `spacing` apart, and repeats without
    end; between nodes it is trilinear.
    """
    nodes = np.empty((3, 2), np.int64)
    weights = np.empty((3, 2), np.float64)
    for row in range(points.shape[0]):
        for axis in range(3):
            position = (points[row, axis] - origin[axis]) / spacing
            node = np.floor(position)
            weights[axis, 1] = position - node
            weights[axis, 0] = 1.0 - weights[axis, 1]
            nodes[axis, 0] = np.int64(node) % field.shape[axis]
            nodes[axis, 1] = (nodes[axis, 0] + 1) % field.shape[axis]
        for i in range(2):
            for j in range(2):
                weight = magnitude * weights[0, i] * weights[1, j]
                near = field[nodes[0, i], nodes[1, j], nodes[2, 0]]
                far = field[nodes[0, i], nodes[1, j], nodes[2, 1]]
                for axis in range(3):
                    points[row, axis] += weight * (
                        weights[2, 0] * near[axis] + weights[2, 1] * far[axis]
                    )


@kernel
def apply_linear_map(points: Array, matrix: Array) -> None:
    """Replace each row p of float64 `points` by matrix @ p.

    Unlike BLAS this starts no threads beside the prefetch threads and gives the same bits anywhere.
    """
    for row in range(points.shape[0]):
        x, y, z = points[row]
        for axis in range(3):
            points[row, axis] = matrix[axis, 0] * x + matrix[axis, 1] * y + matrix[axis, 2] * z
