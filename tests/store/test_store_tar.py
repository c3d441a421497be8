import io
import subprocess
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_store import (
    FAILED,
    FEATURES,
    KEYS,
    feature_sample,
    geometry_layer,
    geometry_sample,
    manifest,
    places,
    write_all,
)

from p2pkit.errors import StoreError
from p2pkit.store.manifest import JSON_FIELD, Sample
from p2pkit.store.reading import open_store
from p2pkit.store.tar.writer import LARGEST_MEMBER, tar_header, write_tar
from p2pkit.store.writing import StoreWriter, create_or_open


def assert_same(found: Sample, expected: Sample) -> None:
    assert found.key == expected.key
    assert found.meta == expected.meta
    assert found.arrays.keys() == expected.arrays.keys()
    for name, array in expected.arrays.items():
        assert found.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(found.arrays[name], array)


def test_every_sample_reads_back_in_any_order(tiny_store: Path):
    store = open_store(tiny_store)
    assert store.samples == len(KEYS) - 1
    for key in np.random.default_rng(0).permutation([key for key in KEYS if key != FAILED]):
        shard, row = store.find(str(key))
        assert store.keys(shard)[row] == key
        assert_same(store.read("geometry", shard, row), geometry_sample(str(key)))
        assert_same(store.read(FEATURES, shard, row), feature_sample(str(key)))


def test_chosen_fields_only(tiny_store: Path):
    store = open_store(tiny_store)
    shard, row = store.find("frame-4")
    whole = geometry_sample("frame-4")
    for fields in ([], ["label"], ["depth"], ("points", "label")):
        part = Sample("frame-4", {name: whole.arrays[name] for name in fields}, whole.meta)
        assert_same(store.read("geometry", shard, row, fields), part)
    with pytest.raises(StoreError, match="no field 'colour'; it has depth, label, points"):
        store.read("geometry", shard, row, ["colour"])


def test_arrays_are_writable_and_separate(tiny_store: Path):
    store = open_store(tiny_store)
    shard, row = store.find("frame-5")
    first = store.read("geometry", shard, row)
    for array in first.arrays.values():
        array[...] = 0
    assert_same(store.read("geometry", shard, row), geometry_sample("frame-5"))


def test_same_samples_give_same_bytes(tmp_path: Path):
    write_all(tmp_path / "a")
    write_all(tmp_path / "b")
    first = {path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*")}
    assert first == {path.relative_to(tmp_path / "b") for path in (tmp_path / "b").rglob("*.*")}
    for path in first:
        if (tmp_path / "a" / path).is_file():
            assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()


def test_tarfile_and_gnu_tar_read_it(tiny_tar: Path):
    path = tiny_tar / "geometry" / "000000.tar"
    keys = open_store(tiny_tar).keys(0)
    names = [
        f"{key}.{end}" for key in keys for end in ("depth.npy", "label.npy", "points.npy", "json")
    ]
    names += ["__p2pkit__/__index__.npy", "__p2pkit__/__meta__.json"]
    with tarfile.open(path) as file:
        assert file.getnames() == names
        member = file.extractfile(f"{keys[0]}.points.npy")
        assert member is not None
        expected = geometry_sample(keys[0]).arrays["points"]
        np.testing.assert_array_equal(np.load(io.BytesIO(member.read())), expected)
        for info in file.getmembers():
            assert (info.mtime, info.uid, info.gid, info.mode) == (0, 0, 0, 0o644)
    listed = subprocess.run(["tar", "tf", path], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == names
    assert listed.stderr == ""


def test_header_is_that_of_tarfile():
    info = tarfile.TarInfo("frame-000012.points.npy")
    info.size = 123456789
    assert tar_header(info.name, info.size) == info.tobuf(tarfile.USTAR_FORMAT)


# webdataset leaves closing its files to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_webdataset_reads_the_shards_as_they_are(tiny_tar: Path):
    import webdataset

    store = open_store(tiny_tar)
    found = []
    for shard in range(store.manifest.plan.shards):
        url = str(tiny_tar / "geometry" / f"{shard:06d}.tar")
        for sample in webdataset.WebDataset(url, shardshuffle=False, empty_check=False).decode():
            expected = geometry_sample(sample["__key__"])
            np.testing.assert_array_equal(sample["points.npy"], expected.arrays["points"])
            assert sample["json"] == expected.meta
            found.append(sample["__key__"])
    assert sorted(found) == [key for key in KEYS if key != FAILED]


def test_shard_without_samples(tmp_path: Path):
    writer = create_or_open(tmp_path, manifest())
    failures = [{"key": key, "stage": "load", "reason": "cut"} for key in KEYS[:3]]
    record = writer.write("geometry", 0, [], failures)
    assert (record.samples, record.first_key, record.last_key) == (0, None, None)
    assert open_store(tmp_path).keys(0) == []
    with tarfile.open(tmp_path / "geometry" / "000000.tar") as file:
        assert file.getnames() == ["__p2pkit__/__index__.npy", "__p2pkit__/__meta__.json"]
    with pytest.raises(StoreError, match="no row 0"):
        open_store(tmp_path).read("geometry", 0, 0)


def test_threads_read_at_the_same_time(tiny_store: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("p2pkit.store.reading.OPEN_SHARDS", 2)
    store = open_store(tiny_store)
    wrong: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for number in np.random.default_rng(seed).integers(0, len(KEYS), 20):
                if (key := KEYS[number]) != FAILED:
                    shard, row = store.find(key)
                    assert_same(store.read("geometry", shard, row), geometry_sample(key))
                    assert_same(store.read(FEATURES, shard, row), feature_sample(key))
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@settings(deadline=None, max_examples=25)
@given(
    counts=st.lists(st.integers(0, 40), max_size=6),
    keys=st.lists(st.from_regex(r"[A-Za-z0-9_-]{1,60}", fullmatch=True), min_size=6, unique=True),
)
def test_any_keys_and_sizes_round_trip(tmp_path_factory, counts: list[int], keys: list[str]):
    layer, root = geometry_layer(), tmp_path_factory.mktemp("any")
    samples = [
        Sample(
            key,
            {
                "depth": np.arange(count, dtype=np.uint16) * 1000,
                "points": np.full((count, 3), count, np.float32),
                "label": np.zeros(count, np.uint8),
            },
            {"count": count, key: None},
        )
        for key, count in zip(keys, counts, strict=False)
    ]
    written = write_tar(root / "x.tar", layer, samples)
    assert written.keys == tuple(sample.key for sample in samples)
    assert written.bytes == (root / "x.tar").stat().st_size
    with tarfile.open(root / "x.tar") as file:
        assert len(file.getnames()) == 4 * len(samples) + 2


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "../x", "é", "a b", "a\n"])
def test_key_that_cannot_name_a_sample(key: str):
    with pytest.raises(StoreError, match="cannot name a sample"):
        Sample(key, {}, {})


def test_long_key_is_refused_and_leaves_nothing(tmp_path: Path):
    sample = geometry_sample("frame-2")
    long = Sample("k" * 95, sample.arrays)
    with pytest.raises(StoreError, match="at most 100 are allowed: use shorter keys"):
        write_tar(tmp_path / "x.tar", geometry_layer(), [sample, long])
    assert list(tmp_path.iterdir()) == []


def test_member_of_eight_gibibytes_is_refused():
    tar_header("x", LARGEST_MEMBER)
    with pytest.raises(StoreError, match="the limit is 8589934591"):
        tar_header("x", LARGEST_MEMBER + 1)


def write_one(writer: StoreWriter, sample: Sample) -> None:
    failures = [{"key": key, "stage": "load", "reason": "cut"} for key in ("a", "b")]
    writer.write("geometry", 0, [sample], failures)


def test_samples_must_match_the_fields_table(tmp_path: Path):
    writer, good = create_or_open(tmp_path, manifest()), geometry_sample("frame-2")
    wrong = {
        "<f8": {**good.arrays, "points": good.arrays["points"].astype(np.float64)},
        "axes": {**good.arrays, "points": good.arrays["points"].reshape(-1)},
        "needs exactly": {"depth": good.arrays["depth"]},
        "has the fields": {**good.arrays, "more": good.arrays["depth"]},
    }
    for message, arrays in wrong.items():
        with pytest.raises(StoreError, match=message):
            write_one(writer, Sample("frame-2", arrays))
    assert list((tmp_path / "geometry").iterdir()) == []
    write_one(writer, good)


def test_a_frame_may_not_get_lost(tmp_path: Path):
    writer = create_or_open(tmp_path, manifest())
    with pytest.raises(StoreError, match="1 samples and 0 failures; the plan has 3"):
        writer.write("geometry", 0, [geometry_sample("frame-2")])
    assert not writer.is_done("geometry", 0)


def test_features_must_follow_the_geometry(tmp_path: Path):
    writer = write_all(tmp_path)
    shard, _ = places(writer)["frame-4"]
    with pytest.raises(StoreError, match="other samples than the geometry"):
        writer.write(FEATURES, shard, [feature_sample("frame-4")])
    with pytest.raises(StoreError, match="occurs twice"):
        writer.write(FEATURES, shard, [feature_sample("frame-4")] * 2)


def test_columns_end_in_json():
    assert geometry_layer().columns == ("depth", "label", "points", JSON_FIELD)
