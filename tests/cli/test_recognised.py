"""Recordings that are named without `--dataset`: `extract`, `plan` and `check` tell the format."""

import json
import shutil
import tomllib
from pathlib import Path

import pytest
from command_line import p2pkit
from tiny_recording import write_recording

from p2pkit.errors import SourceError
from p2pkit.store.reading import open_store
from p2pkit.store.writing import read_manifest

TEACHER = ("--teacher", "resnet10t", "--layer", "2", "--weights", "random")
TOLD = "Recognised as posed-rgbd by camera.json + frame-*.depth.* in the folder or *. If that is"


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recording(tmp_path_factory.mktemp("recognised") / "room", 4)


def test_the_store_is_the_same_as_with_the_dataset_named(room: Path, tmp_path: Path) -> None:
    recognised, named = tmp_path / "recognised.store", tmp_path / "named.store"
    result = p2pkit("extract", room, "--out", recognised, *TEACHER)
    assert result.stdout == f"{recognised}\n"
    assert TOLD in result.stderr
    result = p2pkit("extract", room, "--dataset", "posed-rgbd", "--out", named, *TEACHER)
    assert "Recognised" not in result.stderr
    assert read_manifest(recognised) == read_manifest(named)
    assert read_manifest(recognised).dataset["dataset"] == "posed-rgbd"


def test_a_calibration_elsewhere_needs_the_format_named(room: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(room, tmp_path / "bare")
    calibration = (bare / "camera.json").rename(tmp_path / "calibration.json")
    said = p2pkit("check", bare, "--camera", calibration, code=2).stderr
    assert "camera.json is missing" in said
    assert "a calibration elsewhere: --dataset posed-rgbd --camera FILE" in said
    named = ("--dataset", "posed-rgbd", "--camera", calibration)
    p2pkit("extract", bare, *named, "--out", tmp_path / "x.store", *TEACHER)


@pytest.mark.parametrize("named", [(), ("--dataset", "posed-rgbd")])
def test_a_store_with_a_lost_shard_is_finished_either_way(
    room: Path, tmp_path: Path, named: tuple[str, ...]
) -> None:
    begun = ("extract", room, "--out", tmp_path / "x.store", "--teacher", "none", "--shard-size", 2)
    p2pkit(*begun)
    (tmp_path / "x.store" / "geometry" / "000001.tar").unlink()
    (tmp_path / "x.store" / "geometry" / "000001.json").unlink()
    p2pkit(*begun, *named)
    assert open_store(tmp_path / "x.store").samples == 4


def test_a_file_of_the_recording_and_the_root_of_a_config(room: Path, tmp_path: Path) -> None:
    shown = ("--out", "x.store", "--print-config")
    of_a_file = tomllib.loads(p2pkit("extract", room / "camera.json", *shown).stdout)
    assert (of_a_file["root"], of_a_file["dataset"]) == (str(room), "posed-rgbd")
    config = tmp_path / "few.toml"
    config.write_text(f'root = "{room}"\nlimit = 2\n')
    assert tomllib.loads(p2pkit("extract", "--config", config, *shown).stdout) == {
        **of_a_file,
        "limit": 2,
    }


def test_labelled_points_get_no_teacher(tmp_path: Path) -> None:
    annotations = tmp_path / "office_1" / "Annotations"
    annotations.mkdir(parents=True)
    (annotations / "wall_1.txt").touch()
    printed = p2pkit("extract", tmp_path / "office_1", "--out", "x.store", "--print-config").stdout
    settings = tomllib.loads(printed)
    assert (settings["dataset"], settings["features"]["teacher"]["name"]) == ("s3dis", "none")


def test_plan_and_check_recognise_too(room: Path, tmp_path: Path) -> None:
    result = p2pkit("plan", room, *TEACHER, "--json")
    assert json.loads(result.stdout)["frames"] == 4
    assert TOLD in result.stderr
    # The images of this tiny room have nothing to do with its depth, so it fails.
    arguments = (room, "--out", tmp_path / "check", "--frames", 2, "--json")
    result = p2pkit("check", *arguments, code=1)
    report = json.loads(result.stdout)
    assert (report["dataset"], report["source"]) == ("posed-rgbd", str(room))
    assert TOLD in result.stderr


def test_a_store_is_no_recording_but_check_takes_it(room_store: Path, tmp_path: Path) -> None:
    for command in ("extract", "plan"):
        result = p2pkit(command, room_store, "--out", tmp_path / "x.store", code=2)
        assert f"{room_store} is a store; name the recording" in result.stderr
    result = p2pkit("check", room_store, "--out", tmp_path / "check", "--frames", 2)
    assert "Recognised" not in result.stderr
    assert "stored pairs" in result.stdout


@pytest.mark.parametrize("command", ["extract", "plan", "check"])
def test_what_is_not_recognised_is_a_wrong_use(command: str, room: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    (tmp_path / "holiday").mkdir()
    result = p2pkit(command, tmp_path / "holiday", *out, code=2)
    assert "name its format with --dataset. Formats" in result.stderr
    assert "\n  tum: rgb.txt + depth.txt" in result.stderr
    both = shutil.copytree(room, tmp_path / "both")
    for name in ("rgb.txt", "depth.txt"):
        (both / name).touch()
    result = p2pkit(command, both, *out, code=2)
    assert "may be in 2 formats: posed-rgbd by" in result.stderr
    assert "Missing argument 'SOURCE'" in p2pkit(command, *out, code=2).stderr
    gone = p2pkit(command, tmp_path / "gone", *out, code=1)
    assert isinstance(gone.exception, SourceError)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["extract", "plan", "check", "init"])
def test_an_empty_source_is_a_usage_error(command: str) -> None:
    result = p2pkit(command, "", code=2)
    assert result.exit_code == 2
    assert "the path is empty; is a shell variable unset?" in result.output
