"""Settings and recordings that cannot work are refused before the store's folder is made."""

import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_recording import TEACHER, recording_config, write_recording

from p2pkit.errors import ConfigError, SourceError
from p2pkit.layers.features import FeatureConfig
from p2pkit.layers.geometry import GeometryConfig
from p2pkit.pipelines import view
from p2pkit.pipelines.extract import plan
from p2pkit.pipelines.extract.run import run
from p2pkit.pipelines.extract.settings import ExtractConfig
from p2pkit.pipelines.train import run_folder as runs
from p2pkit.settings.layers import TeacherOptions
from p2pkit.store.reading import open_store

HAS_CUDA = torch.cuda.is_available()


def taught(**changes: Any) -> dict[str, FeatureConfig]:
    return {"features": FeatureConfig(teacher=replace(TEACHER, **changes))}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (taught(device="tpu"), "device 'tpu' cannot be used: .*--device cpu"),
        pytest.param(
            taught(device="cuda"),
            "device 'cuda' cannot be used: .*--device cpu",
            marks=pytest.mark.skipif(HAS_CUDA, reason="this machine has CUDA"),
        ),
        ({"fuse": 257}, "fuse is 257; expected 2 to 256 frames"),
    ],
)
def test_an_impossible_setting_is_refused(
    room_recording: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    config = recording_config(room_recording, tmp_path / "out", **changes)
    with pytest.raises(ConfigError, match=message):
        run(config)
    assert not config.out.exists()


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (GeometryConfig, {"depth_min": math.nan}, "depth_min is nan; must be finite"),
        (GeometryConfig, {"depth_max": math.inf}, "depth_max is inf; must be finite"),
        (GeometryConfig, {"depth_min": 5, "depth_max": 1}, "depth range is 5.0 to 1.0 m"),
        (GeometryConfig, {"depth_min": -1.0}, "depth_min is -1.0; must be at least 0"),
        (GeometryConfig, {"voxel_size": math.nan}, "voxel_size is nan; must be finite"),
        (TeacherOptions, {"input_size": (0, 0)}, "input_size.0 is 0; must be at least 1"),
        (ExtractConfig, {"flying_margin": math.nan}, "flying_margin is nan; must be finite"),
        (ExtractConfig, {"flying_margin": 1.0}, "flying_margin is 1.0; must be less than 1"),
    ],
)
def test_a_value_out_of_bounds_is_refused(
    kind: type, changes: dict[str, Any], message: str
) -> None:
    place = {"dataset": "tum", "root": None, "out": "x"} if kind is ExtractConfig else {}
    with pytest.raises(ConfigError, match=message):
        kind(**place, **changes)


@pytest.fixture
def long_named(tmp_path: Path) -> Path:
    root = write_recording(tmp_path / "long", 3)
    for path in root.glob("frame-000001.*"):
        path.rename(root / path.name.replace("000001", "1" * 90))
    return root


def test_a_key_too_long_for_a_tar_is_refused_before_any_work(
    long_named: Path, tmp_path: Path
) -> None:
    config = recording_config(long_named, tmp_path / "out")
    said = re.escape(
        "has a key of 96 characters; at most 80 are allowed (<key>.pair_confidence.npy"
    )
    with pytest.raises(SourceError, match=said):
        run(config)
    assert not config.out.exists()
    with pytest.raises(SourceError, match=said):
        plan.run(plan.PlanConfig(config))


def test_the_longest_key_is_extracted(tmp_path: Path) -> None:
    root = write_recording(tmp_path / "long", 2)
    name = "frame-" + "1" * 74
    for path in root.glob("frame-000001.*"):
        path.rename(root / path.name.replace("frame-000001", name))
    store = open_store(run(recording_config(root, tmp_path / "out")))
    assert name in store.keys(0)


def test_zarr_takes_longer_keys(long_named: Path, tmp_path: Path) -> None:
    store = open_store(run(recording_config(long_named, tmp_path / "out", format="zarr")))
    assert "frame-" + "1" * 90 in store.keys(0)


def test_the_command_that_lacks_a_layer_names_its_own_option(
    room_recording: Path, room_store: Path, tmp_path: Path
) -> None:
    out = shutil.copytree(room_store, tmp_path / "out")
    run(recording_config(room_recording, out, **taught(layer=1)))
    store = open_store(out)
    key, png = store.keys(0)[0], tmp_path / "x.png"
    with pytest.raises(ConfigError, match=r"2 feature layers .*; name one with --layer NAME$"):
        view.run(view.ViewConfig(str(out), (key,), png))
    with pytest.raises(ConfigError, match=r"name one with --set layer=NAME$"):
        runs.feature_layer(store, None)
    with pytest.raises(ConfigError, match=r"geometry holds no teacher's features; .*--layer NAME$"):
        view.run(view.ViewConfig(str(out), (key,), png, layer="geometry"))
    assert not png.exists()
    part = store.feature_layers[0][-4:]
    assert view.run(view.ViewConfig(str(out), (key,), png, layer=part)) == [png]
    assert runs.feature_layer(store, part) == store.feature_layers[0]
