"""No command writes a store among the files of somebody else."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from object_server import Bucket

from p2pkit.cli.main import commands
from p2pkit.errors import StoreError
from p2pkit.store.writing import refuse_foreign_folder

EXTRACT = ["extract", "--dataset", "demo-scene", "--limit", "1", "--teacher", "none"]
TEMPORARY = ".tmp-mine-of-long-ago"


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder with a file that is no store's, and one that a sweep would take."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "notes.txt").write_text("mine")
    (tmp_path / "home" / TEMPORARY).touch()
    return tmp_path / "home"


def p2pkit(*words: object) -> Result:
    return CliRunner().invoke(commands, [str(word) for word in words])


def refused(folder: Path, *words: object) -> None:
    error = p2pkit(*words).exception
    assert isinstance(error, StoreError), error
    message = f"{folder} is not a store and not empty: it contains notes.txt. Name a new or empty"
    assert message in str(error)
    assert sorted(path.name for path in folder.iterdir()) == [TEMPORARY, "notes.txt"]


def test_commands_that_make_a_store(room_store: Path, foreign: Path) -> None:
    refused(foreign, *EXTRACT, "--out", foreign)
    shards = ("shards",)
    refused(foreign, *shards, "convert", room_store, "--format", "zarr", "--out", foreign)
    pair = (room_store, room_store, "--prefix", "a", "--prefix", "b")
    refused(foreign, *shards, "merge", *pair, "--out", foreign)


def test_a_pull(room_store: Path, bucket: Bucket, foreign: Path) -> None:
    assert p2pkit("shards", "push", room_store, bucket.url()).exit_code == 0
    refused(foreign, "shards", "pull", bucket.url(), foreign)


def test_an_empty_folder_and_what_was_begun_are_gone_on_with(
    room_store: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    assert p2pkit(*EXTRACT, "--out", tmp_path / "empty").exit_code == 0
    begun = tmp_path / "begun"
    shutil.copytree(room_store, begun)
    (begun / "p2pkit.json").unlink()  # a pull writes it last
    (begun / ".claims").mkdir(exist_ok=True)
    (begun / ".tmp-p2pkit.json-1").touch()
    refuse_foreign_folder(begun)
    (begun / "p2pkit.json").touch()
    (begun / "README.md").touch()  # a store may have one
    refuse_foreign_folder(begun)


def test_many_files_are_counted_and_a_file_is_no_folder(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).touch()
    with pytest.raises(StoreError, match="it contains a and 2 more"):
        refuse_foreign_folder(tmp_path)
    with pytest.raises(StoreError, match="cannot be written: Not a directory"):
        refuse_foreign_folder(tmp_path / "a")
