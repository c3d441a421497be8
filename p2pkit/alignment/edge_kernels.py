"""The compiled inner loops of edge alignment; the wrappers check the arguments."""

import numpy as np

from p2pkit.geometry.kernels.jit import kernel

Array = np.ndarray


@kernel
def mark_steps(depth: Array, limits: tuple[float, float], max_gap: int, far: Array) -> None:
    """Set `far` at the near side of each step along the rows of a depth image (0 is empty).

    It gets the column of the far side, in the second layer where that lies to the left. `limits`
    are a share of the nearer depth and a factor: a step is larger than that share, and than the
    factor times the change just before it on the near side, for a slanted surface gets farther
    steadily and an edge at once. Neighbours are at most `max_gap` columns apart.
    """
    fraction, factor = limits
    rows, columns = depth.shape
    for row in range(rows):
        for layer in range(2):
            before = last = -1
            for count in range(columns):
                column = count if layer == 0 else columns - 1 - count
                value = np.float64(depth[row, column])
                if value <= 0.0:
                    continue
                if last >= 0 and abs(column - last) <= max_gap:
                    near = np.float64(depth[row, last])
                    step = value - near
                    trend = 0.0
                    if before >= 0 and abs(last - before) <= max_gap:
                        trend = abs(near - np.float64(depth[row, before]))
                    if step > fraction * near and step > factor * trend:
                        far[layer, row, last] = column
                before = last
                last = column


@kernel
def local_contrast(
    strength: Array, pixel_uv: Array, usable: Array, offset: tuple[float, float], contrast: Array
) -> None:
    """Fill `contrast` with the strength at a pixel minus the mean of those ± `offset` away.

    NaN where the pixel is not usable or one of the three lies outside the image.
    """
    height, width = strength.shape
    du, dv = offset
    for point in range(pixel_uv.shape[0]):
        contrast[point] = np.nan
        u, v = pixel_uv[point, 0], pixel_uv[point, 1]
        inside = (
            (u >= du - 0.5) & (u < width - 0.5 - du) & (v >= dv - 0.5) & (v < height - 0.5 - dv)
        )
        if usable[point] and inside:
            here = strength[int(v + 0.5), int(u + 0.5)]
            one = strength[int(v + dv + 0.5), int(u + du + 0.5)]
            other = strength[int(v - dv + 0.5), int(u - du + 0.5)]
            contrast[point] = here - 0.5 * (one + other)
