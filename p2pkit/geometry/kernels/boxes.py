"""The compiled inner loop of p2pkit.geometry.boxes."""

import numpy as np

from p2pkit.geometry.kernels.jit import kernel

Array = np.ndarray


@kernel
def count_in_boxes(
    points: Array,
    boxes: Array,
    grid: tuple[Array, Array, int],
    lists: tuple[Array, Array],
    counts: Array,
) -> None:
    """Add to `counts` how many points each box holds.

    A row of `boxes` is its centre, half its size, and cosine and sine of its yaw. `grid` is the
    lowest corner of the tiles, how many there are in a metre, and along each axis; `lists` where
    each tile's boxes begin in one array of rows, and that array.
    """
    low, per_metre, tiles = grid
    first, members = lists
    for point in range(points.shape[0]):
        across = np.floor((points[point, 0] - low[0]) * per_metre[0])
        along = np.floor((points[point, 1] - low[1]) * per_metre[1])
        if not (0 <= across < tiles and 0 <= along < tiles):
            continue
        tile = np.int64(across) * tiles + np.int64(along)
        for member in range(first[tile], first[tile + 1]):
            box = boxes[members[member]]
            x, y = points[point, 0] - box[0], points[point, 1] - box[1]
            if (
                abs(box[6] * x + box[7] * y) <= box[3]
                and abs(box[6] * y - box[7] * x) <= box[4]
                and abs(points[point, 2] - box[2]) <= box[5]
            ):
                counts[members[member]] += 1
