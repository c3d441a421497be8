"""Frozen features of a frame's points, for probes and retrieval."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from p2pkit.errors import StoreError
from p2pkit.geometry.gravity import turn_between, turned
from p2pkit.layers.geometry import PointCloud, decode_geometry
from p2pkit.networks import prepared_for
from p2pkit.pipelines.train.model import PretrainingModel
from p2pkit.pipelines.train.settings import TrainConfig
from p2pkit.store.reading import Store
from p2pkit.stream.augmentation import Axis
from p2pkit.stream.inputs import cloud_up, see, unaugmented
from p2pkit.stream.order import locate


def read_cloud(store: Store, sample: int) -> PointCloud:
    """A frame's geometry by sample id."""
    return decode_geometry(store.read("geometry", *locate(store.sizes("geometry"), sample)))


def labels_of(cloud: PointCloud) -> Int64[np.ndarray, " points"]:
    """The stored class of each point; StoreError if the frame has none."""
    if cloud.labels is None:
        raise StoreError(f"frame {cloud.key} has no labels, though its store names label classes")
    return cloud.labels.astype(np.int64)


def point_features(
    model: PretrainingModel, cloud: PointCloud, config: TrainConfig, up_axis: Axis | None = None
) -> Float32[np.ndarray, "points channels"]:
    """The student's features of every stored point, those of its voxel, without augmentation.

    The features are those before the point projection. Call `model.eval()` first. Points are turned
    until `up_axis` is up; None leaves them as they are stored.
    """
    sample, random = unaugmented(config.stream.sample), np.random.default_rng(0)
    cloud, up = turned_cloud(cloud, up_axis)
    seen = see(cloud, sample, random, up_axis=up)
    coordinates, inputs = _single_batch(seen.coordinates), torch.from_numpy(seen.inputs)
    voxels = [(seen.points, seen.coordinates)]
    prepared = prepared_for(model.student, voxels, config.device)
    with torch.inference_mode():
        features = model.student(
            coordinates.to(config.device), inputs.to(config.device), **prepared
        )
    return features.cpu().numpy()[seen.voxel_of_point]


def turned_cloud(cloud: PointCloud, up_axis: Axis | None) -> tuple[PointCloud, Axis]:
    """A frame with `up_axis` up, None meaning its own; and which axis that is."""
    own = cloud_up(cloud)
    up = own if up_axis is None else up_axis
    return replace(cloud, points=turned(cloud.points, turn_between(own, up))), up


def with_batch_statistics(
    model: PretrainingModel,
    clouds: Iterable[PointCloud],
    config: TrainConfig,
    up_axis: Axis | None = None,
) -> PretrainingModel:
    """Give the model's batch norms the statistics of `clouds`, in place, and set it to eval mode.

    Networks with random weights have no running statistics of any data; to compare fairly, every
    network of a probe gets its statistics this way, from the same frames. In place, because
    MinkowskiEngine's layers do not survive `copy.deepcopy`.
    """
    take_statistics(model)
    for cloud in clouds:
        point_features(model, cloud, config, up_axis)
    return model.eval()


def take_statistics(model: nn.Module) -> None:
    """Let the next frames set the batch norms' running statistics, with equal weights."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.reset_running_stats()
            module.momentum = None


def _single_batch(coordinates: np.ndarray) -> Tensor:
    return torch.from_numpy(np.insert(coordinates, 0, 0, axis=1))
