"""The compiled filters of plain PNGs, a loop for each kind of pixel."""

import numpy as np

from p2pkit.geometry.kernels.jit import kernel


@kernel
def _predicted(kind: int, left: int, up: int, corner: int) -> int:
    """What a filter adds to a byte, from its neighbours: none, left, up, their mean, or Paeth's."""
    if kind == 1:
        return left
    if kind == 2:
        return up
    if kind == 3:
        return (left + up) >> 1
    if kind == 4:
        by_left, by_up = abs(up - corner), abs(left - corner)
        by_both = abs(left + up - 2 * corner)
        nearest = left if by_left <= by_up else up
        return nearest if min(by_left, by_up) <= by_both else corner
    return 0


@kernel
def unfilter_grey16(filtered: np.ndarray, pixels: np.ndarray) -> bool:
    """Fill `pixels` from rows of a filter's number and two bytes a pixel; False if unknown."""
    for v in range(pixels.shape[0]):
        kind, line = np.int32(filtered[v, 0]), filtered[v]
        if kind > 4:
            return False
        left_high = left_low = corner_high = corner_low = np.int32(0)
        for u in range(pixels.shape[1]):
            above = np.int32(pixels[v - 1, u]) if v > 0 else np.int32(0)
            up_high, up_low = above >> 8, above & 255
            high = np.int32(line[1 + 2 * u]) + _predicted(kind, left_high, up_high, corner_high)
            low = np.int32(line[2 + 2 * u]) + _predicted(kind, left_low, up_low, corner_low)
            left_high, left_low = np.int32(high & 255), np.int32(low & 255)
            corner_high, corner_low = up_high, up_low
            pixels[v, u] = np.uint16((left_high << 8) | left_low)
    return True


@kernel
def unfilter_rgb(filtered: np.ndarray, pixels: np.ndarray) -> bool:
    """Fill rows of `pixels`, three bytes a pixel, as `unfilter_grey16` does; False if unknown."""
    before = np.zeros(pixels.shape[1], np.uint8)
    for v in range(pixels.shape[0]):
        kind, line, row = np.int32(filtered[v, 0]), filtered[v, 1:], pixels[v]
        if kind > 4:
            return False
        left_r = left_g = left_b = corner_r = corner_g = corner_b = np.int32(0)
        for at in range(0, row.size, 3):
            r, g, b = np.int32(line[at]), np.int32(line[at + 1]), np.int32(line[at + 2])
            up_r, up_g, up_b = (
                np.int32(before[at]),
                np.int32(before[at + 1]),
                np.int32(before[at + 2]),
            )
            left_r = np.int32((r + _predicted(kind, left_r, up_r, corner_r)) & 255)
            left_g = np.int32((g + _predicted(kind, left_g, up_g, corner_g)) & 255)
            left_b = np.int32((b + _predicted(kind, left_b, up_b, corner_b)) & 255)
            corner_r, corner_g, corner_b = up_r, up_g, up_b
            row[at], row[at + 1], row[at + 2] = left_r, left_g, left_b
        before = row
    return True
