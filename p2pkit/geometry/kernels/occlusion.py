"""The compiled inner loops of occlusion and confidence; the wrappers check the arguments."""

import numpy as np

from p2pkit.geometry.kernels.jit import kernel

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
        above = below = left = right = np.float32(np.inf)
        for dv in range(1, min(reach, row) + 1):
            for u in range(max(column - dv, 0), min(column + dv, columns - 1) + 1):
                above = min(above, nearest[row - dv, u])
        for dv in range(1, min(reach, rows - 1 - row) + 1):
            for u in range(max(column - dv, 0), min(column + dv, columns - 1) + 1):
                below = min(below, nearest[row + dv, u])
        for u in range(max(column - reach, 0), column):
            left = min(left, nearest[row, u])
        for u in range(column + 1, min(column + reach, columns - 1) + 1):
            right = min(right, nearest[row, u])
        blocker = min(max(above, below), max(left, right), nearest[row, column])
        behind[point] = max(np.float64(depth_m[point]) - np.float64(blocker), 0.0)


@kernel
def mark_jumps(nearest: Array, margins: tuple[float, float], edge: Array) -> None:
    """Set `edge` in filled cells that differ from a filled neighbour by more than the margins.

    Neighbours are the next filled cell to the right and below; both sides of a jump are marked.
    """
    metres, fraction = margins
    rows, columns = nearest.shape
    above = np.full(columns, -1, np.int64)
    for row in range(rows):
        left = -1
        for column in range(columns):
            depth = np.float64(nearest[row, column])
            if depth == np.inf:
                continue
            if left >= 0:
                other = np.float64(nearest[row, left])
                if abs(depth - other) > max(metres, fraction * min(depth, other)):
                    edge[row, column] = True
                    edge[row, left] = True
            left = column
            if above[column] >= 0:
                other = np.float64(nearest[above[column], column])
                if abs(depth - other) > max(metres, fraction * min(depth, other)):
                    edge[row, column] = True
                    edge[above[column], column] = True
            above[column] = row


@kernel
def edge_gaps(edge: Array, limit: int) -> Array:
    """Cells (uint8) from each cell to the nearest marked one of its column, at most `limit`."""
    rows, columns = edge.shape
    most, one = np.uint8(limit), np.uint8(1)
    gaps = np.empty(edge.shape, np.uint8)
    for column in range(columns):
        gaps[0, column] = np.uint8(0) if edge[0, column] else most
    for row in range(1, rows):
        for column in range(columns):
            gap = min(np.uint8(gaps[row - 1, column] + one), most)
            gaps[row, column] = np.uint8(0) if edge[row, column] else gap
    for row in range(rows - 2, -1, -1):
        for column in range(columns):
            gap = np.uint8(gaps[row + 1, column] + one)
            gaps[row, column] = min(gaps[row, column], gap)
    return gaps


@kernel
def edge_distance_at(gaps: Array, row: int, column: int, limit: int) -> np.float32:
    """Euclidean distance of a cell to the nearest marked one (cells), at most `limit`.

    `gaps` are those of `edge_gaps` with the same limit: columns no farther than it decide.
    """
    best = limit * limit
    for other in range(max(0, column - limit), min(gaps.shape[1], column + limit + 1)):
        gap = np.int64(gaps[row, other])
        best = min(best, (other - column) * (other - column) + gap * gap)
    return np.float32(np.sqrt(np.float64(best)))


@kernel
def confidence_of(
    depth: float,
    behind: float,
    margins: tuple[float, float],
    distance: np.float32,
    edge: tuple[float, float],
    motion: tuple[float, float],
) -> np.uint8:
    """The confidence, 0 … 255, of a point that is seen; `confidence.visibility` has the equations.

    `depth` and how far the point lies `behind` its blocker (m); `margins` metres and a fraction;
    the `distance` of its cell to an edge (cells); `edge` the cell's width and the distance that
    costs nothing (px); `motion` f times the sensor's way (px m) and the motion that halves the
    confidence (px).
    """
    margin = max(margins[0], margins[1] * depth)
    sure = min(max(1.0 - behind / max(margin, 1e-12), 0.0), 1.0)
    distance_px = edge[0] * (np.float64(distance) + 0.5)
    sure *= min(1.0, distance_px / edge[1])
    if motion[0] > 0:
        sure /= 1.0 + motion[0] / max(depth, 1e-3) / motion[1]
    return np.uint8(np.rint(255.0 * sure))


@kernel
def see(
    points: tuple[Array, Array, Array, Array],
    gaps: tuple[Array, int],
    limits: tuple[tuple[float, float], tuple[float, float], tuple[float, float]],
    seen: Array,
    confidence: Array,
) -> None:
    """Fill `seen` and `confidence`, 0 … 255, of each point.

    `points` holds visible, cell, depth (m) and how far behind its blocker each point lies (m);
    `gaps` those of `edge_gaps` and their limit; `limits` margins, edge and motion of
    `confidence_of`.
    """
    visible, cells, depth_m, behind = points
    margins, edge, motion = limits
    columns = gaps[0].shape[1]
    for point in range(depth_m.size):
        seen[point] = False
        confidence[point] = 0
        depth = np.float64(depth_m[point])
        if not visible[point] or behind[point] > max(margins[0], margins[1] * depth):
            continue
        seen[point] = True
        row, column = divmod(cells[point], columns)
        distance = edge_distance_at(gaps[0], row, column, gaps[1])
        confidence[point] = confidence_of(depth, behind[point], margins, distance, edge, motion)
