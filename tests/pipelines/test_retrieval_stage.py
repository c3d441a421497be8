import json
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import p2pkit
from tiny_recording import TEACHER, recording_config, tiny_train_config, write_recording

from p2pkit.errors import ConfigError, TrainingError
from p2pkit.layers.geometry import PointCloud, decode_geometry
from p2pkit.pipelines import retrieval
from p2pkit.pipelines.evaluate.inference import turned_cloud
from p2pkit.pipelines.extract import run as extract
from p2pkit.pipelines.retrieval import RetrievalConfig, run
from p2pkit.pipelines.train import run as train
from p2pkit.pipelines.train.model import PretrainingModel
from p2pkit.pipelines.train.settings import TrainConfig
from p2pkit.settings.layers import FeatureConfig
from p2pkit.store.reading import open_store
from p2pkit.stream.augmentation import Axis


@pytest.fixture(scope="module")
def trained(room_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 25 steps that held out the last two frames."""
    config = tiny_train_config(room_store, steps=25, holdout=2, checkpoint_every=25)
    return train.run(config, tmp_path_factory.mktemp("run") / "run")


def test_figures_lie_in_range_and_training_beats_chance(trained: Path, room_store: Path) -> None:
    path = run(RetrievalConfig(run=trained, store=str(room_store), pairs=64))
    assert path == trained / "retrieval.json"
    report = json.loads(path.read_text())
    assert report["frames"] == 2
    assert report["checkpoint_step"] == 25
    assert report["chance"] == 1 / 64 <= report["chance_cell"] < 1
    assert report["pairs"] == report["pairs_found"] == 64
    for name in ("trained", "untrained"):
        assert 0 <= report[name]["top1_pixel"] <= report[name]["top1_cell"] <= 1
    assert report["trained"]["top1_pixel"] > report["chance"]


def test_chance_counts_the_pairs_that_there_are(trained: Path, room_store: Path) -> None:
    report = json.loads(run(RetrievalConfig(trained, str(room_store), pairs=10**6)).read_text())
    assert report["pairs"] == 10**6
    assert 64 < report["pairs_found"] <= 64 * 48
    assert report["chance"] == pytest.approx(1 / report["pairs_found"], rel=0.05)
    assert report["trained"]["top1_pixel"] > report["chance"]


def test_the_seed_decides_the_figures(trained: Path, room_store: Path) -> None:
    reports = [
        run(RetrievalConfig(run=trained, store=str(room_store), pairs=32, seed=seed)).read_text()
        for seed in (4, 4, 5)
    ]
    assert reports[0] == reports[1]
    assert reports[0] != reports[2]


def test_both_networks_take_their_statistics_from_frames_that_are_not_tested(
    trained: Path, room_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the initial statistics of a random network its features would be another function."""
    seen: list[list[str]] = []
    plain = retrieval.with_batch_statistics

    def watched(model: PretrainingModel, clouds: Iterable[PointCloud], *more: TrainConfig) -> Any:
        read = list(clouds)
        seen.append([cloud.key for cloud in read])
        return plain(model, read, *more)

    monkeypatch.setattr(retrieval, "with_batch_statistics", watched)
    config = RetrievalConfig(trained, str(room_store), pairs=32, statistics_frames=4)
    run(config)
    held = set(json.loads((trained / "store.json").read_text())["holdout"])
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == 4
    assert held.isdisjoint(seen[0])
    with pytest.raises(ConfigError, match="statistics_frames is 0; must be at least 1"):
        replace(config, statistics_frames=0)


def test_a_run_without_holdout_is_refused(trained: Path, room_store: Path, tmp_path: Path) -> None:
    whole = shutil.copytree(trained, tmp_path / "run")
    provenance = json.loads((whole / "store.json").read_text())
    (whole / "store.json").write_text(json.dumps({**provenance, "holdout": []}))
    with pytest.raises(ConfigError, match=r"held no frame of .* train with --set holdout="):
        run(RetrievalConfig(run=whole, store=str(room_store)))


def test_another_store_is_tested_as_a_whole(trained: Path, tmp_path: Path) -> None:
    root = write_recording(tmp_path / "other", 2)
    other = extract.run(recording_config(root, tmp_path / "store"))
    before = {path.name for path in trained.glob("retrieval*.json")}
    path = run(RetrievalConfig(run=trained, store=str(other), pairs=64))
    assert path.name not in before | {"retrieval.json"}
    report = json.loads(path.read_text())
    assert (report["frames"], report["trained_on_store"]) == (2, False)
    assert 0 <= report["trained"]["top1_pixel"] <= report["trained"]["top1_cell"] <= 1
    said = p2pkit("retrieval", trained, other, "--set", "pairs=64").output
    assert "2 frames of another store, 64 candidates each" in said
    assert "the run has seen these frames if it was trained on the same recording" in said


def test_points_of_other_axes_are_turned_to_the_runs(
    trained: Path, room_recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fused frames have z up, the run was trained with y down."""
    fused = extract.run(recording_config(room_recording, tmp_path / "fused.store", fuse=2))
    seen: list[tuple[PointCloud, Axis]] = []

    def watched(cloud: PointCloud, up_axis: Axis | None) -> tuple[PointCloud, Axis]:
        seen.append(turned_cloud(cloud, up_axis))
        return seen[-1]

    monkeypatch.setattr(retrieval, "turned_cloud", watched)
    run(RetrievalConfig(run=trained, store=str(fused), pairs=16))
    stored = open_store(fused)
    for cloud, up in seen:
        assert up == (0.0, -1.0, 0.0)
        own = decode_geometry(stored.read("geometry", *stored.find(cloud.key)))
        np.testing.assert_allclose(-cloud.points[:, 1], own.points[:, 2], atol=1e-5)
    assert len(seen) == 2 * stored.samples


def test_coefficients_of_another_basis_are_refused(tmp_path: Path) -> None:
    coded = FeatureConfig(teacher=TEACHER, map="pca:8")
    stores = [
        extract.run(
            recording_config(
                write_recording(tmp_path / name, frames), tmp_path / f"{name}.store", features=coded
            )
        )
        for name, frames in (("one", 4), ("two", 6))
    ]
    learned = train.run(tiny_train_config(stores[0], steps=1, holdout=1), tmp_path / "run")
    run(RetrievalConfig(run=learned, store=str(stores[0]), pairs=16))
    with pytest.raises(ConfigError, match=r"128 channels; the run learned from 8, of PCA"):
        run(RetrievalConfig(run=learned, store=str(stores[1]), pairs=16))


def test_features_of_another_teacher_are_refused(trained: Path, tmp_path: Path) -> None:
    root = write_recording(tmp_path / "other", 2)
    teacher = FeatureConfig(teacher=replace(TEACHER, name="resnet18"))
    other = extract.run(recording_config(root, tmp_path / "store", features=teacher))
    with pytest.raises(ConfigError, match=r"features/resnet18.* has features of another teacher"):
        run(RetrievalConfig(run=trained, store=str(other)))


def test_what_is_no_run_is_refused(room_store: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="holds no run"):
        run(RetrievalConfig(run=tmp_path, store=str(room_store)))


def test_a_named_device_must_be_usable(trained: Path, room_store: Path) -> None:
    on_cpu = RetrievalConfig(trained, str(room_store), pairs=16, device="cpu")
    assert json.loads(run(on_cpu).read_text())["pairs"] == 16
    with pytest.raises(ConfigError, match="device 'tpu' cannot be used"):
        run(RetrievalConfig(trained, str(room_store), device="tpu"))
