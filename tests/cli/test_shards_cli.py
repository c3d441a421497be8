import json
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from p2pkit.cli.commands.shards import shards
from p2pkit.errors import StoreError
from p2pkit.layers.map_coding import fit_basis
from p2pkit.store.manifest import FieldSpec, LayerSpec, Manifest, Plan, Sample, plan_shards
from p2pkit.store.reading import open_store
from p2pkit.store.writing import create_or_open

KEYS = ["frame-0", "frame-1", "frame-2"]


def sample(key: str) -> Sample:
    values = np.array([[1.5, np.nan], [-2.0, 3.0]], np.float32)
    return Sample(key, {"points": values, "empty": np.zeros(0, np.uint8)}, {"name": key})


@pytest.fixture
def store(tmp_path: Path) -> Path:
    fields = (FieldSpec("points", "<f4", ("points", "2"), "m"), FieldSpec("empty", "|u1", ("n",)))
    layer = LayerSpec("geometry", fields, {"voxel_size": 0.02})
    plan = Plan(0, 2, 3)
    writer = create_or_open(tmp_path, Manifest({"dataset": "rooms"}, plan, "tar", (layer,)))
    for shard, keys in enumerate(plan_shards(KEYS, plan)):
        writer.write("geometry", shard, [sample(key) for key in keys])
    return tmp_path


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(shards, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.stdout


def test_info(store: Path):
    text = run("info", store)
    for message in ("tar store of rooms", "2 of 2", "samples      3", "<f4 [points, 2] none"):
        assert message in text
    value = json.loads(run("info", store, "--json"))
    assert value["layers"][0]["samples"] == 3
    assert value["layers"][0]["fingerprint"] == {"voxel_size": 0.02}
    assert value["layers"][0]["bytes"] == sum(p.stat().st_size for p in store.rglob("*.tar"))


def test_info_takes_no_negative_seed(store: Path):
    result = CliRunner().invoke(shards, ["info", str(store), "--seed", "-1"])
    assert result.exit_code == 2
    assert "-1 is not in the range x>=0" in result.output


def test_info_tells_a_basis_without_its_numbers(store: Path):
    maps = [np.random.default_rng(i).normal(size=(3, 4, 5)).astype(np.float16) for i in range(4)]
    basis = fit_basis([[found] for found in maps], 2)
    fingerprint = {"basis_sha256": basis.sha256}
    layer = LayerSpec("features/x-1", (), fingerprint, {"pca": basis.to_json()})
    create_or_open(store, open_store(store).manifest.with_layer(layer))
    share = f"{sum(basis.explained_variance):.2%} of the variance of 36 cells"
    assert f"2 of 5 channels: {share}" in run("info", store)
    [_, printed] = json.loads(run("info", store, "--json"))["layers"]
    assert printed["details"]["pca"]["explained_variance"] == list(basis.explained_variance)
    assert "basis_base64" not in printed["details"]["pca"]


def test_info_of_an_extraction_in_progress(store: Path):
    (store / "geometry" / "000001.json").unlink()
    assert "1 of 2" in run("info", store)


def test_ls(store: Path):
    lines = [line.split("\t") for line in run("ls", store).splitlines()]
    assert sorted(line[0] for line in lines) == KEYS
    rows = json.loads(run("ls", store, "--json"))
    assert [[r["key"], f"{r['shard']:06d}", str(r["row"])] for r in rows] == lines


def test_show(store: Path):
    text = run("show", store, "frame-1")
    assert "2 × 2" in text
    assert "-2.0 … 3.0 m" in text
    layer = json.loads(run("show", store, "frame-1", "--json"))["layers"]["geometry"]
    assert layer["meta"] == {"name": "frame-1"}
    points, empty = layer["fields"]
    assert (points["dtype"], points["shape"], points["not_finite"]) == ("<f4", [2, 2], 1)
    assert (empty["shape"], empty["min"]) == ([0], None)


def test_show_of_a_missing_key(store: Path):
    result = CliRunner().invoke(shards, ["show", str(store), "frame-9"])
    assert isinstance(result.exception, StoreError)


def test_verify_exits_with_1_when_anything_is_wrong(store: Path):
    assert run("verify", store, "--deep") == "ok: 2 shards, 3 samples checked\n"
    assert json.loads(run("verify", store, "--json"))["ok"] is True
    path = store / "geometry" / "000000.tar"
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    run("verify", store)
    text = run("verify", store, "--deep", code=1)
    assert "layer geometry, shard 0, key frame-" in text
    assert json.loads(run("verify", store, "--deep", "--json", code=1))["ok"] is False
    path.unlink()
    assert "cannot be opened" in run("verify", store, code=1)


def test_each_command_gives_an_example():
    for command in shards.commands.values():
        assert "Example: p2pkit shards" in (command.help or ""), command.name


def test_importing_the_command_is_quick():
    start = time.process_time()
    run("--help")
    assert time.process_time() - start < 0.3
