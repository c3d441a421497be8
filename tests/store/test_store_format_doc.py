"""A reader written from docs/format.md alone, without the package's own."""

import base64
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import xxhash
from numcodecs.lz4 import LZ4
from numcodecs.zstd import Zstd
from PIL import Image
from skimage.segmentation import slic
from tiny_recording import TEACHER, WIDTH, recording_config
from tiny_store import FAILED, FEATURES, KEYS, feature_sample, geometry_sample

from p2pkit.geometry.maps.superpixels import SuperpixelConfig
from p2pkit.layers.features import FeatureConfig
from p2pkit.pipelines.extract import run as extract

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
    packed = inner[HEADER:]
    raw = Zstd().decode(packed) if "zstd" in codec else LZ4().decode(packed)
    if "shuffle" in codec:
        raw = np.frombuffer(raw, np.uint8).reshape(kind.itemsize, -1).T.tobytes()
    values = load_npy(inner[:HEADER] + bytes(raw))
    if "delta" in codec:
        values = np.cumsum(values.reshape(-1), dtype=kind.dtype).reshape(kind.shape)
    return values


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


def floats(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4")


def test_the_page_is_enough_to_read_coded_maps(
    room_recording: Path, room_store: Path, tmp_path: Path
):
    features = FeatureConfig(teacher=TEACHER, map="pca:8+int8")
    codecs = {"map": "shuffle-zstd", "map_scale": "lz4", "colors": "lz4", "label": "shuffle-lz4"}
    config = recording_config(room_recording, tmp_path / "s", features=features, codecs=codecs)
    extract.run(config)
    layers = load_sealed(config.out / "p2pkit.json")["layers"]
    layer = layers[1]
    pca, fingerprint = layer["details"]["pca"], dict(layer["fingerprint"])
    mean, basis = floats(pca["mean_base64"]), floats(pca["basis_base64"])
    digest = hashlib.sha256(mean.tobytes() + basis.tobytes()).hexdigest()
    assert digest == fingerprint.pop("basis_sha256")
    assert layer["name"].endswith("-" + hashlib.sha256(canonical(fingerprint)).hexdigest()[:8])
    assert layer["details"]["channels"] == pca["components"] == 8
    basis = basis.reshape(pca["components"], pca["channels"])
    expected = load_sealed(room_store / "p2pkit.json")["layers"]
    lost = whole = 0.0
    for shard in range(3):
        found = load_shard(config.out, layer, shard)
        plain = load_shard(room_store, expected[1], shard)
        for key, (arrays, _) in load_shard(config.out, layers[0], shard).items():
            for name, array in load_shard(room_store, expected[0], shard)[key][0].items():
                np.testing.assert_array_equal(arrays[name], array)
        for key, (arrays, _) in found.items():
            smallest, step = np.moveaxis(arrays["map_scale"].astype(np.float32), 1, 0)
            coefficients = smallest[:, None, None] + step[:, None, None] * arrays["map"]
            features_found = mean + coefficients @ basis
            teachers = plain[key][0]["map"].astype(np.float32)
            lost += np.square(features_found - teachers).sum()
            whole += np.square(teachers - mean).sum()
    assert lost / whole == pytest.approx(1 - sum(pca["explained_variance"]), abs=0.02)


def test_the_page_is_enough_to_read_superpixels(room_recording: Path, tmp_path: Path):
    """Colour and depth are registered here: a pair's pixel is that of its depth."""
    cut = SuperpixelConfig(20)
    config = recording_config(room_recording, tmp_path / "s", superpixels=cut, limit=4)
    extract.run(config)
    geometry, _, layer = load_sealed(config.out / "p2pkit.json")["layers"]
    fingerprint = layer["fingerprint"]
    assert layer["name"] == f"superpixels/slic-{layer['fingerprint_sha256'][:8]}"
    assert hashlib.sha256(canonical(fingerprint)).hexdigest() == layer["fingerprint_sha256"]
    assert fingerprint["geometry"] == geometry["fingerprint_sha256"]
    settings = dict(fingerprint["superpixels"])
    assert settings.pop("method") == "slic"
    assert settings.pop("library").startswith("scikit-image ")
    points = load_shard(config.out, geometry, 0)
    for key, (arrays, meta) in load_shard(config.out, layer, 0).items():
        with Image.open(room_recording / f"{key.replace('_', '/')}.color.png") as image:
            found = slic(np.asarray(image), **settings)
        assert meta["superpixels"] == [found.max() + 1]
        assert arrays["superpixel"].dtype == np.uint16
        v, u = np.divmod(points[key][0]["pixel"].astype(int), WIDTH)
        np.testing.assert_array_equal(arrays["superpixel"], found[v, u])
