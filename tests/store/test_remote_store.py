import json
import re
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from object_server import Bucket, Fault, Faults, FolderHandler, Request, serve
from tiny_store import FAILED, FEATURES, KEYS, feature_sample, flip, geometry_sample, write_all

from p2pkit.errors import CorruptShardError, StoreError
from p2pkit.store.manifest import FieldSpec, LayerSpec, Manifest, Plan, Sample
from p2pkit.store.reading import Store, open_store
from p2pkit.store.records import ShardRecord
from p2pkit.store.remote.client import PART_BYTES, TRIES, RemotePath
from p2pkit.store.remote.copy import fetch_shard, remote_checksum, send_shard, shard_checksum
from p2pkit.store.summary import sample_summary, store_summary
from p2pkit.store.verifying import verify_store
from p2pkit.store.writing import create_or_open

GOOD = [key for key in KEYS if key != FAILED]


def same(found: Sample, expected: Sample) -> bool:
    assert found.meta == expected.meta
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)
    return found.arrays.keys() == expected.arrays.keys()


def read_everything(store: Store) -> None:
    """Read each sample of both layers and compare it with what was written."""
    assert sorted(key for keys in store.all_keys() for key in keys) == GOOD
    for shard, keys in enumerate(store.all_keys()):
        for row, key in enumerate(keys):
            assert same(store.read("geometry", shard, row), geometry_sample(key))
            assert same(store.read(FEATURES, shard, row), feature_sample(key))


def whole_reads(bucket: Bucket) -> list[str]:
    """Paths of the shards that were fetched from the first byte on, once for each fetch."""
    starts = (r for r in bucket.faults.requests if (r.range or "").startswith("bytes=0-"))
    return [r.path for r in starts if r.path.endswith(".tar")]


@pytest.mark.parametrize("limit", ["1", "0"])
def test_s3_reads_as_local(
    tiny_tar: Path, bucket: Bucket, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P2PKIT_CACHE_GB", limit)
    store = open_store(bucket.upload(tiny_tar))
    assert store.samples == len(GOOD)
    read_everything(store)
    read_everything(store)
    local = store_summary(open_store(tiny_tar))
    assert store_summary(store) == {**local, "path": bucket.url()}
    assert sample_summary(store, "frame-4") == sample_summary(open_store(tiny_tar), "frame-4")
    report = verify_store(bucket.url(), deep=True)
    assert report == verify_store(tiny_tar, deep=True)
    assert report.ok


def test_keys_and_one_sample_fetch_no_whole_shard(
    tiny_tar: Path, bucket: Bucket, remote_environment: Path
) -> None:
    store = open_store(bucket.upload(tiny_tar))
    shard, row = store.find("frame-4")
    store.read("geometry", shard, row)
    assert not whole_reads(bucket)
    assert not remote_environment.exists()
    store.read("geometry", shard, row)
    assert whole_reads(bucket) == [f"/{bucket.name}/rooms.store/geometry/{shard:06d}.tar"]


@pytest.fixture
def web(tiny_tar: Path, remote_environment: Path) -> Iterator[tuple[str, Faults]]:
    """The folder around a store on a plain http server."""
    assert not remote_environment.exists()
    faults = Faults()
    with serve(FolderHandler, faults, folder=tiny_tar.parent) as address:
        yield address, faults


def test_plain_http(web: tuple[str, Faults], tiny_tar: Path) -> None:
    read_everything(open_store(f"{web[0]}/store"))
    assert verify_store(f"{web[0]}/store/", deep=True).ok
    tiny_tar.rename(tiny_tar.parent / "my rooms")
    read_everything(open_store(f"{web[0]}/my%20rooms"))
    with pytest.raises(StoreError, match=r"nowhere is not a store: it has no p2pkit\.json"):
        open_store(f"{web[0]}/nowhere")


@pytest.mark.usefixtures("remote_environment")
def test_a_web_server_without_ranges_is_named(tiny_tar: Path) -> None:
    with serve(FolderHandler, Faults(), folder=tiny_tar.parent, ranges=False) as address:
        store = open_store(f"{address}/store")
        with pytest.raises(StoreError, match=r"000000\.tar .* ignores byte ranges"):
            store.keys(0)


@pytest.mark.usefixtures("remote_environment")
def test_zarr_needs_a_listing(tmp_path: Path) -> None:
    write_all(tmp_path / "store", "zarr")
    with serve(FolderHandler, Faults(), folder=tmp_path) as address:
        store = open_store(f"{address}/store")
        with pytest.raises(StoreError, match="plain http"):
            store.keys(0)


@pytest.mark.usefixtures("remote_environment")
def test_google_cloud_storage(
    tiny_tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its XML interface reads like a web server's: /bucket/object."""
    with serve(FolderHandler, Faults(), folder=tiny_tar.parent.parent) as address:
        account = {"gcs_base_url": address, "disable_oauth": True, "client_email": "x"}
        account |= {"private_key": "x", "private_key_id": "x"}
        path = tmp_path / "account.json"
        path.write_text(json.dumps(account))
        monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(path))
        monkeypatch.setenv("GOOGLE_ALLOW_HTTP", "true")
        read_everything(open_store(f"gs://{tiny_tar.parent.name}/store"))


@pytest.mark.parametrize("fault", ["503", "500", "reset", "cut", 0.05])
def test_faults_that_pass_are_survived(tiny_tar: Path, bucket: Bucket, fault: Fault) -> None:
    url = bucket.upload(tiny_tar)
    bucket.faults.choose = lambda request: fault if request.turn < 2 else None
    read_everything(open_store(url))


@pytest.mark.parametrize("fault", ["short", "flip"])
def test_wrong_bytes_that_pass_are_survived(tiny_tar: Path, bucket: Bucket, fault: Fault) -> None:
    url = bucket.upload(tiny_tar)
    seen: set[str] = set()

    def once_per_range(request: Request) -> Fault:
        named = f"{request.path} {request.range}"
        first = named not in seen
        seen.add(named)
        return fault if request.method == "GET" and request.range and first else None

    bucket.faults.choose = once_per_range
    read_everything(open_store(url))


def test_an_answer_that_does_not_come_is_asked_for_again(
    tiny_tar: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_TIMEOUT", "200ms")
    url = bucket.upload(tiny_tar)
    bucket.faults.choose = lambda r: 0.6 if r.turn == 0 and r.path.endswith("0.tar") else None
    began = time.monotonic()
    read_everything(open_store(url))
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("fault", ["503", "reset", "cut"])
def test_a_server_that_stays_broken_is_told_of(
    tiny_tar: Path, bucket: Bucket, fault: Fault
) -> None:
    url = bucket.upload(tiny_tar)
    bucket.faults.choose = lambda request: fault if "000001.tar" in request.path else None
    store = open_store(url)
    shard = re.escape(f"{url}/geometry/000001.tar")
    message = f"{shard} cannot be read: .*{TRIES} tries .*run the same command again"
    with pytest.raises(StoreError, match=message) as error:
        [store.read("geometry", 1, row) for row in range(3)]
    assert not isinstance(error.value, CorruptShardError)
    asked = [r for r in bucket.faults.requests if r.path.endswith("geometry/000001.tar")]
    assert TRIES <= len(asked) <= 2 * TRIES
    bucket.faults.choose = lambda request: None
    read_everything(store)


def test_a_refusal_is_not_repeated(tiny_tar: Path, bucket: Bucket) -> None:
    url = bucket.upload(tiny_tar)
    bucket.faults.choose = lambda request: "403"
    with pytest.raises(StoreError, match=r"access is denied .*credentials in the environment"):
        open_store(url)
    assert len(bucket.faults.requests) == 1


@pytest.mark.parametrize("fault", ["short", "flip"])
@pytest.mark.parametrize("limit", ["1", "0"])
def test_wrong_bytes_that_stay_are_never_returned(
    tiny_tar: Path, bucket: Bucket, fault: Fault, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P2PKIT_CACHE_GB", limit)
    url = bucket.upload(tiny_tar)
    store = open_store(url)
    store.all_keys()
    bucket.faults.choose = lambda r: (
        fault if r.method == "GET" and r.path.endswith(".tar") else None
    )
    for row in (0, 1, 2):
        with pytest.raises(CorruptShardError, match=re.escape(url)):
            store.read("geometry", 1, row, ["label", "points"])


def test_a_truncated_object_is_told_of(tiny_tar: Path, bucket: Bucket) -> None:
    path = tiny_tar / FEATURES / "000001.tar"
    path.write_bytes(path.read_bytes()[:-512])
    store = open_store(bucket.upload(tiny_tar))
    with pytest.raises(CorruptShardError, match=r"000001\.tar: has \d+ bytes; its record says"):
        store.read(FEATURES, 1, 0)
    [problem] = verify_store(bucket.url(), deep=True).problems
    assert (problem.layer, problem.shard) == (FEATURES, 1)


@pytest.mark.parametrize("limit", ["1", "0"])
def test_a_damaged_object_is_told_of(
    tiny_tar: Path, bucket: Bucket, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P2PKIT_CACHE_GB", limit)
    path = tiny_tar / "geometry" / "000001.tar"
    [key] = open_store(tiny_tar).keys(1)[:1]
    flip(path, path.read_bytes().index(geometry_sample(key).arrays["points"].tobytes()))
    url = bucket.upload(tiny_tar)
    store = open_store(url)
    for _ in range(3):
        with pytest.raises(CorruptShardError, match=re.escape(f"{url}/geometry/000001.tar")):
            store.read("geometry", 1, 0)
    problems = verify_store(url, deep=True).problems
    assert (key, "points") in {(problem.key, problem.field) for problem in problems}
    assert all(str(url) in problem.reason for problem in problems)


def test_a_missing_object_and_a_missing_record(tiny_tar: Path, bucket: Bucket) -> None:
    (tiny_tar / "geometry" / "000001.tar").unlink()
    (tiny_tar / FEATURES / "000002.json").unlink()
    store = open_store(bucket.upload(tiny_tar))
    with pytest.raises(CorruptShardError, match=r"000001\.tar: cannot be opened: No such object"):
        store.keys(1)
    with pytest.raises(StoreError, match="2 of 3 shards; run the same `p2pkit shards push`"):
        store.records(FEATURES)


def test_nothing_is_warned_of_where_all_is_well(tiny_tar: Path, bucket: Bucket) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_everything(open_store(bucket.upload(tiny_tar)))


@pytest.fixture
def one_zarr(tmp_path: Path) -> tuple[Path, Sample]:
    """A store of one zarr shard with two frames, and the second frame."""
    layer = LayerSpec("geometry", (FieldSpec("points", "<f4", ("points", "3")),), {})
    writer = create_or_open(tmp_path / "zarr", Manifest({}, Plan(0, 2, 2), "zarr", (layer,)))
    points = np.random.default_rng(0).normal(size=(2, 9, 3)).astype(np.float32)
    samples = [Sample(f"frame-{row}", {"points": points[row]}) for row in range(2)]
    writer.write("geometry", 0, samples)
    writer.write_failures()
    return tmp_path / "zarr", samples[1]


@pytest.mark.parametrize("limit", ["1", "0"])
@pytest.mark.parametrize("fault", [None, "503", "cut"])
def test_zarr_shards(
    one_zarr: tuple[Path, Sample],
    bucket: Bucket,
    limit: str,
    fault: Fault,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("P2PKIT_CACHE_GB", limit)
    folder, sample = one_zarr
    url = bucket.upload(folder)
    bucket.faults.choose = lambda request: fault if request.turn == 0 else None
    store = open_store(url)
    for _ in range(3):
        assert same(store.read("geometry", 0, 1), sample)
    assert verify_store(url, deep=True).ok


@pytest.mark.parametrize("limit", ["1", "0"])
def test_damaged_and_missing_zarr_chunks(
    one_zarr: tuple[Path, Sample], bucket: Bucket, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P2PKIT_CACHE_GB", limit)
    folder, _ = one_zarr
    chunk = folder / "geometry" / "000000.zarr" / "points" / "c" / "1" / "0"
    flip(chunk, 3)
    store = open_store(bucket.upload(folder))
    for _ in range(2):
        with pytest.raises(CorruptShardError, match=re.escape(bucket.url())):
            store.read("geometry", 0, 1)
    [problem, _] = verify_store(bucket.url(), deep=True).problems
    assert (problem.key, problem.field) == ("frame-1", "points")
    RemotePath(bucket.url(f"rooms.store/{chunk.relative_to(folder).as_posix()}")).delete()
    with pytest.raises(CorruptShardError, match=re.escape(bucket.url())):
        store.read("geometry", 0, 1)
    with pytest.raises(CorruptShardError, match="its record says"):
        open_store(bucket.url()).keys(0)


def test_a_server_that_stays_broken_is_no_damage_of_zarr(
    one_zarr: tuple[Path, Sample], bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P2PKIT_CACHE_GB", "0")
    store = open_store(bucket.upload(one_zarr[0]))
    assert store.keys(0)
    bucket.faults.choose = lambda request: "403" if "/points/c/" in request.path else None
    with pytest.raises(StoreError, match=r"points/c/.* cannot be read: .*credentials") as error:
        store.read("geometry", 0, 1)
    assert not isinstance(error.value, CorruptShardError)


def test_large_shards_go_in_parts_both_ways(tmp_path: Path, bucket: Bucket) -> None:
    data = np.random.default_rng(0).bytes(2 * PART_BYTES + 12345)
    (tmp_path / "000000.tar").write_bytes(data)
    checksum = shard_checksum(tmp_path / "000000.tar")
    record = ShardRecord(0, len(data), checksum, None, None, "0" * 64, (), "tar", {})
    target = RemotePath(bucket.url("large/000000.tar"))
    bucket.faults.choose = lambda request: "503" if request.turn == 0 else None
    send_shard(tmp_path / "000000.tar", record, target)
    assert sum("partNumber" in request.path for request in bucket.faults.requests) >= 3
    assert remote_checksum(target, record) == checksum
    bucket.faults.requests.clear()
    bucket.faults.choose = lambda r: "cut" if r.method == "GET" and r.turn in (0, 2) else None
    fetch_shard(target, record, tmp_path / "copy.tar")
    assert (tmp_path / "copy.tar").read_bytes() == data
    assert sum(request.method == "GET" for request in bucket.faults.requests) == 5
