"""The commands that repair a store or make others from it, as a user calls them."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from p2pkit.cli.commands.shards import shards
from p2pkit.errors import FingerprintError, StoreError
from p2pkit.store.manifest import FieldSpec, LayerSpec, Manifest, Plan, Sample, plan_shards
from p2pkit.store.verifying import verify_store
from p2pkit.store.writing import create_or_open

TEACHER = {"name": "resnet50", "weights_sha256": "ab" * 32, "library": "timm 1", "layer": 4}


def write(root: Path, keys: list[str], voxel_size: float = 0.02) -> Path:
    """One point per frame, at (number of the frame, 0)."""
    plan = Plan(0, 2, len(keys))
    dataset = {"dataset": "rooms", "frames": len(keys)}
    fields = (FieldSpec("points", "<f4", ("points", "2"), "m"),)
    fingerprint = {"dataset": dataset, "voxel_size": voxel_size, "kernel_version": 1}
    geometry = LayerSpec("geometry", fields, fingerprint)
    feature = LayerSpec(
        "features/resnet50-0123abcd",
        (FieldSpec("map", "<f2", ("channels",)),),
        {"geometry": geometry.fingerprint_sha256, "teacher": TEACHER, "layout": "grid"},
    )
    writer = create_or_open(root, Manifest(dataset, plan, "tar", (geometry, feature)))
    for shard, planned in enumerate(plan_shards(keys, plan)):
        points = [np.array([[int(key[-1]), 0]], np.float32) for key in planned]
        meta = [{"sequence": key[:-2]} for key in planned]
        writer.write(
            "geometry",
            shard,
            [Sample(k, {"points": p}, m) for k, p, m in zip(planned, points, meta, strict=True)],
        )
        maps = [Sample(key, {"map": np.full(4, np.inf, np.float16)}) for key in planned]
        writer.write(feature.name, shard, maps)
    writer.write_failures()
    return root


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return write(tmp_path / "store", ["a_1", "a_2", "b_1", "b_2", "b_3"])


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(shards, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.stdout


def error(*arguments: object) -> BaseException | None:
    return CliRunner().invoke(shards, [str(argument) for argument in arguments]).exception


def test_info_tells_where_layers_come_from_and_what_they_hold(store: Path):
    text = run("info", store)
    for message in ("resnet50", "ab" * 32, "timm 1", "0 … 3, mean 0.9 m", "5 of 5 samples"):
        assert message in text
    assert "20 of 20 not finite" in text
    geometry, features = json.loads(run("info", store, "--json"))["layers"]
    assert features["provenance"]["weights_sha256"] == "ab" * 32
    assert geometry["provenance"]["kernel_version"] == 1
    points = geometry["statistics"]["fields"]["points"]
    assert points == {
        "bytes": 5 * (128 + 8),
        "values": 10,
        "not_finite": 0,
        "min": 0.0,
        "max": 3.0,
        "mean": 0.9,
    }
    assert features["statistics"]["fields"]["map"]["mean"] is None


def test_info_looks_at_as_many_samples_as_asked(store: Path):
    found = [
        json.loads(run("info", store, "--json", "--sample", count))["layers"][0]["statistics"]
        for count in (2, 2, 0)
    ]
    assert (found[0]["looked_at"], found[0]["of"]) == (2, 5)
    assert found[0]["fields"]["points"]["values"] == 4
    assert found[0] == found[1]
    assert found[2] is None
    run("info", store, "--sample", -1, code=2)


def test_info_of_a_damaged_store_says_so(store: Path):
    path = store / "geometry" / "000000.tar"
    data = bytearray(path.read_bytes())
    data[512 + 128] ^= 1
    path.write_bytes(data)
    assert "DAMAGED" in run("info", store, code=1)
    statistics = json.loads(run("info", store, "--json", code=1))["layers"][0]["statistics"]
    assert "differ from their checksum" in statistics["damage"]


def test_convert(store: Path, tmp_path: Path):
    out = tmp_path / "zarr"
    assert run("convert", store, "--out", out, "--format", "zarr") == f"{out}\n"
    assert "zarr store of rooms" in run("info", out)
    assert verify_store(out, deep=True).ok
    assert isinstance(error("convert", out, "--out", out, "--format", "zarr"), StoreError)


def test_merge(store: Path, tmp_path: Path):
    other, out = write(tmp_path / "other", ["c_1", "c_2"]), tmp_path / "out"
    assert run("merge", store, other, "--out", out, "--shard-size", 3) == f"{out}\n"
    value = json.loads(run("info", out, "--json"))
    assert (value["plan"]["frames"], value["plan"]["shard_size"]) == (7, 3)
    assert verify_store(out, deep=True).ok
    both = tmp_path / "both"
    run("merge", store, store, "--out", both, "--prefix", "x-", "--prefix", "y-")
    assert "x-a_1" in run("ls", both)
    assert isinstance(error("merge", store, store, "--out", tmp_path / "no"), StoreError)
    different = write(tmp_path / "different", ["d_1"], voxel_size=0.5)
    assert isinstance(error("merge", store, different, "--out", out), FingerprintError)


def test_drop_layer_needs_a_yes(store: Path):
    text = run("drop-layer", store, "resnet50")
    assert text.startswith("would delete (add --yes) features/resnet50-0123abcd: 6 files, ")
    assert verify_store(store, deep=True).shards == 6
    text = run("drop-layer", store, "resnet50", "--yes")
    assert text.startswith("deleted features/resnet50-0123abcd: 6 files, ")
    assert verify_store(store, deep=True).shards == 3
    assert isinstance(error("drop-layer", store, "geometry", "--yes"), StoreError)


def test_repair_says_what_it_drops(store: Path):
    assert run("repair", store) == "ok: 0 actions done, every byte read again\n"
    (store / "geometry" / "000001.tar").unlink()
    left = run("repair", store, code=1)
    assert "leave layer geometry, shard 1: frames " in left
    assert "--source restores them, --drop removes them" in left
    dry = run("repair", store, "--drop", "--dry-run")
    assert "would drop layer geometry, shard 1: frames " in dry
    assert "2 frames would become failures of stage repair" in dry
    run("verify", store, code=1)
    text = run("repair", store, "--drop")
    assert "drop layer features/resnet50-0123abcd, shard 1: frames " in text
    assert "2 frames became failures of stage repair and are removed from every layer" in text
    run("verify", store, "--deep")
    (store / "failures.jsonl").write_text("")
    assert "failures.jsonl would be rewritten" in run("repair", store, "--dry-run")
    assert "failures.jsonl was rewritten" in run("repair", store)
    assert len((store / "failures.jsonl").read_text().splitlines()) == 2


def test_repair_exits_with_1_where_something_is_left(store: Path):
    (store / "geometry" / "000002.json").unlink()
    assert "leave layer geometry, shard 2: it was never" in run("repair", store, code=1)
    value = json.loads(run("repair", store, "--json", code=1))
    assert value["actions"][0]["what"] == "leave"
    assert value["verified"]["ok"] is False
    assert "1 frames became" in run("repair", store, "--drop")
