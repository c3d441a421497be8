import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from part_store import contents, keys_of, payloads, write_part
from PIL import Image
from store_files import tree
from tiny_recording import recording_config, write_recording

from p2pkit.errors import ConfigError, CorruptShardError, FingerprintError, StoreError
from p2pkit.pipelines.extract import run as extract
from p2pkit.pipelines.extract.mend import RepairConfig, run
from p2pkit.pipelines.shards.merge import MergeConfig, merge_stores
from p2pkit.store.manifest import Plan, plan_shards
from p2pkit.store.reading import open_store
from p2pkit.store.verifying import verify_store

A = [f"a_{number}" for number in range(5)]
B = [f"b_{number}" for number in range(7)]


def merge(out: Path, *stores: Path, **changes: Any) -> Path:
    return merge_stores(MergeConfig(stores=stores, out=out, **changes))


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Path, Path]:
    return (
        write_part(tmp_path / "a", A, failed=["a_2"]),
        write_part(tmp_path / "b", B, failed=["b_0"]),
    )


@pytest.mark.parametrize("storages", [("tar", "tar"), ("zarr", "zarr"), ("tar", "zarr")])
def test_a_merge_holds_all_samples_and_failures(storages: tuple[str, str], tmp_path: Path):
    first = write_part(tmp_path / "a", A, storage=storages[0], failed=["a_2"])
    second = write_part(tmp_path / "b", B, storage=storages[1], failed=["b_0"])
    out = open_store(merge(tmp_path / "out", first, second))
    assert out.manifest.storage == storages[0]
    assert verify_store(out.root, deep=True).ok
    expected = contents(open_store(first)) | contents(open_store(second))
    assert contents(out) == expected
    rows = [json.loads(line) for line in (out.root / "failures.jsonl").read_text().splitlines()]
    assert sorted(row["key"] for row in rows) == ["a_2", "b_0"]
    assert {row["reason"] for row in rows} == {"cut"}


def test_samples_are_mixed_by_the_new_plan(parts: tuple[Path, Path], tmp_path: Path):
    out = open_store(merge(tmp_path / "out", *parts, shard_size=4, seed=9))
    plan = Plan(9, 4, 12)
    assert out.manifest.plan == plan
    planned = [key for keys in plan_shards(A + B, plan) for key in keys]
    assert keys_of(out) == [key for key in planned if key not in ("a_2", "b_0")]


def test_payload_bytes_are_those_of_the_sources(parts: tuple[Path, Path], tmp_path: Path):
    out = merge(tmp_path / "out", *parts)
    first, second = (payloads(open_store(path)) for path in parts)
    assert payloads(open_store(out)) == first | second


def test_nothing_is_decoded_between_tar_stores(
    parts: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("p2pkit.store.tar.reader.decode", refuse)
    merge(tmp_path / "out", *parts)


def test_codecs_may_differ(tmp_path: Path):
    first = write_part(tmp_path / "a", A)
    second = write_part(tmp_path / "b", B, codec="zstd")
    out = open_store(merge(tmp_path / "out", first, second))
    assert contents(out) == contents(open_store(first)) | contents(open_store(second))
    assert out.manifest.layers[1].field("map").codec == "none"


def test_the_fingerprint_says_what_it_was_made_from(parts: tuple[Path, Path], tmp_path: Path):
    stores = [open_store(path) for path in parts]
    out = open_store(merge(tmp_path / "out", *parts))
    for number, layer in enumerate(out.manifest.layers):
        sources = [store.manifest.layers[number].fingerprint_sha256 for store in stores]
        assert layer.fingerprint["made_from"]["merge"] == sources
    geometry, features = out.manifest.layers
    assert features.fingerprint["geometry"] == geometry.fingerprint_sha256
    assert features.name == f"features/tiny-{features.fingerprint_sha256[:8]}"
    assert out.manifest.dataset["sources"] == [store.manifest.dataset for store in stores]
    again = open_store(merge(tmp_path / "all", out.root, write_part(tmp_path / "c", ["c_1"])))
    assert verify_store(again.root, deep=True).ok
    assert len(keys_of(again)) == 11


def test_grids_of_several_image_sizes_are_gathered(tmp_path: Path):
    first = write_part(tmp_path / "a", A)
    second = write_part(tmp_path / "b", B, grids={"9x9": {"stride": 3}})
    out = open_store(merge(tmp_path / "out", first, second))
    assert out.manifest.layers[1].details["grids"] == {"8x6": {"stride": 2}, "9x9": {"stride": 3}}


def test_one_key_in_two_stores_needs_prefixes(tmp_path: Path):
    first, second = write_part(tmp_path / "a", A), write_part(tmp_path / "b", A, failed=["a_4"])
    with pytest.raises(StoreError, match=r"5 keys that an earlier store has too, such as a_0"):
        merge(tmp_path / "out", first, second)
    assert not (tmp_path / "out").exists()
    out = open_store(merge(tmp_path / "out", first, second, prefixes=("x-", "y-")))
    assert sorted(keys_of(out)) == [f"x-{key}" for key in A] + [f"y-{key}" for key in A[:4]]
    old, new = contents(open_store(first)), contents(out)
    assert all(new[f"x-{key}"] == old[key] for key in A)
    assert verify_store(out.root, deep=True).ok


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"voxel_size": 0.04}, r"fingerprint.voxel_size is 0.02 in the first, 0.04"),
        ({"teacher": {"name": "other"}}, r"fingerprint.teacher.name is 'tiny' in the first"),
        ({"grids": {"8x6": {"stride": 4}}}, r"grids.8x6.stride is 2 in the first, 4"),
        ({"label_names": ["wall"]}, r"dataset.label_names is None and \['wall'\]"),
    ],
)
def test_other_families_are_refused_by_name(changes: dict[str, Any], message: str, tmp_path: Path):
    first, second = write_part(tmp_path / "a", A), write_part(tmp_path / "b", B, **changes)
    with pytest.raises(FingerprintError, match=message):
        merge(tmp_path / "out", first, second)
    assert not (tmp_path / "out").exists()


def test_a_damaged_source_is_told(parts: tuple[Path, Path], tmp_path: Path):
    path = parts[1] / "geometry" / "000001.tar"
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptShardError, match=r"000001.tar, key b_\d, field depth"):
        merge(tmp_path / "out", *parts)


def test_an_interrupted_merge_goes_on_and_another_is_refused(
    parts: tuple[Path, Path], tmp_path: Path
):
    whole = merge(tmp_path / "whole", *parts)
    config = MergeConfig(stores=parts, out=tmp_path / "out")

    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge_stores(config, stop)
    merge_stores(config)
    assert tree(config.out) == tree(whole)
    with pytest.raises(FingerprintError, match="was made from other inputs"):
        merge(config.out, *parts, seed=1)


def test_frames_without_a_known_key_are_left_out(parts: tuple[Path, Path], tmp_path: Path):
    for layer in open_store(parts[0]).manifest.layers:
        (parts[0] / layer.name / "000000.tar").write_bytes(b"")
    (parts[0] / "geometry" / "000000.json").write_text("{}")
    run(RepairConfig(parts[0], drop=True))
    out = open_store(merge(tmp_path / "out", *parts))
    assert verify_store(out.root, deep=True).ok
    assert contents(out) == contents(open_store(parts[0])) | contents(open_store(parts[1]))
    assert "?" not in (out.root / "failures.jsonl").read_text()


def test_impossible_merges(parts: tuple[Path, Path], tmp_path: Path):
    with pytest.raises(ConfigError, match="at least two stores to merge, found 1"):
        merge(tmp_path / "out", parts[0])
    with pytest.raises(ConfigError, match="2 stores and 1 prefixes"):
        merge(tmp_path / "out", *parts, prefixes=("a",))
    with pytest.raises(StoreError, match="key 'a/a_"):
        merge(tmp_path / "out", *parts, prefixes=("a/", "b"))
    assert not (tmp_path / "out").exists()
    (parts[1] / "geometry" / "000000.json").unlink()
    with pytest.raises(StoreError, match="incomplete: 2 of 3"):
        merge(tmp_path / "out", *parts)


@settings(deadline=None, max_examples=6)
@given(sizes=st.lists(st.integers(1, 8), min_size=2, max_size=3), shard_size=st.integers(1, 9))
def test_any_sizes_merge(
    sizes: list[int], shard_size: int, tmp_path_factory: pytest.TempPathFactory
):
    root = tmp_path_factory.mktemp("any")
    parts = [
        write_part(root / str(n), [f"s{n}_{i}" for i in range(size)])
        for n, size in enumerate(sizes)
    ]
    out = open_store(merge(root / "out", *parts, shard_size=shard_size))
    expected: dict[str, Any] = {}
    for part in parts:
        expected |= contents(open_store(part))
    assert contents(out) == expected
    assert verify_store(out.root, deep=True).ok


def test_stores_of_other_frames_of_a_recording_are_one_family(
    room_recording: Path, tmp_path: Path
) -> None:
    """How many frames were read, and which, does not say how they were made."""
    stores = [
        extract.run(recording_config(room_recording, tmp_path / str(limit), limit=limit))
        for limit in (4, 6)
    ]
    out = open_store(merge(tmp_path / "out", *stores, prefixes=("x-", "y-")))
    assert out.samples == 10
    assert out.layer("geometry").settings == {}
    assert out.layer("geometry").details["reading"] == {"flying_margin": 0.02, "fuse": 0}
    assert verify_store(out.root, deep=True).ok


def test_cameras_of_other_resolutions_are_one_family(tmp_path: Path) -> None:
    """How far a depth pixel reaches in its image follows from the cameras."""
    stores: list[Path] = []
    for finer in (2, 5):
        root = write_recording(tmp_path / str(finer), 2)
        calibration = json.loads((root / "camera.json").read_text())
        color = {name: finer * value for name, value in calibration["color"].items()}
        for name in ("cx", "cy"):
            color[name] = finer * (calibration["color"][name] + 0.5) - 0.5
        (root / "camera.json").write_text(json.dumps({**calibration, "color": color}))
        for path in root.glob("*.color.png"):
            with Image.open(path) as image:
                image.resize((color["width"], color["height"])).save(path)
        stores.append(extract.run(recording_config(root, tmp_path / f"{finer}.store")))
    reach = [
        open_store(path).layer("geometry").fingerprint.get("blocker_reach_px") for path in stores
    ]
    assert reach == [None, 2]
    out = merge(tmp_path / "out", *stores, prefixes=("x-", "y-"))
    assert verify_store(out, deep=True).ok


def test_what_was_not_read_of_the_recordings_is_named_in_the_merge(tmp_path: Path) -> None:
    stores: list[Path] = []
    for name in ("a", "b"):
        recording = write_recording(tmp_path / name, 6, sequences=2)
        (recording / "scene-1" / "frame-000001.pose.txt").unlink()
        stores.append(extract.run(recording_config(recording, tmp_path / f"{name}.store")))
    out = merge(tmp_path / "out", *stores, prefixes=("x-", "y-"))
    rows = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
    assert [(row["key"], row["stage"]) for row in rows] == 2 * [("scene-1", "recording")]
    assert verify_store(out, deep=True).ok


def test_stores_that_were_read_in_other_ways_do_not_merge(
    room_recording: Path, tmp_path: Path
) -> None:
    stores = [
        extract.run(
            recording_config(
                room_recording, tmp_path / str(x), limit=4, features=None, flying_margin=x
            )
        )
        for x in (0.02, 0.1)
    ]
    with pytest.raises(FingerprintError, match=r"reading\.flying_margin is 0\.02 in the first, 0"):
        merge(tmp_path / "out", *stores, prefixes=("x-", "y-"))
