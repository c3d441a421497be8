"""Repair without a recording: what is lost is named, what is left is as it was."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from store_files import tree
from tiny_store import FAILED, FEATURES, KEYS, feature_sample, flip, geometry_sample, write_all

from p2pkit.pipelines.extract.mend import RepairConfig, RepairReport, run
from p2pkit.store.claims import Claim
from p2pkit.store.reading import open_store
from p2pkit.store.records import ShardRecord
from p2pkit.store.verifying import verify_store
from p2pkit.store.writing import StoreWriter, create_or_open

MAKE = {"geometry": geometry_sample, FEATURES: feature_sample}


def repair(store: Path, *, drop: bool = True, dry_run: bool = False) -> RepairReport:
    return run(RepairConfig(store, drop=drop, dry_run=dry_run))


def failures(store: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (store / "failures.jsonl").read_text().splitlines()]


def check_honest(path: Path) -> set[str]:
    """The store is whole; each frame is a sample as written, or a failure. Gives lost keys."""
    assert verify_store(path, deep=True).ok
    store = open_store(path)
    kept: set[str] = set()
    for shard in range(3):
        for row, key in enumerate(store.keys(shard)):
            kept.add(key)
            for layer, make in MAKE.items():
                found, expected = store.read(layer, shard, row), make(key)
                assert found.meta == expected.meta
                assert {n: a.tobytes() for n, a in found.arrays.items()} == {
                    n: a.tobytes() for n, a in expected.arrays.items()
                }
    rows = [row for row in failures(path) if row["stage"] == "repair"]
    assert all(str(path) not in row["reason"] for row in rows)
    lost = set(KEYS) - kept - {FAILED}
    named = [row["key"] for row in rows]
    # Where a record is lost, so is the name of the frame that had failed before.
    unnamed = FAILED not in {row["key"] for row in failures(path)}
    assert len(named) == len(lost) + unnamed
    assert set(named) - {"?"} <= lost
    return lost


def test_a_whole_store_is_left_alone(tiny_store: Path):
    before = tree(tiny_store)
    report = repair(tiny_store)
    assert report.actions == ()
    assert report.verified is not None
    assert report.verified.ok
    assert tree(tiny_store) == before


@pytest.mark.parametrize("layer", ["geometry", FEATURES])
def test_one_damaged_frame_goes_from_every_layer(tiny_tar: Path, layer: str):
    before = tree(tiny_tar)
    key = "frame-5"
    shard, row = open_store(tiny_tar).find(key)
    path = tiny_tar / layer / f"{shard:06d}.tar"
    payload = bytes(open_store(tiny_tar).shard(layer, shard).stored(row).payloads["json"])
    flip(path, path.read_bytes().index(payload))
    report = repair(tiny_tar)
    assert {(a.layer, a.shard, a.what, a.keys) for a in report.actions} == {
        ("geometry", shard, "drop", (key,)),
        (FEATURES, shard, "drop", (key,)),
    }
    assert check_honest(tiny_tar) == {key}
    [row_told] = [row for row in failures(tiny_tar) if row["stage"] == "repair"]
    assert row_told["key"] == key
    assert row_told["reason"].startswith(f"{layer}: {key}, json: the bytes differ")
    changed = {name for name, data in tree(tiny_tar).items() if before[name] != data}
    number = f"{shard:06d}"
    assert changed == {"failures.jsonl"} | {
        f"{name}/{number}.{suffix}" for name in MAKE for suffix in ("tar", "json")
    }
    assert repair(tiny_tar).actions == ()


@pytest.mark.parametrize("position", [0, 140, -1, "padding"])
def test_damage_beside_the_values_is_mended_to_the_byte(tiny_tar: Path, position: int | str):
    before = tree(tiny_tar)
    path = tiny_tar / "geometry" / "000001.tar"
    data = path.read_bytes()
    if position == "padding":
        record = json.loads(path.with_suffix(".json").read_text())
        position = record["members"]["index"]["offset"] - 513
    flip(path, position % len(data) if isinstance(position, int) else 0)
    report = repair(tiny_tar)
    assert [action.what for action in report.actions] == ["rewrite"]
    assert tree(tiny_tar) == before


def test_a_lost_shard_goes_from_every_layer(tiny_store: Path):
    keys = set(open_store(tiny_store).keys(1))
    [path] = [path for path in (tiny_store / FEATURES).glob("000001.*") if path.suffix != ".json"]
    os.rename(path, tiny_store.parent / "elsewhere")
    report = repair(tiny_store)
    assert [action.what for action in report.actions] == ["drop", "drop"]
    assert check_honest(tiny_store) == keys
    assert open_store(tiny_store).sizes().tolist()[1] == 0


def test_keys_come_from_another_layer_where_the_geometry_is_lost(tiny_tar: Path):
    keys = set(open_store(tiny_tar).keys(2))
    (tiny_tar / "geometry" / "000002.tar").write_bytes(b"")
    repair(tiny_tar)
    assert check_honest(tiny_tar) == keys
    assert {row["key"] for row in failures(tiny_tar) if row["stage"] == "repair"} == keys


def test_keys_that_nothing_names_are_question_marks(tiny_tar: Path):
    count = len(open_store(tiny_tar).keys(0))
    for layer in MAKE:
        (tiny_tar / layer / "000000.tar").write_bytes(b"")
    repair(tiny_tar)
    check_honest(tiny_tar)
    named = [row["key"] for row in failures(tiny_tar) if row["stage"] == "repair"]
    assert named == ["?"] * count


def test_what_was_never_finished_is_left_unless_asked(tiny_tar: Path):
    (tiny_tar / FEATURES / "000001.json").unlink()
    before = tree(tiny_tar)
    report = repair(tiny_tar, drop=False)
    assert [(a.layer, a.shard, a.what) for a in report.actions] == [(FEATURES, 1, "leave")]
    assert "run the same `p2pkit extract`" in report.actions[0].reason
    assert report.verified is not None
    assert not report.verified.ok
    assert tree(tiny_tar) == before
    (tiny_tar / "geometry" / "000001.json").unlink()
    assert {action.what for action in repair(tiny_tar, drop=False).actions} == {"leave"}
    repair(tiny_tar)
    assert len(check_honest(tiny_tar)) == 3


def test_a_layer_that_was_never_begun_costs_no_frame(tiny_tar: Path):
    for record in (tiny_tar / FEATURES).glob("*.json"):
        record.unlink()
    before = tree(tiny_tar)
    assert {action.what for action in repair(tiny_tar).actions} == {"leave"}
    assert tree(tiny_tar) == before


@pytest.mark.parametrize("layer", ["geometry", FEATURES])
def test_a_damaged_record_is_left_without_being_asked(tiny_tar: Path, layer: str):
    (tiny_tar / layer / "000001.json").write_text("{}")
    before = tree(tiny_tar)
    report = repair(tiny_tar, drop=False)
    assert {action.what for action in report.actions} == {"leave"}
    assert tree(tiny_tar) == before


def test_without_being_asked_nothing_is_dropped_and_each_frame_is_named(tiny_store: Path):
    keys = set(open_store(tiny_store).keys(1))
    [path] = [path for path in (tiny_store / FEATURES).glob("000001.*") if path.suffix != ".json"]
    os.rename(path, tiny_store.parent / "elsewhere")
    before = tree(tiny_store)
    report = repair(tiny_store, drop=False)
    assert [action.what for action in report.actions] == ["leave", "leave"]
    assert all(set(action.keys) == keys for action in report.actions)
    assert all("--drop removes them" in action.reason for action in report.actions)
    assert report.verified is not None
    assert not report.verified.ok
    assert tree(tiny_store) == before


def test_a_dry_run_tells_the_same_and_changes_nothing(tiny_store: Path):
    for path in (tiny_store / "geometry").glob("000001.json"):
        path.write_text("{}")
    before = tree(tiny_store)
    dry = repair(tiny_store, dry_run=True)
    assert dry.verified is None
    assert tree(tiny_store) == before
    assert repair(tiny_store).actions == dry.actions
    assert {action.what for action in dry.actions} == {"drop"}
    check_honest(tiny_store)


def test_a_drop_that_was_cut_short_is_finished(tiny_tar: Path, monkeypatch: pytest.MonkeyPatch):
    keys = {key for shard in (0, 1) for key in open_store(tiny_tar).keys(shard)}
    for shard in (0, 1):
        (tiny_tar / "geometry" / f"{shard:06d}.tar").write_bytes(b"")
    calls: list[int] = []
    write = StoreWriter.write

    def stop(self: StoreWriter, *arguments: Any) -> ShardRecord:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return write(self, *arguments)

    monkeypatch.setattr(StoreWriter, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        repair(tiny_tar)
    monkeypatch.undo()
    assert not verify_store(tiny_tar, deep=False).ok
    [action] = repair(tiny_tar).actions
    assert (action.layer, action.shard, action.what) == (FEATURES, 1, "drop")
    assert check_honest(tiny_tar) == keys


def test_swapped_shards_are_not_mixed(tiny_tar: Path):
    keys = {key for shard in (0, 1) for key in open_store(tiny_tar).keys(shard)}
    for suffix in ("tar", "json"):
        first, second = (tiny_tar / FEATURES / f"00000{number}.{suffix}" for number in (0, 1))
        data = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(data)
    repair(tiny_tar)
    assert check_honest(tiny_tar) == keys


def test_a_shard_that_another_process_works_on_is_left(tiny_tar: Path):
    (tiny_tar / FEATURES / "000001.tar").write_bytes(b"")
    before = tree(tiny_tar)
    claim = create_or_open(tiny_tar, open_store(tiny_tar).manifest).claim("extract", 1)
    assert isinstance(claim, Claim)
    with claim:
        report = repair(tiny_tar)
    assert {(a.what, a.reason) for a in report.actions} == {
        ("leave", "another process is working on this shard")
    }
    assert tree(tiny_tar) == before


# A failure takes minutes to shrink, and is short as it is.
@settings(deadline=None, max_examples=12, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    flips=st.lists(
        st.tuples(
            st.sampled_from(list(MAKE)), st.integers(0, 2), st.floats(0, 1, exclude_max=True)
        ),
        max_size=3,
    ),
    cuts=st.lists(st.tuples(st.sampled_from(list(MAKE)), st.integers(0, 2)), max_size=1),
    records=st.lists(
        st.tuples(
            st.sampled_from(list(MAKE)), st.integers(0, 2), st.floats(0, 1, exclude_max=True)
        ),
        max_size=1,
    ),
)
def test_after_any_damage_the_store_is_honest(
    flips: list[tuple[str, int, float]],
    cuts: list[tuple[str, int]],
    records: list[tuple[str, int, float]],
    tmp_path_factory: pytest.TempPathFactory,
):
    root = tmp_path_factory.mktemp("damaged") / "store"
    write_all(root)
    for layer, shard, place in flips:
        path = root / layer / f"{shard:06d}.tar"
        flip(path, int(place * path.stat().st_size))
    for layer, shard in cuts:
        path = root / layer / f"{shard:06d}.tar"
        os.truncate(path, path.stat().st_size // 2)
    for layer, shard, place in records:
        path = root / layer / f"{shard:06d}.json"
        flip(path, int(place * path.stat().st_size))
    touched = {shard for _, shard, *_ in [*flips, *cuts, *records]}
    before = open_store(root)
    report = repair(root)
    assert {action.shard for action in report.actions} <= touched
    lost = check_honest(root)
    whole = {key for shard in {0, 1, 2} - touched for key in before.keys(shard)}
    assert not whole & lost
