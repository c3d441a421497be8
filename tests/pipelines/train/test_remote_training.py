import json
import tomllib
from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from command_line import p2pkit
from object_server import Bucket
from tiny_recording import tiny_train_config

from p2pkit.errors import StoreError
from p2pkit.pipelines.evaluate import probe
from p2pkit.pipelines.held_out import holdout_split
from p2pkit.pipelines.train import run as train
from p2pkit.pipelines.train.checkpoints import latest_checkpoint
from p2pkit.pipelines.train.run_folder import provenance_of
from p2pkit.pipelines.train.stores import open_sources
from p2pkit.store import reading
from p2pkit.store.reading import open_store
from p2pkit.stream.batches import Batch, BatchStream, StreamSource


@pytest.fixture
def url(room_store: Path, bucket: Bucket) -> str:
    """`room_store` in a bucket."""
    return bucket.upload(room_store)


def batches(store: str | Path) -> list[Batch]:
    config = tiny_train_config(str(store))
    opened = open_store(store)
    kept, _ = holdout_split(opened, 2)
    stream = BatchStream(
        [StreamSource(opened, opened.feature_layers[0], kept)], config=config.stream
    )
    return list(stream.batches(0, 4))


def test_the_same_batches_come_from_a_url(room_store: Path, url: str, bucket: Bucket) -> None:
    bucket.faults.choose = lambda r: "503" if r.turn == 0 and r.path.endswith(".tar") else None
    for local, remote in zip(batches(room_store), batches(url), strict=True):
        for field in fields(Batch):
            found, expected = getattr(remote, field.name), getattr(local, field.name)
            if torch.is_tensor(expected):
                assert torch.equal(found, expected), field.name
            elif field.name == "fields":
                assert {*found} == {*expected}
                assert all(torch.equal(found[name], expected[name]) for name in expected)
            elif field.name != "wait_s":
                assert found == expected, field.name


def test_a_start_asks_for_each_part_of_a_shard_once(
    url: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/scale.md counts, also where few shards stay open."""
    monkeypatch.setattr(reading, "OPEN_SHARDS", 1)
    config = tiny_train_config(url, holdout=2)
    sources = open_sources(config)
    provenance_of(sources, config)
    assert {r.method for r in bucket.faults.requests} == {"GET", "HEAD"}
    asked = Counter(r.path.removeprefix(f"/{bucket.name}") for r in bucket.faults.requests)
    layer = sources[0].layer
    expected = {"/rooms.store/p2pkit.json": 1}
    for shard in range(sources[0].store.manifest.plan.shards):
        expected |= {f"/rooms.store/{name}/{shard:06d}.json": 1 for name in ("geometry", layer)}
        expected[f"/rooms.store/geometry/{shard:06d}.tar"] = 3
    assert asked == expected


def weights(run: Path) -> bytes:
    return (latest_checkpoint(run).path / "weights.safetensors").read_bytes()


@pytest.mark.slow
def test_a_run_from_a_url_says_so_and_gives_the_same_weights(
    room_store: Path, url: str, tmp_path: Path
) -> None:
    train.run(tiny_train_config(room_store, steps=2), tmp_path / "local")
    train.run(tiny_train_config(url, steps=2), tmp_path / "remote", stop_after=1)
    train.resume(tmp_path / "remote")
    assert weights(tmp_path / "remote") == weights(tmp_path / "local")
    stored = json.loads((tmp_path / "remote" / "store.json").read_text())
    assert stored.pop("store") == url
    local = json.loads((tmp_path / "local" / "store.json").read_text())
    assert local.pop("store") == str(room_store)
    assert stored == local
    assert set(stored["fingerprints"]) == set(stored["layers"])
    assert json.loads((tmp_path / "remote" / "config.json").read_text())["store"] == url
    report = probe.run(probe.ProbeStageConfig(tmp_path / "remote", url, points_per_frame=40))
    assert json.loads(report.read_text())["protocol"]["store"] == url
    train.resume(tmp_path / "remote", store=room_store)


@pytest.mark.usefixtures("remote_environment")
def test_commands_take_urls(room_store: Path, url: str, bucket: Bucket, tmp_path: Path) -> None:
    for command in (["info"], ["verify", "--deep"], ["ls", "--json"]):
        remote, local = p2pkit("shards", *command, url), p2pkit("shards", *command, room_store)
        assert remote.stdout.replace(url, str(room_store)) == local.stdout
    key = open_store(url).keys(0)[0]
    assert (
        p2pkit("shards", "show", url, key).stdout
        == p2pkit("shards", "show", room_store, key).stdout
    )
    pulled = p2pkit("shards", "pull", url, tmp_path / "pulled", "--workers", 2)
    assert "6 shards copied and verified, 0 already present" in pulled.stdout
    other = bucket.url("other.store")
    assert other in p2pkit("shards", "push", tmp_path / "pulled", other).stdout
    assert "ok" in p2pkit("shards", "verify", other).stdout
    shown = p2pkit("train", url, "--out", tmp_path / "run", "--print-config").stdout
    assert tomllib.loads(shown)["store"] == url


def test_extract_writes_to_folders_only(url: str) -> None:
    result = p2pkit("extract", "--dataset", "demo-scene", "--out", url, code=1)
    assert isinstance(result.exception, StoreError)
    assert "p2pkit shards push FOLDER URL" in str(result.exception)
    assert not Path("s3:").exists()
