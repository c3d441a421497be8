"""Every damaged byte is reported, with shard, key and field."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import xxhash
from tiny_store import FAILED, FEATURES, KEYS, flip

from p2pkit.errors import CorruptShardError, StoreError
from p2pkit.store.codecs import encode
from p2pkit.store.npy import parse_npy
from p2pkit.store.reading import open_store
from p2pkit.store.strict_json import hex64, read_sealed, sealed
from p2pkit.store.tar.reader import TarShard
from p2pkit.store.tar.writer import BLOCK
from p2pkit.store.verifying import Problem, verify_store


def index_of(store: Path, layer: str, shard: int) -> tuple[np.ndarray, int]:
    """The index of a tar shard and where it starts, read without the package's reader."""
    record = json.loads((store / layer / f"{shard:06d}.json").read_text())
    member = record["members"]["index"]
    data = (store / layer / f"{shard:06d}.tar").read_bytes()
    start = member["offset"]
    return parse_npy(memoryview(data[start : start + member["length"]])), start


@pytest.mark.parametrize("layer", ["geometry", FEATURES])
def test_flipped_payload_byte_names_shard_key_and_field(tiny_tar: Path, layer: str):
    store = open_store(tiny_tar)
    path = tiny_tar / layer / "000001.tar"
    index, _ = index_of(tiny_tar, layer, 1)
    columns = store.layer(layer).columns
    for row, key in enumerate(store.keys(1)):
        for column, field in enumerate(columns):
            offset, length, _ = index[row, column].tolist()
            for position in {offset, offset + length // 2, offset + length - 1}:
                flip(path, position)
                with pytest.raises(CorruptShardError) as error:
                    store.read(layer, 1, row)
                assert (error.value.shard, error.value.key, error.value.field) == (
                    str(path),
                    key,
                    field,
                )
                places = {
                    (p.layer, p.shard, p.key, p.field)
                    for p in verify_store(tiny_tar, deep=True).problems
                }
                assert places == {(layer, 1, key, field), (layer, 1, None, None)}
                assert verify_store(tiny_tar, deep=False).ok
                flip(path, position)
            store.read(layer, 1, row)
    assert verify_store(tiny_tar, deep=True).ok


def test_flipped_byte_in_another_field_does_not_matter_to_a_partial_read(tiny_tar: Path):
    store = open_store(tiny_tar)
    index, _ = index_of(tiny_tar, "geometry", 1)
    flip(tiny_tar / "geometry" / "000001.tar", int(index[0, 0, 0]))
    store.read("geometry", 1, 0, ["points"])


def test_every_byte_outside_the_payloads_is_covered(tiny_tar: Path):
    """Headers and padding are reported with their member, the rest with the shard."""
    path = tiny_tar / "geometry" / "000000.tar"
    index, _ = index_of(tiny_tar, "geometry", 0)
    first = [(int(o) - BLOCK, int(o), int(o + n)) for o, n, _ in index.reshape(-1, 3).tolist()]
    positions = [p for head, start, end in first for p in (head, head + 130, start - 1, end)]
    members = [tuple(pair) for pair in np.ndindex(index.shape[:2])]
    keys, columns = open_store(tiny_tar).keys(0), open_store(tiny_tar).layer("geometry").columns
    for number, position in enumerate(positions):
        flip(path, position)
        problems = verify_store(tiny_tar, deep=True).problems
        flip(path, position)
        row, column = members[number // 4]
        said = {(p.shard, p.key, p.field) for p in problems}
        assert said >= {(0, None, None)}
        start, end = first[number // 4][1:]
        if position < start or (end % BLOCK and position == end):
            assert (0, keys[row], columns[column]) in said


def test_every_byte_of_the_tail_is_covered(tiny_tar: Path):
    path = tiny_tar / "geometry" / "000002.tar"
    _, start = index_of(tiny_tar, "geometry", 2)
    store = open_store(tiny_tar)
    layer, record = store.layer("geometry"), store.record("geometry", 2)
    for position in range(start - BLOCK, path.stat().st_size):
        flip(path, position)
        inside = any(
            0 <= position - member.offset < member.length for member in record.members.values()
        )
        if inside:
            with pytest.raises(CorruptShardError, match="differs from its checksum in the record"):
                TarShard(path, layer, record)
        elif position % 64 == 0:
            problems = verify_store(tiny_tar, deep=True).problems
            assert {problem.shard for problem in problems} == {2}
        flip(path, position)
    assert verify_store(tiny_tar, deep=True).ok


@pytest.mark.parametrize("name", ["p2pkit.json", "geometry/000001.json"])
def test_every_byte_of_manifest_and_record_is_covered(tiny_tar: Path, name: str):
    path = tiny_tar / name
    for position in range(path.stat().st_size):
        flip(path, position)
        with pytest.raises(StoreError, match=re.escape(str(path))):
            open_store(tiny_tar).record("geometry", 1)
        flip(path, position)
    assert verify_store(tiny_tar, deep=False).ok
    flip(path, 0)
    assert verify_store(tiny_tar, deep=False).problems


def test_truncated_anywhere(tiny_tar: Path):
    path = tiny_tar / "geometry" / "000001.tar"
    whole = path.read_bytes()
    for size in [*range(0, len(whole), 509), len(whole) - 1]:
        os.truncate(path, size)
        with pytest.raises(CorruptShardError, match=f"has {size} bytes; its record says"):
            open_store(tiny_tar).keys(1)
        assert not verify_store(tiny_tar, deep=False).ok
        path.write_bytes(whole)
    path.write_bytes(whole + bytes(512))
    with pytest.raises(CorruptShardError, match="its record says"):
        open_store(tiny_tar).keys(1)


def test_truncated_while_open(tiny_tar: Path):
    store = open_store(tiny_tar)
    store.keys(0)
    os.truncate(tiny_tar / "geometry" / "000000.tar", 600)
    with pytest.raises(CorruptShardError, match="ends at byte"):
        store.read("geometry", 0, 1)


def test_missing_shard_and_missing_record(tiny_tar: Path):
    (tiny_tar / "geometry" / "000001.tar").unlink()
    (tiny_tar / FEATURES / "000002.json").unlink()
    problems = verify_store(tiny_tar, deep=False).problems
    assert {(p.layer, p.shard) for p in problems} == {
        ("geometry", 1),
        (FEATURES, 2),
    }
    with pytest.raises(StoreError, match="incomplete: 2 of 3 shards; run"):
        open_store(tiny_tar).sizes(FEATURES)
    with pytest.raises(CorruptShardError, match="cannot be opened: No such file"):
        open_store(tiny_tar).keys(1)


def forge(store: Path, shard: int, index: np.ndarray) -> None:
    """Put another index of the same size into a shard, with all checksums made to fit."""
    _, start = index_of(store, "geometry", shard)
    payload = b"".join(encode(index, "none"))
    with open(store / "geometry" / f"{shard:06d}.tar", "r+b") as file:
        file.seek(start)
        file.write(payload)
    path = store / "geometry" / f"{shard:06d}.json"
    record = read_sealed(path)
    record["members"]["index"]["xxh3_64"] = hex64(xxhash.xxh3_64_intdigest(payload))
    path.write_text(json.dumps(sealed(record)))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ((0, 0, 0), 1 << 40, "outside the file"),
        ((0, 1, 1), 2**64 - 1, "outside the file"),
        ((0, 1, 0), 512, "one after the other"),
        ((1, 2, 1), 5000, "one after the other"),
        ((0, 0, 0), 0, "one after the other"),
    ],
)
def test_forged_index(tiny_tar: Path, place: tuple[int, int, int], value: int, message: str):
    index = index_of(tiny_tar, "geometry", 1)[0].copy()
    index[place] = value
    forge(tiny_tar, 1, index)
    with pytest.raises(CorruptShardError, match=message):
        open_store(tiny_tar).keys(1)


def test_forged_index_of_another_shape(tiny_tar: Path):
    index = index_of(tiny_tar, "geometry", 1)[0]
    forge(tiny_tar, 1, index.reshape(-1, index.shape[1] * 3, 1).copy())
    with pytest.raises(CorruptShardError, match="the index is <u8"):
        open_store(tiny_tar).keys(1)


def test_swapped_shards_are_noticed(tiny_tar: Path):
    for suffix in ("tar", "json"):
        first, second = (tiny_tar / FEATURES / f"00000{i}.{suffix}" for i in (0, 1))
        kept = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(kept)
    with pytest.raises(CorruptShardError, match="not those of the geometry"):
        open_store(tiny_tar).read(FEATURES, 0, 0)
    assert not verify_store(tiny_tar, deep=False).ok


def test_failures_file_is_compared(tiny_store: Path):
    path = tiny_store / "failures.jsonl"
    assert json.loads(path.read_text()) == {"key": FAILED, "stage": "load", "reason": "cut"}
    path.write_text("")
    [problem] = verify_store(tiny_store, deep=False).problems
    assert "does not list the 1 failures" in problem.reason


def test_a_fault_of_the_geometry_is_told_once(tiny_store: Path):
    suffix = "tar" if (tiny_store / "geometry" / "000001.tar").exists() else "zarr"
    shard = tiny_store / "geometry" / f"000001.{suffix}"
    shard.rename(tiny_store / "elsewhere")
    problems = verify_store(tiny_store, deep=False).problems
    assert [(problem.layer, problem.shard) for problem in problems] == [("geometry", 1)]


def test_report_counts(tiny_store: Path):
    report = verify_store(tiny_store, deep=True)
    assert report.problems == ()
    assert (report.shards, report.samples) == (6, 2 * (len(KEYS) - 1))
    assert report.to_json()["ok"] is True


def test_report_of_a_damaged_manifest_and_of_no_store(tiny_store: Path, tmp_path: Path):
    (tiny_store / "p2pkit.json").write_text("{")
    [problem] = verify_store(tiny_store, deep=False).problems
    assert isinstance(problem, Problem)
    with pytest.raises(StoreError, match="is not a store"):
        verify_store(tmp_path / "nothing", deep=False)
