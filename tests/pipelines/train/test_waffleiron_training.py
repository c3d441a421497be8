"""A student that needs more than voxels: what it prepares reaches it wherever it is used."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_recording import tiny_train_config

from p2pkit.errors import GeometryError
from p2pkit.networks.waffleiron import WaffleIron
from p2pkit.pipelines import retrieval
from p2pkit.pipelines.evaluate import run as evaluate
from p2pkit.pipelines.evaluate.features import FrozenConfig
from p2pkit.pipelines.evaluate.inference import point_features, read_cloud
from p2pkit.pipelines.evaluate.settings import FinetuneConfig
from p2pkit.pipelines.train import run as train
from p2pkit.pipelines.train.checkpoints import latest_checkpoint
from p2pkit.pipelines.train.distributed import Ranks
from p2pkit.pipelines.train.logs import read_metrics
from p2pkit.pipelines.train.model import WEIGHTS, build_model, load_weights
from p2pkit.pipelines.train.presets import preset
from p2pkit.pipelines.train.run_folder import read_provenance
from p2pkit.pipelines.train.settings import OnlineProbeConfig, TrainConfig
from p2pkit.pipelines.train.stores import open_sources
from p2pkit.settings.students import WaffleIronConfig
from p2pkit.store.reading import open_store

ROOM = WaffleIronConfig(fov=(-1.9, -1.0, -1.9, 1.9, 1.0, 1.9), cells=(12, 8, 12), neighbours=4)
"""Cuts off the far wall of the recorded room; frames are turned about their y axis."""


@pytest.fixture(scope="module")
def config(room_store: Path) -> TrainConfig:
    probe = OnlineProbeConfig(every=2, frames=2, points_per_frame=20, validation=0.3, test=0.3)
    return tiny_train_config(
        room_store, student="WaffleIron-12-256", waffleiron=ROOM, steps=3, holdout=4, probe=probe
    )


@pytest.fixture(scope="module")
def pretrained(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train.run(config, tmp_path_factory.mktemp("run") / "pretrained")


def test_batches_carry_what_the_student_takes(config: TrainConfig) -> None:
    sources = open_sources(config)
    found = []
    for threads in (1, 3):
        stream = replace(config.stream, threads=threads)
        _, batches = train.trainer_and_stream(replace(config, stream=stream), sources, Ranks())
        found.append(next(batches.batches(0, 1)).to("cpu"))
    one, other = found
    assert set(one.prepared) == {"inside", "nearest", "neighbours", "cells"}
    for name, value in one.prepared.items():
        assert torch.equal(value, other.prepared[name])
    assert 0 < len(one.prepared["inside"]) < len(one.coordinates) == len(one.prepared["nearest"])
    sizes = np.array([12 * 8, 12 * 12, 8 * 12])
    frame = one.coordinates[one.prepared["inside"], 0].numpy()
    assert np.array_equal(one.prepared["cells"].numpy() // sizes, np.stack([frame] * 3, axis=1))
    around = frame[one.prepared["neighbours"].numpy()]
    assert (around == frame[:, None]).all()


def test_a_stopped_run_continues_to_the_bit(
    config: TrainConfig, pretrained: Path, tmp_path: Path
) -> None:
    parts = train.run(config, tmp_path / "parts", stop_after=1)
    train.resume(parts)
    files = [latest_checkpoint(folder).path / WEIGHTS for folder in (pretrained, parts)]
    assert files[0].read_bytes() == files[1].read_bytes()
    scores = [row["probe_linear_miou"] for row in read_metrics(parts) if row["step"] == 1]
    assert 0 <= scores[0] <= 1


def test_it_is_evaluated_fine_tuned_and_tested_by_retrieval(
    pretrained: Path, room_store: Path, tmp_path: Path
) -> None:
    report = evaluate.run(
        evaluate.EvaluateConfig(
            runs=(pretrained,),
            store=str(room_store),
            out=tmp_path / "out",
            modes=("linear", "finetune"),
            fractions=(100.0,),
            seeds=1,
            validation=0.3,
            test=0.3,
            frozen=FrozenConfig(points_per_frame=20, statistics_frames=1),
            finetune=FinetuneConfig(steps=1, batch_size=1, validations=1, validation_frames=1),
        )
    )
    protocol = json.loads(report.read_text())
    assert {row["name"] for row in protocol["tables"]["finetune"]} == {"scratch", "pretrained"}
    found = retrieval.run(retrieval.RetrievalConfig(pretrained, str(room_store), pairs=16))
    assert json.loads(found.read_text())["frames"] == 4


def test_every_point_gets_features_outside_the_field_of_view_too(
    config: TrainConfig, pretrained: Path, room_store: Path
) -> None:
    model = build_model(config, read_provenance(pretrained).teacher_channels, seed=0)
    load_weights(model, latest_checkpoint(pretrained).path)
    cloud = read_cloud(open_store(room_store), 0)
    assert isinstance(model.student, WaffleIron)
    assert (cloud.points[:, 2] > 1.9).any()
    found = point_features(model.eval(), cloud, config)
    assert found.shape == (len(cloud.points), 256)
    assert np.isfinite(found).all()


def test_the_preset_of_scalr_trains_on_fixed_features_with_adamw(
    room_store: Path, tmp_path: Path
) -> None:
    full = preset("scalr", room_store)
    assert (full.student, full.waffleiron.norm) == ("WaffleIron-48-768", "layer")
    assert full.waffleiron.limits[1] == (64.0, 64.0, 8.0)
    assert full.stream.sample.inputs == ("intensity", "position", "range")
    # Only what a room of a few hundred voxels and a CPU need is changed.
    small = replace(
        full,
        student="WaffleIron-12-256",
        waffleiron=replace(ROOM, norm="layer"),
        steps=12,
        optimizer=replace(full.optimizer, warmup_steps=2),
        stream=replace(tiny_train_config(room_store).stream, batch_size=2),
    )
    run = train.run(small, tmp_path / "whole")
    losses = [row["loss"] for row in read_metrics(run)]
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])
    part = train.run(small, tmp_path / "part", stop_after=5)
    train.resume(part)
    files = [latest_checkpoint(folder).path / WEIGHTS for folder in (run, part)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_field_of_view_without_points_is_one_line(config: TrainConfig, tmp_path: Path) -> None:
    far = replace(ROOM, fov=(8.0, 8.0, 8.0, 9.0, 9.0, 9.0))
    with pytest.raises(GeometryError, match=r"no point of a frame.*set waffleiron\.fov"):
        train.run(replace(config, waffleiron=far), tmp_path / "run")
