"""The compiled inner loop of joint bilateral upsampling; `joint_bilateral` checks the arguments.

`exp` is the compiler's: it may differ in the last bit between machines, as the network's maps do.
"""

import numpy as np

from p2pkit.geometry.kernels.jit import kernel

Array = np.ndarray


@kernel
def sample_joint_bilateral(
    rows: Array,
    size: tuple[int, int],
    cell_uv: Array,
    colors: tuple[Array, Array],
    falloff: tuple[int, float, float],
    sampled: Array,
) -> None:
    """Fill `sampled` with weighted means of the cells around each pair.

    `rows` is a flat [cells, channels] float32 map of `size` (width, height); `colors` are those of
    the pairs and of the cells; `falloff` is (radius, a, b) of the weights exp(-a d² - b c²) at the
    distance d (cells) and the difference of colour c. The largest exponent is taken off all, so
    that their sum is at least 1 however different the colours are.
    """
    width, height = size
    pair_color, cell_color = colors
    radius, spatial, ranged = falloff
    side = 2 * radius + 1
    exponents, cells = np.empty(side * side), np.empty(side * side, np.int64)
    for pair in range(cell_uv.shape[0]):
        u = min(max(np.float64(cell_uv[pair, 0]), 0.0), width - 1.0)
        v = min(max(np.float64(cell_uv[pair, 1]), 0.0), height - 1.0)
        column, row = int(u + 0.5), int(v + 0.5)
        count, largest = 0, -np.inf
        for y in range(max(row - radius, 0), min(row + radius, height - 1) + 1):
            for x in range(max(column - radius, 0), min(column + radius, width - 1) + 1):
                cell, difference = y * width + x, 0.0
                for channel in range(3):
                    step = pair_color[pair, channel] - cell_color[cell, channel]
                    difference += step * step
                distance = (x - u) * (x - u) + (y - v) * (y - v)
                exponents[count] = -spatial * distance - ranged * difference
                largest = max(largest, exponents[count])
                cells[count] = cell
                count += 1
        total = 0.0
        for i in range(count):
            exponents[i] = np.exp(exponents[i] - largest)
            total += exponents[i]
        target = sampled[pair]
        target[:] = np.float32(0.0)
        for i in range(count):
            weight, source = np.float32(exponents[i] / total), rows[cells[i]]
            if weight > 0:
                for channel in range(target.size):
                    target[channel] += weight * source[channel]
