"""What the fields of a layer hold: bytes as stored, and values of a bounded sample of samples."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from p2pkit.errors import StoreError
from p2pkit.shards.layout import record_path
from p2pkit.shards.model import GEOMETRY, JSON_FIELD, LayerSpec
from p2pkit.shards.store import Store

SAMPLES_LOOKED_AT = 64


@dataclass
class _Tally:
    """Values of one field, gathered sample by sample; NaN and infinities are counted apart."""

    values: int = 0
    not_finite: int = 0
    total: float = 0.0
    extremes: list[Any] = field(default_factory=list)

    def add(self, array: np.ndarray) -> None:
        finite = array[np.isfinite(array)]
        self.values += array.size
        self.not_finite += array.size - finite.size
        if finite.size:
            self.total += float(finite.sum(dtype=np.float64))
            self.extremes += [finite.min().item(), finite.max().item()]

    def to_json(self) -> dict[str, Any]:
        finite = self.values - self.not_finite
        return {
            "values": self.values,
            "not_finite": self.not_finite,
            "min": min(self.extremes, default=None),
            "max": max(self.extremes, default=None),
            "mean": self.total / finite if finite else None,
        }


def layer_statistics(
    store: Store, layer: LayerSpec, *, samples: int = SAMPLES_LOOKED_AT, seed: int = 0
) -> dict[str, Any]:
    """Bytes that each field takes in the layer's complete shards, and its values in some samples.

    Args:
        store: may be in the making; shards that are not complete are passed over.
        layer: of the store.
        samples: how many to look at, drawn without replacement.
        seed: of the draw.

    Returns:
        `looked_at` and `of` (numbers of samples), and by field `bytes` (of all samples), `values`,
        `not_finite`, `min`, `max`, `mean` (of those looked at; None where there is no finite
        value). `damage` is the first error met, else None; the rest is then incomplete.
    """
    stored = dict.fromkeys(layer.columns, 0)
    tallies = {name: _Tally() for name in layer.columns[:-1]}
    places: list[tuple[int, int]] = []
    looked_at, damage = 0, None
    try:
        places = _measure(store, layer, stored)
        draw = np.random.default_rng(seed).permutation(len(places))[:samples]
        for number in sorted(draw.tolist()):
            sample = store.read(layer.name, *places[number])
            looked_at += 1
            for name, array in sample.arrays.items():
                tallies[name].add(array)
    except StoreError as error:
        damage = str(error)
    return {
        "looked_at": looked_at,
        "of": len(places),
        "seed": seed,
        "damage": damage,
        "json_bytes": stored[JSON_FIELD],
        "fields": {name: {"bytes": stored[name], **x.to_json()} for name, x in tallies.items()},
    }


def _measure(store: Store, layer: LayerSpec, stored: dict[str, int]) -> list[tuple[int, int]]:
    """Add the bytes of each column to `stored`; gives shard and row of every sample."""
    places: list[tuple[int, int]] = []
    for shard in _complete(store, layer):
        opened = store.shard(layer.name, shard)
        places += [(shard, row) for row in range(len(opened.keys))]
        for name, size in opened.stored_bytes().items():
            stored[name] += size
    return places


def _complete(store: Store, layer: LayerSpec) -> list[int]:
    return [
        shard
        for shard in range(store.manifest.plan.shards)
        if all(record_path(store.root, name, shard).exists() for name in (GEOMETRY, layer.name))
    ]


def provenance(layer: LayerSpec) -> dict[str, Any]:
    """Where a layer comes from, out of its fingerprint: entries that it has, under plain names."""
    fingerprint = layer.fingerprint
    teacher = fingerprint.get("teacher")
    found: dict[str, Any] = {}
    if isinstance(teacher, dict):
        found |= {
            "teacher": teacher.get("name"),
            "teacher_layer": teacher.get("layer"),
            "weights_sha256": teacher.get("weights_sha256"),
            "library": teacher.get("library"),
        }
    superpixels = fingerprint.get("superpixels")
    if isinstance(superpixels, dict):
        found |= {
            "superpixels": layer.details.get("superpixels"),
            "library": superpixels.get("library"),
        }
    dataset = fingerprint.get("dataset")
    if isinstance(dataset, dict):
        found |= {"dataset": dataset.get("dataset"), "frame_list": dataset.get("frame_list")}
    for name in ("kernel_version", "layout", "made_from"):
        found[name] = fingerprint.get(name)
    return {name: value for name, value in found.items() if value is not None}
