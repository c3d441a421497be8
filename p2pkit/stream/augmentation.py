"""Random changes to a frame's points and inputs at training time; rows keep their order.

Every function is a pure function of its arguments and of the generator's state, so a seeded order
of frames gives the same training batches again.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt8

from p2pkit.errors import GeometryError
from p2pkit.geometry.checks import check_array
from p2pkit.settings.stream import AugmentConfig, Axis, check_up_axis
from p2pkit.stream import augmentation_kernels as augment_kernels

NODES_PER_AXIS = 64
"""Largest noise grid of elastic distortion: 64³ nodes, 3 MB; it repeats beyond that."""


NO_AUGMENTATION = AugmentConfig(rotation_deg=0.0, tilt_deg=0.0, scale=(1.0, 1.0), elastic=())
"""Every change turned off."""


class MovedPoints(NamedTuple):
    """Points after augmentation, and how directions turn with them.

    Fields:
        points: x, y, z (m).
        linear: scale times rotation times mirror, for column vectors.
    """

    points: Float32[np.ndarray, "points 3"]
    linear: Float64[np.ndarray, "3 3"]


def augment_points(
    points: Float32[np.ndarray, "points 3"],
    rng: np.random.Generator,
    config: AugmentConfig,
    *,
    up_axis: Axis = (0.0, -1.0, 0.0),
) -> MovedPoints:
    """Elastic distortion, then one rotation, scale and flip about the origin, then jitter.

    Args:
        points: x, y, z (m); not changed.
        rng: source of all randomness.
        config: what to do.
        up_axis: of this recording, where `config.up_axis` names none.

    Raises:
        GeometryError: a coordinate is NaN or infinite.
        ConfigError: `up_axis` is not a unit vector.
    """
    check_array("points", points, (np.float32,), (None, 3))
    if not np.isfinite(points).all():
        row = int(np.argmin(np.isfinite(points).all(axis=1)))
        raise GeometryError(f"point {row} is {points[row].tolist()} m; expected finite coordinates")
    moved = points.astype(np.float64)
    for granularity, magnitude in config.elastic:
        _distort(moved, rng, granularity, magnitude)
    up = up_axis if config.up_axis is None else config.up_axis
    check_up_axis(up)
    matrix, turned = random_linear_map(rng, config, up), np.empty_like(points)
    if not config.jitter_m:
        augment_kernels.apply_linear_map(moved, matrix, turned)
        return MovedPoints(turned, matrix)
    augment_kernels.apply_linear_map(moved, matrix, moved)
    moved += config.jitter_m * rng.standard_normal(moved.shape, np.float32)
    return MovedPoints(moved.astype(np.float32), matrix)


def random_linear_map(
    rng: np.random.Generator, config: AugmentConfig, up: Axis
) -> Float64[np.ndarray, "3 3"]:
    """Scale times tilt times rotation about `up` times flips, to be applied to column vectors."""
    rotation, tilt, direction = np.radians(
        rng.uniform(-1, 1, 3) * (config.rotation_deg, config.tilt_deg, 180.0)
    )
    scale = rng.uniform(*config.scale)
    flip_x = rng.random() < config.flip_x
    flip_y = config.flip_y > 0 and rng.random() < config.flip_y
    up_vector = np.array(up, np.float64)
    side = np.eye(3)[np.argmin(np.abs(up_vector))]
    side -= (side @ up_vector) * up_vector
    side /= np.linalg.norm(side)
    tilt_axis = _rotation(up_vector, direction) @ side
    mirror = np.eye(3) - (2.0 if flip_x else 0.0) * np.outer(side, side)
    other = np.cross(up_vector, side)
    mirror -= (2.0 if flip_y else 0.0) * np.outer(other, other)
    return scale * _rotation(tilt_axis, tilt) @ _rotation(up_vector, rotation) @ mirror


def drop_points(
    count: int, rng: np.random.Generator, config: AugmentConfig
) -> Int64[np.ndarray, " points"] | None:
    """Indexes, ascending, of the points to keep: floor(count · drop_fraction) are left out.

    None keeps all. One point is kept at least, if there is any. The caller indexes everything that
    has a row per point and renumbers its links.
    """
    if not config.drop_fraction:
        return None
    kept = max(count - int(count * config.drop_fraction), min(count, 1))
    return np.sort(rng.permutation(count)[:kept])


FEWEST_PAIRS = 1024
"""SLidR drops no box that would leave an image fewer pairs than this."""
LARGEST_BOX = 0.2
"""Width of the largest dropped box, as a share of the cloud's along each axis."""


def outside_cuboid(
    points: Float32[np.ndarray, "points 3"],
    pair_point: Int64[np.ndarray, " pairs"],
    pair_view: UInt8[np.ndarray, " pairs"],
    rng: np.random.Generator,
    *,
    views: int,
) -> Bool[np.ndarray, " points"]:
    """Which points are outside a random box around one of them; all if a view would lose too many.

    The box's width is the same share of the cloud's along each axis, uniform in 0 to 0.2. Source:
    SLidR's `DropCuboids` (Sautier et al. 2022).

    Args:
        points: x, y, z (m), at least one.
        pair_point: row in `points` of each pair.
        pair_view: view of each pair.
        rng: source of all randomness.
        views: how many images there are; each must keep 1024 pairs.
    """
    size = points.max(axis=0) - points.min(axis=0)
    half = size * np.float32(rng.uniform(0, LARGEST_BOX) / 2)
    centre = points[rng.integers(len(points))]
    outside = ~((points > centre - half) & (points < centre + half)).all(axis=1)
    left = np.bincount(pair_view[outside[pair_point]], minlength=views)
    return outside if (left >= FEWEST_PAIRS).all() else np.ones(len(points), bool)


def augment_colors(
    colors: Float32[np.ndarray, "points 3"] | UInt8[np.ndarray, "points 3"],
    rng: np.random.Generator,
    config: AugmentConfig,
) -> Float32[np.ndarray, "points 3"] | None:
    """Colours for the network, in [-1, 1], jittered; one draw for the whole frame.

    Args:
        colors: float32 in [-1, 1], or uint8, which is mapped to it (0 to -1, 255 to 1).
        rng: source of all randomness.
        config: what to do.

    Returns:
        The colours; None where the frame loses them.
    """
    check_array("colors", colors, (np.float32, np.uint8), (None, 3))
    if colors.dtype == np.uint8:
        colors = colors / np.float32(127.5) - np.float32(1.0)
    contrast, *shift = config.color_jitter * rng.uniform(-1, 1, 4)
    if rng.random() < config.drop_color:
        return None
    if not config.color_jitter:
        return colors.copy()
    jittered = colors * np.float32(1.0 + contrast) + np.array(shift, np.float32)
    return np.clip(jittered, -1.0, 1.0)


def augment_intensity(
    intensity: Float32[np.ndarray, " points"], rng: np.random.Generator, config: AugmentConfig
) -> Float32[np.ndarray, " points"]:
    """Intensities, 0 to 1, times one factor for the whole frame, plus noise on each; clipped."""
    changed = intensity
    if config.intensity_gain:
        changed = changed * np.float32(1 + config.intensity_gain * rng.uniform(-1, 1))
    if config.intensity_jitter:
        noise = rng.standard_normal(len(intensity), np.float32)
        changed = changed + np.float32(config.intensity_jitter) * noise
    return np.clip(changed, 0, 1)


def _distort(
    points: Float64[np.ndarray, "points 3"],
    rng: np.random.Generator,
    granularity: float,
    magnitude: float,
) -> None:
    """Add smoothed Gaussian noise on a grid of `granularity`, in place.

    As in the field (Choy et al. 2019): each node is N(0, 1), blurred twice by three nodes along
    each axis, so sigma at a node is about 0.11 · magnitude. The grid repeats; four spare nodes keep
    its two ends apart under the blur.
    """
    if not len(points):
        return
    origin, end = augment_kernels.bounds(points)
    needed = (end - origin) / granularity + 6
    nodes = np.minimum(needed, NODES_PER_AXIS).astype(np.int64)
    field = _blurred(rng.standard_normal((*nodes, 3), np.float32))
    # In float64 the kernel converts nothing at each of a point's eight nodes.
    augment_kernels.add_noise_field(
        points, origin, float(granularity), field.astype(np.float64), float(magnitude)
    )


def _blurred(field: Float32[np.ndarray, "x y z 3"]) -> Float32[np.ndarray, "x y z 3"]:
    """Twice the mean over three nodes along each axis, on a ring; the field's memory is reused."""
    source, target = field, np.empty_like(field)
    for axis in (0, 1, 2):
        before, nodes, after = field.shape[:axis], field.shape[axis], field.shape[axis + 1 :]
        shape = (math.prod(before), nodes, math.prod(after))
        for _ in range(2):
            augment_kernels.blur_three(source.reshape(shape), target.reshape(shape))
            source, target = target, source
    return source


def _rotation(axis: Float64[np.ndarray, "3"], angle: float) -> Float64[np.ndarray, "3 3"]:
    """Rotation by `angle` (radians) about a unit vector: Rodrigues' formula."""
    x, y, z = axis
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross
