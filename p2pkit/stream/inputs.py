"""How a student sees a frame: its voxels and their input channels.

Training, evaluation, retrieval and reports all build their inputs here. Which inputs a run has is
decided once, by `chosen_inputs`, and kept in its settings.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64

from p2pkit.datasets.registry import is_kind
from p2pkit.errors import ConfigError
from p2pkit.geometry.students.cylinders import cylinder_centres, cylindrical
from p2pkit.geometry.students.point_inputs import (
    height_above_ground,
    range_from_sensor,
    surface_normals,
    turned_normals,
)
from p2pkit.geometry.voxelize import VoxelDeduplication, voxel_deduplicate
from p2pkit.layers.geometry import PointCloud, ProjectedPixels
from p2pkit.profiling import Lap, no_lap
from p2pkit.settings.stream import AugmentConfig, Axis, Input, SampleConfig
from p2pkit.store.manifest import GEOMETRY
from p2pkit.store.reading import Store
from p2pkit.stream.augmentation import (
    NO_AUGMENTATION,
    augment_colors,
    augment_intensity,
    augment_points,
    drop_points,
    outside_cuboid,
)

CAMERA_UP: Axis = (0.0, -1.0, 0.0)
Z_UP: Axis = (0.0, 0.0, 1.0)
CHANNELS: dict[Input, int] = {
    "color": 3,
    "colored": 1,
    "intensity": 1,
    "height": 1,
    "position": 3,
    "range": 1,
    "normal": 3,
    "ones": 1,
}


def input_channels(config: SampleConfig) -> int:
    """How many input channels the student has; `config` names its inputs.

    Raises:
        ConfigError: the inputs are still to be chosen, see `chosen_inputs`.
    """
    return sum(CHANNELS[name] for name in _named(config))


def _named(config: SampleConfig) -> tuple[Input, ...]:
    if config.inputs is None:
        raise ConfigError(
            "stream.sample.inputs is not set; name the student's inputs, such as color or intensity"
        )
    return config.inputs


def stored_up(store: Store) -> Axis:
    """-y of depth cameras; z of point frames: of LiDARs, fused frames and rooms."""
    return Z_UP if "points" in _geometry_fields(store) else CAMERA_UP


def cloud_up(cloud: PointCloud) -> Axis:
    """As `stored_up`, of one frame."""
    return CAMERA_UP if isinstance(cloud.pixels, ProjectedPixels) else Z_UP


def _geometry_fields(store: Store) -> set[str]:
    return {spec.name for spec in store.layer(GEOMETRY).fields}


def painted(store: Store) -> bool:
    """Whether cameras colour some of the points: those of sweeps."""
    return "points" in _geometry_fields(store) and any(
        is_kind(name, "sweeps") for name in store.manifest.datasets
    )


def available_inputs(store: Store, up_axis: Axis | None = None) -> tuple[Input, ...]:
    """What a student can be fed from a store.

    Args:
        store: with geometry.
        up_axis: the one named in the settings. A depth camera may be tilted, so that up is not
            known without; clouds without a sensor have none of position, range and normals.
    """
    fields, found = _geometry_fields(store), ["color", "colored"]
    found += ["intensity"] if "intensity" in fields else []
    found += ["height"] if "points" in fields or up_axis is not None else []
    if not all(is_kind(name, "points") for name in store.manifest.datasets):
        found += ["position", "range", "normal"]
    return tuple(name for name in CHANNELS if name in (*found, "ones"))


def default_inputs(store: Store) -> tuple[Input, ...]:
    """`color` where every point has one, else `intensity`, else `ones`."""
    if not painted(store):
        return ("color",)
    return ("intensity",) if "intensity" in _geometry_fields(store) else ("ones",)


def chosen_inputs(config: SampleConfig, stores: Sequence[Store]) -> tuple[Input, ...]:
    """The inputs of a training on these stores.

    Raises:
        ConfigError: a store lacks a named input, or none is named and the stores' defaults differ.
    """
    if config.inputs is None:
        defaults = {str(store.root): default_inputs(store) for store in stores}
        if len({*defaults.values()}) > 1:
            found = ", ".join(f"{root}: {', '.join(names)}" for root, names in defaults.items())
            raise ConfigError(
                f"the stores have different default inputs ({found}); name inputs that all of them "
                "have with stream.sample.inputs"
            )
        return default_inputs(stores[0])
    for store in stores:
        check_inputs(config, store)
    names = list(config.inputs)
    if "color" in names and "colored" not in names and any(map(painted, stores)):
        names.insert(names.index("color") + 1, "colored")
    return tuple(names)


def blanked_inputs(config: SampleConfig, blank: Sequence[Input]) -> tuple[Input, ...]:
    """The student's inputs that are 0 where those of `blank` are: `colored` with `color`.

    Raises:
        ConfigError: the student does not have one of them.
    """
    has = _named(config)
    unknown = [name for name in blank if name not in has]
    if unknown:
        raise ConfigError(
            f"blank names {', '.join(unknown)}, which the student does not have; its inputs are "
            f"{', '.join(has)}"
        )
    return tuple(name for name in has if name in blank or (name == "colored" and "color" in blank))


def check_inputs(config: SampleConfig, store: Store, blank: Container[Input] = ()) -> None:
    """Raise ConfigError if a store lacks one of the inputs but `blank`, with those that it has."""
    up_axis = config.augment.up_axis
    has = available_inputs(store, up_axis)
    lacking = [name for name in _named(config) if name not in has and name not in blank]
    if not lacking:
        return
    reason = ""
    if "height" in lacking:
        reason = (
            "; which way is up is not known in frames of a depth camera: name it with "
            "stream.sample.augment.up_axis, or extract with --fuse"
        )
    raise ConfigError(
        f"stream.sample.inputs name {', '.join(lacking)}, which {store.root} lacks; it has "
        f"{', '.join(has)}{reason}"
    )


def described_inputs(config: SampleConfig) -> dict[str, Any]:
    """JSON of what decides a student's voxels and inputs, for exports and protocols."""
    names = list(_named(config))
    found: dict[str, Any] = {"inputs": names, "voxel_size_m": config.voxel_size}
    found["grid"] = config.grid
    if config.grid == "cylindrical":
        found["cylindrical_size"] = list(config.cylindrical_size)
    if "intensity" in names:
        found["intensity_scale"] = config.intensity_scale
    return found


def voxels_text(described: Mapping[str, Any]) -> str:
    """The voxels of `described_inputs` in words."""
    if described["grid"] == "cubic":
        return f"voxels of {100 * described['voxel_size_m']:g} cm"
    radius, angle, height = described["cylindrical_size"]
    return f"cylindrical voxels of {radius:g} m, {angle:g}° and {height:g} m"


@dataclass(frozen=True, eq=False)
class SeenFrame:
    """A frame as the student sees it.

    Args:
        coordinates: integer voxel positions, unique.
        points: x, y, z (m) of each voxel's first point, augmented.
        inputs: channels of that point.
        first: row of that point in the frame's cloud.
        voxel_of_point: voxel of each point of the cloud; -1 of dropped ones.
    """

    coordinates: Int32[np.ndarray, "voxels 3"]
    points: Float32[np.ndarray, "voxels 3"]
    inputs: Float32[np.ndarray, "voxels channels"]
    first: Int64[np.ndarray, " voxels"]
    voxel_of_point: Int64[np.ndarray, " points"]


def see(
    cloud: PointCloud,
    config: SampleConfig,
    random: np.random.Generator,
    *,
    up_axis: Axis,
    blank: Container[Input] = (),
    lap: Lap = no_lap,
) -> SeenFrame:
    """Augment and voxelise a frame and compute its inputs.

    Args:
        cloud: the frame's geometry; its sensor is at the origin.
        config: how; it names the inputs.
        random: source of all random choices.
        up_axis: of the frame, used if `config.augment` names none.
        blank: inputs whose channels are 0, whatever the frame has; see `blanked_inputs`.
        lap: called when the parts `augment` and `voxelise` end.

    Raises:
        ConfigError: the frame has no intensity, but the inputs name it.
    """
    augment = config.augment
    up = up_axis if augment.up_axis is None else augment.up_axis
    kept = drop_points(len(cloud.points), random, augment)
    # `take` copies rows at four times the speed of an index in brackets.
    points = cloud.points if kept is None else cloud.points.take(kept, axis=0)
    moved = augment_points(points, random, augment, up_axis=up)
    kept, points = _without_cuboid(cloud, kept, moved.points, random, augment)
    lap("augment")
    voxels = voxelised(points, config, up)
    first = voxels.keep if kept is None else kept[voxels.keep]
    inputs = _inputs(
        cloud,
        _Moved(points, moved.linear, up),
        first,
        voxels.keep,
        config=config,
        blank=blank,
        random=random,
    )
    lap("voxelise")
    voxel_of_point = voxels.voxel_of_point
    if kept is not None:
        voxel_of_point = np.full(len(cloud.points), -1, dtype=np.int64)
        voxel_of_point[kept] = voxels.voxel_of_point
    places = points.take(voxels.keep, axis=0)
    return SeenFrame(voxels.coordinates, places, inputs, first, voxel_of_point)


@dataclass(frozen=True, eq=False)
class _Moved:
    """Positions after augmentation (m), how directions turned in it, and which way is up."""

    points: Float32[np.ndarray, "kept 3"]
    linear: Float64[np.ndarray, "3 3"]
    up: Axis


def _without_cuboid(
    cloud: PointCloud,
    kept: Int64[np.ndarray, " kept"] | None,
    points: Float32[np.ndarray, "kept 3"],
    random: np.random.Generator,
    augment: AugmentConfig,
) -> tuple[Int64[np.ndarray, " left"] | None, Float32[np.ndarray, "left 3"]]:
    """Rows of the cloud and positions that are left after a box was dropped, if one is."""
    if not augment.drop_cuboids or random.random() >= augment.drop_cuboids or not len(points):
        return kept, points
    rows = np.arange(len(points)) if kept is None else kept
    row_of_point = np.full(len(cloud.points), -1, np.int64)
    row_of_point[rows] = np.arange(len(rows))
    pair_row = row_of_point[cloud.pair_point]
    there = pair_row >= 0
    views = len(cloud.image_sizes)
    outside = outside_cuboid(points, pair_row[there], cloud.pair_view[there], random, views=views)
    return rows[outside], points[outside]


def _inputs(
    cloud: PointCloud,
    moved: _Moved,
    first: Int64[np.ndarray, " voxels"],
    keep: Int64[np.ndarray, " voxels"],
    *,
    config: SampleConfig,
    blank: Container[Input],
    random: np.random.Generator,
) -> Float32[np.ndarray, "voxels channels"]:
    """The channels of the points that voxels keep: rows `first` of the cloud, `keep` of `moved`.

    Height, position and range are those after augmentation. Normals come from the recorded
    positions of the kept points, whose spacing is that of the voxels, and turn with the points.
    """
    names = [name for name in _named(config) if name not in blank]
    made: dict[Input, np.ndarray] = {}
    if "color" in names or "colored" in names:
        colors = augment_colors(cloud.colors.take(first, axis=0), random, config.augment)
        colored = cloud.seen.take(first)
        if colors is None:
            colors, colored = np.zeros((len(first), 3), np.float32), np.zeros(len(first), bool)
        made |= {"color": np.where(colored[:, None], colors, np.float32(0)), "colored": colored}
    if "intensity" in names:
        if cloud.intensity is None:
            raise ConfigError(f"frame {cloud.key} has no intensity, which the inputs name")
        intensity = augment_intensity(cloud.intensity.take(first), random, config.augment)
        made["intensity"] = intensity * np.float32(config.intensity_scale)
    if "height" in names:
        made["height"] = height_above_ground(moved.points, moved.up)[keep]
    if "position" in names:
        made["position"] = moved.points.take(keep, axis=0)
    if "range" in names:
        made["range"] = range_from_sensor(moved.points.take(keep, axis=0))
    if "normal" in names:
        normals = surface_normals(cloud.points.take(first, axis=0))
        made["normal"] = turned_normals(normals, moved.linear)
    if "ones" in names:
        made["ones"] = np.ones(len(first), np.float32)
    columns = [
        made[name] if name in names else np.zeros((len(first), CHANNELS[name]), np.float32)
        for name in _named(config)
    ]
    return np.column_stack(columns).astype(np.float32)


def voxelised(
    points: Float32[np.ndarray, "points 3"], config: SampleConfig, up: Axis
) -> VoxelDeduplication:
    """The voxels of the grid that `config` names; points in the sensor's frame (m)."""
    if config.grid == "cubic":
        return voxel_deduplicate(points, config.voxel_size)
    return voxel_deduplicate(cylindrical(points, config.cylindrical_size, up), 1.0)


def voxel_centres(
    coordinates: Int32[np.ndarray, "voxels 3"], config: SampleConfig, up: Axis
) -> Float32[np.ndarray, "voxels 3"]:
    """Centre of each voxel in the sensor's frame (m)."""
    if config.grid == "cubic":
        return (coordinates.astype(np.float32) + 0.5) * np.float32(config.voxel_size)
    return cylinder_centres(coordinates, config.cylindrical_size, up).astype(np.float32)


def unaugmented(config: SampleConfig) -> SampleConfig:
    """The same voxels and inputs without random changes; the named up axis stays."""
    return replace(config, augment=replace(NO_AUGMENTATION, up_axis=config.augment.up_axis))
