import signal
import subprocess
import sys
from pathlib import Path

import pytest
from part_store import contents
from store_files import tree
from tiny_store import (
    FEATURES,
    KEYS,
    feature_sample,
    flip,
    geometry_sample,
    manifest,
    write_all,
)

from p2pkit.errors import CorruptShardError, FingerprintError, StoreError
from p2pkit.pipelines.shards.convert import convert_store
from p2pkit.store.manifest import plan_shards
from p2pkit.store.reading import open_store
from p2pkit.store.verifying import verify_store
from p2pkit.store.writing import Commit, create_or_open

OTHER = {"tar": "zarr", "zarr": "tar"}


@pytest.fixture(params=["tar", "zarr"])
def storage(request: pytest.FixtureRequest) -> str:
    return request.param


def test_the_other_storage_holds_the_same_to_the_bit(storage: str, tmp_path: Path):
    write_all(tmp_path / "a", storage)
    reports: list[tuple[int, int]] = []
    out = convert_store(
        tmp_path / "a",
        out=tmp_path / "b",
        storage=OTHER[storage],
        report=lambda done, total: reports.append((done, total)),
    )
    assert verify_store(out, deep=True).ok
    assert contents(open_store(out)) == contents(open_store(tmp_path / "a"))
    assert reports == [(done, 6) for done in range(1, 7)]
    write_all(tmp_path / "written", OTHER[storage])
    assert tree(out) == tree(tmp_path / "written")


def test_there_and_back_gives_the_same_files(storage: str, tmp_path: Path):
    write_all(tmp_path / "a", storage)
    convert_store(tmp_path / "a", out=tmp_path / "b", storage=OTHER[storage])
    convert_store(tmp_path / "b", out=tmp_path / "c", storage=storage)
    assert tree(tmp_path / "c") == tree(tmp_path / "a")


def test_what_computed_the_maps_stays_in_the_records(storage: str, tmp_path: Path):
    """A repair computes in batches of that size again."""
    writer = create_or_open(tmp_path / "a", manifest(storage))
    card = {"batch_size": 8, "device": "a card", "libraries": "torch", "precision": "float32"}
    for shard, keys in enumerate(plan_shards(KEYS, writer.manifest.plan)):
        writer.write("geometry", shard, map(geometry_sample, keys))
        writer.write(FEATURES, shard, map(feature_sample, keys), commit=Commit(accelerator=card))
    out = convert_store(tmp_path / "a", out=tmp_path / "b", storage=OTHER[storage])
    records = [open_store(out).record(FEATURES, shard) for shard in range(3)]
    assert [record.accelerator for record in records] == 3 * [card]
    assert open_store(out).record("geometry", 0).accelerator is None


def test_an_interrupted_conversion_goes_on(tmp_path: Path):
    write_all(tmp_path / "a")

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_store(tmp_path / "a", out=tmp_path / "b", storage="zarr", report=stop)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "b").glob("*/0*.json")}
    assert times
    convert_store(tmp_path / "a", out=tmp_path / "b", storage="zarr")
    assert {path: path.stat().st_mtime_ns for path in times} == times
    write_all(tmp_path / "written", "zarr")
    assert tree(tmp_path / "b") == tree(tmp_path / "written")


def test_a_damaged_source_is_told_and_not_copied(storage: str, tmp_path: Path):
    write_all(tmp_path / "a", storage)
    path = tmp_path / "a" / "geometry" / f"000001.{storage}"
    flip(path if storage == "tar" else path / "points" / "c" / "0" / "0", 700)
    with pytest.raises(CorruptShardError):
        convert_store(tmp_path / "a", out=tmp_path / "b", storage=OTHER[storage])
    assert not verify_store(tmp_path / "b", deep=False).ok


def test_the_same_storage_an_unknown_one_and_an_unfinished_store(tmp_path: Path):
    write_all(tmp_path / "a")
    with pytest.raises(StoreError, match="already stored as tar"):
        convert_store(tmp_path / "a", out=tmp_path / "b", storage="tar")
    with pytest.raises(StoreError, match="no storage is called 'hdf5'; choose one of tar, zarr"):
        convert_store(tmp_path / "a", out=tmp_path / "b", storage="hdf5")
    with pytest.raises(FingerprintError, match="storage is 'tar' in the store, 'zarr' now"):
        convert_store(tmp_path / "a", out=tmp_path / "a", storage="zarr")
    (tmp_path / "a" / "geometry" / "000002.json").unlink()
    with pytest.raises(StoreError, match="incomplete: 2 of 3"):
        convert_store(tmp_path / "a", out=tmp_path / "b", storage="zarr")
    assert not (tmp_path / "b").exists()


CONVERT = """
import os, signal, sys
from pathlib import Path
from p2pkit.pipelines.shards.convert import convert_store

def stop(done, total):
    if done == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

convert_store(Path(sys.argv[1]), out=Path(sys.argv[2]), storage="zarr", report=stop)
"""


@pytest.mark.slow
def test_killed_and_then_finished_by_two_processes_at_once(tmp_path: Path):
    write_all(tmp_path / "a")

    def start(stop_at: int) -> subprocess.Popen[bytes]:
        arguments = [str(tmp_path / "a"), str(tmp_path / "b"), str(stop_at)]
        return subprocess.Popen([sys.executable, "-c", CONVERT, *arguments])

    assert start(3).wait() == -signal.SIGKILL
    assert not verify_store(tmp_path / "b", deep=False).ok
    assert [process.wait() for process in [start(99), start(99)]] == [0, 0]
    write_all(tmp_path / "written", "zarr")
    assert tree(tmp_path / "b") == tree(tmp_path / "written")
