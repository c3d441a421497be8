"""The compiled inner loops of occlusion and confidence; the wrappers check the arguments."""

import numpy as np

from p2pkit.geometry.jit import kernel

Array = np.ndarray


@kernel
def depth_behind(cells: Array, depth_m: Array, nearest: Array, behind: Array) -> None:
    """Fill `behind` with each point's depth minus the nearest in its cell; 0 outside all cells."""
    for point in range(cells.size):
        behind[point] = 0.0
        if cells[point] >= 0:
            behind[point] = np.float64(depth_m[point]) - nearest[cells[point]]


@kernel
def depth_behind_sides(
    cells: Array, depth_m: Array, nearest: Array, reach: int, behind: Array
) -> None:
    """Fill `behind` with how far each point lies behind what is nearer on two opposite sides.

    Sides reach `reach` cells: above and below are wedges |du| <= |dv|, left and right one row, as
    wider ones would see a road's nearer lines on both sides.
    Two sides count by the farther of their nearest depths, and the nearer of the two pairs counts.
    Never below what the point's own cell gives.
    """
    rows, columns = nearest.shape
    for point in range(cells.size):
        behind[point] = 0.0
        if cells[point] < 0:
            continue
        row, column = divmod(cells[point], columns)
        above = below = left = right = np.float64(np.inf)
        for dv in range(-min(reach, row), min(reach, rows - 1 - row) + 1):
            for du in range(-min(reach, column), min(reach, columns - 1 - column) + 1):
                value = np.float64(nearest[row + dv, column + du])
                if abs(du) <= abs(dv) and dv < 0:
                    above = min(above, value)
                elif abs(du) <= abs(dv) and dv > 0:
                    below = min(below, value)
                elif dv == 0 and du < 0:
                    left = min(left, value)
                elif dv == 0 and du > 0:
                    right = min(right, value)
        blocker = min(max(above, below), max(left, right), np.float64(nearest[row, column]))
        behind[point] = max(np.float64(depth_m[point]) - blocker, 0.0)


@kernel
def mark_jumps(nearest: Array, margins: tuple[float, float], edge: Array) -> None:
    """Set `edge` in filled cells that differ from a filled neighbour by more than the margins.

    Neighbours are the next filled cell to the right and below; both sides of a jump are marked.
    """
    metres, fraction = margins
    rows, columns = nearest.shape
    for row in range(rows):
        last = -1
        for column in range(columns):
            depth = np.float64(nearest[row, column])
            if depth == np.inf:
                continue
            if last >= 0:
                other = np.float64(nearest[row, last])
                if abs(depth - other) > max(metres, fraction * min(depth, other)):
                    edge[row, column] = True
                    edge[row, last] = True
            last = column
    for column in range(columns):
        last = -1
        for row in range(rows):
            depth = np.float64(nearest[row, column])
            if depth == np.inf:
                continue
            if last >= 0:
                other = np.float64(nearest[last, column])
                if abs(depth - other) > max(metres, fraction * min(depth, other)):
                    edge[row, column] = True
                    edge[last, column] = True
            last = row


@kernel
def edge_distance(edge: Array, limit: int) -> Array:
    """Euclidean distance of each cell to the nearest marked one (cells), at most `limit`."""
    rows, columns = edge.shape
    down = np.full(edge.shape, limit, np.int64)
    for column in range(columns):
        gap = limit
        for row in range(rows):
            gap = 0 if edge[row, column] else min(gap + 1, limit)
            down[row, column] = gap
        gap = limit
        for row in range(rows - 1, -1, -1):
            gap = 0 if edge[row, column] else min(gap + 1, limit)
            down[row, column] = min(down[row, column], gap)
    distance = np.empty(edge.shape, np.float32)
    for row in range(rows):
        for column in range(columns):
            best = limit * limit
            for shift in range(-min(limit, column), min(limit, columns - 1 - column) + 1):
                gap = down[row, column + shift]
                best = min(best, shift * shift + gap * gap)
            distance[row, column] = np.float32(np.sqrt(np.float64(best)))
    return distance
