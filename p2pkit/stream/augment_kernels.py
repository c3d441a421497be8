"""The compiled inner loops of point augmentation.

Coordinates are written out one by one: loops over the three axes, and rows that are unpacked, cost
2 to 12 times the time.
"""

import numpy as np

from p2pkit.geometry.jit import kernel

Array = np.ndarray


@kernel
def bounds(points: Array) -> tuple[Array, Array]:
    """Smallest and largest coordinate per axis of float64 [points, 3], not empty."""
    x_low, y_low, z_low = points[0, 0], points[0, 1], points[0, 2]
    x_high, y_high, z_high = x_low, y_low, z_low
    for row in range(1, points.shape[0]):
        x, y, z = points[row, 0], points[row, 1], points[row, 2]
        x_low, y_low, z_low = min(x_low, x), min(y_low, y), min(z_low, z)
        x_high, y_high, z_high = max(x_high, x), max(y_high, y), max(z_high, z)
    return np.array([x_low, y_low, z_low]), np.array([x_high, y_high, z_high])


@kernel
def blur_three(field: Array, blurred: Array) -> None:
    """Fill `blurred` with the mean of each node and its two neighbours in the middle axis.

    Both are float32 [before, nodes, after]; the last node neighbours the first.
    """
    last = field.shape[1] - 1
    for before in range(field.shape[0]):
        for node in range(last + 1):
            left = node - 1 if node > 0 else last
            right = node + 1 if node < last else 0
            for after in range(field.shape[2]):
                total = field[before, node, after] + field[before, left, after]
                total += field[before, right, after]
                blurred[before, node, after] = total / np.float32(3)


@kernel
def _wrap(node: int, count: int) -> int:
    """`node` modulo `count`; the division is rare."""
    return node if 0 <= node < count else node % count


@kernel
def add_noise_field(
    points: Array, origin: Array, spacing: float, field: Array, magnitude: float
) -> None:
    """Move float64 `points` by magnitude times the field at them, in place.

    `field` is float64 [x, y, z, 3] with its node 0 at `origin`, nodes `spacing` apart, and repeats
    without end; between nodes it is trilinear.
    """
    for row in range(points.shape[0]):
        x = (points[row, 0] - origin[0]) / spacing
        y = (points[row, 1] - origin[1]) / spacing
        z = (points[row, 2] - origin[2]) / spacing
        i, j, k = np.floor(x), np.floor(y), np.floor(z)
        x1, y1, z1 = x - i, y - j, z - k
        z0 = 1.0 - z1
        i0 = _wrap(np.int64(i), field.shape[0])
        j0 = _wrap(np.int64(j), field.shape[1])
        k0 = _wrap(np.int64(k), field.shape[2])
        i1 = _wrap(i0 + 1, field.shape[0])
        j1 = _wrap(j0 + 1, field.shape[1])
        k1 = _wrap(k0 + 1, field.shape[2])
        w00 = magnitude * (1.0 - x1) * (1.0 - y1)
        w01 = magnitude * (1.0 - x1) * y1
        w10 = magnitude * x1 * (1.0 - y1)
        w11 = magnitude * x1 * y1
        for axis in range(3):
            moved = points[row, axis]
            moved += w00 * (z0 * field[i0, j0, k0, axis] + z1 * field[i0, j0, k1, axis])
            moved += w01 * (z0 * field[i0, j1, k0, axis] + z1 * field[i0, j1, k1, axis])
            moved += w10 * (z0 * field[i1, j0, k0, axis] + z1 * field[i1, j0, k1, axis])
            moved += w11 * (z0 * field[i1, j1, k0, axis] + z1 * field[i1, j1, k1, axis])
            points[row, axis] = moved


@kernel
def apply_linear_map(points: Array, matrix: Array) -> None:
    """Replace each row p of float64 `points` by matrix @ p.

    Unlike BLAS this starts no threads beside the prefetch threads and gives the same bits anywhere.
    """
    for row in range(points.shape[0]):
        x, y, z = points[row, 0], points[row, 1], points[row, 2]
        for axis in range(3):
            points[row, axis] = matrix[axis, 0] * x + matrix[axis, 1] * y + matrix[axis, 2] * z
