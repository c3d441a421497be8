"""A small store with every codec, an empty array, a failed frame and two layers."""

from pathlib import Path

import numpy as np

from p2pkit.store.manifest import FieldSpec, LayerSpec, Manifest, Plan, Sample, plan_shards
from p2pkit.store.writing import StoreWriter, create_or_open

FEATURES = "features/tiny-0123abcd"
FAILED = "frame-3"
KEYS = [f"frame-{number}" for number in range(7)]
FIELDS = (
    FieldSpec("depth", "<u2", ("points",), "mm", "delta-shuffle-lz4", "depth where measured"),
    FieldSpec("points", "<f4", ("points", "3"), "m", "none", "points"),
    FieldSpec("label", "|u1", ("points",), "", "zstd", "class"),
)


def geometry_layer(voxel_size: float = 0.02) -> LayerSpec:
    return LayerSpec("geometry", FIELDS, {"voxel_size": voxel_size, "depth": {"near": 0.1}})


def feature_layer(name: str = FEATURES) -> LayerSpec:
    fields = (FieldSpec("map", "<f2", ("height", "width", "channels"), "", "none", "the map"),)
    return LayerSpec(name, fields, {"teacher": name}, {"stride": 32})


def manifest(storage: str = "tar", *layers: LayerSpec) -> Manifest:
    chosen = layers or (geometry_layer(), feature_layer())
    return Manifest({"name": "tiny", "split": "all"}, Plan(5, 3, len(KEYS)), storage, chosen)


def geometry_sample(key: str) -> Sample:
    number = KEYS.index(key)
    random = np.random.default_rng(number)
    count = 11 * number  # frame-0 has no points
    arrays = {
        "depth": random.integers(0, 65535, count).astype(np.uint16),
        "points": random.normal(size=(count, 3)).astype(np.float32),
        "label": random.integers(0, 3, count).astype(np.uint8),
    }
    return Sample(key, arrays, {"number": number, "name": "Küche"})


def feature_sample(key: str) -> Sample:
    values = np.random.default_rng(100 + KEYS.index(key)).normal(size=(2, 3, 4))
    return Sample(key, {"map": values.astype(np.float16)})


def write_all(root: Path, storage: str = "tar") -> StoreWriter:
    writer = create_or_open(root, manifest(storage))
    for shard, keys in enumerate(plan_shards(KEYS, writer.manifest.plan)):
        good = [key for key in keys if key != FAILED]
        failures = [
            {"key": key, "stage": "load", "reason": "cut"} for key in keys if key not in good
        ]
        writer.write("geometry", shard, [geometry_sample(key) for key in good], failures)
        writer.write(FEATURES, shard, [feature_sample(key) for key in good])
    writer.write_failures()
    return writer


def flip(path: Path, position: int) -> None:
    """Flip the lowest bit of one byte of a file; done twice, the file is as it was."""
    with open(path, "r+b") as file:
        file.seek(position)
        value = file.read(1)[0]
        file.seek(position)
        file.write(bytes([value ^ 1]))


def places(writer: StoreWriter) -> dict[str, tuple[int, int]]:
    """Shard and row of each sample that `write_all` writes."""
    shards = plan_shards(KEYS, writer.manifest.plan)
    good = [[key for key in keys if key != FAILED] for keys in shards]
    return {key: (shard, row) for shard, keys in enumerate(good) for row, key in enumerate(keys)}
