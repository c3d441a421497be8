"""The compiled inner loop of p2pkit.geometry.flying_pixels; the wrapper checks the arguments."""

import numpy as np

from p2pkit.geometry.kernels.jit import kernel

Array = np.ndarray


@kernel
def clear_unsupported(
    depth: Array, margin_across: float, margin_down: float, cleared: Array
) -> None:
    """Copy `depth` without the pixels that no neighbour along a row, or along a column, supports.

    A neighbour supports a pixel if it differs by at most the margin times the pixel's depth. An
    axis without a measured neighbour says nothing.
    """
    height, width = depth.shape
    for v in range(height):
        for u in range(width):
            here = np.int64(depth[v, u])
            cleared[v, u] = depth[v, u]
            if here == 0:
                continue
            left = np.int64(depth[v, u - 1]) if u > 0 else np.int64(0)
            right = np.int64(depth[v, u + 1]) if u + 1 < width else np.int64(0)
            above = np.int64(depth[v - 1, u]) if v > 0 else np.int64(0)
            below = np.int64(depth[v + 1, u]) if v + 1 < height else np.int64(0)
            across, down = margin_across * here, margin_down * here
            by_row = (left > 0 and abs(left - here) <= across) or (
                right > 0 and abs(right - here) <= across
            )
            by_column = (above > 0 and abs(above - here) <= down) or (
                below > 0 and abs(below - here) <= down
            )
            silent_row, silent_column = left + right == 0, above + below == 0
            if not (by_row or silent_row) or not (by_column or silent_column):
                cleared[v, u] = 0
