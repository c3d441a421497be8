"""`p2pkit init` for recordings, and `p2pkit extract --config`: file, command line, defaults."""

import json
import os
import signal
import subprocess
import sys
import termios
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import p2pkit
from interruptible import interruptible
from tiny_recording import write_recording

from p2pkit.cli.commands.extract import extract
from p2pkit.cli.options import parameter
from p2pkit.errors import ConfigError, SourceError
from p2pkit.layers.geometry import GeometryConfig
from p2pkit.pipelines.extract.settings import ExtractConfig
from p2pkit.pipelines.train.presets import PRESETS
from p2pkit.settings import config_from_json, config_to_json, settings_in
from p2pkit.store.reading import open_store
from p2pkit.store.verifying import verify_store
from p2pkit.store.writing import create_or_open, read_manifest

TEACHER = ["--teacher", "resnet10t", "--layer", "2", "--weights", "random"]
SMALL = [*TEACHER, "--input-size", "160", "128"]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recording(tmp_path_factory.mktemp("init") / "room", 4)


@pytest.fixture
def file(room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The settings that `init` writes for `room`, in the folder where commands run."""
    monkeypatch.chdir(tmp_path)
    assert p2pkit("init", room, "--out", "extract.toml").stdout == "extract.toml\n"
    return tmp_path / "extract.toml"


def printed(*arguments: object) -> dict[str, Any]:
    return tomllib.loads(p2pkit("extract", *arguments, "--print-config").stdout)


def test_init_writes_the_defaults_of_the_command(room: Path, file: Path) -> None:
    text = file.read_text()
    assert "# Recognised as posed-rgbd by camera.json + frame-*.depth.*" in text
    assert "scannet200" in text
    config = config_from_json(ExtractConfig, {"root": None, **tomllib.loads(text)})
    assert config == ExtractConfig("posed-rgbd", room, Path("room.store"))
    typed = ["--dataset", "posed-rgbd", "--out", "room.store"]
    assert printed(room, *typed) == printed("--config", file)


def test_batches_precision_and_compiling_can_be_chosen(file: Path) -> None:
    options = ("--batch-size", 8, "--precision", "bfloat16")
    found = printed("--config", file, *options, "--set", "features.teacher.compile=true")
    teacher = found["features"]["teacher"]
    chosen = (teacher["batch_size"], teacher["precision"], teacher["compile"])
    assert chosen == (8, "bfloat16", True)


def test_every_setting_of_an_extraction_is_explained(file: Path) -> None:
    lines = file.read_text().splitlines()
    for number, line in enumerate(lines):
        if (" = " in line and not line.startswith("#")) or line.startswith("# limit = "):
            assert lines[number - 1].startswith("# "), f"no meaning above {line}"
    said = {line.removeprefix("# ").split(" = ")[0] for line in lines if " = " in line}
    config = config_to_json(ExtractConfig("posed-rgbd", None, Path("x")))
    features = config["features"]
    for table in (config, config["geometry"], features, features["teacher"]):
        assert {name for name, value in table.items() if not isinstance(value, dict)} <= said


def test_a_generated_scene_needs_no_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    p2pkit("init", "--dataset", "demo-scene", "--out", "extract.toml")
    result = p2pkit("extract", "--config", "extract.toml", "--limit", 2, *SMALL)
    assert result.stdout == "demo-scene.store\n"
    assert open_store(tmp_path / "demo-scene.store").samples == 2


def test_voxels_of_sweeps_are_larger_and_say_why(tmp_path: Path) -> None:
    (tmp_path / "lidar").mkdir()
    for name in ("calib.json", "lidar/00.npz"):
        (tmp_path / name).touch()
    for text in (
        p2pkit("init", tmp_path).stdout,
        p2pkit("init", tmp_path, "--dataset", "nuscenes").stdout,
    ):
        why = text.partition("\nvoxel_size = 0.05\n")[0].splitlines()[-2:]
        assert why[0].startswith("# 0.05 m because these are LiDAR sweeps")
        settings = config_from_json(ExtractConfig, {"root": None, **tomllib.loads(text)})
        assert settings.geometry == GeometryConfig(voxel_size=0.05, near_limit=1.0)


@pytest.mark.parametrize(
    ("dataset", "preset", "size"),
    [
        ("kitti-raw", "paper", 0.1),
        ("nuscenes+pandaset", "cpu-small", 0.3),
        ("pandaset", "slidr", 0.1),
        ("pandaset+scannet", "paper", 0.025),
        ("posed-rgbd", "cpu-small", 0.05),
    ],
)
def test_voxels_of_students_fit_the_store(
    dataset: str, preset: str, size: float, room_store: Path, tmp_path: Path
) -> None:
    store, manifest = tmp_path / "begun.store", read_manifest(room_store)
    create_or_open(store, replace(manifest, dataset={**manifest.dataset, "dataset": dataset}))
    text = p2pkit("init", store, "--preset", preset).stdout
    sample = tomllib.loads(text)["stream"]["sample"]
    assert sample["voxel_size"] == size
    usual = PRESETS[preset].get("stream", {}).get("sample", {}).get("voxel_size", 0.025)
    assert ("this is a store of LiDAR sweeps" in text) == (size != usual)


@pytest.mark.realdata
@pytest.mark.parametrize(
    "name", ["slambook2_office", "kitti_object", "nyuv2_half", "pandaset", "nuscenes_sample"]
)
def test_real_recordings_from_init_to_a_store(
    data_root: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    p2pkit("init", data_root / name, "--out", "extract.toml")
    result = p2pkit("extract", "--config", "extract.toml", "--limit", 2, *SMALL)
    assert result.stdout == f"{name}.store\n"
    assert open_store(tmp_path / f"{name}.store").samples == (1 if "nuscenes" in name else 2)


def test_the_same_store_with_and_without_a_file(room: Path, file: Path, tmp_path: Path) -> None:
    p2pkit("extract", "--config", file, *TEACHER, "--voxel-size", 0.02)
    typed = ["--dataset", "posed-rgbd", "--out", "typed.store", "--voxel-size", 0.02]
    p2pkit("extract", room, *typed, *TEACHER)
    first, second = read_manifest(tmp_path / "room.store"), read_manifest(tmp_path / "typed.store")
    assert first == second
    assert first.layers[0].fingerprint["voxel_size"] == 0.02


def test_what_is_typed_goes_over_the_file_and_the_file_over_defaults(file: Path) -> None:
    text = file.read_text().replace("voxel_size = 0.0125", "voxel_size = 0.05")
    text = text.replace("# limit = ", "limit = 3").replace("[codecs]", '[codecs]\nmap = "zstd"')
    file.write_text(text.replace("depth_max = 10.0", "depth_max = 4").replace('"cpu"', '"cuda"'))
    config = printed("--config", file)
    assert config["geometry"]["voxel_size"] == 0.05
    assert config["geometry"]["depth_max"] == 4.0
    assert (config["limit"], config["shard_size"], config["codecs"]) == (3, 64, {"map": "zstd"})
    assert config["features"]["teacher"]["device"] == "cuda"
    over = ["--limit", 2, "--depth-range", 0.3, 6, "--seed", 5, "--codec", "colors=lz4"]
    typed = printed("other", "--config", file, *over, "--dataset", "tum", "--shard-size", 64)
    assert (typed["root"], typed["dataset"], typed["limit"]) == ("other", "tum", 2)
    assert typed["geometry"] == {**config["geometry"], "depth_min": 0.3, "depth_max": 6.0}
    assert typed["codecs"] == {"map": "zstd", "colors": "lz4"}
    assert typed["seed"] == typed["features"]["seed"] == typed["features"]["teacher"]["seed"] == 5


def test_a_default_that_is_typed_goes_over_the_file_too(file: Path) -> None:
    file.write_text(file.read_text().replace("shard_size = 64", "shard_size = 7"))
    assert printed("--config", file)["shard_size"] == 7
    assert printed("--config", file, "--shard-size", 64)["shard_size"] == 64


def test_printing_and_reading_again_prints_the_same(file: Path, tmp_path: Path) -> None:
    options = ["--every", 2, "--views", "flip", "--input-size", 64, 48, "--codec", "map=lz4"]
    text = p2pkit("extract", "--config", file, *options, "--print-config").stdout
    again = tmp_path / "again.toml"
    again.write_text(text)
    assert p2pkit("extract", "--config", again, "--print-config").stdout == text
    assert not (tmp_path / "room.store").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("voxelsize = 1", r"unknown setting 'voxelsize'; did you mean geometry\.voxel_size"),
        ("voxel-size = 1", r"'voxel-size'; did you mean geometry\.voxel_size\?"),
        ('teacher = "resnet50"', r"'teacher'; did you mean features\.teacher\?"),
        ("limits = 3", r"'limits'; did you mean limit\?"),
        (
            "[geometry]\nvoxelsize = 1",
            r"voxelsize'; did you mean geometry\.voxel_size\?",
        ),
        ('limit = "few"', "limit is 'few'; should be a valid integer"),
        ("every = 1.5", r"every is 1\.5"),
        ("out = 3", "out is 3"),
        ('format = "hdf5"', "format is 'hdf5'; choose one of tar, zarr"),
        ("geometry = 3", "geometry is 3; must be a table of settings"),
        ("[features]\nlayout = 1", r"features\.layout is 1; choose one of grid, pixels"),
        ("[codecs]\nmap = 3", r"codecs\.map is 3; should be a valid string"),
        ("limit = ", "is not TOML"),
        ("out = 2024-05-01", r"out in .*wrong\.toml is a date or a time; write it in quotes"),
        ("[geometry]\nvoxel_size = 10:30:00", r"geometry\.voxel_size in .* is a date or a time"),
        ("streams = [2024-05-01]", r"streams in .* is a date or a time"),
    ],
)
def test_wrong_settings_are_named(wrong: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(f"{wrong}\n")
    arguments = ["extract", "--config", file, "--dataset", "demo-scene"]
    typed = [] if wrong.startswith("out") else ["--out", tmp_path / "x.store"]
    result = p2pkit(*arguments, *typed, code=1)
    assert isinstance(result.exception, ConfigError)
    with pytest.raises(ConfigError, match=message):
        raise result.exception


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ('dataset = ["demo-scene"]', r"dataset is \['demo-scene'\]; should be a valid string"),
        ("root = 3", "root is 3"),
    ],
)
def test_a_recording_of_the_wrong_type_is_named(wrong: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(f"{wrong}\n")
    result = p2pkit("extract", "--config", file, "--out", tmp_path / "x.store", code=1)
    assert isinstance(result.exception, ConfigError)
    with pytest.raises(ConfigError, match=message):
        raise result.exception


@pytest.mark.parametrize(
    ("depths", "message"),
    [
        (("3", "1"), "the depth range is 3.0 to 1.0 m; expected the smaller first"),
        (("-1", "2"), "geometry.depth_min is -1.0; must be at least 0"),
        (("1", "1"), "expected the smaller first"),
    ],
)
def test_an_empty_range_of_depths_is_refused(
    depths: tuple[str, str], message: str, tmp_path: Path
) -> None:
    typed = ["--dataset", "demo-scene", "--out", tmp_path / "x.store"]
    result = p2pkit("extract", *typed, "--depth-range", *depths, code=1)
    assert message in str(result.exception)


def test_a_store_must_stand_somewhere(room: Path) -> None:
    assert "Missing option '--out'" in p2pkit("extract", "--dataset", "tum", code=2).stderr
    assert "Missing option '--out'" in p2pkit("extract", room, code=2).stderr


def test_lidar_sweeps_have_voxels_of_their_own(tmp_path: Path) -> None:
    sweeps = ("sweeps", "--dataset", "kitti-raw", "--out", "x.store")
    assert printed(*sweeps)["geometry"]["voxel_size"] == 0.05
    assert printed(*sweeps, "--voxel-size", 0.0125)["geometry"]["voxel_size"] == 0.0125
    config = tmp_path / "voxels.toml"
    config.write_text("[geometry]\nvoxel_size = 0.1\n")
    assert printed(*sweeps, "--config", config)["geometry"]["voxel_size"] == 0.1
    p2pkit("init", "--dataset", "kitti-raw", "--out", tmp_path / "init.toml")
    assert printed("--config", tmp_path / "init.toml") == {
        **printed(*sweeps[1:]),
        "out": "kitti-raw.store",
    }


def test_help_shows_the_defaults_of_the_settings() -> None:
    shown = extract.make_context("extract", []).params
    config = config_to_json(ExtractConfig("x", None, Path("x")))
    marked = [setting.name for setting in settings_in(ExtractConfig) if setting.option is not None]
    assert len(marked) >= 20
    for name in {*marked} - {"dataset", "out", "codecs"}:
        value: Any = config
        for part in name.split("."):
            value = value[part]
        assert shown[parameter(name)] == (None if value == [] else value)
    geometry = config["geometry"]
    assert shown["depth_range"] == (geometry["depth_min"], geometry["depth_max"])


def test_plan_takes_the_same_file(file: Path, room: Path) -> None:
    said = json.loads(p2pkit("plan", "--config", file, *TEACHER, "--limit", 3, "--json").stdout)
    assert said["frames"] == 3
    assert not Path("room.store").exists()


def test_wrong_uses_of_init(file: Path, room: Path, room_store: Path, tmp_path: Path) -> None:
    assert "name a recording or a store" in p2pkit("init", code=2).stderr
    assert "--preset is for training" in p2pkit("init", room, "--preset", "paper", code=2).stderr
    assert isinstance(p2pkit("init", tmp_path, code=1).exception, SourceError)
    unknown = p2pkit("init", room, "--dataset", "kinect", code=1)
    assert "unknown dataset 'kinect'; choose one of 7scenes" in str(unknown.exception)
    exists = p2pkit("init", room, "--out", file, code=1)
    assert "exists; name another file" in str(exists.exception)
    assert "[optimizer]" in p2pkit("init", room_store).stdout


def test_a_named_dataset_is_not_recognised(tmp_path: Path) -> None:
    (tmp_path / "scene0000_00").mkdir()
    (tmp_path / "scene0000_00" / "scene0000_00.sens").touch()
    text = p2pkit("init", tmp_path, "--dataset", "scannet200").stdout
    assert tomllib.loads(text)["dataset"] == "scannet200"
    assert "scannet200 reads the same recording in another way" in p2pkit("init", tmp_path).stdout


@pytest.mark.slow
def test_the_command_after_ctrl_c_goes_on(room: Path, tmp_path: Path) -> None:
    """It names the file and what was typed over it, and finishes the store."""
    p2pkit("init", room, "--out", tmp_path / "extract.toml")
    words = ["extract", "--config", "extract.toml", "--shard-size", "1", *TEACHER]
    run = [sys.executable, "-m", "p2pkit.cli.main"]
    # Bars are drawn on a terminal only.
    terminal, end = os.openpty()
    termios.tcsetwinsize(end, (24, 100))
    with subprocess.Popen(
        [*run, *words], cwd=tmp_path, stderr=end, preexec_fn=interruptible
    ) as begun:
        os.close(end)
        while b"frames/s" not in os.read(terminal, 4096):
            assert begun.poll() is None
        begun.send_signal(signal.SIGINT)
        begun.wait()
        said = os.read(terminal, 65536).decode()
    os.close(terminal)
    assert begun.returncode == 130
    assert "Traceback" not in said
    assert "Interrupted. Completed work is kept; to continue: p2pkit extract " in said
    command = said.strip().splitlines()[-1].partition("to continue: ")[2]
    assert command == f"p2pkit {' '.join(words)}"
    subprocess.run([*run, *command.split()[1:]], cwd=tmp_path, check=True, capture_output=True)
    assert open_store(tmp_path / "room.store").samples == 4
    assert verify_store(tmp_path / "room.store", deep=True).ok
