"""Losses and probes work unchanged with a student of each kind: what it learns shows in a probe."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_recording import tiny_train_config

from p2pkit.pipelines.evaluate.features import FrozenConfig, FrozenFeatures, student_features
from p2pkit.pipelines.evaluate.frames import open_labelled
from p2pkit.pipelines.evaluate.weights import SCRATCH, compared_weights
from p2pkit.pipelines.train import run as train
from p2pkit.pipelines.train.logs import read_metrics
from p2pkit.pipelines.train.settings import OptimizerConfig
from p2pkit.settings.students import WaffleIronConfig
from p2pkit.store.reading import open_store

pytestmark = pytest.mark.slow

STEPS = 60
ADAMW = OptimizerConfig(name="adamw", learning_rate=0.002, weight_decay=0.01, clip_norm=5.0)
SEEN = WaffleIronConfig(fov=(-3.0, -3.0, -3.0, 3.0, 3.0, 3.0), cells=(20, 20, 20))
FAMILIES: dict[str, dict[str, Any]] = {
    "SpUNet": {},
    "PTv3-small": {"optimizer": ADAMW},
    "WaffleIron-12-256": {"optimizer": ADAMW, "waffleiron": SEEN},
}


def miou_of(run: Path, store: Path, name: str, seed: int) -> float:
    """Of a linear probe on the frozen features, on scenes that it was not fitted to."""
    data = open_labelled(
        open_store(store), label_set="stored", validation=0.3, test=0.3, voxel_size=0.15
    )
    settings = FrozenConfig(points_per_frame=200, statistics_frames=4)
    student = compared_weights([run], {}).student(name, seed)
    features = FrozenFeatures(student_features(student, data, settings), data, settings)
    return features.scores("linear", data.parts["train"], seed).scores.miou


@pytest.mark.parametrize("student", FAMILIES)
def test_the_loss_falls_and_the_features_beat_random_ones(
    student: str, room_store: Path, tmp_path: Path
) -> None:
    config = tiny_train_config(
        room_store, student=student, engine="torch", steps=STEPS, checkpoint_every=STEPS
    )
    run = train.run(replace(config, **FAMILIES[student]), tmp_path / "pretrained")
    losses = [row["loss"] for row in read_metrics(run)]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    pretrained = miou_of(run, room_store, "pretrained", 0)
    random = [miou_of(run, room_store, SCRATCH, seed) for seed in (0, 1)]
    print(student, losses[0], losses[-1], pretrained, random)
    assert pretrained > max(random)
