"""The networks that a run's report shows: the pretrained one, and one with random weights."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32

from p2pkit.layers.geometry import PointCloud
from p2pkit.layers.map_coding import PcaBasis
from p2pkit.pipelines.evaluate.frames import pretraining_up_axis
from p2pkit.pipelines.evaluate.inference import point_features, read_cloud, with_batch_statistics
from p2pkit.pipelines.held_out import chosen_samples
from p2pkit.pipelines.train.checkpoints import latest_checkpoint
from p2pkit.pipelines.train.model import PretrainingModel, build_model, load_weights
from p2pkit.pipelines.train.run_folder import read_config_here, read_provenance, run_layer
from p2pkit.pipelines.train.settings import TrainConfig
from p2pkit.store.reading import Store
from p2pkit.stream.augmentation import Axis

STATISTICS_FRAMES = 16
KEPT_BYTES = 1_000_000_000
"""Limit on cached features: many large frames must not fill the memory."""
NetworkName = Literal["pretrained", "random"]


@dataclass(frozen=True, eq=False)
class RunNetworks:
    """Two students of the run's kind with their heads, in eval mode on the run's device.

    Args:
        config: of the run.
        layer: the store's feature layer that the run trained on.
        basis: with which the run turned PCA coefficients back into the teacher's channels.
        up_axis: to which points are turned for the students: that of the run's training.
        pretrained: with the newest checkpoint's weights.
        random: as initialised with another seed.
    """

    config: TrainConfig
    layer: str
    basis: PcaBasis | None
    up_axis: Axis
    pretrained: PretrainingModel
    random: PretrainingModel
    _kept: dict[tuple[NetworkName, str], np.ndarray] = field(default_factory=dict, init=False)

    def point_features(
        self, name: NetworkName, cloud: PointCloud
    ) -> Float32[np.ndarray, "points channels"]:
        """A student's features of every point of a frame of the store, as of `point_features`.

        Several sections show the same frames: features are computed once, as long as all fit into
        `KEPT_BYTES`.
        """
        place = name, cloud.key
        if place in self._kept:
            return self._kept[place]
        model = self.pretrained if name == "pretrained" else self.random
        found = point_features(model, cloud, self.config, self.up_axis)
        if sum(rows.nbytes for rows in self._kept.values()) + found.nbytes <= KEPT_BYTES:
            self._kept[place] = found
        return found


def run_networks(run: Path, store: Store, kept: np.ndarray, *, seed: int) -> RunNetworks:
    """Build both, with batch statistics of the same training frames.

    Args:
        run: a pretraining run.
        store: that it was trained on.
        kept: sample ids of training frames.
        seed: of the random weights.

    Raises:
        TrainingError: the run has no checkpoint.
        ConfigError: the layer's features are not of the kind that the run learned from.
    """
    config, provenance = read_config_here(run), read_provenance(run)
    channels, layer = provenance.teacher_channels, run_layer(run, store)
    pretrained = build_model(config, channels, seed=config.seed)
    load_weights(pretrained, latest_checkpoint(run).path)
    random = build_model(config, channels, seed=seed)
    clouds = [read_cloud(store, sample) for sample in chosen_samples(kept, STATISTICS_FRAMES)]
    up = pretraining_up_axis([run], store)
    return RunNetworks(
        config=config,
        layer=layer,
        basis=provenance.basis_of(store, layer),
        up_axis=up,
        pretrained=with_batch_statistics(pretrained.to(config.device), clouds, config, up),
        random=with_batch_statistics(random.to(config.device), clouds, config, up),
    )
