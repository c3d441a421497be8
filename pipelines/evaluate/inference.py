"""Frozen features of a frame's points, for probes and retrieval."""

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from p2pkit.errors import StoreError
from p2pkit.layers.geometry import PointCloud, decode_geometry
from p2pkit.networks import prepared_for
from p2pkit.pipelines.train.model import PretrainingModel
from p2pkit.pipelines.train.settings import TrainConfig
from p2pkit.store.reading import Store
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
    model: PretrainingModel, cloud: PointCloud, config: TrainConfig
) -> Float32[np.ndarray, "points channels"]:
    """The student's features of every stored point, those of its voxel, without augmentation.

    The features are those before the point projection. Call `model.eval()` first.
    """
    sample, random = unaugmented(config.stream.sample), np.random.default_rng(0)
    seen = see(cloud, sample, random, up_axis=cloud_up(cloud))
    coordinates, inputs = _single_batch(seen.coordinates), torch.from_numpy(seen.inputs)
    voxels = [(seen.points, seen.coordinates)]
    prepared = prepared_for(model.student, voxels, config.device)
    with torch.inference_mode():
        features = model.student(
            coordinates.to(config.device), inputs.to(config.device), **prepared
        )
    return features.cpu().numpy()[seen.voxel_of_point]


def with_batch_statistics(
    model: PretrainingModel, clouds: Iterable[PointCloud], config: TrainConfig
) -> PretrainingModel:
    """Give the model's batch norms the statistics of `clouds`, in place, and set it to eval mode.

    Networks with random weights have no running statistics of any data; to compare fairly, every
    network of a probe gets its statistics this way, from the same frames. In place, because
    MinkowskiEngine's layers do not survive `copy.deepcopy`.
    """
    take_statistics(model)
    for cloud in clouds:
        point_features(model, cloud, config)
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
