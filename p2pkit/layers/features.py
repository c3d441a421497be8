"""A feature layer: one teacher's features for the samples of the geometry layer.

`grid` stores the teacher's map; sampling it at a pair when read equals upsampling it first, because
bilinear weights sum to one and the trained projection after it is linear. `pixels` stores the
sampled feature of a fixed random choice of pairs: larger, but plain rows, and upsamplers guided by
the image fit.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from jaxtyping import Float16, Float32, Int64, UInt8

from p2pkit.datasets.frame import Frame
from p2pkit.errors import BadMapError, StoreError, TeacherError
from p2pkit.files import sha256_json
from p2pkit.geometry.maps.grid import Alignment, FeatureGrid
from p2pkit.geometry.maps.joint_bilateral import JointBilateral, sample_joint_bilateral
from p2pkit.geometry.maps.sample_map import nearest_cell, sample_map
from p2pkit.layers.geometry import PointCloud, decode_geometry
from p2pkit.layers.map_coding import (
    FeatureCoder,
    MapCoding,
    PcaBasis,
    fit_basis,
    pca_basis,
    undo_scale,
)
from p2pkit.layers.views import STORED_VIEWS, SeenImages, ViewMaps, map_field, seen_images
from p2pkit.settings import config_to_json
from p2pkit.settings.layers import FeatureConfig as FeatureConfig
from p2pkit.settings.layers import Layout
from p2pkit.store.codecs import choose_map_codec
from p2pkit.store.manifest import FEATURES, GEOMETRY, FieldSpec, LayerSpec, Sample
from p2pkit.teachers import Teacher
from p2pkit.teachers.teacher import Image
from p2pkit.teachers.views import View

PROBED_FRAMES = 8
"""Frames whose maps decide whether compression pays."""
BASIS_FRAMES = 64
"""Frames whose maps decide the basis of `pca:K`."""
WEIGHTS_ORIGIN = "weights_origin"
"""A layer's detail: which part of a checkpoint its teacher's weights are, where it has several."""
FLOAT16 = MapCoding()
AS_THEY_ARE = FeatureCoder()


@dataclass(frozen=True, eq=False)
class Guide:
    """What joint bilateral upsampling reads besides the maps.

    Args:
        images: the recording's image of each view.
        weights: of neighbouring cells.
    """

    images: Sequence[UInt8[np.ndarray, "height width 3"]]
    weights: JointBilateral


def feature_fields(
    layout: Layout, codec: str, coding: MapCoding = FLOAT16, *, views: Sequence[str] = ()
) -> tuple[FieldSpec, ...]:
    """The fields of a feature layer, in name order.

    Args:
        layout: of the layer.
        codec: of the map or feature field.
        coding: the numbers that are stored.
        views: names of further views, of a `grid` layer.
    """
    dtype = "|u1" if coding.int8 else "<f2"
    scale = "smallest value and step of each channel: value = smallest + step * byte"
    if layout == "grid":
        fields: list[FieldSpec] = []
        for view, name in enumerate(("", *views)):
            description = f"the teacher's map, channels last{f', of {name}' if name else ''}"
            field = map_field(view)
            sides = ("height", "width") if view == 0 else (f"height_{view}", f"width_{view}")
            axes = ("views", *sides, "channels")
            fields.append(FieldSpec(field, dtype, axes, "", codec, description))
            spread = ("views", "2", "channels")
            fields.append(FieldSpec(f"{field}_scale", "<f2", spread, "", "none", scale))
        kept = fields if coding.int8 else fields[::2]
        return tuple(sorted(kept, key=lambda field: field.name))
    rows = "row in the sample's pairs of each stored feature, ascending"
    description = "the map sampled at the pair"
    rows_fields = (
        FieldSpec("feature", dtype, ("rows", "channels"), "", codec, description),
        FieldSpec("feature_pair", "<u4", ("rows",), "row", "delta-shuffle-lz4", rows),
        FieldSpec("feature_scale", "<f2", ("2", "channels"), "", "none", scale),
    )
    return rows_fields if coding.int8 else rows_fields[:2]


def encode_grid(
    key: str,
    maps: Sequence[Float16[np.ndarray, "height width channels"]],
    grids: Sequence[FeatureGrid],
    coder: FeatureCoder = AS_THEY_ARE,
    *,
    more: Sequence[ViewMaps] = (),
) -> Sample:
    """A sample that holds the map of each image. Images of one frame share the map's shape.

    Args:
        key: of the frame.
        maps: of each image.
        grids: where they lie.
        coder: turns them into arrays.
        more: maps of further views of the images, such as mirrored ones.

    Raises:
        StoreError: the images' maps differ in shape.
    """
    arrays: dict[str, np.ndarray] = {}
    for view, found in enumerate((maps, *[one.maps for one in more])):
        _check_one_shape(key, found)
        projected = [coder.project(feature_map) for feature_map in found]
        arrays |= coder.arrays(map_field(view), projected, stacked=True)
    meta = _meta(grids)
    if more:
        meta[STORED_VIEWS] = [one.seen.to_json() for one in more]
    return Sample(key=key, arrays=arrays, meta=meta)


def _check_one_shape(key: str, maps: Sequence[np.ndarray]) -> None:
    shapes = {feature_map.shape for feature_map in maps}
    if len(shapes) != 1:
        raise StoreError(
            f"frame {key}: its views give maps of shapes {sorted(shapes)}; expected one shape per "
            "frame: bring its images to one size with --input-size W H, or store sampled features "
            "with --features pixels"
        )


def encode_pixels(
    cloud: PointCloud,
    maps: Sequence[Float16[np.ndarray, "height width channels"]],
    grids: Sequence[FeatureGrid],
    *,
    pairs: int,
    seed: int,
    coder: FeatureCoder = AS_THEY_ARE,
    guide: Guide | None = None,
) -> Sample:
    """A sample that holds the upsampled feature of up to `pairs` pairs (0: of all).

    The choice depends on `seed` and the frame's key alone, so that rewriting gives equal bytes.
    Features are upsampled bilinearly, or with a guide by `geometry.joint_bilateral`.
    """
    count = len(cloud.pair_point)
    rows = np.arange(count)
    if 0 < pairs < count:
        random = np.random.default_rng([seed, xxhash.xxh3_64_intdigest(cloud.key.encode())])
        rows = np.sort(random.choice(count, size=pairs, replace=False))
    projected = [coder.project(found) for found in maps]
    if guide is None:
        seen = SeenImages(tuple(grids))
        features = _sample_images(cloud, rows, projected, seen, "measured")
    else:
        features = _guided(cloud, rows, projected, grids, guide)
    arrays = {
        **coder.arrays("feature", [features], stacked=False),
        "feature_pair": rows.astype(np.uint32),
    }
    return Sample(key=cloud.key, arrays=arrays, meta=_meta(grids))


Map = Float16[np.ndarray, "height width channels"]
FrameMaps = list[list[Map]]
"""The teacher's maps of a frame: of each view, the image as it is first, one for each image."""


@dataclass(frozen=True, eq=False)
class FeatureLayer:
    """A teacher bound to the layer that it fills.

    Args:
        spec: see `planned_features`.
        config: of the layer.
        teacher: the frozen 2D network.
        maps: maps computed while the layer was planned, by frame key; each is used once. Empty
            where they are computed in batches, to which those of single images may differ.
    """

    spec: LayerSpec
    config: FeatureConfig
    teacher: Teacher
    maps: dict[str, FrameMaps] = field(default_factory=dict)

    @cached_property
    def coder(self) -> FeatureCoder:
        """What turns maps into the layer's arrays."""
        return FeatureCoder(self.config.coding.int8, pca_basis(self.spec))

    def images(self, frame: Frame) -> list[Image]:
        """What the teacher sees of a frame: its images, then those of each further view."""
        views = (View(), *self.config.further_views)
        return [view.of(image.image) for view in views for image in frame.views]

    def encode(
        self, frame: Frame, done: Mapping[str, Sample], maps: Sequence[Map] | None = None
    ) -> Sample:
        """The frame's sample.

        Args:
            frame: as the recording gives it.
            done: the geometry's sample, by layer.
            maps: of `images`, in their order; None runs the teacher here, on one at a time.
        """
        views = self.config.further_views
        if maps is not None:
            found = _by_view(maps, frame)
        else:
            found = self.maps.pop(frame.key, None) or frame_maps(self.teacher, frame, views)
        sizes = [(image.camera.width, image.camera.height) for image in frame.views]
        grids = [self.teacher.grid(size) for size in sizes]
        if self.config.layout == "grid":
            seen = [_seen(self.teacher, view, sizes) for view in views]
            more = [ViewMaps(*row) for row in zip(seen, found[1:], strict=True)]
            return encode_grid(frame.key, found[0], grids, self.coder, more=more)
        weights = self.config.joint_bilateral
        return encode_pixels(
            decode_geometry(done[GEOMETRY]),
            found[0],
            grids,
            pairs=self.config.pairs_per_frame,
            seed=self.config.seed,
            coder=self.coder,
            guide=Guide([view.image for view in frame.views], weights) if weights else None,
        )


def frame_maps(teacher: Teacher, frame: Frame, views: Sequence[View] = ()) -> FrameMaps:
    """The teacher's maps of a frame's images, and of further views; none depends on another.

    Raises:
        TeacherError: a map cannot be stored; the message names frame and view.
    """
    images = [view.of(image.image) for view in (View(), *views) for image in frame.views]
    maps: list[Map] = []
    for number, image in enumerate(images):
        try:
            maps.append(teacher.features([image])[0])
        except BadMapError as error:
            raise bad_map(frame, number, error) from None
    return _by_view(maps, frame)


def _by_view(maps: Sequence[Map], frame: Frame) -> FrameMaps:
    count = len(frame.views)
    return [list(maps[first : first + count]) for first in range(0, len(maps), count)]


def bad_map(frame: Frame, number: int, error: BadMapError) -> TeacherError:
    """The error with the names of the frame and of its view.

    Args:
        frame: whose image it is.
        number: of the image among `FeatureLayer.images`.
        error: as the teacher gave it.
    """
    stored, view = divmod(number, len(frame.views))
    further = f" (stored view {stored})" if stored else ""
    return TeacherError(f"frame {frame.key}, view {view}{further}: {error}")


def _seen(teacher: Teacher, view: View, sizes: Sequence[tuple[int, int]]) -> SeenImages:
    there = tuple(view.size(size) for size in sizes)
    return SeenImages(tuple(teacher.grid(size) for size in there), there, view.flip)


def feature_fingerprint(
    config: FeatureConfig, teacher: Teacher, geometry: LayerSpec
) -> dict[str, Any]:
    """All that determines a layer's bytes, but for the basis that its frames determine."""
    coding = config.coding
    fingerprint: dict[str, Any] = {
        "geometry": geometry.fingerprint_sha256,
        "teacher": teacher.fingerprint(),
        "layout": config.layout,
        "dtype": "|u1" if coding.int8 else "<f2",
    }
    if config.layout == "pixels":
        fingerprint |= {"pairs_per_frame": config.pairs_per_frame, "seed": config.seed}
    if (weights := config.joint_bilateral) is not None:
        fingerprint |= {"upsampling": weights.name, "upsampling_weights": asdict(weights)}
    if config.stored_views:
        fingerprint[STORED_VIEWS] = ",".join(config.view_names)
    if coding.components is not None:
        fingerprint |= {"pca_components": coding.components, "pca_frames": BASIS_FRAMES}
    return fingerprint


def layer_name(teacher: Teacher, fingerprint: dict[str, Any]) -> str:
    """`features/<teacher>-<first 8 of the fingerprint without the basis>`."""
    plain = "".join(x if x.isalnum() or x in "_-" else "-" for x in teacher.name)
    return f"{FEATURES}{plain}-{sha256_json(fingerprint)[:8]}"


def probe_frames(config: FeatureConfig) -> int:
    """How many frames decide the codec of a new layer, and its basis where it has one."""
    return PROBED_FRAMES if config.coding.components is None else BASIS_FRAMES


def planned_features(
    config: FeatureConfig,
    teacher: Teacher,
    geometry: LayerSpec,
    probed: Iterable[tuple[Frame, FrameMaps]],
) -> FeatureLayer:
    """A new layer, its codec and basis decided by the first frames, whose maps it keeps.

    Args:
        config: of the layer.
        teacher: already open.
        geometry: of the store.
        probed: `probe_frames` frames with their `frame_maps`.

    Raises:
        StoreError: the layout is grid, and the maps of a frame differ in shape.
    """
    maps: dict[str, FrameMaps] = {}
    sizes: set[tuple[int, int]] = set()
    for frame, found in probed:
        if config.layout == "grid":
            for of_images in found:
                _check_one_shape(frame.key, of_images)
        maps[frame.key] = found
        sizes |= {(view.camera.width, view.camera.height) for view in frame.views}
    fingerprint = feature_fingerprint(config, teacher, geometry)
    name = layer_name(teacher, fingerprint)
    components = config.coding.components
    details: dict[str, Any] = {
        "teacher": teacher.name,
        "channels": teacher.channels if components is None else components,
        "layout": config.layout,
        "map": config.coding.name,
        "grids": {f"{w}x{h}": teacher.grid((w, h)).to_json() for w, h in sorted(sizes)},
    }
    if origin := getattr(teacher, "weights_origin", ""):
        details[WEIGHTS_ORIGIN] = origin
    if (weights := config.joint_bilateral) is not None:
        details["upsampling"] = weights.name
    if config.stored_views:
        details[STORED_VIEWS] = fingerprint[STORED_VIEWS]
    coder = FeatureCoder(config.coding.int8)
    if components is not None:
        basis = fit_basis([views[0] for views in maps.values()], components)
        coder = FeatureCoder(config.coding.int8, basis)
        details["pca"] = basis.to_json()
        fingerprint = {**fingerprint, "basis_sha256": basis.sha256}
    stored = (
        coder.arrays("map", [coder.project(views[0][0])], stacked=True)["map"]
        for views in maps.values()
    )
    codec = choose_map_codec(stored)
    fields = feature_fields(config.layout, codec, config.coding, views=config.view_names)
    spec = LayerSpec(name, fields, fingerprint, details, shareable_settings(config))
    return FeatureLayer(spec, config, teacher, maps if teacher.batch_size == 1 else {})


def shareable_settings(config: FeatureConfig) -> dict[str, Any]:
    """The settings as a store keeps them: files and folders by their last name, no device.

    Nor the batch size, which the records have where it matters.
    """
    settings = config_to_json(config)
    teacher = settings["teacher"]
    del teacher["device"], teacher["batch_size"]
    kind, colon, path = teacher["name"].partition(":")
    if colon and Path(path).exists():
        teacher["name"] = f"{kind}:{Path(path).name}"
    if Path(teacher["weights"]).is_file():
        teacher["weights"] = Path(teacher["weights"]).name
    return settings


def usable_pairs(sample: Sample, cloud: PointCloud) -> Int64[np.ndarray, " usable"]:
    """Rows of the cloud's pairs for which the layer has a feature."""
    if "feature_pair" in sample.arrays:
        return sample.arrays["feature_pair"].astype(np.int64)
    return np.arange(len(cloud.pair_point), dtype=np.int64)


def pair_features(
    sample: Sample,
    cloud: PointCloud,
    rows: Int64[np.ndarray, " pairs"],
    *,
    alignment: Alignment = "measured",
    basis: PcaBasis | None = None,
    view: int = 0,
) -> Float32[np.ndarray, "pairs channels"]:
    """The teacher's upsampled feature at each of the chosen pairs, whatever the layer stores.

    Bytes are turned into features at the sampled pairs only. Of a `pca:K` layer these are the K
    coefficients, unless its basis is given.

    Args:
        sample: of the feature layer, same key as `cloud`.
        cloud: the frame's geometry.
        rows: rows of the cloud's pairs; for a `pixels` layer from `usable_pairs`.
        alignment: how a `grid` layer's map lies over the image.
        basis: of a `pca:K` layer, to get the teacher's own channels back.
        view: which of the stored views of the images; 0 is the image as it is.

    Raises:
        StoreError: a `pixels` layer lacks a pair, or another alignment is requested; or the layer
            stores no such view.
    """
    if "feature_pair" in sample.arrays:
        features = _sampled_before(sample, cloud, rows, alignment)
    else:
        field, seen = map_field(view), seen_images(sample.meta, view)
        maps, scales = list(sample.arrays[field]), sample.arrays.get(f"{field}_scale")
        features = _sample_images(cloud, rows, maps, seen, alignment, scales)
    return features if basis is None else basis.reconstruct(features)


def _sampled_before(
    sample: Sample, cloud: PointCloud, rows: Int64[np.ndarray, " pairs"], alignment: Alignment
) -> Float32[np.ndarray, "pairs stored"]:
    if alignment != "measured":
        raise StoreError(
            f"alignment {alignment!r} needs the teacher's map; this layer stores sampled features: "
            "extract with --features grid"
        )
    stored = sample.arrays["feature_pair"].astype(np.int64)
    found = np.minimum(np.searchsorted(stored, rows), len(stored) - 1)
    if not np.array_equal(stored[found], rows):
        raise StoreError(
            f"frame {cloud.key}: the layer stores no feature for some of the requested pairs"
        )
    features = sample.arrays["feature"][found].astype(np.float32)
    scale = sample.arrays.get("feature_scale")
    return features if scale is None else undo_scale(features, scale)


def pair_cells(
    sample: Sample, cloud: PointCloud, rows: Int64[np.ndarray, " pairs"], *, view: int = 0
) -> Int64[np.ndarray, " pairs"]:
    """Id of the teacher cell nearest to each pair, unique over the frame's images.

    `view` is the stored view of the images whose cells are meant; 0 is the image as it is.
    """
    cells = np.zeros(len(rows), dtype=np.int64)
    first, seen = 0, seen_images(sample.meta, view)
    for image, grid in enumerate(seen.grids):
        mine = cloud.pair_view[rows] == image
        uv = seen.cell_from_pixel(cloud.pixels[rows[mine]], image, cloud.image_sizes[image])
        cells[mine] = first + nearest_cell(uv, grid.cells)
        first += grid.cells[0] * grid.cells[1]
    return cells


def _sample_images(
    cloud: PointCloud,
    rows: Int64[np.ndarray, " pairs"],
    maps: list[np.ndarray],
    seen: SeenImages,
    alignment: Alignment,
    scales: np.ndarray | None = None,
) -> Float32[np.ndarray, "pairs channels"]:
    features = np.empty((len(rows), maps[0].shape[-1]), dtype=np.float32)
    for image, feature_map in enumerate(maps):
        mine = cloud.pair_view[rows] == image
        size, pixel_uv = cloud.image_sizes[image], cloud.pixels[rows[mine]]
        uv = seen.cell_from_pixel(pixel_uv, image, size, alignment)
        if scales is None:
            features[mine] = sample_map(feature_map, uv)
        else:
            sampled = sample_map(feature_map.astype(np.float32), uv)
            features[mine] = undo_scale(sampled, scales[image])
    return features


def _guided(
    cloud: PointCloud,
    rows: Int64[np.ndarray, " pairs"],
    maps: Sequence[np.ndarray],
    grids: Sequence[FeatureGrid],
    guide: Guide,
) -> Float32[np.ndarray, "pairs channels"]:
    features = np.empty((len(rows), maps[0].shape[-1]), dtype=np.float32)
    for view, row in enumerate(zip(maps, grids, guide.images, strict=True)):
        mine = cloud.pair_view[rows] == view
        uv = cloud.pixels[rows[mine]]
        features[mine] = sample_joint_bilateral(*row, uv, guide.weights)
    return features


def _meta(grids: Sequence[FeatureGrid]) -> dict[str, Any]:
    return {"grids": [grid.to_json() for grid in grids]}
