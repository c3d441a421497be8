"""Depth cameras have y down, point frames z up: each is augmented about its own axis."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_recording import recording_config, tiny_train_config

from p2pkit.errors import ConfigError
from p2pkit.pipelines.evaluate.frames import pretraining_up_axis
from p2pkit.pipelines.evaluate.run import EvaluateConfig, compared_frames
from p2pkit.pipelines.evaluate.weights import compared_weights
from p2pkit.pipelines.extract import run as extract
from p2pkit.pipelines.train import run as train
from p2pkit.pipelines.train.online_probe import OnlineProbe
from p2pkit.pipelines.train.run_folder import read_provenance
from p2pkit.pipelines.train.settings import OnlineProbeConfig, TrainConfig
from p2pkit.pipelines.train.stores import open_sources
from p2pkit.store.reading import open_store
from p2pkit.stream.augmentation import NO_AUGMENTATION, AugmentConfig, Axis
from p2pkit.stream.batches import Batch, BatchStream

CAMERA, POINTS = (0.0, -1.0, 0.0), (0.0, 0.0, 1.0)
TURNED = AugmentConfig(tilt_deg=0.0, scale=(1.0, 1.0), elastic=())


@pytest.fixture(scope="module")
def fused_store(room_recording: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Point frames of the rooms, with z up; not to be written."""
    out = tmp_path_factory.mktemp("fused") / "fused.store"
    return extract.run(recording_config(room_recording, out, fuse=2))


def augmented(config: TrainConfig, augment: AugmentConfig) -> TrainConfig:
    sample = replace(config.stream.sample, augment=augment, voxel_size=0.05)
    return replace(config, stream=replace(config.stream, batch_size=4, sample=sample))


def heights(batch: Batch, frame: int, axis: int) -> np.ndarray:
    rows = batch.coordinates[batch.coordinates[:, 0] == frame]
    column = rows[:, 1 + axis]
    return np.array([int(column.min()), int(column.max())])


def first_batch(config: TrainConfig) -> tuple[Batch, list[int]]:
    """The first batch, and the number of each frame's store."""
    stream = BatchStream(open_sources(config), config=config.stream)
    [batch] = stream.batches(0, 1)
    return batch, [place.source for place in stream.order.batch(0, 4, rank=0, ranks=1)]


def test_each_store_of_a_mixture_is_turned_about_its_own_axis(
    room_store: Path, fused_store: Path
) -> None:
    config = tiny_train_config(room_store, more_stores=(str(fused_store),), weights=(1.0, 1.0))
    still, sources = first_batch(augmented(config, NO_AUGMENTATION))
    moved, _ = first_batch(augmented(config, TURNED))
    assert set(sources) == {0, 1}
    for frame, source in enumerate(sources):
        found = [heights(batch, frame, (1, 2)[source]) for batch in (still, moved)]
        assert abs(found[0] - found[1]).max() <= 1
        across = [heights(batch, frame, (2, 1)[source]) for batch in (still, moved)]
        assert abs(across[0] - across[1]).max() > 1


def test_a_named_axis_wins(fused_store: Path) -> None:
    config = tiny_train_config(fused_store)
    named = replace(TURNED, up_axis=(1.0, 0.0, 0.0))
    still, moved = (first_batch(augmented(config, x))[0] for x in (NO_AUGMENTATION, named))
    for frame in range(4):
        found = [heights(batch, frame, 0) for batch in (still, moved)]
        assert abs(found[0] - found[1]).max() <= 1


def test_batches_of_depth_cameras_are_those_of_the_named_axis(room_store: Path) -> None:
    config = tiny_train_config(room_store)
    batches = [
        first_batch(augmented(config, replace(AugmentConfig(), up_axis=up)))[0]
        for up in (None, CAMERA)
    ]
    for name in ("coordinates", "inputs", "pair_voxel", "pair_feature"):
        assert torch.equal(getattr(batches[0], name), getattr(batches[1], name))


def test_a_run_knows_what_was_up(room_store: Path, fused_store: Path, tmp_path: Path) -> None:
    """Another recording is turned to what the run has seen; one that it knows is left alone."""
    stores = {"camera": (room_store,), "points": (fused_store,), "both": (fused_store, room_store)}
    runs: dict[str, Path] = {}
    for name, (first, *more) in stores.items():
        config = tiny_train_config(first, more_stores=tuple(map(str, more)), steps=1)
        runs[name] = train.run(config, tmp_path / name)
        train.resume(runs[name])
    ups = {name: [use.up_axis for use in read_provenance(run).stores] for name, run in runs.items()}
    assert ups == {"camera": [CAMERA], "points": [POINTS], "both": [POINTS, CAMERA]}
    rooms, fused = open_store(room_store), open_store(fused_store)
    assert pretraining_up_axis([runs["camera"]], fused) == CAMERA
    assert pretraining_up_axis([runs["points"]], rooms) == POINTS
    assert pretraining_up_axis([runs["both"]], rooms) == CAMERA
    assert pretraining_up_axis([runs["both"], runs["camera"]], rooms) == CAMERA
    assert pretraining_up_axis([runs["points"], runs["both"]], fused) == POINTS
    with pytest.raises(ConfigError, match="trained with different up axes"):
        pretraining_up_axis([runs["camera"], runs["points"]], rooms)
    config = EvaluateConfig(
        runs=(runs["both"],),
        store=str(room_store),
        test_store=str(fused_store),
        out=tmp_path / "out",
        validation=0.3,
    )
    frames = compared_frames(config, compared_weights(config.runs, {}))
    assert frames.turn is None
    assert frames.other is not None
    assert frames.other.up_axis == frames.up_axis == CAMERA
    assert frames.other.turn is not None


@pytest.mark.parametrize(("named", "expected"), [(None, POINTS), ((1.0, 0.0, 0.0),) * 2])
def test_the_online_probe_turns_its_frames_to_the_runs_axis(
    room_store: Path, fused_store: Path, tmp_path: Path, named: Axis | None, expected: Axis
) -> None:
    probe = OnlineProbeConfig(
        every=1, store=str(room_store), frames=2, validation=0.3, test=0.3, points_per_frame=20
    )
    config = tiny_train_config(fused_store, probe=probe)
    config = augmented(config, replace(TURNED, up_axis=named))
    assert OnlineProbe(config, tmp_path).up_axis == expected
