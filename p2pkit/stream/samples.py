"""One training sample: augmented, voxelised, with its pairs' voxels and teacher features."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from jaxtyping import Float32, Int32, Int64

from p2pkit.geometry.students.preparation import Preparation, Prepared
from p2pkit.layers.features import pair_cells, pair_features, usable_pairs
from p2pkit.layers.geometry import PAIR_FIELDS, POINT_FIELDS, PointCloud
from p2pkit.layers.map_coding import PcaBasis
from p2pkit.layers.superpixels import pair_superpixels
from p2pkit.layers.views import STORED_VIEWS
from p2pkit.profiling import Lap, no_lap
from p2pkit.settings.stream import Axis, SampleConfig
from p2pkit.store.manifest import Sample
from p2pkit.stream.inputs import CAMERA_UP, see

VIEW_DRAW = 1
"""Separates the generator that draws a sample's view from the one for all other choices."""


@dataclass(frozen=True)
class VoxelSample:
    """A frame as the student sees it.

    Args:
        coordinates: integer voxel positions, unique.
        points: x, y, z (m) of each voxel's first point, augmented.
        inputs: channels of that point, as `SampleConfig.inputs` names them.
        pair_voxel: row in `coordinates` of each pair.
        pair_feature: the teacher's upsampled feature of each pair.
        pair_cell: id of the teacher cell nearest to each pair; those of the image as it is where
            each pair has its own view.
        pair_confidence: 0 … 1; 1 for all pairs where the store has none.
        pair_superpixel: id of each pair's superpixel; None where superpixels were not read.
        fields: of each voxel's point or of each pair, by name, as `layers.geometry` declares them.
        prepared: what the network takes beside coordinates and inputs; see `with_prepared`.
    """

    coordinates: Int32[np.ndarray, "voxels 3"]
    points: Float32[np.ndarray, "voxels 3"]
    inputs: Float32[np.ndarray, "voxels channels"]
    pair_voxel: Int64[np.ndarray, " pairs"]
    pair_feature: Float32[np.ndarray, "pairs teacher_channels"]
    pair_cell: Int64[np.ndarray, " pairs"]
    pair_confidence: Float32[np.ndarray, " pairs"]
    pair_superpixel: Int64[np.ndarray, " pairs"] | None = None
    fields: Mapping[str, np.ndarray] = field(default_factory=dict)
    prepared: Prepared = field(default_factory=dict)


def make_sample(
    cloud: PointCloud,
    features: Sample,
    config: SampleConfig,
    random: np.random.Generator,
    basis: PcaBasis | None = None,
    *,
    superpixels: Sample | None = None,
    view: int = 0,
    up_axis: Axis = CAMERA_UP,
    lap: Lap = no_lap,
) -> VoxelSample:
    """Augment and voxelise a frame and draw its pairs; everything random comes from `random`.

    Args:
        cloud: the frame's geometry.
        features: the frame's sample of the feature layer; of its maps, those of `view` are needed,
            or all of them for `random-per-pair`.
        config: how.
        random: source of all random choices.
        basis: of a layer of PCA coefficients, to get the teacher's own channels back.
        superpixels: the frame's sample of a layer of superpixels, if they are wanted.
        view: the stored view that all pairs take, unless each draws its own.
        up_axis: of the frame, see `stored_up`; used if `config.augment` names none.
        lap: called when the parts `augment`, `voxelise` and `pairs` end.
    """
    seen = see(cloud, config, random, up_axis=up_axis, lap=lap)
    rows, voxel_of_point = usable_pairs(features, cloud), seen.voxel_of_point
    if voxel_of_point.min(initial=0) < 0:
        rows = rows[voxel_of_point[cloud.pair_point[rows]] >= 0]
    rows = draw_pairs(cloud, features, voxel_of_point, rows, config, random, view=view)
    if config.teacher_view == "random-per-pair":
        count = 1 + len(features.meta.get(STORED_VIEWS, ()))
        views = random.integers(count, size=len(rows))
    else:
        views = np.full(len(rows), view)
    sample = VoxelSample(
        coordinates=seen.coordinates,
        points=seen.points,
        inputs=seen.inputs,
        pair_voxel=voxel_of_point[cloud.pair_point[rows]],
        pair_feature=_features(cloud, features, rows, views, config, basis, view=view),
        pair_cell=pair_cells(features, cloud, rows, view=view),
        pair_confidence=_confidence(cloud, rows),
        pair_superpixel=None if superpixels is None else pair_superpixels(superpixels, cloud, rows),
        fields=_fields(cloud, points=seen.first, pairs=rows),
    )
    lap("pairs")
    return sample


def with_prepared(sample: VoxelSample, preparation: Preparation | None) -> VoxelSample:
    """The sample with what a network takes beside coordinates and inputs, if it takes anything."""
    if preparation is None:
        return sample
    return replace(sample, prepared=preparation.of_frame(sample.points, sample.coordinates))


def draw_view(config: SampleConfig, views: int, seed: tuple[int, int]) -> int:
    """The view that a sample takes of the stored ones; 0 is the image as it is.

    A separate generator draws it before the sample is read, so that no other random choice depends
    on how many views are stored.

    Args:
        config: how.
        views: stored of each image.
        seed: of the stream, and the sample's position in its sequence.
    """
    if config.teacher_view != "random" or views == 1:
        return 0
    return int(np.random.default_rng([*seed, VIEW_DRAW]).integers(views))


def _features(
    cloud: PointCloud,
    features: Sample,
    rows: Int64[np.ndarray, " pairs"],
    views: Int64[np.ndarray, " pairs"],
    config: SampleConfig,
    basis: PcaBasis | None,
    *,
    view: int,
) -> Float32[np.ndarray, "pairs channels"]:
    """The teacher's feature of each pair in the pair's own view; without pairs, none of `view`."""
    read = partial(pair_features, features, cloud, alignment=config.alignment, basis=basis)
    known = np.unique(views).tolist()
    if len(known) < 2:
        return read(rows, view=known[0] if known else view)
    order = np.argsort(views, kind="stable")
    parts = np.concatenate([read(rows[views == one], view=one) for one in known])
    found = np.empty_like(parts)
    found[order] = parts
    return found


def _fields(
    cloud: PointCloud, *, points: Int64[np.ndarray, " voxels"], pairs: Int64[np.ndarray, " pairs"]
) -> dict[str, np.ndarray]:
    """The declared fields of the chosen points and pairs."""
    return {
        declared.spec.name: cloud.fields[declared.spec.name].take(rows, axis=0)
        for kind, rows in ((POINT_FIELDS, points), (PAIR_FIELDS, pairs))
        for declared in kind
        if declared.spec.name in cloud.fields
    }


def _confidence(
    cloud: PointCloud, rows: Int64[np.ndarray, " pairs"]
) -> Float32[np.ndarray, " pairs"]:
    if cloud.pair_confidence is None:
        return np.ones(len(rows), dtype=np.float32)
    return cloud.pair_confidence[rows].astype(np.float32) / np.float32(255)


def draw_pairs(
    cloud: PointCloud,
    features: Sample,
    voxel_of_point: Int64[np.ndarray, " points"],
    rows: Int64[np.ndarray, " usable"],
    config: SampleConfig,
    random: np.random.Generator,
    *,
    view: int = 0,
) -> Int64[np.ndarray, " pairs"]:
    """Up to `pairs_per_frame` of a frame's usable pairs, as `config.pairs` says, in random order.

    Args:
        cloud: the frame's geometry.
        features: its sample of the feature layer.
        voxel_of_point: voxel of each point.
        rows: rows of the cloud's pairs to draw from.
        config: how, and how many.
        random: decides the draw.
        view: the stored view whose cells `one-per-cell` means.
    """
    if config.pairs == "random":
        return random.choice(rows, size=min(config.pairs_per_frame, len(rows)), replace=False)
    rows = random.permutation(rows)
    if config.pairs == "one-per-voxel":
        group = voxel_of_point[cloud.pair_point[rows]]
    else:
        group = pair_cells(features, cloud, rows, view=view)
    _, first = np.unique(group, return_index=True)
    return rows[np.sort(first)][: config.pairs_per_frame]
