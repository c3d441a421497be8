"""The whole chain on generated rooms: pretrained features beat random ones on a new room."""

import json
from pathlib import Path

from p2pkit.layers.features import FeatureConfig
from p2pkit.pipelines.demo import SETTINGS, TEACHER_INPUT
from p2pkit.pipelines.evaluate import run as evaluate
from p2pkit.pipelines.evaluate.features import FrozenConfig
from p2pkit.pipelines.extract import run as extract
from p2pkit.pipelines.extract.settings import ExtractConfig
from p2pkit.pipelines.train import run as train
from p2pkit.pipelines.train.presets import preset
from p2pkit.settings import with_settings
from p2pkit.teachers import TeacherOptions

ROOMS, FRAMES_OF_A_ROOM, STEPS = 3, 12, 60
MARGIN = 0.08
"""Less than half of what was measured: +0.248 with seed 0, +0.180 with seed 1 (2 CPU cores)."""


def gain(folder: Path, seed: int) -> float:
    """mIoU of the linear probe above that of random weights: mean of two random networks."""
    features = FeatureConfig(teacher=TeacherOptions(input_size=TEACHER_INPUT))
    store = extract.run(
        ExtractConfig(
            dataset="demo-scene",
            root=None,
            out=folder / "store",
            features=features,
            limit=ROOMS * FRAMES_OF_A_ROOM,
            shard_size=FRAMES_OF_A_ROOM,
            seed=seed,
        )
    )
    settings = (*SETTINGS, f"holdout={FRAMES_OF_A_ROOM}", f"steps={STEPS}", f"seed={seed}")
    run = train.run(with_settings(preset("cpu-small", store), settings), folder / "run")
    report = evaluate.run(
        evaluate.EvaluateConfig(
            runs=(run,),
            store=str(store),
            out=folder / "evaluation",
            fractions=(100.0,),
            seeds=2,
            validation=0.3,
            test=0.33,
            frozen=FrozenConfig(points_per_frame=300, statistics_frames=6),
        )
    )
    row = json.loads(report.read_text())["tables"]["linear"][1]
    return row["difference"]["mean"]


def test_pretrained_features_beat_random_ones(tmp_path: Path) -> None:
    assert gain(tmp_path, seed=0) > MARGIN


if __name__ == "__main__":
    import sys
    import tempfile

    for number in map(int, sys.argv[1:]):
        with tempfile.TemporaryDirectory() as temporary:
            print(number, gain(Path(temporary), number), flush=True)
