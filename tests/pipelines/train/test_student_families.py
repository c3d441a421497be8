"""Losses, probes and retrieval work unchanged with a student of each kind.

A linear probe on these rooms says little: three classes are separable in random features of the
wide students, too. Retrieval on a scene that was held out is what random weights cannot do.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_recording import tiny_train_config

from p2pkit.pipelines import retrieval
from p2pkit.pipelines.train import run as train
from p2pkit.pipelines.train.logs import read_metrics
from p2pkit.pipelines.train.settings import OnlineProbeConfig, OptimizerConfig
from p2pkit.settings.students import WaffleIronConfig

pytestmark = pytest.mark.slow

STEPS = 40
ADAMW = OptimizerConfig(name="adamw", learning_rate=0.002, weight_decay=0.01, clip_norm=5.0)
SEEN = WaffleIronConfig(fov=(-3.0, -3.0, -3.0, 3.0, 3.0, 3.0), cells=(20, 20, 20))
PROBE = OnlineProbeConfig(every=STEPS, frames=4, points_per_frame=50, validation=0.3, test=0.3)
FAMILIES: dict[str, dict[str, Any]] = {
    "SpUNet": {},
    "PTv3-small": {"optimizer": ADAMW},
    "WaffleIron-12-256": {"optimizer": ADAMW, "waffleiron": SEEN},
}


@pytest.mark.parametrize("student", FAMILIES)
def test_the_loss_falls_and_points_find_their_pixels_better_than_at_random(
    student: str, room_store: Path, tmp_path: Path
) -> None:
    config = tiny_train_config(
        room_store,
        student=student,
        engine="torch",
        steps=STEPS,
        checkpoint_every=STEPS,
        holdout=4,
        probe=PROBE,
    )
    run = train.run(replace(config, **FAMILIES[student]), tmp_path / "pretrained")
    rows = read_metrics(run)
    losses = [row["loss"] for row in rows]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    assert all(0.3 < rows[-1][f"probe_{kind}_miou"] <= 1 for kind in ("linear", "knn"))
    path = retrieval.run(
        retrieval.RetrievalConfig(run, str(room_store), pairs=64, statistics_frames=4)
    )
    found = json.loads(path.read_text())
    assert found["trained"]["top1_cell"] > 1.5 * found["untrained"]["top1_cell"]
