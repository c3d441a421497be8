"""The compiled filters of 16-bit grey PNGs."""

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
def unfilter(filtered: np.ndarray, pixels: np.ndarray) -> bool:
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
