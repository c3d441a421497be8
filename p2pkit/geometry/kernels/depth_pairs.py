"""The compiled inner loops from a depth image to its pairs; `depth_pairs` checks the arguments.

Nothing is kept for each of the image's pixels but the view's z-buffer: points are made again where
they are needed, which costs less than the memory to hold them.
"""

import numpy as np

from p2pkit.geometry.kernels.jit import kernel
from p2pkit.geometry.kernels.occlusion import confidence_of, edge_distance_at
from p2pkit.geometry.kernels.points import fits, fresh_table, project_point, slot_of

Array = np.ndarray
Source = tuple[Array, tuple[int, int], tuple[Array, Array, float]]
"""Depth, the first and last value that counts, and rays as in `back_project_image`."""
Pose = tuple[Array, tuple[float, float, float, float]]
"""Transform to the view, 4 x 4, and the view's fx fy cx cy."""
View = tuple[Array, Array, Array, Array]
"""Z-buffer, gaps of `edge_gaps`, which pixels have an image (no rows: all), and the flat image."""
Doubts = tuple[tuple[float, float], tuple[float, float], tuple[float, float], int, bool]
"""Margins, edge and motion as `confidence_of` takes them, the gaps' limit, and whether points hide
others."""


@kernel
def fill_nearest(source: Source, pose: Pose, nearest: Array) -> int:
    """Lower each pixel of `nearest` to the smallest depth that falls into it (m).

    Returns the number of depths that count. A row is projected before any of its pixels is written,
    so that the projection is vectorised.
    """
    depth, limits, (ray_x, ray_y, metres) = source
    low, high = np.uint16(limits[0]), np.uint16(limits[1])
    matrix, intrinsics = pose
    rows, columns = nearest.shape
    right, bottom = columns - 0.5, rows - 0.5
    width, flat = depth.shape[1], nearest.reshape(-1)
    cells, depths = np.empty(width, np.int32), np.empty(width, np.float32)
    count = 0
    for v in range(depth.shape[0]):
        line, y, measured = depth[v], ray_y[v], np.int32(0)
        for u in range(width):
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
            column = np.int32(np.floor(np.float64(pixel_u) + 0.5) if seen else 0.0)
            row = np.int32(np.floor(np.float64(pixel_v) + 0.5) if seen else 0.0)
            cells[u] = row * np.int32(columns) + column if seen else np.int32(-1)
            depths[u] = depth_m
            measured += np.int32(within)
        count += measured
        for u in range(width):
            cell = cells[u]
            if cell >= 0 and depths[u] < flat[cell]:
                flat[cell] = depths[u]
    return count


@kernel
def _voxel_row(source: Source, v: int, size: float, voxels: Array, placed: Array) -> None:
    """Fill `voxels` [3, width] of one row of pixels; not `placed` where one does not fit int32."""
    depth, _, (ray_x, ray_y, metres) = source
    line, ray = depth[v], ray_y[v]
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
def _nearest_around(nearest: Array, row: int, column: int) -> np.float32:
    """The smallest depth in 3 x 3 pixels."""
    rows, columns = nearest.shape
    least = nearest[row, column]
    for v in range(max(row - 1, 0), min(row + 2, rows)):
        for u in range(max(column - 1, 0), min(column + 2, columns)):
            least = min(least, nearest[v, u])
    return least


@kernel
def _look(
    point: tuple[np.float32, np.float32, np.float32], pose: Pose, view: View, doubts: Doubts
) -> tuple[int, int]:
    """The pixel of the view that shows a point, -1 where none does, and the pair's confidence."""
    nearest, gaps, valid, _ = view
    margins, edge, motion, limit, hide = doubts
    rows, columns = nearest.shape
    u, v, depth_m, usable = project_point(point[0], point[1], point[2], pose[0], pose[1])
    if not (usable & (u >= -0.5) & (u < columns - 0.5) & (v >= -0.5) & (v < rows - 0.5)):
        return -1, 0
    column, row = np.int64(np.floor(np.float64(u) + 0.5)), np.int64(np.floor(np.float64(v) + 0.5))
    depth, behind = np.float64(depth_m), 0.0
    if hide:
        behind = depth - np.float64(_nearest_around(nearest, row, column))
    if behind > max(margins[0], margins[1] * depth):
        return -1, 0
    shown_u = min(max(np.int64(np.rint(u)), 0), columns - 1)
    shown_v = min(max(np.int64(np.rint(v)), 0), rows - 1)
    if valid.shape[0] and not valid[shown_v, shown_u]:
        return -1, 0
    distance = edge_distance_at(gaps, row, column, limit)
    sure = confidence_of(depth, behind, margins, distance, edge, motion)
    return shown_v * columns + shown_u, sure


@kernel
def _same(flat: Array, row: int, voxel: tuple[int, int, int]) -> bool:
    """Whether a row of flat voxel coordinates is this voxel."""
    at = 3 * row
    return ((flat[at] ^ voxel[0]) | (flat[at + 1] ^ voxel[1]) | (flat[at + 2] ^ voxel[2])) == 0


@kernel
def thin_depth(
    source: Source,
    size: float,
    pose: Pose,
    view: View,
    doubts: Doubts,
    kept: tuple[Array, Array, Array, Array, Array],
    seen: tuple[Array, Array, Array],
) -> tuple[int, int]:
    """Keep the first pixel of each voxel that the view sees, row-major, and return their number.

    `size` is the voxels' (m); 0 keeps all pixels. `kept` receives pixel, depth, colour, confidence
    and voxel; `seen`, if it has room, the pixels that the view sees, the row in `kept` of the voxel
    of each, and the row in `seen` of each kept one. Also returned is the number of pixels in
    `seen`; or -1, with the pixel first, where a pixel's voxel does not fit in int32.
    """
    depth, limits, (ray_x, ray_y, metres) = source
    low, high = np.uint16(limits[0]), np.uint16(limits[1])
    width, sized, every = depth.shape[1], size > 0, seen[0].size > 0
    voxels, placed = np.zeros((3, width), np.int32), np.ones(width, np.bool_)
    flat, bits = kept[4].reshape(-1), 12
    table = fresh_table(kept[4], 0, bits)
    count, found, before, slot = 0, 0, -1, np.uint64(0)
    for v in range(depth.shape[0]):
        line = depth[v]
        if sized:
            _voxel_row(source, v, size, voxels, placed)
        for u in range(width):
            if line[u] < low or line[u] > high:
                continue
            known, voxel = 0, (voxels[0, u], voxels[1, u], voxels[2, u])
            if sized and placed[u]:
                if before >= 0 and _same(flat, before, voxel):  # as for most neighbours
                    known = before + 1
                else:
                    slot = slot_of(table, flat, bits, voxel)
                    known = np.int64(table[slot])
                    before = known - 1
                if known > 0 and not every:
                    continue
            units = np.float64(line[u])
            x, y = np.float32(units * ray_x[u]), np.float32(units * ray_y[v])
            shown, sure = _look((x, y, np.float32(units * metres)), pose, view, doubts)
            if shown < 0:
                continue
            if not placed[u]:
                return v * width + u, -1
            if known == 0:
                kept[0][count], kept[1][count], kept[3][count] = v * width + u, line[u], sure
                kept[2][count, 0], kept[2][count, 1] = view[3][shown, 0], view[3][shown, 1]
                kept[2][count, 2] = view[3][shown, 2]
                if every:
                    seen[2][count] = found
                count += 1
                if sized:
                    at, before = 3 * (count - 1), count - 1
                    flat[at], flat[at + 1], flat[at + 2] = voxel
                    table[slot] = count
                    if 2 * count > table.size:
                        bits += 1
                        table = fresh_table(kept[4], count, bits)
                known = count
            if every:
                seen[0][found], seen[1][found] = v * width + u, known - 1
                found += 1
    return count, found
