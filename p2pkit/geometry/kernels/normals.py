"""The compiled loop of surface normals: the direction in which each neighbourhood is thinnest."""

import math

import numpy as np

from p2pkit.geometry.kernels.jit import kernel

Array = np.ndarray


@kernel
def _smallest_eigenvalue(xx: float, xy: float, xz: float, yy: float, yz: float, zz: float) -> float:
    """Of a symmetric 3 × 3 matrix, in closed form (Smith 1961)."""
    mean = (xx + yy + zz) / 3
    off = xy * xy + xz * xz + yz * yz
    spread = (xx - mean) ** 2 + (yy - mean) ** 2 + (zz - mean) ** 2 + 2 * off
    if spread <= 0:
        return mean
    scale = math.sqrt(spread / 6)
    a, b, c = (xx - mean) / scale, (yy - mean) / scale, (zz - mean) / scale
    d, e, f = xy / scale, xz / scale, yz / scale
    half = (a * (b * c - f * f) - d * (d * c - f * e) + e * (d * f - b * e)) / 2
    angle = math.acos(min(1.0, max(-1.0, half))) / 3
    return mean + 2 * scale * math.cos(angle + 2 * math.pi / 3)


@kernel
def _longest_cross(
    xx: float, xy: float, xz: float, yy: float, yz: float, zz: float
) -> tuple[float, float, float, float]:
    """The longest cross product of two rows of a symmetric matrix, and its squared length."""
    x, y, z = xy * yz - xz * yy, xz * xy - xx * yz, xx * yy - xy * xy
    best = x * x + y * y + z * z
    p, q, r = xy * zz - xz * yz, xz * xz - xx * zz, xx * yz - xy * xz
    length = p * p + q * q + r * r
    if length > best:
        x, y, z, best = p, q, r, length
    p, q, r = yy * zz - yz * yz, yz * xz - xy * zz, xy * yz - yy * xz
    length = p * p + q * q + r * r
    if length > best:
        x, y, z, best = p, q, r, length
    return x, y, z, best


@kernel
def neighbour_normals(points: Array, neighbours: Array, normals: Array) -> None:
    """Fill float32 `normals` of float64 `points` from int64 `neighbours` [points, k].

    Normals face the origin. A neighbourhood that is a line or a single place has none; it takes the
    direction to the origin.
    """
    count = neighbours.shape[1]
    for row in range(points.shape[0]):
        x = y = z = 0.0
        for column in range(count):
            other = neighbours[row, column]
            x += points[other, 0]
            y += points[other, 1]
            z += points[other, 2]
        x, y, z = x / count, y / count, z / count
        xx = xy = xz = yy = yz = zz = 0.0
        for column in range(count):
            other = neighbours[row, column]
            p, q, r = points[other, 0] - x, points[other, 1] - y, points[other, 2] - z
            xx += p * p
            xy += p * q
            xz += p * r
            yy += q * q
            yz += q * r
            zz += r * r
        trace = xx + yy + zz
        least = _smallest_eigenvalue(xx, xy, xz, yy, yz, zz)
        x, y, z, length = _longest_cross(xx - least, xy, xz, yy - least, yz, zz - least)
        if not length > 1e-18 * trace**4:
            x, y, z = -points[row, 0], -points[row, 1], -points[row, 2]
            length = x * x + y * y + z * z
        facing = x * points[row, 0] + y * points[row, 1] + z * points[row, 2]
        scale = (-1.0 if facing > 0 else 1.0) / math.sqrt(length) if length > 0 else 0.0
        normals[row, 0] = scale * x
        normals[row, 1] = scale * y
        normals[row, 2] = scale * z
