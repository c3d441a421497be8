"""Stores whose pairs hold joint bilateral features: what they hold, their names, their repair."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_recording import TEACHER, recording_config

from p2pkit.cli.main import commands
from p2pkit.datasets.frame import SourceOptions
from p2pkit.datasets.registry import open_source
from p2pkit.errors import ConfigError
from p2pkit.geometry.maps.joint_bilateral import JointBilateral, sample_joint_bilateral
from p2pkit.layers.features import FeatureConfig, pair_features, usable_pairs
from p2pkit.layers.geometry import decode_geometry
from p2pkit.pipelines.extract.mend import RepairConfig, SourceConfig
from p2pkit.pipelines.extract.mend import run as repair
from p2pkit.pipelines.extract.run import run
from p2pkit.store.reading import open_store
from p2pkit.store.verifying import verify_store
from p2pkit.teachers import open_teacher


def guided(**changes: object) -> FeatureConfig:
    settings = {"layout": "pixels", "pairs_per_frame": 200, "upsampling": "joint-bilateral:0.2"}
    return FeatureConfig(teacher=TEACHER, **{**settings, **changes})  # pyright: ignore


@pytest.fixture(scope="module")
def store(room_recording: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("guided") / "store"
    return run(recording_config(room_recording, out, features=guided(), limit=5))


def test_pairs_hold_what_the_image_guides(room_recording: Path, store: Path) -> None:
    opened = open_store(store)
    source, teacher = (
        open_source("posed-rgbd", SourceOptions(room_recording)),
        open_teacher(TEACHER),
    )
    for key in ("scene-0_frame-000000", "scene-0_frame-000003"):
        image = source.load(key).views[0].image
        cloud = decode_geometry(opened.read("geometry", *opened.find(key)))
        stored = opened.read(opened.feature_layers[0], *opened.find(key))
        rows = usable_pairs(stored, cloud)
        assert len(rows) == 200
        wanted = sample_joint_bilateral(
            teacher.features([image])[0],
            teacher.grid(cloud.image_sizes[0]),
            image,
            cloud.pair_uv[rows],
            JointBilateral(0.2),
        )
        np.testing.assert_array_equal(
            pair_features(stored, cloud, rows), wanted.astype(np.float16).astype(np.float32)
        )
    assert verify_store(store, deep=True).ok


def test_the_layer_says_how_it_was_upsampled(room_recording: Path, store: Path) -> None:
    layer = open_store(store).manifest.layers[1]
    assert layer.details["upsampling"] == "joint-bilateral:0.2"
    assert layer.fingerprint["upsampling"] == "joint-bilateral:0.2"
    assert layer.fingerprint["upsampling_weights"] == {
        **{"range_sigma": 0.2, "spatial_sigma": 0.5, "radius": 2}
    }
    plain = recording_config(room_recording, store, features=guided(upsampling="bilinear"), limit=5)
    bilinear = open_store(run(plain)).manifest.layers[2]
    assert bilinear.name != layer.name
    assert not {"upsampling", "upsampling_weights"} & {*bilinear.fingerprint, *bilinear.details}


def test_a_lost_shard_is_extracted_again(room_recording: Path, store: Path) -> None:
    [path] = store.glob(f"{open_store(store).manifest.layers[1].name}/000000.tar")
    whole = path.read_bytes()
    path.unlink()
    repair(RepairConfig(store, SourceConfig(root=room_recording)))
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"layout": "grid"}, "add --features pixels"),
        ({"upsampling": "joint"}, "upsampling is 'joint'; it must be bilinear, joint-bilateral or"),
    ],
)
def test_what_cannot_be_is_refused(
    room_recording: Path, tmp_path: Path, changes: dict[str, str], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        run(recording_config(room_recording, tmp_path / "out", features=guided(**changes)))
    assert not (tmp_path / "out").exists()


def test_the_command_line_has_it(tmp_path: Path) -> None:
    common = ["--dataset", "demo-scene", "--limit", "1", "--features", "pixels"]
    guide = ["--upsampling", "joint-bilateral", "--pairs-per-frame", "50"]
    out = str(tmp_path / "demo.store")
    result = CliRunner().invoke(commands, ["extract", *common, *guide, "--out", out])
    assert result.exit_code == 0, result.output
    layer = json.loads((tmp_path / "demo.store" / "p2pkit.json").read_text())["layers"][1]
    assert layer["details"]["upsampling"] == "joint-bilateral:0.1"
