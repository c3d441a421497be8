"""Stores of parts of one recording, as a merge joins and a split cuts them."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from p2pkit.store.manifest import FieldSpec, LayerSpec, Manifest, Plan, Sample, plan_shards
from p2pkit.store.reading import Store
from p2pkit.store.writing import create_or_open

TEACHER = {"name": "tiny", "weights_sha256": "ab" * 32, "library": "tiny 1"}
GRIDS = {"8x6": {"stride": 2}}


def numbers(key: str) -> np.random.Generator:
    return np.random.default_rng(xxhash.xxh3_64_intdigest(key.encode()))


def geometry_sample(key: str) -> Sample:
    """The sequence of `b_003` is `b`; a key without `_` names none."""
    random = numbers(key)
    count = int(random.integers(0, 40))
    arrays = {
        "depth": random.integers(0, 65535, count).astype(np.uint16),
        "points": random.normal(size=(count, 3)).astype(np.float32),
    }
    return Sample(key, arrays, {"sequence": key.rpartition("_")[0], "pose": random.normal()})


def feature_sample(key: str) -> Sample:
    values = numbers(key).normal(size=(2, 3, 4)).astype(np.float16)
    return Sample(key, {"map": values}, {"grids": [key]})


def layers(
    dataset: dict[str, Any],
    plan: Plan,
    *,
    voxel_size: float = 0.02,
    codec: str = "none",
    teacher: dict[str, Any] = TEACHER,
    grids: dict[str, Any] = GRIDS,
) -> tuple[LayerSpec, LayerSpec]:
    fields = (
        FieldSpec("points", "<f4", ("points", "3"), "m", "none", "points"),
        FieldSpec("depth", "<u2", ("points",), "mm", "delta-shuffle-lz4", "depth"),
    )
    plan_json = {"seed": plan.seed, "shard_size": plan.shard_size, "frames": plan.frames}
    origin = {"dataset": dataset, "plan": plan_json, "voxel_size": voxel_size}
    geometry = LayerSpec("geometry", fields, origin)
    features = LayerSpec(
        "features/x",
        (FieldSpec("map", "<f2", ("height", "width", "channels"), "", codec, "the map"),),
        {"geometry": geometry.fingerprint_sha256, "teacher": teacher},
        {"channels": 4, "grids": grids},
    )
    name = f"features/tiny-{features.fingerprint_sha256[:8]}"
    return geometry, LayerSpec(name, features.fields, features.fingerprint, features.details)


def write_part(
    root: Path,
    keys: Sequence[str],
    *,
    storage: str = "tar",
    failed: Collection[str] = (),
    label_names: list[str] | None = None,
    **settings: Any,
) -> Path:
    """Three frames per shard, seed 5."""
    plan = Plan(5, 3, len(keys))
    dataset = {"dataset": "rooms", "frames": len(keys), "label_names": label_names, "part": keys[0]}
    geometry, features = layers(dataset, plan, **settings)
    writer = create_or_open(root, Manifest(dataset, plan, storage, (geometry, features)))
    for shard, planned in enumerate(plan_shards(keys, plan)):
        good = [key for key in planned if key not in failed]
        rows = [{"key": k, "stage": "frame", "reason": "cut"} for k in planned if k in failed]
        writer.write("geometry", shard, [geometry_sample(key) for key in good], rows)
        writer.write(features.name, shard, [feature_sample(key) for key in good])
    writer.write_failures()
    return root


def keys_of(store: Store) -> list[str]:
    return [key for shard in range(store.manifest.plan.shards) for key in store.keys(shard)]


def contents(store: Store) -> dict[str, list[Any]]:
    """Bytes of every array, and the JSON, of every sample by key; layers by order."""
    found: dict[str, list[Any]] = {}
    for key in keys_of(store):
        place = store.find(key)
        samples = [store.read(layer.name, *place) for layer in store.manifest.layers]
        found[key] = [
            (
                {name: (a.dtype, a.shape, a.tobytes()) for name, a in sample.arrays.items()},
                sample.meta,
            )
            for sample in samples
        ]
    return found


def payloads(store: Store) -> dict[str, list[dict[str, bytes]]]:
    """The payload of every member of a tar store by key, read without the package's reader."""
    found: dict[str, list[dict[str, bytes]]] = {}
    for layer in store.manifest.layers:
        for path in sorted((store.root / layer.name).glob("*.tar")):
            data = path.read_bytes()
            record = json.loads(path.with_suffix(".json").read_text())
            start = record["members"]["index"]["offset"]
            position, rows = 0, {}
            while position < start - 512:
                name = data[position : position + 100].rstrip(b"\0").decode()
                size = int(data[position + 124 : position + 135], 8)
                key, _, field = name.partition(".")
                rows.setdefault(key, {})[field] = data[position + 512 : position + 512 + size]
                position += 512 + -(-size // 512) * 512
            for key, row in rows.items():
                found.setdefault(key, []).append(row)
    return found
