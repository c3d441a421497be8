"""The geometry layer: how a frame's points, colours and pairs are written and read back.

RGB-D frames store the depth value and the pixel of each kept point, from which the points are
rebuilt to the bit; every point has a colour, and pair i is point i at its projection in view 0.
Point frames (LiDAR) store the points and explicit pairs into any number of views, also into none:
coloured, labelled points for evaluation.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt8, UInt32

from p2pkit.datasets.frame import DepthImage, Frame, View
from p2pkit.datasets.plausible import motion_m
from p2pkit.errors import FrameError
from p2pkit.geometry import KERNEL_VERSION
from p2pkit.geometry.backproject import back_project_pixels
from p2pkit.geometry.camera import Camera, camera_from_json
from p2pkit.geometry.confidence import Margins, Visibility, line_spacing_px, visibility
from p2pkit.geometry.depth_pairs import ColorView, Thinning, blocker_reach, pair_depth
from p2pkit.geometry.project import (
    Projection,
    nearest_colors,
    nearest_pixels,
    project,
    project_visible,
)
from p2pkit.geometry.voxelize import VoxelDeduplication, majority_labels, voxel_deduplicate
from p2pkit.layers.digests import DIGEST, INPUTS, input_digests, with_inputs
from p2pkit.settings.layers import GeometryConfig
from p2pkit.store.manifest import GEOMETRY, FieldSpec, LayerSpec, Plan, Sample


def own_colors(
    frame: Frame, keep: Int64[np.ndarray, " kept"]
) -> tuple[UInt8[np.ndarray, "kept 3"], Bool[np.ndarray, " kept"]]:
    """The recording's own colours of the kept points, 0 without, and which have one.

    Raises:
        FrameError: the frame has neither colours nor a view that could give them.
    """
    if frame.colors is not None:
        return frame.colors[keep], np.ones(len(keep), dtype=bool)
    if not frame.views:
        raise FrameError(frame.key, "it has neither views nor colours of its points; add either")
    return np.zeros((len(keep), 3), dtype=np.uint8), np.zeros(len(keep), dtype=bool)


def rows_with_image(
    view: View, pixel_uv: Float32[np.ndarray, "points 2"], rows: Int64[np.ndarray, " rows"]
) -> Int64[np.ndarray, " kept"]:
    """The rows whose nearest pixel holds an image; undistortion leaves some without."""
    if view.valid is None:
        return rows
    u, v = nearest_pixels(pixel_uv.take(rows, axis=0), view.camera.width, view.camera.height)
    return rows[view.valid[v, u]]


def colors_at(
    view: View, pixel_uv: Float32[np.ndarray, "points 2"]
) -> UInt8[np.ndarray, "points 3"]:
    """Colour of the nearest pixel."""
    return nearest_colors(view.image, pixel_uv)


@dataclass(frozen=True, eq=False)
class ProjectedPixels:
    """Pixels of a depth frame's pairs, where pair i is point i; projected on demand.

    A training sample needs some hundreds of tens of thousands.

    Args:
        points: in the sensor's frame (m).
        camera: of the view.
        camera_from_sensor: from the points' frame to the camera's.
    """

    points: Float32[np.ndarray, "points 3"]
    camera: Camera
    camera_from_sensor: Float64[np.ndarray, "4 4"]

    def __getitem__(
        self, rows: Int64[np.ndarray, " rows"] | Bool[np.ndarray, " pairs"] | slice
    ) -> Float32[np.ndarray, "rows 2"]:
        return project(self.points[rows], self.camera, self.camera_from_sensor).pixel_uv


@dataclass(frozen=True)
class PointCloud:
    """A frame's geometry as read from a shard.

    Args:
        key: the frame's key.
        sequence: the recording or scene that it belongs to.
        points: in the sensor's frame (m).
        colors: RGB of each point: the recording's, else the views', 0 where none sees it.
        labels: class of each point, the commonest in its voxel of the extraction; or None.
        pair_point: row in `points` of each pair.
        pair_view: view of each pair.
        pixels: what gives the pixels of chosen pairs, `pixels[rows]`, each in its pair's view (px,
            centres at integers).
        image_sizes: (width, height) of each view (px).
        intensity: strength of each point's return, 0 to 1, or None.
        pair_confidence: 0 … 255 for doubtful … sure; None in stores that were written without it.
        fields: the arrays as stored, by name, of what `POINT_FIELDS` and `PAIR_FIELDS` declare.
    """

    key: str
    sequence: str
    points: Float32[np.ndarray, "points 3"]
    colors: UInt8[np.ndarray, "points 3"]
    labels: UInt8[np.ndarray, " points"] | None
    pair_point: Int64[np.ndarray, " pairs"]
    pair_view: UInt8[np.ndarray, " pairs"]
    pixels: Float32[np.ndarray, "pairs 2"] | ProjectedPixels
    image_sizes: tuple[tuple[int, int], ...]
    intensity: Float32[np.ndarray, " points"] | None = None
    pair_confidence: UInt8[np.ndarray, " pairs"] | None = None
    fields: Mapping[str, np.ndarray] = field(default_factory=dict)

    @cached_property
    def seen(self) -> Bool[np.ndarray, " points"]:
        """Which points have a colour: all where a frame has no views, else those that a view sees.

        These are the points with a pair, and those with a colour other than black: a recording's
        own, or of a camera too near for a pair.
        """
        if not self.image_sizes:
            return np.ones(len(self.points), dtype=bool)
        seen = np.asarray(self.colors.any(axis=1))
        seen[self.pair_point] = True
        return seen

    @property
    def pair_uv(self) -> Float32[np.ndarray, "pairs 2"]:
        """Pixel of each pair in its view (px, centres at integers)."""
        return self.pixels[:]


_COLORS = FieldSpec("colors", "|u1", ("points", "rgb"), "", "none", "RGB of each point")

_LABEL = FieldSpec("label", "|u1", ("points",), "class", "none", "class of each point")

_INSTANCE = FieldSpec("instance", "<u2", ("points",), "object", "zstd", "object of each point")

_INTENSITY = FieldSpec("intensity", "<f4", ("points",), "1", "zstd", "strength of the return, 0–1")

_CONFIDENCE = FieldSpec(
    "pair_confidence", "|u1", ("pairs",), "1/255", "zstd", "how sure each pair is"
)


@dataclass(frozen=True)
class PointField:
    """A field with a row for each point, of recordings that have it.

    Args:
        spec: its axes begin with `points`.
        values: of each depth pixel [height width ...] or each point of the frame [points ...]; None
            where the frame has none.
        votes: whether a kept point takes the commonest value of its voxel, as a class does, or its
            own.
    """

    spec: FieldSpec
    values: Callable[[Frame], np.ndarray | None]
    votes: bool = False

    def thinned(
        self,
        values: np.ndarray,
        points: Float32[np.ndarray, "points 3"],
        voxels: VoxelDeduplication | None,
    ) -> np.ndarray:
        """The values [kept ...] of the points that are kept, out of those of all points.

        Args:
            values: of all points.
            points: their positions (m).
            voxels: which point each voxel keeps; None where all are kept.
        """
        if voxels is None:
            return values
        return majority_labels(points, values, voxels) if self.votes else values[voxels.keep]


@dataclass(frozen=True)
class PairField:
    """A field with a row for each pair.

    Args:
        spec: its only axis is `pairs`.
        values: of each point, by how one view sees it.
    """

    spec: FieldSpec
    values: Callable[[Visibility], np.ndarray]


POINT_FIELDS = (
    PointField(_INTENSITY, lambda frame: frame.intensity),
    PointField(_LABEL, lambda frame: frame.labels, votes=True),
    PointField(_INSTANCE, lambda frame: frame.instances),
)
PAIR_FIELDS = (PairField(_CONFIDENCE, lambda found: found.confidence),)
"""What points and pairs have besides colours and positions. An entry here is all that a
further field needs: it is stored, read back as `PointCloud.fields` and returned as `fields` of each
batch.
"""

_DEPTH_FIELDS = (
    _COLORS,
    FieldSpec("depth", "<u2", ("points",), "1/units_per_metre m", "delta-shuffle-lz4", "raw depth"),
    FieldSpec(
        "pixel", "<u4", ("points",), "px", "delta-shuffle-lz4", "v * width + u in the depth image"
    ),
)

_SWEEP_FIELDS = (
    _COLORS,
    FieldSpec("pair_point", "<u4", ("pairs",), "row", "delta-shuffle-lz4", "row in points"),
    FieldSpec("pair_uv", "<f4", ("pairs", "uv"), "px", "none", "pixel in the pair's view"),
    FieldSpec("pair_view", "|u1", ("pairs",), "view", "none", "view of the pair"),
    FieldSpec("points", "<f4", ("points", "xyz"), "m", "none", "in the sensor's frame"),
)


def _margins(config: GeometryConfig) -> Margins:
    """The settings that decide visibility and confidence."""
    return Margins(
        margin_m=config.occlusion_margin,
        margin_relative=config.occlusion_margin_relative,
        edge_px=config.confidence_edge_px,
        motion_px=config.confidence_motion_px,
    )


def geometry_fields(frame: Frame) -> tuple[FieldSpec, ...]:
    """The fields that frames like this one store, in name order."""
    fields = _DEPTH_FIELDS if frame.depth is not None else _SWEEP_FIELDS
    fields += tuple(row.spec for row in PAIR_FIELDS)
    fields += tuple(row.spec for row in POINT_FIELDS if row.values(frame) is not None)
    return tuple(sorted(fields, key=lambda field: field.name))


@dataclass(frozen=True, eq=False)
class GeometryLayer:
    """The geometry of a store: the first layer, on whose samples the others lie.

    Args:
        spec: see `geometry_spec`.
        config: which points are kept.
    """

    spec: LayerSpec
    config: GeometryConfig

    def encode(self, frame: Frame, done: Mapping[str, Sample]) -> Sample:
        """The frame's sample, with the digests of what it was made from.

        Raises:
            FrameError: no point is left, or the frame gives other fields than the layer has.
        """
        sample = encode_geometry(frame, self.config)
        wanted = {spec.name for spec in self.spec.fields}
        if set(sample.arrays) != wanted:
            raise FrameError(
                frame.key,
                f"expected the fields {sorted(wanted)} of the recording's first readable frame, "
                f"found {sorted(sample.arrays)}: only some frames have labels or depth",
            )
        return with_inputs(sample, input_digests(frame))


def geometry_spec(
    frame: Frame, config: GeometryConfig, *, dataset: dict[str, Any], plan: Plan
) -> LayerSpec:
    """The layer that `config` makes.

    Args:
        frame: the first readable one of the recording; it decides the fields.
        config: which points are kept.
        dataset: JSON of all that determines the frames.
        plan: how they are cut into shards.
    """
    fingerprint: dict[str, Any] = {
        "dataset": dataset,
        "plan": asdict(plan),
        **config.fingerprint(),
        "kernel_version": KERNEL_VERSION,
    }
    if frame.labels is not None and (config.voxel_size > 0 or "fused" in dataset):
        fingerprint["labels"] = "commonest in voxel"
    if frame.depth is not None and frame.views:
        reach = blocker_reach(frame.depth.camera, frame.views[0].camera)
        if reach > 1:
            fingerprint["blocker_reach_px"] = reach
    return LayerSpec(GEOMETRY, geometry_fields(frame), fingerprint, details={INPUTS: DIGEST})


def encode_geometry(frame: Frame, config: GeometryConfig) -> Sample:
    """The geometry sample of a frame.

    Raises:
        FrameError: no point is left; the reason says at which step.
    """
    if frame.depth is not None:
        arrays = _encode_depth(frame, frame.depth, config)
    elif frame.points is not None:
        arrays = _encode_points(frame, frame.points, config)
    else:
        raise FrameError(frame.key, "expected a depth image or points, found neither")
    return Sample(key=frame.key, arrays=arrays, meta=_meta(frame))


def decode_geometry(sample: Sample) -> PointCloud:
    """Rebuild a frame's points, colours and pairs from a geometry sample."""
    meta, arrays = sample.meta, sample.arrays
    cameras = [camera_from_json(view["camera"], sample.key) for view in meta["views"]]
    if "depth" in arrays:
        depth_camera = camera_from_json(meta["depth_camera"], sample.key)
        units = float(meta["units_per_metre"])
        points = back_project_pixels(
            arrays["depth"], arrays["pixel"], depth_camera, units_per_metre=units
        )
        camera_from_sensor = np.array(meta["views"][0]["camera_from_sensor"])
        pixels = ProjectedPixels(points, cameras[0], camera_from_sensor)
        pair_point = np.arange(len(points), dtype=np.int64)
        pair_view = np.zeros(len(points), dtype=np.uint8)
    else:
        points, pixels, pair_view = arrays["points"], arrays["pair_uv"], arrays["pair_view"]
        pair_point = arrays["pair_point"].astype(np.int64)
    return PointCloud(
        key=sample.key,
        sequence=meta["sequence"],
        points=points,
        colors=arrays["colors"],
        labels=arrays.get("label"),
        pair_point=pair_point,
        pair_view=pair_view,
        pixels=pixels,
        image_sizes=tuple((camera.width, camera.height) for camera in cameras),
        intensity=arrays.get("intensity"),
        pair_confidence=arrays.get("pair_confidence"),
        fields={
            row.spec.name: arrays[row.spec.name]
            for row in (*POINT_FIELDS, *PAIR_FIELDS)
            if row.spec.name in arrays
        },
    )


def _encode_depth(frame: Frame, depth: DepthImage, config: GeometryConfig) -> dict[str, np.ndarray]:
    if len(frame.views) != 1:
        raise FrameError(frame.key, f"expected one view in a depth frame, found {len(frame.views)}")
    view = frame.views[0]
    fields = [(row, values) for row in POINT_FIELDS if (values := row.values(frame)) is not None]
    found = pair_depth(
        depth.values,
        depth.camera,
        ColorView(
            view.image, view.camera, view.camera_from_sensor, view.valid, motion_m(frame, view)
        ),
        Thinning((config.depth_min, config.depth_max), config.voxel_size, _margins(config)),
        units_per_metre=depth.units_per_metre,
        with_seen=config.voxel_size > 0 and any(row.votes for row, _ in fields),
    )
    _refuse_empty(frame.key, found.measured, f"depth in {config.depth_min}–{config.depth_max} m")
    _refuse_empty(
        frame.key, len(found.pixel), "a pixel in the colour image (check color_from_depth)"
    )
    arrays = {"depth": found.depth, "pixel": found.pixel, "colors": found.colors}
    visible = Visibility(np.ones(len(found.pixel), dtype=bool), found.confidence)
    arrays |= {row.spec.name: row.values(visible) for row in PAIR_FIELDS}
    for row, values in fields:
        flat = values.reshape(-1, *values.shape[2:])
        if found.seen is None or found.voxels is None:
            arrays[row.spec.name] = flat[found.pixel]
        else:
            points = _points_at(depth, found.seen)
            arrays[row.spec.name] = row.thinned(flat[found.seen], points, found.voxels)
    return arrays


def _points_at(
    depth: DepthImage, pixel: UInt32[np.ndarray, " points"]
) -> Float32[np.ndarray, "points 3"]:
    """The points of some pixels (m)."""
    values = depth.values.reshape(-1)[pixel]
    return back_project_pixels(values, pixel, depth.camera, units_per_metre=depth.units_per_metre)


def _encode_points(
    frame: Frame, points: Float32[np.ndarray, "points 3"], config: GeometryConfig
) -> dict[str, np.ndarray]:
    every, voxels = points, _voxels(points, config.voxel_size)
    keep = np.arange(len(points), dtype=np.int64) if voxels is None else voxels.keep
    _refuse_empty(frame.key, len(keep), "a position")
    points = points if voxels is None else points.take(keep, axis=0)
    arrays = {"points": points, **_pairs_and_colors(frame, points, keep, config)}
    if frame.views:
        limit = f" at {config.near_limit} m or more" if config.near_limit else ""
        wanted = f"a pixel in any view{limit} (check the calibration)"
        _refuse_empty(frame.key, len(arrays["pair_point"]), wanted)
    for row in POINT_FIELDS:
        if (values := row.values(frame)) is not None:
            arrays[row.spec.name] = row.thinned(values, every, voxels)
    return arrays


def _pairs_and_colors(
    frame: Frame,
    points: Float32[np.ndarray, "kept 3"],
    keep: Int64[np.ndarray, " kept"],
    config: GeometryConfig,
) -> dict[str, np.ndarray]:
    """The pairs of the kept points, rows `keep` of the frame's, with all views; and their colours.

    A point has its own colour, else that of the first view that sees it.
    """
    colors, colored = own_colors(frame, keep)
    # Empty first rows, so that frames without a view have fields of the right type, too.
    pairs: dict[str, list[np.ndarray]] = {
        "pair_point": [np.zeros(0, np.uint32)],
        "pair_view": [np.zeros(0, np.uint8)],
        "pair_uv": [np.zeros((0, 2), np.float32)],
    }
    for row in PAIR_FIELDS:
        pairs[row.spec.name] = [np.zeros(0, row.spec.dtype)]
    for number, view in enumerate(frame.views):
        rows, projection = project_visible(points, view.camera, view.camera_from_sensor)
        found = _seen_in(projection, frame, view, config)
        seen = rows_with_image(view, projection.pixel_uv, np.flatnonzero(found.seen))
        seen = seen if view.sees is None else seen[view.sees[keep[rows[seen]]]]
        new = seen[~colored[rows[seen]]]
        colors[rows[new]] = colors_at(view, projection.pixel_uv.take(new, axis=0))
        colored[rows[seen]] = True
        seen = seen[projection.depth_m.take(seen) >= config.near_limit]
        pairs["pair_point"].append(rows[seen].astype(np.uint32))
        pairs["pair_view"].append(np.full(len(seen), number, dtype=np.uint8))
        pairs["pair_uv"].append(projection.pixel_uv.take(seen, axis=0))
        for row in PAIR_FIELDS:
            pairs[row.spec.name].append(row.values(found)[seen])
    return {"colors": colors, **{name: np.concatenate(rows) for name, rows in pairs.items()}}


def _voxels(
    points: Float32[np.ndarray, "points 3"], voxel_size: float
) -> VoxelDeduplication | None:
    """None where all points are kept."""
    return None if voxel_size == 0 else voxel_deduplicate(points, voxel_size)


def _seen_in(
    projection: Projection, frame: Frame, view: View, config: GeometryConfig
) -> Visibility:
    """Which points the view sees, by their projection."""
    return visibility(
        projection,
        view.camera,
        _margins(config),
        spacing_px=line_spacing_px(projection, view.camera),
        motion_m=motion_m(frame, view),
    )


def _refuse_empty(key: str, count: int, wanted: str) -> None:
    if count == 0:
        raise FrameError(key, f"no point has {wanted}; expected at least one")


def _meta(frame: Frame) -> dict[str, Any]:
    pose = frame.world_from_sensor
    meta: dict[str, Any] = {
        "sequence": frame.sequence,
        "world_from_sensor": None if pose is None else pose.tolist(),
        "views": [
            {
                "camera": view.camera.to_json(),
                "camera_from_sensor": view.camera_from_sensor.tolist(),
            }
            for view in frame.views
        ],
    }
    if frame.depth is not None:
        meta["depth_camera"] = frame.depth.camera.to_json()
        meta["units_per_metre"] = frame.depth.units_per_metre
    return meta
