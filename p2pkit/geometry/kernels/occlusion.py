"""The compiled inner loops of occlusion and confidence; the wrappers check the arguments."""

import numpy as np

from p2pkit.geometry.kernels.jit import kernel

Array = np.ndarray


@kernel
def depth_behind(cells: Array, depth_m: Array, nearest: Array, behind: Array) -> None:
    """Fill `behind` with each point's depth minus its cell's in `nearest`; 0 outside all cells."""
    for point in range(cells.size):
        behind[point] = 0.0
        if cells[point] >= 0:
            behind[point] = np.float64(depth_m[point]) - np.float64(nearest[cells[point]])


@kernel
def _lower(line: Array, other: Array) -> None:
    """Lower each number of `line` to that of `other`."""
    for column in range(line.size):
        value = other[column]
        line[column] = value if value < line[column] else line[column]


@kernel
def side_blockers(nearest: Array, reach: int) -> Array:
    """The depth of what is nearer than a cell on two opposite sides, or the cell's own.

    Sides reach `reach` cells: above and below are wedges |du| <= |dv|, left and right one row, as
    wider ones would see a road's nearer lines on both sides. Two sides count by the farther of
    their nearest depths, and the nearer of the two pairs counts.
    """
    rows, columns = nearest.shape
    reach_across, held = min(reach, columns - 1), 2 * reach + 1
    blockers = np.empty(nearest.shape, np.float32)
    # Of each row in reach, in turn: the smallest depth within 0, 1, 2, … cells.
    minima = np.empty((held, reach + 1, columns), np.float32)
    above, below = np.empty(columns, np.float32), np.empty(columns, np.float32)
    left, right = np.empty(columns, np.float32), np.empty(columns, np.float32)
    for entering in range(rows + reach):
        if entering < rows:
            windows = minima[entering % held]
            windows[0] = nearest[entering]
            for gap in range(1, reach + 1):
                windows[gap] = windows[gap - 1]
                _lower(windows[gap, 1:], windows[gap - 1, : columns - 1])
                _lower(windows[gap, : columns - 1], windows[gap - 1, 1:])
        row = entering - reach
        if row < 0:
            continue
        above[:], below[:], left[:], right[:] = np.inf, np.inf, np.inf, np.inf
        for gap in range(1, reach + 1):
            if row >= gap:
                _lower(above, minima[(row - gap) % held, gap])
            if row + gap < rows:
                _lower(below, minima[(row + gap) % held, gap])
        for gap in range(1, reach_across + 1):
            _lower(left[gap:], nearest[row, : columns - gap])
            _lower(right[: columns - gap], nearest[row, gap:])
        own, blocker = nearest[row], blockers[row]
        for column in range(columns):
            upright = max(above[column], below[column])
            level = max(left[column], right[column])
            blocker[column] = min(upright, level, own[column])
    return blockers


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
def _edge_gaps(edge: Array, limit: int) -> Array:
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
def edge_squares(edge: Array, limit: int) -> Array:
    """Squared distance (uint16) of each cell to the nearest marked one (cells), at most limit²."""
    rows, columns = edge.shape
    gaps, most = _edge_gaps(edge, limit), np.uint16(limit * limit)
    squares = np.full(edge.shape, most, np.uint16)
    padded = np.full(columns + 2 * limit, most, np.uint16)
    for row in range(rows):
        near = False
        for column in range(columns):
            gap = np.uint16(gaps[row, column])
            near |= gap < limit
            padded[limit + column] = gap * gap
        if near:
            line = squares[row]
            for shift in range(2 * limit + 1):
                across, shifted = np.uint16((shift - limit) * (shift - limit)), padded[shift:]
                for column in range(columns):
                    line[column] = min(line[column], np.uint16(shifted[column] + across))
    return squares


@kernel
def edge_factors(limit: int, cell: float, edge_px: float) -> Array:
    """The share of confidence that each squared distance to an edge (cells, to limit²) leaves."""
    factors = np.empty(limit * limit + 1, np.float64)
    for square in range(factors.size):
        distance = np.float32(np.sqrt(np.float64(square)))
        factors[square] = min(1.0, cell * (np.float64(distance) + 0.5) / edge_px)
    return factors


@kernel
def confidence_of(
    depth: float, behind: float, margin: float, factor: float, motion: tuple[float, float]
) -> np.uint8:
    """The confidence, 0 … 255, of a point that is seen; `confidence.visibility` has the equations.

    `depth`, how far the point lies `behind` its blocker, and the `margin` (m); the `factor` of its
    distance to an edge; `motion`: f times the sensor's way (px m) and the motion that halves the
    confidence (px).
    """
    sure = factor
    if behind != 0:
        sure *= min(max(1.0 - behind / max(margin, 1e-12), 0.0), 1.0)
    if motion[0] > 0:
        sure /= 1.0 + motion[0] / max(depth, 1e-3) / motion[1]
    return np.uint8(np.rint(255.0 * sure))


@kernel
def see(
    points: tuple[Array, Array, Array, Array],
    margins: tuple[float, float],
    edges: tuple[Array, Array],
    motion: tuple[float, float],
    seen: Array,
    confidence: Array,
) -> None:
    """Fill `seen` and `confidence`, 0 … 255, of each point.

    `points` holds visible, cell, depth (m) and how far behind its blocker each point lies (m);
    `margins` metres and a fraction; `edges` the flat `edge_squares` and `edge_factors`; `motion` is
    as in `confidence_of`.
    """
    visible, cells, depth_m, behind = points
    squares, factors = edges
    for point in range(depth_m.size):
        seen[point] = False
        confidence[point] = 0
        depth = np.float64(depth_m[point])
        margin = max(margins[0], margins[1] * depth)
        if visible[point] and behind[point] <= margin:
            seen[point] = True
            factor = factors[squares[cells[point]]]
            confidence[point] = confidence_of(depth, behind[point], margin, factor, motion)
