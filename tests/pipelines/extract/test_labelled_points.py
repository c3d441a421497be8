"""Stores of labelled points without images: extracted, kept whole, never trained on."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from s3dis_written import write_rooms
from tiny_recording import recording_config, tiny_train_config

from p2pkit.cli.commands.extract import extract as command
from p2pkit.cli.commands.extract import extract_config
from p2pkit.cli.main import commands
from p2pkit.errors import ConfigError
from p2pkit.pipelines.check import run as check
from p2pkit.pipelines.extract import mend, plan
from p2pkit.pipelines.extract import run as extract
from p2pkit.pipelines.extract.mend import SourceConfig
from p2pkit.pipelines.extract.settings import ExtractConfig
from p2pkit.pipelines.train import run as train
from p2pkit.store.reading import open_store
from p2pkit.store.verifying import verify_store

ROOMS = tuple(f"Area_{area}/{room}" for area in (1, 5, 6) for room in ("hallway_1", "office_1"))


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rooms(tmp_path_factory.mktemp("s3dis"), ROOMS)


@pytest.fixture(scope="module")
def store(rooms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rooms, extracted by the command line's defaults, two to a shard."""
    out = tmp_path_factory.mktemp("store") / "s3dis.store"
    arguments = ["extract", str(rooms), "--dataset", "s3dis", "--out", str(out)]
    done = CliRunner().invoke(commands, [*arguments, "--shard-size", "2"])
    assert done.exit_code == 0, done.output
    return out


def config(rooms: Path, out: Path) -> ExtractConfig:
    return ExtractConfig("s3dis", rooms, out, features=None, shard_size=2)


def test_no_teacher_is_what_these_points_get_unasked(store: Path) -> None:
    opened = open_store(store)
    assert opened.feature_layers == ()
    assert opened.samples == len(ROOMS)
    assert verify_store(store, deep=True).ok
    sample = opened.read("geometry", *opened.find("Area_5_office_1"))
    assert sample.meta["sequence"] == "Area_5_office_1"
    assert sample.meta["views"] == []
    assert len(sample.arrays["points"]) == len(sample.arrays["label"]) > 1000


def test_a_teacher_has_nothing_to_look_at(rooms: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="s3dis has no images for the teacher tf_efficientnet"):
        extract.run(ExtractConfig("s3dis", rooms, tmp_path / "store"))
    assert not (tmp_path / "store").exists()


def test_geometry_alone_takes_a_teacher_later(room_recording: Path, tmp_path: Path) -> None:
    whole = recording_config(room_recording, tmp_path / "store")
    extract.run(replace(whole, features=None))
    shards = sorted((tmp_path / "store" / "geometry").glob("*.tar"))
    before = {path.name: path.read_bytes() for path in shards}
    assert open_store(tmp_path / "store").feature_layers == ()
    extract.run(whole)
    assert len(open_store(tmp_path / "store").feature_layers) == 1
    assert {path.name: path.read_bytes() for path in shards} == before
    assert verify_store(tmp_path / "store", deep=True).ok


def test_the_other_storage_holds_the_same(rooms: Path, store: Path, tmp_path: Path) -> None:
    extract.run(replace(config(rooms, tmp_path / "zarr"), format="zarr"))
    one, other = open_store(store), open_store(tmp_path / "zarr")
    for shard in range(3):
        a, b = one.read("geometry", shard, 0), other.read("geometry", shard, 0)
        assert all(np.array_equal(a.arrays[name], b.arrays[name]) for name in a.arrays)


def test_pretraining_is_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no teacher's features, so it cannot be pretrained on"):
        train.run(tiny_train_config(store), tmp_path / "run")
    with pytest.raises(ConfigError, match="no teacher's features"):
        train.run(tiny_train_config(store, layer="lite0"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_plan_tells_of_no_teacher(rooms: Path, store: Path, tmp_path: Path) -> None:
    planned = plan.run(plan.PlanConfig(config(rooms, tmp_path / "none")))
    assert (planned.teacher, planned.teacher_passes, len(planned.layers)) == ("none", 0, 1)
    stored = sum(path.stat().st_size for path in (store / "geometry").glob("*.tar"))
    assert abs(planned.bytes - stored) < 0.05 * stored
    done = plan.run(plan.PlanConfig(config(rooms, store)))
    assert done.layers[0].frames_done == len(ROOMS)


def test_a_lost_shard_is_extracted_again(rooms: Path, tmp_path: Path) -> None:
    store = extract.run(config(rooms, tmp_path / "store"))
    shard = store / "geometry" / "000001.tar"
    before = shard.read_bytes()
    shard.write_bytes(before[:700])
    report = mend.run(mend.RepairConfig(store, SourceConfig(root=rooms)))
    assert report.verified is not None
    assert report.verified.ok
    assert shard.read_bytes() == before


@pytest.mark.parametrize("of_a_store", [False, True])
def test_a_check_says_what_it_cannot_test(
    rooms: Path, store: Path, tmp_path: Path, of_a_store: bool
) -> None:
    source, dataset = (store, None) if of_a_store else (rooms, "s3dis")
    report = check.run(check.CheckConfig(source, tmp_path / "check", dataset=dataset))
    outcomes = {verdict.test: (verdict.outcome, verdict.reason) for verdict in report.verdicts}
    assert report.ok
    assert outcomes["fields"][0] == "pass"
    assert outcomes["pairs"][0] == "cannot tell"
    assert "6 frames are points without images" in outcomes["pairs"][1]
    assert json.loads(report.path.read_text())["outcome"] == "cannot tell"


def test_the_teacher_of_the_command_line() -> None:
    arguments = ["--dataset", "nyuv2", "--out", "x.store"]
    usual = _config(arguments)
    assert usual.features is not None
    assert usual.features.teacher.name == "tf_efficientnet_lite0"
    assert _config([*arguments, "--teacher", "none"]).features is None
    assert _config(["--dataset", "s3dis", "--out", "x.store"]).features is None


def _config(arguments: list[str]) -> ExtractConfig:
    with command.make_context("extract", list(arguments)) as context:
        return extract_config(context.params["config_file"])
