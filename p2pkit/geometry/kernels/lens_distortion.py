"""The compiled inner loops of p2pkit.geometry.lens_distortion; the wrappers check the arguments."""

import numpy as np

from p2pkit.geometry.kernels.jit import kernel

Array = np.ndarray


@kernel
def distort_radial_tangential(x: Array, y: Array, k: Array, distorted: Array) -> None:
    """Fill rows of `distorted` with OpenCV's rational radial and tangential model of x, y.

    `k` holds k1 k2 p1 p2 k3 k4 k5 k6.
    """
    for i in range(x.size):
        r2 = x[i] * x[i] + y[i] * y[i]
        above = 1.0 + r2 * (k[0] + r2 * (k[1] + r2 * k[4]))
        below = 1.0 + r2 * (k[5] + r2 * (k[6] + r2 * k[7]))
        radial = above / below
        both = 2.0 * x[i] * y[i]
        distorted[i, 0] = x[i] * radial + k[2] * both + k[3] * (r2 + 2.0 * x[i] * x[i])
        distorted[i, 1] = y[i] * radial + k[2] * (r2 + 2.0 * y[i] * y[i]) + k[3] * both


@kernel
def distort_fisheye(x: Array, y: Array, k: Array, distorted: Array) -> None:
    """Fill rows of `distorted` with OpenCV's fisheye model: the angle's odd polynomial k1 … k4."""
    for i in range(x.size):
        r = np.sqrt(x[i] * x[i] + y[i] * y[i])
        angle = np.arctan(r)
        a2 = angle * angle
        bent = angle * (1.0 + a2 * (k[0] + a2 * (k[1] + a2 * (k[2] + a2 * k[3]))))
        scale = bent / r if r > 1e-9 else 1.0
        distorted[i, 0] = x[i] * scale
        distorted[i, 1] = y[i] * scale


@kernel
def remap_bilinear(image: Array, source_uv: Array, remapped: Array, valid: Array) -> None:
    """Sample uint8 `image` bilinearly; black and invalid where the source has no pixel around."""
    height, width, channels = image.shape
    for row in range(source_uv.shape[0]):
        for column in range(source_uv.shape[1]):
            u = np.float64(source_uv[row, column, 0])
            v = np.float64(source_uv[row, column, 1])
            inside = (u >= 0.0) & (u <= width - 1.0) & (v >= 0.0) & (v <= height - 1.0)
            valid[row, column] = inside
            if not inside:
                remapped[row, column] = 0
                continue
            left, top = int(u), int(v)
            right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
            share_u, share_v = u - left, v - top
            for channel in range(channels):
                upper = (1.0 - share_u) * image[top, left, channel]
                upper += share_u * image[top, right, channel]
                lower = (1.0 - share_u) * image[bottom, left, channel]
                lower += share_u * image[bottom, right, channel]
                value = (1.0 - share_v) * upper + share_v * lower
                remapped[row, column, channel] = np.uint8(value + 0.5)


@kernel
def remap_nearest(values: Array, source_uv: Array, remapped: Array) -> None:
    """Take the nearest pixel of a uint16 image; 0 where the source lies outside it."""
    height, width = values.shape
    for row in range(source_uv.shape[0]):
        for column in range(source_uv.shape[1]):
            u = np.float64(source_uv[row, column, 0])
            v = np.float64(source_uv[row, column, 1])
            inside = (u >= -0.5) & (u < width - 0.5) & (v >= -0.5) & (v < height - 0.5)
            source_u = min(max(int(np.floor(u + 0.5)), 0), width - 1) if inside else 0
            source_v = min(max(int(np.floor(v + 0.5)), 0), height - 1) if inside else 0
            remapped[row, column] = values[source_v, source_u] if inside else 0
