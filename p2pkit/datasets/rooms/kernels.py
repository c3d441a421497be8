"""Ray casting of parallelograms and spheres with texture, shading and shadows. See `render`."""

import math

import numpy as np

from p2pkit.geometry.kernels.jit import kernel

Array = np.ndarray
# What rays are tested against: groups, group_ends, surfaces, is_sphere (see demo_shapes.Scene).
Hits = tuple[Array, Array, Array, Array]
# (fx, fy, cx, cy), world_from_camera, position of the lamp.
View = tuple[tuple[float, float, float, float], Array, Array]
FAR = 1e30
NOTHING = -1
# Rows of `surfaces`: parallelograms hold origin, unit normal and the two vectors that give (s, t);
# spheres hold centre, unused normal, radius.
ORIGIN, NORMAL, DUAL_A, DUAL_B, RADIUS = 0, 3, 6, 9, 6
# Rows of `materials`: texture, s and t offset and span (in images), texels per metre, tint.
TEXTURE, OFFSET_S, SPAN_S, OFFSET_T, SPAN_T, DENSITY, TINT = 0, 1, 2, 3, 4, 5, 6
AMBIENT, DIFFUSE = 0.62, 0.55


@kernel
def hit_sphere(surface: Array, eye: Array, ray: Array) -> float:
    """Distance along the unit vector `ray` to where it enters a sphere, or FAR."""
    along = 0.0
    square = 0.0
    for axis in range(3):
        to_centre = surface[axis] - eye[axis]
        along += to_centre * ray[axis]
        square += to_centre * to_centre
    inside = surface[RADIUS] * surface[RADIUS] - (square - along * along)
    if inside < 0.0:
        return FAR
    distance = along - math.sqrt(inside)
    return distance if distance > 1e-4 else FAR


@kernel
def hit_parallelogram(surface: Array, eye: Array, ray: Array) -> tuple[float, float, float]:
    """Distance along the unit vector `ray` to a parallelogram and (s, t) there, or FAR."""
    facing = 0.0
    height = 0.0
    for axis in range(3):
        facing += surface[NORMAL + axis] * ray[axis]
        height += surface[NORMAL + axis] * (surface[ORIGIN + axis] - eye[axis])
    if abs(facing) < 1e-12:
        return FAR, 0.0, 0.0
    distance = height / facing
    if distance < 1e-4:
        return FAR, 0.0, 0.0
    s = 0.0
    t = 0.0
    for axis in range(3):
        offset = eye[axis] + distance * ray[axis] - surface[ORIGIN + axis]
        s += offset * surface[DUAL_A + axis]
        t += offset * surface[DUAL_B + axis]
    if s < 0.0 or s > 1.0 or t < 0.0 or t > 1.0:
        return FAR, 0.0, 0.0
    return distance, s, t


@kernel
def first_hit(scene: Hits, eye: Array, ray: Array, limit: float) -> tuple[int, float, float, float]:
    """Nearest surface closer than `limit`: its index (or NOTHING), distance and (s, t)."""
    groups, group_ends, surfaces, is_sphere = scene
    best, nearest, best_s, best_t = NOTHING, limit, 0.0, 0.0
    start = 0
    for group in range(groups.shape[0]):
        end = group_ends[group]
        along = 0.0
        square = 0.0
        for axis in range(3):
            to_centre = groups[group, axis] - eye[axis]
            along += to_centre * ray[axis]
            square += to_centre * to_centre
        radius = groups[group, 3]
        misses = square - along * along > radius * radius
        if not (misses or along + radius < 0.0 or along - radius > nearest):
            for index in range(start, end):
                s, t = 0.0, 0.0
                if is_sphere[index]:
                    distance = hit_sphere(surfaces[index], eye, ray)
                else:
                    distance, s, t = hit_parallelogram(surfaces[index], eye, ray)
                if distance < nearest:
                    best, nearest, best_s, best_t = index, distance, s, t
        start = end
    return best, nearest, best_s, best_t


@kernel
def sphere_st(normal: Array) -> tuple[float, float]:
    """Longitude and latitude of a direction, both in 0 to 1, latitude from the top (+z) down."""
    s = 0.5 + math.atan2(normal[1], normal[0]) / (2.0 * math.pi)
    return s, math.acos(min(1.0, max(-1.0, normal[2]))) / math.pi


@kernel
def mirrored(value: float) -> float:
    """Fold the number line into 0 to 1, so that a repeated image has no seam."""
    value = value - 2.0 * math.floor(0.5 * value)
    return 2.0 - value if value > 1.0 else value


@kernel
def sample_texture(texels: Array, level: Array, s: float, t: float, color: Array) -> None:
    """Bilinear colour of one mip level at (s, t) into `color` (0 to 255)."""
    start, width, height = level
    x = mirrored(s) * (width - 1)
    y = mirrored(t) * (height - 1)
    left = min(int(x), max(width - 2, 0))
    top = min(int(y), max(height - 2, 0))
    right = min(left + 1, width - 1)
    below = min(top + 1, height - 1)
    fx, fy = x - left, y - top
    for channel in range(3):
        upper = texels[start + top * width + left, channel] * (1.0 - fx)
        upper += texels[start + top * width + right, channel] * fx
        lower = texels[start + below * width + left, channel] * (1.0 - fx)
        lower += texels[start + below * width + right, channel] * fx
        color[channel] = upper * (1.0 - fy) + lower * fy


@kernel
def lamp_brightness(scene: Hits, point: Array, normal: Array, light: Array) -> float:
    """Brightness of a surface whose `normal` faces the viewer; a shadow keeps a quarter."""
    to_light = light - point
    distance = math.sqrt((to_light * to_light).sum())
    to_light /= distance
    lit = (normal * to_light).sum()
    if lit <= 0.0:
        return AMBIENT
    blocker, _, _, _ = first_hit(scene, point + 1e-3 * to_light, to_light, distance - 0.01)
    return AMBIENT + DIFFUSE * (lit if blocker == NOTHING else 0.25 * lit)


@kernel
def surface_color(
    material: Array, textures: tuple[Array, Array], st: tuple[float, float], footprint: float
) -> tuple[float, float, float]:
    """Tinted colour of a material at (s, t) where one pixel covers `footprint` m of the surface."""
    texels, levels = textures
    texel = np.empty(3)
    covered = material[DENSITY] * footprint
    level = min(levels.shape[1] - 1, int(max(0.0, math.log2(covered + 1e-9) + 0.5)))
    s = material[OFFSET_S] + st[0] * material[SPAN_S]
    t = material[OFFSET_T] + st[1] * material[SPAN_T]
    sample_texture(texels, levels[int(material[TEXTURE]), level], s, t, texel)
    return (
        texel[0] * material[TINT],
        texel[1] * material[TINT + 1],
        texel[2] * material[TINT + 2],
    )


@kernel
def look_along(view: View, u: int, v: int, ray: Array) -> float:
    """Write the unit vector through a pixel's centre to `ray`; return 1 / its part along z."""
    (fx, fy, cx, cy), world_from_camera, _ = view
    x, y = (u - cx) / fx, (v - cy) / fy
    length = math.sqrt(x * x + y * y + 1.0)
    for axis in range(3):
        row = world_from_camera[axis]
        ray[axis] = (row[0] * x + row[1] * y + row[2]) / length
    return length


@kernel
def render(
    scene: Hits,
    looks: tuple[Array, Array, Array, Array],
    view: View,
    outputs: tuple[Array, Array, Array, Array],
) -> None:
    """Cast one ray per pixel and fill the outputs; pixels that hit nothing keep their zeros.

    `looks` is (materials, classes, texels, levels); `outputs` is (color, depth in m, labels, |cos|
    of incidence), all [height, width].
    """
    _, _, surfaces, is_sphere = scene
    materials, classes, texels, levels = looks
    intrinsics, world_from_camera, light = view
    color, depth, labels, facing = outputs
    eye, ray = world_from_camera[:3, 3].copy(), np.empty(3)
    for v in range(depth.shape[0]):
        for u in range(depth.shape[1]):
            length = look_along(view, u, v, ray)
            index, distance, s, t = first_hit(scene, eye, ray, FAR)
            if index == NOTHING:
                continue
            point = eye + distance * ray
            if is_sphere[index]:
                normal = (point - surfaces[index, :3]) / surfaces[index, RADIUS]
                s, t = sphere_st(normal)
            else:
                normal = surfaces[index, NORMAL : NORMAL + 3].copy()
            cosine = -(normal * ray).sum()
            if cosine < 0.0:
                normal, cosine = -normal, -cosine
            footprint = distance / (intrinsics[0] * max(cosine, 0.2))
            rgb = surface_color(materials[index], (texels, levels), (s, t), footprint)
            brightness = lamp_brightness(scene, point, normal, light)
            for channel in range(3):
                color[v, u, channel] = min(255, int(rgb[channel] * brightness + 0.5))
            depth[v, u] = distance / length
            labels[v, u] = classes[index]
            facing[v, u] = cosine
