"""A feature layer: one teacher's features for the samples of the geometry layer.

`grid` stores the teacher's map; sampling it at a pair when read equals upsampling it first, because
bilinear weights sum to one and the trained projection after it is linear. `pixels` stores the
sampled feature of a fixed random choice of pairs: larger, but plain rows, and upsamplers that look
at the image fit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xxhash
from jaxtyping import Float16, Float32, Int64, UInt8

from p2pkit.errors import StoreError
from p2pkit.geometry.grid import Alignment, FeatureGrid, grid_from_json
from p2pkit.geometry.joint_bilateral import JointBilateral, sample_joint_bilateral
from p2pkit.geometry.sample_map import nearest_cell, sample_map
from p2pkit.shards.geometry_layer import PointCloud
from p2pkit.shards.map_coding import FeatureCoder, MapCoding, PcaBasis, undo_scale
from p2pkit.shards.model import FieldSpec, Sample

Layout = Literal["grid", "pixels"]

FLOAT16 = MapCoding()
AS_THEY_ARE = FeatureCoder()


@dataclass(frozen=True, eq=False)
class Guide:
    """What joint bilateral upsampling looks at beside the maps.

    Args:
        images: the recording's image of each view.
        weights: of neighbouring cells.
    """

    images: Sequence[UInt8[np.ndarray, "height width 3"]]
    weights: JointBilateral


def feature_fields(
    layout: Layout, codec: str, coding: MapCoding = FLOAT16
) -> tuple[FieldSpec, ...]:
    """The fields of a feature layer, in name order. `codec` is that of the map or feature field."""
    dtype = "|u1" if coding.int8 else "<f2"
    scale = "smallest value and step of each channel: value = smallest + step * byte"
    if layout == "grid":
        axes = ("views", "height", "width", "channels")
        told = "the teacher's map, channels last"
        fields = (
            FieldSpec("map", dtype, axes, "", codec, told),
            FieldSpec("map_scale", "<f2", ("views", "2", "channels"), "", "none", scale),
        )
        return fields if coding.int8 else fields[:1]
    rows = "row in the sample's pairs of each stored feature, ascending"
    told = "the map sampled at the pair"
    fields = (
        FieldSpec("feature", dtype, ("rows", "channels"), "", codec, told),
        FieldSpec("feature_pair", "<u4", ("rows",), "row", "delta-shuffle-lz4", rows),
        FieldSpec("feature_scale", "<f2", ("2", "channels"), "", "none", scale),
    )
    return fields if coding.int8 else fields[:2]


def encode_grid(
    key: str,
    maps: Sequence[Float16[np.ndarray, "height width channels"]],
    grids: Sequence[FeatureGrid],
    coder: FeatureCoder = AS_THEY_ARE,
) -> Sample:
    """A sample that holds the map of each view. Views of one frame share the map's shape.

    Raises:
        StoreError: the views' maps differ in shape.
    """
    shapes = {feature_map.shape for feature_map in maps}
    if len(shapes) != 1:
        raise StoreError(
            f"frame {key}: its views give maps of shapes {sorted(shapes)}; one frame needs one "
            "shape: give the teacher a fixed input size"
        )
    arrays = coder.arrays("map", [coder.project(found) for found in maps], stacked=True)
    return Sample(key=key, arrays=arrays, meta=_meta(grids))


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
        features = _sample_views(cloud, rows, projected, list(grids), "measured")
    else:
        features = _guided(cloud, rows, projected, grids, guide)
    arrays = {
        **coder.arrays("feature", [features], stacked=False),
        "feature_pair": rows.astype(np.uint32),
    }
    return Sample(key=cloud.key, arrays=arrays, meta=_meta(grids))


def usable_pairs(sample: Sample, cloud: PointCloud) -> Int64[np.ndarray, "usable"]:
    """Rows of the cloud's pairs for which the layer has a feature."""
    if "feature_pair" in sample.arrays:
        return sample.arrays["feature_pair"].astype(np.int64)
    return np.arange(len(cloud.pair_point), dtype=np.int64)


def pair_features(
    sample: Sample,
    cloud: PointCloud,
    rows: Int64[np.ndarray, "pairs"],
    *,
    alignment: Alignment = "measured",
    basis: PcaBasis | None = None,
) -> Float32[np.ndarray, "pairs channels"]:
    """The teacher's upsampled feature at each of the chosen pairs, whatever the layer stores.

    Bytes are turned into features at the sampled pairs only. Of a `pca:K` layer these are the K
    coefficients, unless its basis is given.

    Args:
        sample: of the feature layer, same key as `cloud`.
        cloud: the frame's geometry.
        rows: rows of the cloud's pairs; for a `pixels` layer out of `usable_pairs`.
        alignment: how a `grid` layer's map lies over the image.
        basis: of a `pca:K` layer, to get the teacher's own channels back.

    Raises:
        StoreError: a `pixels` layer lacks a pair, or is asked for another alignment.
    """
    features = _stored_features(sample, cloud, rows, alignment)
    return features if basis is None else basis.reconstruct(features)


def _stored_features(
    sample: Sample, cloud: PointCloud, rows: Int64[np.ndarray, "pairs"], alignment: Alignment
) -> Float32[np.ndarray, "pairs stored"]:
    if "map" in sample.arrays:
        maps, scales = list(sample.arrays["map"]), sample.arrays.get("map_scale")
        return _sample_views(cloud, rows, maps, _grids(sample), alignment, scales)
    if alignment != "measured":
        raise StoreError(
            f"alignment {alignment!r} needs the teacher's map; this layer holds sampled features: "
            "extract with --features grid"
        )
    stored = sample.arrays["feature_pair"].astype(np.int64)
    found = np.minimum(np.searchsorted(stored, rows), len(stored) - 1)
    if not np.array_equal(stored[found], rows):
        raise StoreError(
            f"frame {cloud.key}: the layer holds no feature for some of the pairs asked for"
        )
    features = sample.arrays["feature"][found].astype(np.float32)
    scale = sample.arrays.get("feature_scale")
    return features if scale is None else undo_scale(features, scale)


def pair_cells(
    sample: Sample, cloud: PointCloud, rows: Int64[np.ndarray, "pairs"]
) -> Int64[np.ndarray, "pairs"]:
    """Id of the teacher cell nearest to each pair, unique over the frame's views."""
    cells = np.zeros(len(rows), dtype=np.int64)
    first = 0
    for view, grid in enumerate(_grids(sample)):
        mine = cloud.pair_view[rows] == view
        uv = grid.cell_from_pixel(cloud.pair_uv[rows[mine]], cloud.image_sizes[view])
        cells[mine] = first + nearest_cell(uv, grid.cells)
        first += grid.cells[0] * grid.cells[1]
    return cells


def _sample_views(
    cloud: PointCloud,
    rows: Int64[np.ndarray, "pairs"],
    maps: list[np.ndarray],
    grids: list[FeatureGrid],
    alignment: Alignment,
    scales: np.ndarray | None = None,
) -> Float32[np.ndarray, "pairs channels"]:
    features = np.empty((len(rows), maps[0].shape[-1]), dtype=np.float32)
    for view, (feature_map, grid) in enumerate(zip(maps, grids, strict=True)):
        mine = cloud.pair_view[rows] == view
        uv = grid.cell_from_pixel(cloud.pair_uv[rows[mine]], cloud.image_sizes[view], alignment)
        if scales is None:
            features[mine] = sample_map(feature_map, uv)
        else:
            sampled = sample_map(feature_map.astype(np.float32), uv)
            features[mine] = undo_scale(sampled, scales[view])
    return features


def _guided(
    cloud: PointCloud,
    rows: Int64[np.ndarray, "pairs"],
    maps: Sequence[np.ndarray],
    grids: Sequence[FeatureGrid],
    guide: Guide,
) -> Float32[np.ndarray, "pairs channels"]:
    features = np.empty((len(rows), maps[0].shape[-1]), dtype=np.float32)
    for view, row in enumerate(zip(maps, grids, guide.images, strict=True)):
        mine = cloud.pair_view[rows] == view
        uv = cloud.pair_uv[rows[mine]]
        features[mine] = sample_joint_bilateral(*row, uv, guide.weights)
    return features


def _meta(grids: Sequence[FeatureGrid]) -> dict[str, Any]:
    return {"grids": [grid.to_json() for grid in grids]}


def _grids(sample: Sample) -> list[FeatureGrid]:
    return [grid_from_json(value) for value in sample.meta["grids"]]
