"""A run used in another folder than the one it was trained in."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny_recording import recording_config, write_recording

from p2pkit.cli.main import commands
from p2pkit.errors import StoreError
from p2pkit.pipelines.extract import run as extract
from p2pkit.pipelines.train import run as train
from p2pkit.pipelines.train.run_folder import resume_command, store_of


@pytest.fixture
def elsewhere(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of `ci/store`, seen from a folder beside `ci`; the store is not there yet."""
    run = tmp_path / "ci" / "run"
    shutil.copytree(tiny_run, run)
    settings = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**settings, "store": "ci/store"}))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return Path("../ci/run")


def test_a_store_is_found_as_written_then_beside_the_run(
    elsewhere: Path, tmp_path: Path, room_store: Path
) -> None:
    beside = tmp_path / "ci" / "store"
    beside.symlink_to(room_store)
    assert store_of(elsewhere, "ci/store") == str(beside)
    assert store_of(elsewhere, str(room_store)) == str(room_store)
    assert store_of(elsewhere, "s3://bucket/rooms.store") == "s3://bucket/rooms.store"
    assert train.resume(elsewhere) == elsewhere
    Path("ci").symlink_to(tmp_path / "ci")
    assert store_of(elsewhere, "ci/store") == "ci/store"
    with pytest.raises(StoreError, match=r"store as /ci/store, and that is not a store here\. Na"):
        store_of(elsewhere, "/ci/store")


def test_of_two_stores_of_a_name_the_one_counts_that_the_run_knows(
    elsewhere: Path, tmp_path: Path, room_store: Path
) -> None:
    other = recording_config(write_recording(tmp_path / "room", 2), Path("ci/store"), features=None)
    extract.run(other)
    beside = tmp_path / "ci" / "store"
    beside.symlink_to(room_store)
    assert store_of(elsewhere, "ci/store") == str(beside)


@pytest.mark.parametrize(
    "words",
    ["report ../ci/run", "evaluate ../ci/run --preset probe", "train --out ../ci/run --resume"],
)
@pytest.mark.usefixtures("elsewhere")
def test_a_store_that_is_not_found_is_to_be_named(words: str) -> None:
    said = str(CliRunner().invoke(commands, words.split()).exception)
    assert "names its store as ci/store, relative to the folder where it was trained" in said
    assert "`p2pkit report ../ci/run STORE`" in said


def test_the_command_that_continues_a_run_can_be_typed() -> None:
    assert resume_command("my run") == "p2pkit train --out 'my run' --resume"
