import re
import shutil
from pathlib import Path

import pytest
from command_line import p2pkit
from object_server import Bucket, Fault, Faults, FolderHandler, Request, serve
from tiny_recording import TEACHER, recording_config

from p2pkit.errors import ConfigError, CorruptShardError, FingerprintError, StoreError
from p2pkit.layers.features import FeatureConfig
from p2pkit.pipelines.extract import mend
from p2pkit.pipelines.extract.run import run as extract
from p2pkit.pipelines.shards.convert import convert_store
from p2pkit.pipelines.shards.transfer import TransferConfig, TransferReport, run
from p2pkit.store.reading import open_store
from p2pkit.store.remote.client import RemotePath
from p2pkit.store.verifying import verify_store


@pytest.fixture
def small_store(room_recording: Path, room_store: Path, tmp_path: Path) -> Path:
    """A copy of `room_store`, to be changed."""
    assert room_recording.is_dir()
    return shutil.copytree(room_store, tmp_path / "rooms.store")


def files(store: Path) -> dict[str, bytes]:
    """What a store is made of, without the folder of claims."""
    paths = (path for path in store.rglob("*") if path.is_file())
    found = {path.relative_to(store).as_posix(): path.read_bytes() for path in paths}
    return {name: data for name, data in found.items() if not name.startswith(".claims/")}


def writes(bucket: Bucket) -> list[str]:
    """Names of the files put into the bucket below the store, in order."""
    names = [r.path.split("/", 3)[3].partition("?")[0] for r in bucket.faults.requests]
    return [
        name for r, name in zip(bucket.faults.requests, names, strict=True) if r.method == "PUT"
    ]


def test_there_and_back(small_store: Path, bucket: Bucket, tmp_path: Path) -> None:
    reports: list[TransferReport] = []
    report = run(TransferConfig(str(small_store), bucket.url()), progress=reports.append)
    assert (report.copied, report.kept, report.shards) == (6, 0, 6)
    assert (
        report.bytes
        == report.total_bytes
        == sum(path.stat().st_size for path in small_store.rglob("*.tar"))
    )
    assert [r.copied for r in reports] == list(range(7))
    put = writes(bucket)
    assert sorted(put) == sorted(files(small_store))
    assert put[-2:] == ["failures.jsonl", "p2pkit.json"]
    for name in put:
        if name.endswith(".tar"):
            assert put.index(name) < put.index(name.replace(".tar", ".json"))
    assert verify_store(bucket.url(), deep=True).ok
    back = tmp_path / "back"
    assert run(TransferConfig(bucket.url(), str(back))).copied == 6
    assert files(back) == files(small_store)
    assert run(TransferConfig(bucket.url(), str(back))).kept == 6


@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_does_not_exist_is_named(small_store: Path, tmp_path: Path) -> None:
    url = "s3://nowhere/rooms.store"
    message = r"its bucket does not exist\. Create it, or check its name and AWS_ENDPOINT_URL"
    with pytest.raises(StoreError, match=rf"{url}/.* cannot be written: {message}"):
        run(TransferConfig(str(small_store), url))
    with pytest.raises(StoreError, match=rf"{url}/p2pkit\.json cannot be read: {message}"):
        run(TransferConfig(url, str(tmp_path / "back")))
    with pytest.raises(StoreError, match=message):
        RemotePath(url).files()


@pytest.mark.parametrize("fault", ["503", "reset"])
def test_a_push_that_was_stopped_goes_on(small_store: Path, bucket: Bucket, fault: Fault) -> None:
    config = TransferConfig(str(small_store), bucket.url(), workers=1)
    bucket.faults.choose = lambda r: fault if r.path.endswith("geometry/000001.tar") else None
    with pytest.raises(StoreError, match=r"geometry/000001\.tar cannot be .*run the same command"):
        run(config)
    bucket.faults.choose = lambda request: None
    with pytest.raises(StoreError, match="is not a store"):
        open_store(bucket.url())
    done = [
        name for name in writes(bucket) if re.fullmatch(r"(geometry|features/.*)/0.*json", name)
    ]
    bucket.faults.requests.clear()
    report = run(config)
    assert report.kept == len(done) >= 1
    assert report.copied == 6 - len(done)
    assert not {name for name in writes(bucket) if name != "p2pkit.json"} & set(done)
    assert verify_store(bucket.url(), deep=True).ok


def test_a_shard_without_its_record_is_not_sent_again(small_store: Path, bucket: Bucket) -> None:
    bucket.upload(small_store)
    config = TransferConfig(str(small_store), bucket.url())
    RemotePath(bucket.url("rooms.store/geometry/000000.json")).delete()
    bucket.faults.requests.clear()
    assert run(config).copied == 1
    ends = ["failures.jsonl", "p2pkit.json"]
    assert writes(bucket) == ["geometry/000000.json", *ends]


@pytest.mark.parametrize(("times", "copies"), [(1, 2), (99, 2)])
def test_what_reads_back_otherwise_is_sent_again(
    small_store: Path, bucket: Bucket, times: int, copies: int
) -> None:
    left = [times]

    def flip_reads(request: Request) -> Fault:
        if request.method == "GET" and request.path.endswith("geometry/000000.tar") and left[0]:
            left[0] -= 1
            return "flip"
        return None

    bucket.faults.choose = flip_reads
    config = TransferConfig(str(small_store), bucket.url())
    if times == 1:
        run(config)
        assert verify_store(bucket.url(), deep=True).ok
    else:
        with pytest.raises(StoreError, match=r"did not read back as the bytes .* sent, 2 times"):
            run(config)
        assert "geometry/000000.json" not in writes(bucket)
    assert writes(bucket).count("geometry/000000.tar") == copies


@pytest.mark.parametrize("how", ["flip", "cut", "missing"])
def test_a_damaged_source_is_not_pushed(small_store: Path, bucket: Bucket, how: str) -> None:
    path = small_store / "geometry" / "000001.tar"
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data[:-512] if how == "cut" else data)
    if how == "missing":
        path.unlink()
    with pytest.raises(CorruptShardError, match=re.escape(str(path))):
        run(TransferConfig(str(small_store), bucket.url()))
    assert not {"geometry/000001.tar", "geometry/000001.json"} & set(writes(bucket))
    with pytest.raises(StoreError, match="is not a store"):
        open_store(bucket.url())


def test_a_damaged_source_is_not_pulled(small_store: Path, bucket: Bucket, tmp_path: Path) -> None:
    path = small_store / "geometry" / "000001.tar"
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    url, back = bucket.upload(small_store), tmp_path / "back"
    with pytest.raises(CorruptShardError, match=re.escape(f"{url}/geometry/000001.tar: xxh3-128")):
        run(TransferConfig(url, str(back)))
    assert not {"geometry/000001.tar", "geometry/000001.json", "p2pkit.json"} & set(files(back))
    assert not list(back.rglob(".tmp-*"))


@pytest.mark.parametrize("fault", ["503", "cut", "short", "flip"])
def test_a_pull_survives_faults_that_pass(
    small_store: Path, bucket: Bucket, tmp_path: Path, fault: Fault
) -> None:
    url = bucket.upload(small_store)
    bucket.faults.choose = lambda r: fault if r.turn == 0 and r.path.endswith(".tar") else None
    run(TransferConfig(url, str(tmp_path / "back")))
    assert files(tmp_path / "back") == files(small_store)


def test_zarr_stores(room_recording: Path, bucket: Bucket, tmp_path: Path) -> None:
    config = recording_config(room_recording, tmp_path / "zarr", format="zarr", limit=2)
    store = extract(config)
    stale = RemotePath(bucket.url("rooms.store/geometry/000000.zarr/depth/c/9"))
    stale.write(b"of another run")
    assert run(TransferConfig(str(store), bucket.url())).copied == 2
    assert not stale.exists()
    assert run(TransferConfig(str(store), bucket.url())).kept == 2
    run(TransferConfig(bucket.url(), str(tmp_path / "back")))
    assert files(tmp_path / "back") == files(store)


@pytest.mark.usefixtures("remote_environment")
def test_pull_from_a_web_server(small_store: Path, tmp_path: Path) -> None:
    with serve(FolderHandler, Faults(), folder=small_store.parent) as address:
        run(TransferConfig(f"{address}/rooms.store", str(tmp_path / "back")))
    assert files(tmp_path / "back") == files(small_store)


def test_only_one_store_fits_a_place(
    small_store: Path, room_recording: Path, bucket: Bucket, tmp_path: Path
) -> None:
    run(TransferConfig(str(small_store), bucket.url()))
    other = extract(recording_config(room_recording, tmp_path / "other", limit=4))
    with pytest.raises(FingerprintError, match=r"plan\.frames is 12 in the store, 4 now"):
        run(TransferConfig(str(other), bucket.url()))
    RemotePath(bucket.url("rooms.store/p2pkit.json")).delete()
    with pytest.raises(FingerprintError, match="holds another store; choose another target"):
        run(TransferConfig(str(other), bucket.url()))


def test_layers_are_added_and_chosen(
    small_store: Path, room_recording: Path, bucket: Bucket, tmp_path: Path
) -> None:
    first = open_store(small_store).feature_layers[0]
    run(TransferConfig(str(small_store), bucket.url()))
    features = FeatureConfig(teacher=TEACHER, layout="pixels", pairs_per_frame=16)
    extract(recording_config(room_recording, small_store, features=features))
    second = open_store(small_store).feature_layers[1]
    report = run(TransferConfig(str(small_store), bucket.url(), layers=(second,)))
    assert (report.copied, report.kept) == (3, 3)
    assert open_store(bucket.url()).feature_layers == (first, second)
    assert verify_store(bucket.url(), deep=True).ok
    run(TransferConfig(bucket.url(), str(tmp_path / "part"), layers=(second,)))
    assert open_store(tmp_path / "part").feature_layers == (second,)
    run(TransferConfig(bucket.url(), str(tmp_path / "part")))
    assert set(open_store(tmp_path / "part").feature_layers) == {first, second}
    assert verify_store(tmp_path / "part", deep=True).ok


def test_an_unfinished_store_is_not_pushed(small_store: Path, bucket: Bucket) -> None:
    (small_store / "geometry" / "000001.json").unlink()
    with pytest.raises(StoreError, match="incomplete: 2 of 3 shards"):
        run(TransferConfig(str(small_store), bucket.url()))
    assert not writes(bucket)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("a", "b", "both local paths"),
        ("s3://a/b", "gs://a/b", "both URLs"),
        ("a", "https://host/b", "cannot be written: push to an s3"),
    ],
)
def test_ends_that_do_not_fit(source: str, target: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(TransferConfig(source, target))


def test_a_source_that_lost_frames_replaces_nothing(small_store: Path, bucket: Bucket) -> None:
    run(TransferConfig(str(small_store), bucket.url()))
    (small_store / "geometry" / "000001.tar").unlink()
    mend.run(mend.RepairConfig(small_store, drop=True))
    with pytest.raises(StoreError, match=r"the source lost frames.*nothing was copied"):
        run(TransferConfig(str(small_store), bucket.url()))
    assert verify_store(bucket.url(), deep=True).ok
    assert open_store(bucket.url()).samples == 12


def test_remote_stores_are_converted_and_merged(
    small_store: Path, bucket: Bucket, tmp_path: Path
) -> None:
    url = bucket.upload(small_store)
    p2pkit("shards", "convert", url, "--format", "zarr", "--out", tmp_path / "zarr")
    assert verify_store(tmp_path / "zarr", deep=True).ok
    convert_store(tmp_path / "zarr", out=tmp_path / "tar", storage="tar")
    assert files(tmp_path / "tar") == files(small_store)
    prefixes = ("--prefix", "a_", "--prefix", "b_")
    p2pkit("shards", "merge", url, small_store, *prefixes, "--out", tmp_path / "both")
    assert open_store(tmp_path / "both").samples == 24
    assert verify_store(tmp_path / "both", deep=True).ok
