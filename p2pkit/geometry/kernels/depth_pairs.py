"""The compiled inner loops from a depth image to its pairs; `depth_pairs` checks the arguments.

Points are computed row by row, in both passes, which costs less than the memory to hold them all.
The voxels' hash table grows between rows only, so that inner loops see arrays that never change
hands: numba would count references there.
"""

import numpy as np

from p2pkit.geometry.kernels.jit import kernel
from p2pkit.geometry.kernels.occlusion import confidence_of
from p2pkit.geometry.kernels.points import fits, fresh_table, place_of, project_point

Array = np.ndarray
Source = tuple[Array, tuple[int, int], tuple[Array, Array, float]]
"""Depth, the first and last value that counts, and rays as in `back_project_image`."""
Pose = tuple[Array, tuple[float, float, float, float]]
"""Transform to the view, 4 x 4, and the view's fx fy cx cy."""
Row = tuple[Array, Array, Array, Array, Array, Array]
"""Of a row's pixels: cell of the z-buffer, -1 outside the view; pixel of the view; depth in the
view (m); voxel [3, width]; whether it fits in int32; row + 1 in `Kept` of a voxel that was kept in
rows above, or 0."""
View = tuple[Array, Array, Array, Array, int]
"""Flat: which pixels have an image (none: all), `edge_squares`, the image, and the z-buffer, which
has a border of one empty cell; and the z-buffer's width."""
Doubts = tuple[tuple[float, float], Array, tuple[float, float], bool]
"""Margins, `edge_factors`, motion as `confidence_of` takes it, and whether points hide others."""
Kept = tuple[Array, Array, Array, Array, Array]
"""Pixel, depth, colour, confidence and voxel of each point that is kept."""
Seen = tuple[Array, Array, Array]
"""Pixels that the view sees, and the row in `Kept` of the voxel of each; the row here of each kept
one. Without room: not wanted."""


@kernel
def _project_row(source: Source, v: int, pose: Pose, size: tuple[int, int], row: Row) -> int:
    """Fill cells, pixels and depths of a row of depth; the number of values that count."""
    depth, limits, (ray_x, ray_y, metres) = source
    low, high = np.uint16(limits[0]), np.uint16(limits[1])
    matrix, intrinsics = pose
    columns, rows = np.int32(size[0]), np.int32(size[1])
    right, bottom = columns - 0.5, rows - 0.5
    line, y = depth[v], ray_y[v]
    cells, pixels, depths = row[0], row[1], row[2]
    measured = 0
    for u in range(line.size):
        units = np.float64(line[u])
        within = (line[u] >= low) & (line[u] <= high)
        pixel_u, pixel_v, depth_m, _ = project_point(
            np.float32(units * ray_x[u]),
            np.float32(units * y),
            np.float32(units * metres),
            matrix,
            intrinsics,
        )
        seen = within & (depth_m > 0.0) & (pixel_u >= -0.5) & (pixel_u < right)
        seen &= (pixel_v >= -0.5) & (pixel_v < bottom)
        inside_u = pixel_u if seen else np.float32(0.0)
        inside_v = pixel_v if seen else np.float32(0.0)
        cell_u = np.int32(np.floor(np.float64(inside_u) + 0.5)) + np.int32(1)
        cell_v = np.int32(np.floor(np.float64(inside_v) + 0.5)) + np.int32(1)
        near_u = min(max(np.int32(np.rint(inside_u)), np.int32(0)), columns - np.int32(1))
        near_v = min(max(np.int32(np.rint(inside_v)), np.int32(0)), rows - np.int32(1))
        cells[u] = cell_v * (columns + np.int32(2)) + cell_u if seen else np.int32(-1)
        pixels[u] = near_v * columns + near_u
        depths[u] = depth_m
        measured += int(within)
    return measured


@kernel
def _voxel_row(source: Source, v: int, size: float, row: Row) -> None:
    """Fill the voxels of a row of depth; their edge is `size` (m)."""
    depth, _, (ray_x, ray_y, metres) = source
    line, ray, voxels, placed = depth[v], ray_y[v], row[3], row[4]
    for u in range(line.size):
        units = np.float64(line[u])
        x = np.floor(np.float64(np.float32(units * ray_x[u])) / size)
        y = np.floor(np.float64(np.float32(units * ray)) / size)
        z = np.floor(np.float64(np.float32(units * metres)) / size)
        good = fits(x) & fits(y) & fits(z)
        placed[u] = good
        voxels[0, u] = np.int32(x if good else 0.0)
        voxels[1, u] = np.int32(y if good else 0.0)
        voxels[2, u] = np.int32(z if good else 0.0)


@kernel
def _look_up_row(row: Row, table: Array, bits: int, coordinates: Array) -> None:
    """Fill the numbers of known voxels that lie at their place of the table.

    One lookup does not wait for another here, as they do where voxels are added.
    """
    voxels, numbers, flat = row[3], row[5], coordinates.reshape(-1)
    for u in range(numbers.size):
        x, y, z = voxels[0, u], voxels[1, u], voxels[2, u]
        number = table[place_of(x, y, z, bits)]
        at = np.uint64(3) * np.uint64(max(number - np.int32(1), np.int32(0)))
        differ = (flat[at] ^ x) | (flat[at + np.uint64(1)] ^ y) | (flat[at + np.uint64(2)] ^ z)
        numbers[u] = number if differ == 0 else np.int32(0)


@kernel
def _room_for_row(width: int) -> Row:
    """What the functions above fill; voxel 0 for all until then."""
    return (
        np.empty(width, np.int32),
        np.empty(width, np.int32),
        np.empty(width, np.float32),
        np.zeros((3, width), np.int32),
        np.ones(width, np.bool_),
        np.zeros(width, np.int32),
    )


@kernel
def fill_nearest(source: Source, pose: Pose, nearest: Array) -> int:
    """Lower each cell of `nearest` to the smallest depth that falls into its pixel (m).

    Around the view's pixels it has a border of one cell. Returns the number of depths that count.
    A row is projected before any of its cells is written, so that the projection is vectorised.
    """
    size, flat = (nearest.shape[1] - 2, nearest.shape[0] - 2), nearest.reshape(-1)
    row, measured = _room_for_row(source[0].shape[1]), 0
    cells, depths = row[0], row[2]
    for v in range(source[0].shape[0]):
        measured += _project_row(source, v, pose, size, row)
        for u in range(cells.size):
            cell = cells[u]
            if cell >= 0 and depths[u] < flat[cell]:
                flat[cell] = depths[u]
    return measured


@kernel
def _nearest_around(nearest: Array, cell: int, width: int) -> np.float32:
    """The smallest depth in 3 x 3 cells of a flat z-buffer."""
    above, below = cell - width, cell + width
    least = min(nearest[above - 1], nearest[above], nearest[above + 1])
    least = min(least, nearest[cell - 1], nearest[cell], nearest[cell + 1])
    return min(least, nearest[below - 1], nearest[below], nearest[below + 1])


@kernel
def _same(flat: Array, row: int, x: int, y: int, z: int) -> bool:
    """Whether a row of flat voxel coordinates is this voxel."""
    at = 3 * row
    return ((flat[at] ^ x) | (flat[at + 1] ^ y) | (flat[at + 2] ^ z)) == 0


@kernel
def _copy_color(image: Array, pixel: int, colors: Array, row: int) -> None:
    """Copy a pixel of a flat image to a row of `colors`."""
    colors[row, 0] = image[pixel, 0]
    colors[row, 1] = image[pixel, 1]
    colors[row, 2] = image[pixel, 2]


@kernel
def _thin_row(
    line: tuple[Array, int],
    row: Row,
    known: tuple[Array, int, int, int],
    view: View,
    doubts: Doubts,
    kept: Kept,
    seen: Seen,
) -> tuple[int, int]:
    """Add a row's pixels to `kept` and `seen`; the numbers that these hold, or pixel and -1.

    `line` holds its depths and first pixel; `known` the table with room for the row, its bits (0:
    no voxels), and the numbers of rows in `kept` and `seen`.
    """
    cells, shown, depths, voxels, placed, numbers = row
    table, bits, count, found = known
    valid, squares, image, nearest, width = view
    margins, factors, motion, hide = doubts
    pixels, units, colors, confidence, coordinates = kept
    flat, every = coordinates.reshape(-1), seen[0].size > 0
    before, slot, mask = -1, np.uint64(0), np.uint64((1 << bits) - 1)
    for u in range(cells.size):
        cell, number = np.int64(cells[u]), np.int64(numbers[u])
        if cell < 0 or (number > 0 and not every):
            continue
        x, y, z = voxels[0, u], voxels[1, u], voxels[2, u]
        if bits > 0 and number == 0:
            if before >= 0 and _same(flat, before, x, y, z):  # as most neighbours are
                number = before + 1
            else:
                slot = place_of(x, y, z, bits)
                while table[slot] != 0 and not _same(flat, table[slot] - 1, x, y, z):
                    slot = (slot + np.uint64(1)) & mask
                number, before = np.int64(table[slot]), np.int64(table[slot]) - 1
            if number > 0 and not every:
                continue
        depth = np.float64(depths[u])
        margin = max(margins[0], margins[1] * depth)
        behind = depth - np.float64(_nearest_around(nearest, cell, width)) if hide else 0.0
        if behind > margin or (valid.size > 0 and not valid[shown[u]]):
            continue
        if not placed[u]:
            return line[1] + u, -1
        if number == 0:
            sure = confidence_of(depth, behind, margin, factors[squares[cell]], motion)
            pixels[count], units[count], confidence[count] = line[1] + u, line[0][u], sure
            _copy_color(image, shown[u], colors, count)
            if every:
                seen[2][count] = found
            if bits > 0:
                at, before = 3 * count, count
                flat[at], flat[at + 1], flat[at + 2] = x, y, z
                table[slot] = count + 1
            count, number = count + 1, count + 1
        if every:
            seen[0][found], seen[1][found] = line[1] + u, number - 1
            found += 1
    return count, found


@kernel
def thin_depth(
    source: Source, size: float, pose: Pose, view: View, doubts: Doubts, kept: Kept, seen: Seen
) -> tuple[int, int]:
    """Keep the first pixel of each voxel that the view sees, row-major, and return their number.

    Voxels are of edge `size` (m); 0 keeps all pixels. Also returned is the number of pixels in
    `seen`; or -1, with the pixel first, where a pixel's voxel does not fit in int32.
    """
    height, width = source[0].shape
    shape = (view[4] - 2, view[3].size // view[4] - 2)
    row, table, bits, count, found = _room_for_row(width), np.zeros(1, np.int32), 0, 0, 0
    if size > 0:
        bits = 11
        while 4 << bits < kept[0].size:  # so that one table does for most images
            bits += 1
    for v in range(height):
        if size > 0:
            _voxel_row(source, v, size, row)
            while 2 * (count + width) > table.size:  # at most half full after this row
                bits += 1
                table = fresh_table(kept[4], count, bits)
            _look_up_row(row, table, bits, kept[4])
        _project_row(source, v, pose, shape, row)
        known, line = (table, bits, count, found), (source[0][v], v * width)
        count, found = _thin_row(line, row, known, view, doubts, kept, seen)
        if found < 0:
            break
    return count, found
