"""The compiled inner loops of p2pkit.geometry; the wrappers check the arguments.

Run-time shape checks leave this file out: numba cannot compile a wrapped function. Every result is
a product or sum written in a fixed order, so it is the same to the bit on any thread and machine.
"""

import numpy as np

from p2pkit.geometry.kernels.jit import kernel

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
    v, first = np.int64(0), np.int64(0)
    for row in range(pixel.size):
        u = np.int64(pixel[row]) - first
        if not 0 <= u < width:  # pixels are stored row by row, so that few need the division
            v, u = divmod(np.int64(pixel[row]), width)
            first = v * width
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
def nearest_colors(image: Array, pixel_uv: Array, colors: Array) -> None:
    """Copy the pixels of a [height, width, 3] image that are nearest to u and v (px)."""
    height, width = image.shape[0], image.shape[1]
    for row in range(pixel_uv.shape[0]):
        u = min(max(np.int64(np.rint(pixel_uv[row, 0])), 0), width - 1)
        v = min(max(np.int64(np.rint(pixel_uv[row, 1])), 0), height - 1)
        colors[row, 0] = image[v, u, 0]
        colors[row, 1] = image[v, u, 1]
        colors[row, 2] = image[v, u, 2]


@kernel
def place_of(x: int, y: int, z: int, bits: int) -> np.uint64:
    """The slot of a table of 2**bits where the search for a voxel begins."""
    mixed = np.uint64(x) * np.uint64(0x9E3779B97F4A7C15)
    mixed += np.uint64(y) * np.uint64(0xBF58476D1CE4E5B9)
    mixed += np.uint64(z) * np.uint64(0x94D049BB133111EB)
    return mixed >> np.uint64(64 - bits)


@kernel
def fresh_table(coordinates: Array, count: int, bits: int) -> Array:
    """A hash table of 2**bits slots: row + 1 of each of the first `count` voxels; 0 is empty."""
    table = np.zeros(1 << bits, np.int32)
    values, mask = coordinates.reshape(-1), np.uint64((1 << bits) - 1)
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    for row in range(count):
        at = three * np.uint64(row)
        slot = place_of(values[at], values[at + one], values[at + two], bits)
        while table[slot] != 0:
            slot = (slot + one) & mask
        table[slot] = row + 1
    return table


@kernel
def first_of_each_voxel(
    points: Array, size: float, keep: Array, voxel_of_point: Array, coordinates: Array
) -> int:
    """Fill `keep` with the first point of each voxel floor(point / size) and return their number.

    -1 if a voxel does not fit in int32. `coordinates` gets the voxels' positions; the hash table is
    open, at most half full, and names rows of it, so that keys are exact and few bytes are touched.
    """
    bits, count = 12, 0
    table, mask = fresh_table(coordinates, 0, bits), np.uint64((1 << bits) - 1)
    floats, values = points.reshape(-1), coordinates.reshape(-1)
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    for point in range(points.shape[0]):
        at = three * np.uint64(point)
        x_low = np.floor(np.float64(floats[at]) / size)
        y_low = np.floor(np.float64(floats[at + one]) / size)
        z_low = np.floor(np.float64(floats[at + two]) / size)
        if not (fits(x_low) & fits(y_low) & fits(z_low)):
            return -1
        x, y, z = np.int32(x_low), np.int32(y_low), np.int32(z_low)
        slot = place_of(x, y, z, bits)
        while table[slot] != 0:
            known = three * np.uint64(table[slot] - 1)
            # One jump for three comparisons.
            differ = (values[known] ^ x) | (values[known + one] ^ y) | (values[known + two] ^ z)
            if differ == 0:
                break
            slot = (slot + one) & mask
        if table[slot] == 0:
            new = three * np.uint64(count)
            values[new], values[new + one], values[new + two] = x, y, z
            keep[count] = point
            count += 1
            table[slot] = count
            voxel_of_point[point] = count - 1
            if 2 * count > table.size:
                bits += 1
                table, mask = fresh_table(coordinates, count, bits), np.uint64((1 << bits) - 1)
        else:
            voxel_of_point[point] = table[slot] - 1
    return count


@kernel
def commonest_labels(
    points: Array, labels: Array, keep: Array, voxel_of_point: Array, found: Array
) -> None:
    """Fill `found` with the commonest label (uint8) of each voxel's points.

    Of labels that are equally common the one whose nearest point is closest to the kept point wins,
    and the kept point's own where it is among them. Only voxels of several labels are counted.
    """
    mixed, others = np.zeros(keep.size, np.bool_), 0
    for voxel in range(keep.size):
        found[voxel] = labels[keep[voxel]]
    for point in range(voxel_of_point.size):
        if labels[point] != found[voxel_of_point[point]]:
            mixed[voxel_of_point[point]] = True
            others += 1
    if others == 0:
        return
    start = np.zeros(keep.size + 1, np.int64)
    for point in range(voxel_of_point.size):
        voxel = voxel_of_point[point]
        start[voxel + 1] += np.int64(mixed[voxel])
    for voxel in range(keep.size):
        start[voxel + 1] += start[voxel]
    members, filled = np.empty(start[-1], np.int64), start[:-1].copy()
    for point in range(voxel_of_point.size):
        voxel = voxel_of_point[point]
        if mixed[voxel]:
            members[filled[voxel]] = point
            filled[voxel] += 1
    count, nearest = np.zeros(256, np.int64), np.full(256, np.inf)
    for voxel in range(keep.size):
        if not mixed[voxel]:
            continue
        first, own = keep[voxel], members[start[voxel] : start[voxel + 1]]
        for point in own:
            label, squared = labels[point], 0.0
            for axis in range(3):
                offset = np.float64(points[point, axis]) - np.float64(points[first, axis])
                squared += offset * offset
            count[label] += 1
            nearest[label] = min(nearest[label], squared)
        best = labels[first]
        for point in own:
            label = labels[point]
            more = count[label] - count[best]
            if more > 0 or (more == 0 and nearest[label] < nearest[best]):
                best = label
        found[voxel] = best
        for point in own:
            count[labels[point]], nearest[labels[point]] = 0, np.inf


@kernel
def fits(index: float) -> bool:
    """Whether a whole number, or NaN, fits in int32."""
    return (index >= -2147483648.0) & (index <= 2147483647.0)


@kernel
def project_point(
    point_x: np.float32,
    point_y: np.float32,
    point_z: np.float32,
    matrix: Array,
    intrinsics: tuple[float, float, float, float],
) -> tuple[np.float32, np.float32, np.float32, np.bool_]:
    """u, v (px) and depth (m) of a point in float64, rounded once, and whether they are usable."""
    fx, fy, cx, cy = intrinsics
    x, y, z = np.float64(point_x), np.float64(point_y), np.float64(point_z)
    camera_x = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] * z + matrix[0, 3]
    camera_y = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] * z + matrix[1, 3]
    camera_z = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] * z + matrix[2, 3]
    depth = np.float32(camera_z)
    in_front = depth > 0.0
    inverse = 1.0 / (camera_z if in_front else 1.0)
    u = np.float32(fx * camera_x * inverse + cx)
    v = np.float32(fy * camera_y * inverse + cy)
    return u, v, depth, in_front & (abs(u) < 1e9) & (abs(v) < 1e9)


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
    right, bottom = size[0] - 0.5, size[1] - 0.5
    for row in range(points.shape[0]):
        u, v, depth, usable = project_point(
            points[row, 0], points[row, 1], points[row, 2], matrix, intrinsics
        )
        pixel_uv[row, 0] = u if usable else np.float32(0.0)
        pixel_uv[row, 1] = v if usable else np.float32(0.0)
        depth_m[row] = depth
        visible[row] = usable & (u >= -0.5) & (u < right) & (v >= -0.5) & (v < bottom)


@kernel
def project_visible(
    points: Array,
    pose: tuple[Array, tuple[float, float, float, float]],
    size: tuple[int, int],
    rows: Array,
    pixel_uv: Array,
    depth_m: Array,
) -> int:
    """As `project_points`, of the visible points alone: their rows, pixels, depths and number."""
    matrix, intrinsics = pose
    right, bottom, count = size[0] - 0.5, size[1] - 0.5, 0
    for row in range(points.shape[0]):
        u, v, depth, usable = project_point(
            points[row, 0], points[row, 1], points[row, 2], matrix, intrinsics
        )
        rows[count], depth_m[count] = row, depth
        pixel_uv[count, 0], pixel_uv[count, 1] = u, v
        count += int(usable & (u >= -0.5) & (u < right) & (v >= -0.5) & (v < bottom))
    return count


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
