"""The compiled inner loops of point augmentation.

Coordinates are written out one by one: loops over the three axes, and rows that are unpacked, cost
2 to 12 times the time.
"""

import numpy as np

from p2pkit.geometry.kernels.jit import kernel

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
    without end; between nodes it is trilinear. Places in memory are unsigned, which spares a check
    for negative ones at each of 24 numbers; the step back from the last node to the first comes out
    right in unsigned sums, too.
    """
    values, nodes = points.reshape(-1), field.reshape(-1)
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    size_x, size_y, size_z = field.shape[0], field.shape[1], field.shape[2]
    step_y, step_x = 3 * size_z, 3 * size_z * size_y
    per_metre = 1.0 / spacing
    for row in range(points.shape[0]):
        at = three * np.uint64(row)
        x = (values[at] - origin[0]) * per_metre
        y = (values[at + one] - origin[1]) * per_metre
        z = (values[at + two] - origin[2]) * per_metre
        low_x, low_y, low_z = np.floor(x), np.floor(y), np.floor(z)
        x, y, z = x - low_x, y - low_y, z - low_z
        i = _wrap(np.int64(low_x), size_x)
        j = _wrap(np.int64(low_y), size_y)
        k = _wrap(np.int64(low_z), size_z)
        next_x = np.uint64(step_x if i + 1 < size_x else -i * step_x)
        next_y = np.uint64(step_y if j + 1 < size_y else -j * step_y)
        next_z = np.uint64(3 if k + 1 < size_z else -3 * k)
        n000 = np.uint64(i * step_x + j * step_y + 3 * k)
        n001, n010, n100 = n000 + next_z, n000 + next_y, n000 + next_x
        n011, n101, n110 = n010 + next_z, n100 + next_z, n100 + next_y
        n111 = n110 + next_z
        far, near = magnitude * x, magnitude * (1.0 - x)
        yz = y * z
        only_y, only_z = y - yz, z - yz
        neither = 1.0 - y - only_z
        w000, w001, w010, w011 = near * neither, near * only_z, near * only_y, near * yz
        w100, w101, w110, w111 = far * neither, far * only_z, far * only_y, far * yz
        for axis in (np.uint64(0), one, two):
            values[at + axis] += (
                (w000 * nodes[n000 + axis] + w001 * nodes[n001 + axis])
                + (w010 * nodes[n010 + axis] + w011 * nodes[n011 + axis])
            ) + (
                (w100 * nodes[n100 + axis] + w101 * nodes[n101 + axis])
                + (w110 * nodes[n110 + axis] + w111 * nodes[n111 + axis])
            )


@kernel
def apply_linear_map(points: Array, matrix: Array, mapped: Array) -> None:
    """Fill each row of `mapped` with matrix @ p of the row p of float64 `points`.

    Unlike BLAS this starts no threads besides the prefetch threads and gives the same bits
    anywhere.
    """
    for row in range(points.shape[0]):
        x, y, z = points[row, 0], points[row, 1], points[row, 2]
        for axis in range(3):
            mapped[row, axis] = matrix[axis, 0] * x + matrix[axis, 1] * y + matrix[axis, 2] * z
