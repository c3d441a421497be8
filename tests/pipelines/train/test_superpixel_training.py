"""From a recording to a student by SLidR's contrast of superpixels."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_recording import recording_config, tiny_train_config

from p2pkit.errors import ConfigError, StoreError, TrainingError
from p2pkit.geometry.maps.superpixels import SuperpixelConfig
from p2pkit.layers.features import FeatureConfig
from p2pkit.losses import LossConfig
from p2pkit.pipelines.extract.run import ExtractConfig
from p2pkit.pipelines.extract.run import run as extract
from p2pkit.pipelines.train import run as train
from p2pkit.pipelines.train.distributed import Ranks
from p2pkit.pipelines.train.logs import read_metrics
from p2pkit.pipelines.train.model import build_model
from p2pkit.pipelines.train.presets import preset
from p2pkit.pipelines.train.run_folder import read_provenance
from p2pkit.pipelines.train.settings import TrainConfig
from p2pkit.pipelines.train.step import Trainer, anchors
from p2pkit.store.reading import open_store
from p2pkit.stream.batches import Batch, BatchStream, StreamConfig
from p2pkit.stream.samples import SampleConfig
from p2pkit.teachers import TeacherOptions

LOSS = LossConfig(name="superpixel", temperature=0.07)
CUT = SuperpixelConfig(20)
STEPS = 12
CAMERAS = ("front_camera", "back_camera")


def learns(config: TrainConfig, out: Path) -> list[dict[str, float]]:
    """Train; gives the rows of the log after a look at their loss."""
    rows = read_metrics(train.run(config, out))
    losses = [row["loss"] for row in rows]
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    return rows


@pytest.mark.slow
def test_demo_rooms_from_extraction_to_a_falling_loss(tmp_path: Path) -> None:
    store = extract(
        ExtractConfig(
            dataset="demo-scene",
            root=None,
            out=tmp_path / "rooms.store",
            features=FeatureConfig(teacher=TeacherOptions(input_size=(160, 128))),
            limit=4,
            superpixels=SuperpixelConfig(60),
        )
    )
    sample = SampleConfig(voxel_size=0.2, pairs_per_frame=256)
    stream = StreamConfig(batch_size=2, sample=sample)
    config = tiny_train_config(store, loss=LOSS, steps=STEPS, stream=stream)
    rows = learns(config, tmp_path / "run")
    assert all(row["pairs"] == 512 for row in rows)
    assert all(2 * 30 < row["superpixels"] < 2 * 90 for row in rows)


def copied_drive(drive: Path, copy: Path) -> Path:
    """A PandaSet drive with links to what two of its cameras and its LiDARs recorded."""
    (copy / "camera").mkdir(parents=True)
    for name in ("lidar", *(f"camera/{camera}" for camera in CAMERAS)):
        (copy / name).symlink_to(drive / name)
    for path in drive.glob("*.json"):
        shutil.copy(path, copy)
    return copy


@pytest.mark.slow
@pytest.mark.realdata
def test_real_drives_from_extraction_to_a_falling_loss(data_root: Path, tmp_path: Path) -> None:
    drive = copied_drive(data_root / "pandaset" / "002", tmp_path / "pandaset" / "002")
    store = extract(
        ExtractConfig(
            dataset="pandaset",
            root=drive.parent,
            out=tmp_path / "drive.store",
            features=FeatureConfig(teacher=TeacherOptions(input_size=(320, 192))),
            limit=1,
            superpixels=SuperpixelConfig(),
        )
    )
    opened = open_store(store)
    [layer] = opened.superpixel_layers
    counts = opened.read(layer, 0, 0).meta["superpixels"]
    assert len(counts) == len(CAMERAS)
    assert all(75 < count < 225 for count in counts)
    sample = SampleConfig(voxel_size=0.8, pairs_per_frame=2048)
    stream = StreamConfig(batch_size=1, sample=sample)
    config = tiny_train_config(store, loss=LOSS, steps=STEPS, stream=stream)
    rows = learns(config, tmp_path / "run")
    assert all(75 < row["superpixels"] <= sum(counts) for row in rows)


def test_a_run_goes_on_with_the_superpixels_that_it_was_begun_on(
    room_recording: Path, cut_store: Path, tmp_path: Path
) -> None:
    store = shutil.copytree(cut_store, tmp_path / "store")
    config = tiny_train_config(store, loss=LOSS)
    train.run(config, tmp_path / "whole")
    train.run(config, tmp_path / "run", stop_after=3)
    [layer] = open_store(store).superpixel_layers
    [use] = read_provenance(tmp_path / "run").stores
    assert use.layers[2] == layer
    extract(recording_config(room_recording, store, superpixels=SuperpixelConfig(30)))
    with pytest.raises(ConfigError, match=r"2 layers of superpixels .* --set superpixels=NAME"):
        train.open_sources(config)
    train.resume(tmp_path / "run")
    rows = [read_metrics(tmp_path / name) for name in ("whole", "run")]
    assert [row["superpixels"] for row in rows[0]] == [row["superpixels"] for row in rows[1]]
    named = replace(config, superpixels=layer.split("/")[1])
    [source] = train.open_sources(named)
    assert source.superpixels == layer
    with pytest.raises(ConfigError, match="2 layers of superpixels"):
        train.open_sources(replace(config, superpixels="geometry"))


def test_a_store_without_superpixels_is_refused_with_the_command_that_adds_them(
    room_store: Path, tmp_path: Path
) -> None:
    config = tiny_train_config(room_store, loss=LOSS)
    command = rf"p2pkit extract .*--dataset posed-rgbd --out {room_store} --superpixels slic:150"
    with pytest.raises(ConfigError, match=command):
        train.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_losses_do_not_read_them(cut_store: Path, room_store: Path, tmp_path: Path) -> None:
    store = shutil.copytree(cut_store, tmp_path / "store")
    for path in store.glob("superpixels/*/*"):
        path.unlink()
    [source] = train.open_sources(tiny_train_config(store))
    assert source.superpixels is None
    train.run(tiny_train_config(store), tmp_path / "run")
    train.run(tiny_train_config(room_store), tmp_path / "plain")
    rows = [read_metrics(tmp_path / name) for name in ("run", "plain")]
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]
    assert "superpixels" not in rows[0][0]
    assert read_provenance(tmp_path / "run").stores[0].layers[2:] == ()
    with pytest.raises(StoreError, match=r"layer superpixels/.* is incomplete: 0 of 3"):
        train.open_sources(tiny_train_config(store, loss=LOSS))


def test_batches_are_the_same_but_for_their_superpixels(cut_store: Path) -> None:
    config = tiny_train_config(cut_store)

    def first(loss: LossConfig) -> Batch:
        sources = train.open_sources(replace(config, loss=loss))
        return next(BatchStream(sources, config=config.stream).batches(0, 1))

    plain, cut = first(config.loss), first(LOSS)
    assert plain.pair_superpixel is None
    assert cut.pair_superpixel is not None
    assert len(cut.pair_superpixel) == 128
    for name, value in vars(plain).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, getattr(cut, name))
    [source] = train.open_sources(replace(config, loss=LOSS))
    assert source.superpixels is not None
    # The ids of two frames share no number, and each differs from the cells.
    frames = [set(part.tolist()) for part in cut.pair_superpixel.split(64)]
    assert not frames[0] & frames[1]


def test_micro_batches_count_by_their_superpixels(cut_store: Path) -> None:
    config = tiny_train_config(cut_store, loss=LOSS, accumulate=2)
    sources = train.open_sources(config)
    stream_config = replace(config.stream, batch_size=4)
    model = build_model(config, sources[0].channels, seed=0).eval()
    batches = list(BatchStream(sources, config=stream_config, parts=2).batches(0, 1))
    apart: list[tuple[float, int]] = []
    for batch in batches:
        trainer = Trainer(model, config, model, Ranks())
        report = trainer.step([batch], 0.0)
        assert report.superpixels is not None
        apart.append((report.loss, report.superpixels))
    whole = Trainer(model, config, model, Ranks()).step(batches, 0.0)
    total = sum(count for _, count in apart)
    assert whole.superpixels == total
    assert apart[0][1] != apart[1][1]
    assert whole.loss == pytest.approx(sum(loss * n for loss, n in apart) / total, rel=1e-5)
    some = replace(batches[0], pair_confidence=torch.zeros(128))
    some.pair_confidence[:5] = 0.5
    assert some.pair_superpixel is not None
    weighs = replace(LOSS, confidence="weight")
    assert anchors(some, weighs) == len(some.pair_superpixel[:5].unique())
    assert anchors(some, LOSS) == apart[0][1]


def test_superpixels_made_anew_are_another_store(
    room_recording: Path, cut_store: Path, tmp_path: Path
) -> None:
    store = shutil.copytree(cut_store, tmp_path / "store")
    train.run(tiny_train_config(store, loss=LOSS), tmp_path / "run", stop_after=1)
    other = extract(
        recording_config(room_recording, tmp_path / "other", superpixels=SuperpixelConfig(30))
    )
    with pytest.raises(TrainingError, match=r"is not the store that .* was started on"):
        train.resume(tmp_path / "run", store=other)


def test_the_preset_contrasts_superpixels(cut_store: Path) -> None:
    config = preset("slidr-superpixel", cut_store)
    assert config.loss == LOSS
    plain = preset("slidr", cut_store)
    assert plain.loss == LossConfig(temperature=0.07)
    sample = replace(config.stream.sample, pairs_per_frame=1024)
    stream = replace(config.stream, sample=sample, ahead=plain.stream.ahead)
    assert replace(config, loss=plain.loss, stream=stream) == plain
    [source] = train.open_sources(config)
    assert source.superpixels is not None
