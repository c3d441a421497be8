"""The compiled inner loops of p2pkit.geometry; the wrappers check the arguments.

Run-time shape checks leave this file out: numba cannot compile a wrapped function. Every result is
a product or sum written in a fixed order, so it is the same to the bit on any thread and machine.
"""

import numpy as np

from p2pkit.geometry.jit import kernel

Array = np.ndarray


@kernel
def count_between(depth: Array, limits: tuple[int, int]) -> np.int64:
    """How many pixels of a uint16 image lie in [low, high]; narrow types let rows be vectorised."""
    low, high = np.uint16(limits[0]), np.uint16(limits[1])
    count = np.int64(0)
    for v in range(depth.shape[0]):
        in_line = np.int32(0)
        for u in range(depth.shape[1]):
            value = depth[v, u]
            in_line += np.int32((value >= low) & (value <= high))
        count += in_line
    return count


@kernel
def back_project_image(
    depth: Array,
    limits: tuple[int, int],
    rays: tuple[Array, Array, float],
    points: Array,
    pixel: Array,
) -> None:
    """Fill `points` and `pixel`, which have one row per depth in [low, high], row-major.

    `limits` is (low, high). `rays` holds (u - cx) / fx for each column and (v - cy) / fy for each
    row, both times the size of one unit, and that size (m). Unsigned indexes spare the check for
    negative ones in the inner loop.
    """
    low, high = np.uint16(limits[0]), np.uint16(limits[1])
    ray_x, ray_y, metres = rays
    values = points.reshape(-1)
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    row = np.uint64(0)
    for v in range(depth.shape[0]):
        line, y, first = depth[v], ray_y[v], v * depth.shape[1]
        for u in range(depth.shape[1]):
            value = line[u]
            if low <= value <= high:
                units = np.float64(value)
                values[three * row] = np.float32(units * ray_x[u])
                values[three * row + one] = np.float32(units * y)
                values[three * row + two] = np.float32(units * metres)
                pixel[row] = np.uint32(first + u)
                row += one


@kernel
def back_project_list(
    depth: Array, pixel: Array, width: int, rays: tuple[Array, Array, float], points: Array
) -> None:
    """As `back_project_image`, for the given pixels and their depths."""
    ray_x, ray_y, metres = rays
    for row in range(pixel.size):
        v, u = divmod(np.int64(pixel[row]), width)
        units = np.float64(depth[row])
        points[row, 0] = np.float32(units * ray_x[u])
        points[row, 1] = np.float32(units * ray_y[v])
        points[row, 2] = np.float32(units * metres)


@kernel
def gather_colors(image: Array, pixel: Array, colors: Array) -> None:
    """Copy the pixels of a flat [pixels, 3] image; indexes are not checked."""
    for row in range(pixel.size):
        source = np.int64(pixel[row])
        colors[row, 0] = image[source, 0]
        colors[row, 1] = image[source, 1]
        colors[row, 2] = image[source, 2]


@kernel
def floor_divide(values: Array, size: float, indexes: Array) -> bool:
    """Fill int32 `indexes` with floor(values / size); False if one is NaN or leaves int32."""
    good = True
    for i in range(values.size):
        index = np.floor(np.float64(values[i]) / size)
        inside = (index >= -2147483648.0) & (index <= 2147483647.0)
        good &= inside
        indexes[i] = np.int32(index) if inside else 0
    return good


@kernel
def _slot(table: Array, first: int, second: int, mask: int) -> np.int64:
    """The slot of a voxel in the table, or the empty one where it belongs."""
    mixed = (np.uint64(first) * np.uint64(0x9E3779B97F4A7C15)) ^ np.uint64(second)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    slot = np.int64((mixed ^ (mixed >> np.uint64(32))) & np.uint64(mask))
    while table[slot, 1] & 0xFFFFFFFF != 0 and (
        table[slot, 0] != first or (table[slot, 1] & ~0xFFFFFFFF) != second
    ):
        slot = (slot + 1) & mask
    return slot


@kernel
def _grown(table: Array) -> Array:
    """A table of twice the slots with the same entries."""
    larger = np.zeros((2 * table.shape[0], 2), np.int64)
    mask = larger.shape[0] - 1
    for entry in table:
        if entry[1] & 0xFFFFFFFF != 0:
            slot = _slot(larger, entry[0], entry[1] & ~0xFFFFFFFF, mask)
            larger[slot, 0] = entry[0]
            larger[slot, 1] = entry[1]
    return larger


@kernel
def first_of_each_voxel(voxels: Array, keep: Array, voxel_of_point: Array) -> int:
    """Fill `keep` with the first point of each voxel and return how many there are.

    The hash table is open, at most half full, and holds 16 bytes a slot: x and y, then z and
    row + 1 (0 is empty), so that keys are exact and one probe touches one cache line.
    """
    table = np.zeros((4096, 2), np.int64)
    count, last = 0, 0
    for point in range(voxels.shape[0]):
        x, y, z = voxels[point]
        if point > 0 and (
            x == voxels[point - 1, 0] and y == voxels[point - 1, 1] and z == voxels[point - 1, 2]
        ):
            voxel_of_point[point] = last
            continue
        first = (np.int64(x) << 32) | (np.int64(y) & 0xFFFFFFFF)
        second = np.int64(z) << 32
        slot = _slot(table, first, second, table.shape[0] - 1)
        found = table[slot, 1] & 0xFFFFFFFF
        if found == 0:
            keep[count] = point
            count += 1
            found = count
            table[slot, 0] = first
            table[slot, 1] = second | found
            if 2 * count > table.shape[0]:
                table = _grown(table)
        last = found - 1
        voxel_of_point[point] = last
    return count


@kernel
def project_points(
    points: Array,
    matrix: Array,
    intrinsics: tuple[float, float, float, float],
    size: tuple[int, int],
    pixel_uv: Array,
    depth_m: Array,
    visible: Array,
) -> None:
    """Fill pixel, depth and visibility of each point; `matrix` is 4 x 4, `intrinsics` fx fy cx cy.

    Visibility is decided on the rounded float32 results, so that it holds for what is returned.
    """
    fx, fy, cx, cy = intrinsics
    right, bottom = size[0] - 0.5, size[1] - 0.5
    for row in range(points.shape[0]):
        x = np.float64(points[row, 0])
        y = np.float64(points[row, 1])
        z = np.float64(points[row, 2])
        camera_x = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] * z + matrix[0, 3]
        camera_y = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] * z + matrix[1, 3]
        camera_z = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] * z + matrix[2, 3]
        depth = np.float32(camera_z)
        in_front = depth > 0.0
        inverse = 1.0 / (camera_z if in_front else 1.0)
        u = np.float32(fx * camera_x * inverse + cx)
        v = np.float32(fy * camera_y * inverse + cy)
        usable = in_front & (abs(u) < 1e9) & (abs(v) < 1e9)
        pixel_uv[row, 0] = u if usable else np.float32(0.0)
        pixel_uv[row, 1] = v if usable else np.float32(0.0)
        depth_m[row] = depth
        visible[row] = usable & (u >= -0.5) & (u < right) & (v >= -0.5) & (v < bottom)


@kernel
def nearest_depth(
    pixel_uv: Array, depth_m: Array, visible: Array, downscale: int, nearest: Array, cells: Array
) -> bool:
    """Lower each cell of `nearest` to the smallest depth in it; False if a point lies outside.

    `cells` receives the row-major cell of each visible point and -1 for the others.
    """
    rows, columns = nearest.shape
    for point in range(depth_m.size):
        cells[point] = -1
        if visible[point]:
            column = np.int64(np.floor((np.float64(pixel_uv[point, 0]) + 0.5) / downscale))
            row = np.int64(np.floor((np.float64(pixel_uv[point, 1]) + 0.5) / downscale))
            if not (0 <= column < columns and 0 <= row < rows):
                return False
            cells[point] = row * columns + column
            nearest[row, column] = min(nearest[row, column], depth_m[point])
    return True


@kernel
def spread_minimum(nearest: Array, radius: int) -> Array:
    """Minimum over (2 radius + 1)² cells, one axis after the other: what splatting each gives."""
    rows, columns = nearest.shape
    across = nearest.copy()
    for row in range(rows):
        for shift in range(1, min(radius, columns - 1) + 1):
            for column in range(columns - shift):
                across[row, column] = min(across[row, column], nearest[row, column + shift])
            for column in range(columns - shift):
                across[row, column + shift] = min(across[row, column + shift], nearest[row, column])
    both = across.copy()
    for row in range(rows):
        for other in range(max(0, row - radius), min(rows, row + radius + 1)):
            for column in range(columns):
                both[row, column] = min(both[row, column], across[other, column])
    return both


@kernel
def within_margin(
    cells: Array, depth_m: Array, nearest: Array, margins: tuple[float, float], kept: Array
) -> None:
    """Fill `kept`: in a cell, and at most max(metres, fraction of the depth) behind its nearest."""
    metres, fraction = margins
    for point in range(cells.size):
        kept[point] = False
        if cells[point] >= 0:
            depth = np.float64(depth_m[point])
            kept[point] = depth - nearest[cells[point]] <= max(metres, fraction * depth)


@kernel
def sample_bilinear(rows: Array, width: int, height: int, cell_uv: Array, sampled: Array) -> None:
    """Fill `sampled` with the bilinear mix of four rows of a flat [cells, channels] float32 map."""
    for pair in range(cell_uv.shape[0]):
        u = min(max(np.float64(cell_uv[pair, 0]), 0.0), width - 1.0)
        v = min(max(np.float64(cell_uv[pair, 1]), 0.0), height - 1.0)
        left, top = int(u), int(v)
        right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
        fraction_u, fraction_v = u - left, v - top
        weight_a = np.float32((1.0 - fraction_u) * (1.0 - fraction_v))
        weight_b = np.float32(fraction_u * (1.0 - fraction_v))
        weight_c = np.float32((1.0 - fraction_u) * fraction_v)
        weight_d = np.float32(fraction_u * fraction_v)
        a, b = rows[top * width + left], rows[top * width + right]
        c, d = rows[bottom * width + left], rows[bottom * width + right]
        target = sampled[pair]
        for channel in range(target.size):
            target[channel] = (weight_a * a[channel] + weight_b * b[channel]) + (
                weight_c * c[channel] + weight_d * d[channel]
            )
