"""Every stage on a device that is not the CPU, without one: see tests/second_device.py."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from second_device import second_device
from tiny_recording import TEACHER, recording_config, tiny_train_config, write_recording

from p2pkit.evaluation.linear_probe import ProbeConfig
from p2pkit.layers.features import FeatureConfig
from p2pkit.losses import LossConfig
from p2pkit.pipelines import retrieval
from p2pkit.pipelines.evaluate import probe
from p2pkit.pipelines.evaluate import run as evaluate
from p2pkit.pipelines.evaluate.features import FrozenConfig
from p2pkit.pipelines.evaluate.finetune import FinetuneConfig
from p2pkit.pipelines.extract import run as extract
from p2pkit.pipelines.report import run_page as report
from p2pkit.pipelines.train import profile as step_profile
from p2pkit.pipelines.train import run as train
from p2pkit.pipelines.train.checkpoints import latest_checkpoint
from p2pkit.pipelines.train.logs import read_metrics
from p2pkit.pipelines.train.settings import OnlineProbeConfig, TrainConfig
from p2pkit.store.reading import open_store

LOSSES = [
    LossConfig(),
    LossConfig(negatives="mask-same-cell-or-voxel", confidence="weight"),
    LossConfig(negatives="mask-similar"),
    LossConfig(name="ppnce-symmetric"),
    LossConfig(name="ppnce-soft"),
    LossConfig(name="superpixel", temperature=0.07),
    LossConfig(name="cosine"),
    LossConfig(name="l2"),
]
QUICK = ProbeConfig(iterations=3)
CLOCKS = ("step_s", "wait_s", "probe_s")


def config_of(store: Path, loss: LossConfig, **changes: Any) -> TrainConfig:
    head = "fixed" if loss.name in ("cosine", "l2") else "trained"
    settings = {"engine": "torch", "loss": loss, "pixel_head": head, "steps": 2, **changes}
    return tiny_train_config(store, **settings)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(latest_checkpoint(run).path / "weights.safetensors")


def logged(run: Path) -> list[dict[str, float]]:
    rows = read_metrics(run)
    return [{name: row[name] for name in row if name not in CLOCKS} for row in rows]


def approximately(value: Any) -> Any:
    """Equal but for rounding, which differs with where memory begins."""
    if isinstance(value, dict):
        return {key: approximately(one) for key, one in value.items()}
    if isinstance(value, list):
        return [approximately(one) for one in value]
    return pytest.approx(value, rel=1e-4, abs=1e-6) if isinstance(value, float) else value


def test_the_second_device_refuses_what_a_gpu_refuses() -> None:
    with second_device() as device:
        here, there = torch.ones(3), torch.ones(3).to(device)
        assert there.device.type == device
        assert (there + 1).sum().item() == 6
        for forbidden in (
            lambda: here + there,
            lambda: torch.cat([here, there]),
            lambda: torch.nn.Linear(3, 3)(there),
        ):
            with pytest.raises(RuntimeError, match="same device"):
                forbidden()
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()
        assert there.cpu().numpy().tolist() == [1, 1, 1]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: f"{loss.name}-{loss.negatives}")
def test_training_does_what_it_does_on_the_cpu(
    cut_store: Path, tmp_path: Path, loss: LossConfig
) -> None:
    config = config_of(cut_store, loss, accumulate=2, steps=1)
    here = train.run(config, tmp_path / "here")
    with second_device() as device:
        there = train.run(replace(config, device=device), tmp_path / "there")
    assert logged(there) == approximately(logged(here))
    torch.testing.assert_close(weights(there), weights(here), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
# torch cannot know that this `meta` has memory.
@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter:UserWarning")
def test_a_run_goes_on_from_one_device_to_another(cut_store: Path, tmp_path: Path) -> None:
    config = config_of(cut_store, LossConfig(), checkpoint_every=1)
    whole = train.run(config, tmp_path / "whole")
    with second_device() as device:
        begun = train.run(replace(config, device=device), tmp_path / "to-cpu", stop_after=1)
        on_cpu = train.run(config, tmp_path / "from-cpu", stop_after=1)
        train.resume(on_cpu, settings=replace(config, device=device))
    train.resume(begun, settings=config)
    for run in (begun, on_cpu):
        torch.testing.assert_close(weights(run), weights(whole), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "features",
    [
        FeatureConfig(teacher=TEACHER),
        FeatureConfig(teacher=TEACHER, stored_views="flip", map="int8"),
        FeatureConfig(teacher=TEACHER, layout="pixels", upsampling="joint-bilateral"),
    ],
    ids=["grid", "views", "pixels"],
)
def test_extraction_gives_what_it_gives_on_the_cpu(
    room_recording: Path, tmp_path: Path, features: FeatureConfig
) -> None:
    here = recording_config(room_recording, tmp_path / "here", features=features)
    extract.run(here)
    with second_device() as device:
        teacher = replace(features.teacher, device=device, batch_size=3)
        there = replace(features, teacher=teacher)
        extract.run(replace(here, out=tmp_path / "there", features=there))
    stores = [open_store(tmp_path / name) for name in ("here", "there")]
    assert stores[0].manifest == stores[1].manifest
    for file in (tmp_path / "here" / "geometry").glob("*.tar"):
        assert (tmp_path / "there" / "geometry" / file.name).read_bytes() == file.read_bytes()
    for shard in range(3):
        for row in range(4):
            one, other = (x.read(x.feature_layers[0], shard, row) for x in stores)
            assert (one.key, one.meta) == (other.key, other.meta)
            for name, array in one.arrays.items():
                # A step of the last bit: of a byte in maps that are stored as bytes.
                step = 1 if array.dtype == np.uint8 else 2e-3
                found = other.arrays[name].astype(float)
                np.testing.assert_allclose(found, array.astype(float), atol=step, rtol=2e-3)


def judged(run: Path, store: Path) -> dict[str, Any]:
    """What the stages after training say of a run."""
    scores = evaluate.run(
        evaluate.EvaluateConfig(
            runs=(run,),
            store=str(store),
            out=run / "evaluation",
            modes=("linear", "knn", "finetune"),
            fractions=(100.0,),
            seeds=1,
            validation=0.25,
            test=0.25,
            frozen=FrozenConfig(points_per_frame=50, statistics_frames=2, probe=QUICK),
            finetune=FinetuneConfig(steps=2, batch_size=2, validations=1, validation_frames=1),
        )
    )
    probed = probe.run(
        probe.ProbeStageConfig(
            run, str(store), points_per_frame=50, statistics_frames=2, probe=QUICK
        )
    )
    found = retrieval.run(retrieval.RetrievalConfig(run, str(store), pairs=32))
    report.run(report.ReportConfig(run, str(store), run / "report.html", frames=1))
    rows = [json.loads(path.read_text()) for path in (scores, probed, found)]
    return {"scores": rows[0]["cells"], "probe": rows[1], "retrieval": rows[2]}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter:UserWarning")
def test_the_stages_after_training_say_what_they_say_on_the_cpu(tmp_path: Path) -> None:
    """Of four scenes of one frame: two to train on in one batch, one to validate, one to test."""
    recording = write_recording(tmp_path / "rooms", 4, sequences=4)
    store = extract.run(recording_config(recording, tmp_path / "rooms.store"))
    every = OnlineProbeConfig(every=2, frames=4, points_per_frame=50, validation=0.25, test=0.25)
    config = config_of(store, LossConfig(), holdout=1, probe=every)
    here = judged(train.run(config, tmp_path / "run"), store)
    (tmp_path / "run").rename(tmp_path / "here")
    with second_device() as device:
        config = replace(config, device=device)
        there = judged(train.run(config, tmp_path / "run"), store)
        assert step_profile.run(config, steps=1).steps == 1
    assert there == approximately(here)
    assert logged(tmp_path / "run") == approximately(logged(tmp_path / "here"))
