"""A reader written from docs/format.md alone, without the package's own."""

import io
import json
from pathlib import Path

import numpy as np
import xxhash
from numcodecs.lz4 import LZ4
from numcodecs.zstd import Zstd
from tiny_store import FAILED, FEATURES, KEYS, feature_sample, geometry_sample

HEADER = 128
"""Bytes of the .npy headers of the arrays here."""


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def load_sealed(path: Path) -> dict:
    value = json.loads(path.read_text())
    stored = value.pop("checksum")
    assert f"{xxhash.xxh3_64_intdigest(canonical(value)):016x}" == stored
    return value


def load_npy(payload: bytes) -> np.ndarray:
    return np.load(io.BytesIO(payload), allow_pickle=False)


def undo_codec(stored: np.ndarray, codec: str) -> np.ndarray:
    if codec == "none":
        return stored
    inner = stored.tobytes()
    kind = load_npy(inner[:HEADER] + bytes(1 << 16))
    if kind.size == 0:
        return kind
    if codec == "zstd":
        return load_npy(inner[:HEADER] + Zstd().decode(inner[HEADER:]))
    planes = np.frombuffer(LZ4().decode(inner[HEADER:]), np.uint8).reshape(kind.itemsize, -1)
    steps = np.ascontiguousarray(planes.T).view(kind.dtype).reshape(-1)
    return np.cumsum(steps, dtype=kind.dtype).reshape(kind.shape)


def load_shard(store: Path, layer: dict, shard: int) -> dict[str, tuple[dict, dict]]:
    record = load_sealed(store / layer["name"] / f"{shard:06d}.json")
    data = (store / layer["name"] / f"{shard:06d}.tar").read_bytes()
    assert len(data) == record["bytes"]
    assert xxhash.xxh3_128_hexdigest(data) == record["xxh3_128"]
    assert record["fingerprint"] == layer["fingerprint_sha256"]
    places = (record["members"]["index"], record["members"]["meta"])
    index, meta = (data[p["offset"] : p["offset"] + p["length"]] for p in places)
    codecs = {field["name"]: field["codec"] for field in layer["fields"]}
    samples: dict[str, tuple[dict, dict]] = {}
    meta = json.loads(meta)
    for key, row in zip(meta["keys"], load_npy(index).tolist(), strict=True):
        payloads = {}
        for name, (offset, length, checksum) in zip(meta["fields"], row, strict=True):
            payloads[name] = data[offset : offset + length]
            assert xxhash.xxh3_64_intdigest(payloads[name]) == checksum
        sample = json.loads(payloads.pop("json"))
        arrays = {n: undo_codec(load_npy(p), codecs[n]) for n, p in payloads.items()}
        samples[key] = (arrays, sample)
    return samples


def test_the_page_is_enough_to_read_a_store(tiny_tar: Path):
    manifest = load_sealed(tiny_tar / "p2pkit.json")
    plan = manifest["plan"]
    seed = plan["seed"]
    order = sorted(KEYS, key=lambda k: (xxhash.xxh3_64_intdigest(f"{seed}:{k}".encode()), k))
    for layer in manifest["layers"]:
        make = feature_sample if layer["name"] == FEATURES else geometry_sample
        found: list[str] = []
        for shard in range(-(-plan["frames"] // plan["shard_size"])):
            for key, (arrays, meta) in load_shard(tiny_tar, layer, shard).items():
                expected = make(key)
                assert meta == expected.meta
                assert arrays.keys() == expected.arrays.keys()
                for name, array in expected.arrays.items():
                    assert arrays[name].dtype == array.dtype
                    np.testing.assert_array_equal(arrays[name], array)
                found.append(key)
        assert found == [key for key in order if key != FAILED]
