import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_recording import TEACHER, recording_config, write_recording

from p2pkit.cli.main import commands
from p2pkit.datasets.frame import Frame
from p2pkit.errors import ConfigError, FingerprintError, SourceError
from p2pkit.geometry.maps.superpixels import SuperpixelConfig
from p2pkit.layers.features import FeatureConfig, FeatureLayer
from p2pkit.layers.map_coding import pca_basis
from p2pkit.pipelines.extract import run as extract
from p2pkit.pipelines.extract.plan import ExtractionPlan, PlanConfig, run
from p2pkit.pipelines.extract.settings import ExtractConfig
from p2pkit.store.manifest import Sample
from p2pkit.store.reading import open_store
from p2pkit.store.storages import STORAGES
from p2pkit.teachers import TeacherOptions


def written(store: Path) -> dict[str, int]:
    """Bytes of each layer's shards, by what the records say."""
    opened = open_store(store)
    return {
        layer.name: sum(record.bytes for record in opened.records(layer.name))
        for layer in opened.manifest.layers
    }


def planned_bytes(plan: ExtractionPlan) -> dict[str, int]:
    return {layer.name: layer.bytes for layer in plan.layers}


@pytest.mark.parametrize("coding", ["float16", "int8", "pca:8"])
def test_a_plan_from_all_frames_is_exact_to_the_byte(
    room_recording: Path, tmp_path: Path, coding: str
) -> None:
    features = FeatureConfig(teacher=TEACHER, map=coding)
    codecs = {"colors": "lz4", "map": "none"}
    config = recording_config(room_recording, tmp_path / "s", features=features, codecs=codecs)
    plan = run(PlanConfig(config, frames=12))
    assert not config.out.exists()
    assert plan.bytes_uncertainty == 0
    assert (plan.frames, plan.shards) == (12, 3)
    extract.run(config)
    assert planned_bytes(plan) == written(config.out)
    assert plan.bytes == sum(written(config.out).values())
    for layer in plan.layers:
        assert sum(layer.fields.values()) == layer.bytes
    assert (plan.layers[1].explained_variance is not None) == coding.startswith("pca")


def test_a_plan_of_few_frames_has_the_basis_of_the_extraction(
    room_recording: Path, tmp_path: Path
) -> None:
    """One frame has 48 cells."""
    features = FeatureConfig(teacher=TEACHER, map="pca:60")
    config = recording_config(room_recording, tmp_path / "s", features=features)
    plan = run(PlanConfig(config, frames=1))
    store = open_store(extract.run(config))
    basis = pca_basis(store.layer(store.feature_layers[0]))
    assert basis is not None
    assert plan.layers[1].explained_variance == sum(basis.explained_variance)


@pytest.mark.parametrize("storage", STORAGES)
def test_a_plan_from_some_frames_is_within_a_tenth(
    room_recording: Path, tmp_path: Path, storage: str
) -> None:
    config = recording_config(room_recording, tmp_path / "store", format=storage)
    plan = run(PlanConfig(config, frames=4))
    extract.run(config)
    assert len(set(plan.probed)) == 4
    for name, size in written(config.out).items():
        assert planned_bytes(plan)[name] == pytest.approx(size, rel=0.1)


def test_the_generated_rooms_are_planned_within_a_tenth(tmp_path: Path) -> None:
    config = ExtractConfig(dataset="demo-scene", root=None, out=tmp_path / "store", limit=12)
    plan = run(PlanConfig(config, frames=1))
    assert (len(plan.probed), plan.probed_geometry) == (1, 8)
    extract.run(config)
    for name, size in written(config.out).items():
        assert planned_bytes(plan)[name] == pytest.approx(size, rel=0.1)


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("dataset", "folder"), [("posed-rgbd", "7scenes_redkitchen"), ("nyuv2", "nyuv2_half")]
)
def test_real_recordings_are_planned_within_a_tenth(
    data_root: Path, tmp_path: Path, dataset: str, folder: str
) -> None:
    root = data_root / folder
    features = FeatureConfig(teacher=TeacherOptions(input_size=(320, 240)))
    config = ExtractConfig(dataset, root, tmp_path / "store", features=features, limit=20)
    plan = run(PlanConfig(config, frames=2))
    assert (len(plan.probed), plan.probed_geometry) == (2, 16)
    assert plan.bytes_uncertainty is not None
    assert 0 < plan.bytes_uncertainty < 0.1
    extract.run(config)
    for name, size in written(config.out).items():
        assert planned_bytes(plan)[name] == pytest.approx(size, rel=0.1)


def test_what_is_in_the_store_is_not_to_be_done_again(
    room_recording: Path, room_store: Path, tmp_path: Path
) -> None:
    store = shutil.copytree(room_store, tmp_path / "store")
    (layer,) = open_store(store).feature_layers
    (store / layer / "000001.json").unlink()
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    plan = run(PlanConfig(recording_config(room_recording, store), frames=2))
    assert [row.frames_done for row in plan.layers] == [12, 8]
    assert (plan.teacher_passes, plan.teacher_passes_left) == (12, 4)
    assert plan.seconds_left > 0
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before
    other = FeatureConfig(teacher=replace(TEACHER, layer=1))
    plan = run(PlanConfig(recording_config(room_recording, store, features=other), frames=2))
    assert [row.frames_done for row in plan.layers] == [12, 0]
    assert plan.teacher_passes_left == 12


@pytest.mark.parametrize("lost", ["features", "superpixels", "geometry"])
def test_the_time_is_that_of_what_lacks(
    room_recording: Path, room_store: Path, tmp_path: Path, lost: str, slow_teacher: float
) -> None:
    """Only a shard without its geometry or the teacher's maps needs the teacher."""
    store = shutil.copytree(room_store, tmp_path / "store")
    config = recording_config(
        room_recording, store, superpixels=SuperpixelConfig(segments=20), threads=1
    )
    if lost != "superpixels":
        extract.run(config)
        for record in store.glob(f"{lost}/**/000002.json"):
            record.unlink()
    plan = run(PlanConfig(config, frames=2))
    assert plan.seconds_per_frame > slow_teacher
    if lost == "superpixels":
        assert 0 < plan.seconds_left < 12 * slow_teacher / 2
    else:
        assert 4 * slow_teacher < plan.seconds_left < 5 * plan.seconds_per_frame
    if lost == "geometry":
        assert plan.seconds_left == pytest.approx(4 * plan.seconds_per_frame)


@pytest.fixture
def slow_teacher(monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds that a frame's maps take at least."""
    encode, seconds = FeatureLayer.encode, 0.2

    def encode_slowly(self: FeatureLayer, frame: Frame, done: dict[str, Sample]) -> Sample:
        time.sleep(seconds)
        return encode(self, frame, done)

    monkeypatch.setattr(FeatureLayer, "encode", encode_slowly)
    return seconds


def test_a_store_of_other_inputs_is_named(room_recording: Path, room_store: Path) -> None:
    config = recording_config(room_recording, room_store, shard_size=5)
    with pytest.raises(FingerprintError, match=r"plan\.shard_size is 4 in the store, 5 now"):
        run(PlanConfig(config, frames=2))
    config = recording_config(room_recording, room_store, codecs={"map": "lz4"})
    with pytest.raises(FingerprintError, match=r"map\.codec is 'zstd' in the store, 'lz4' now"):
        run(PlanConfig(config, frames=2))


def test_bad_frames_are_told_and_counted(tmp_path: Path) -> None:
    root = write_recording(tmp_path / "rooms", 8)
    for number in (1, 6):
        (root / f"frame-{number:06d}.color.png").write_bytes(b"no picture")
    config = recording_config(root, tmp_path / "store")
    plan = run(PlanConfig(config, frames=8))
    assert sorted(plan.failed) == ["frame-000001", "frame-000006"]
    assert "cannot be decoded" in plan.failed["frame-000001"]
    assert plan.teacher_passes == 6
    extract.run(config)
    for name, size in written(config.out).items():
        assert planned_bytes(plan)[name] == pytest.approx(size, rel=0.05)


def test_only_bad_frames_cannot_be_planned(tmp_path: Path) -> None:
    root = write_recording(tmp_path / "rooms", 3)
    for number in (1, 2):
        (root / f"frame-{number:06d}.color.png").write_bytes(b"no picture")
    config = recording_config(root, tmp_path / "store")
    seeds = [seed for seed in range(20) if np.random.default_rng(seed).integers(0, 3) > 0]
    with pytest.raises(SourceError, match="none of the 1 probed frames can be used"):
        run(PlanConfig(replace(config, seed=seeds[0]), frames=1))


def test_at_least_one_frame_is_probed(room_recording: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="frames is 0"):
        PlanConfig(recording_config(room_recording, tmp_path), frames=0)


def test_the_command_prints_a_table_and_json(room_recording: Path, tmp_path: Path) -> None:
    arguments = ["plan", str(room_recording), "--dataset", "posed-rgbd", "--teacher", "resnet10t"]
    arguments += ["--weights", "random", "--probe", "4", "--map", "pca:4", "--codec", "map=zstd"]
    result = CliRunner().invoke(commands, arguments)
    assert result.exit_code == 0, result.output
    assert (
        "12 frames in 1 tar shards; 4 frames probed, 12 for their geometry, 0 of them bad"
        in result.output
    )
    assert "pca:4 (" in result.output
    assert "of the fitted cells' variance)" in result.output
    assert "12 of resnet10t to do, 0 done" in result.output
    assert "per probed frame for all layers" in result.output
    assert "12/12" in result.stderr
    printed = CliRunner().invoke(commands, [*arguments, "--json"])
    plan = json.loads(printed.stdout)
    assert plan["layers"][1]["codecs"] == {"map": "zstd"}
    assert plan["bytes"] == sum(layer["bytes"] for layer in plan["layers"])


@pytest.mark.parametrize("command", ["plan", "extract"])
def test_a_codec_without_a_field_is_refused(command: str, tmp_path: Path) -> None:
    arguments = [
        command,
        "--dataset",
        "demo-scene",
        "--codec",
        "zstd",
        "--out",
        str(tmp_path / "s"),
    ]
    result = CliRunner().invoke(commands, arguments)
    assert isinstance(result.exception, ConfigError)
    assert "expected FIELD=CODEC" in str(result.exception)
