"""What a store and its samples contain, as JSON for the command line and for reports."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from p2pkit.errors import StoreError
from p2pkit.store.location import record_path
from p2pkit.store.manifest import GEOMETRY, JSON_FIELD, FieldSpec, LayerSpec
from p2pkit.store.reading import Store

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
        store: may be unfinished; incomplete shards are skipped.
        layer: of the store.
        samples: how many to read, drawn without replacement.
        seed: of the draw.

    Returns:
        `looked_at` and `of` (numbers of samples), and by field `bytes` (of all samples), `values`,
        `not_finite`, `min`, `max`, `mean` (of those read; None where there is no finite
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
    """Where a layer comes from, by its fingerprint: entries that it has, under plain names."""
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


def store_summary(store: Store, *, samples: int = 0, seed: int = 0) -> dict[str, Any]:
    """Dataset, plan and layers of a store, also of one whose extraction is not finished.

    Args:
        store: to be described.
        samples: how many samples of each layer the statistics read; 0 leaves them out.
        seed: of the choice of samples.
    """
    manifest = store.manifest
    return {
        "path": str(store.root),
        "storage": manifest.storage,
        "dataset": manifest.dataset,
        "plan": {**asdict(manifest.plan), "shards": manifest.plan.shards},
        "layers": [
            {
                **_layer_summary(store, layer),
                "provenance": provenance(layer),
                "statistics": layer_statistics(store, layer, samples=samples, seed=seed)
                if samples
                else None,
            }
            for layer in manifest.layers
        ],
    }


def _layer_summary(store: Store, layer: LayerSpec) -> dict[str, Any]:
    shards = range(store.manifest.plan.shards)
    done = [shard for shard in shards if record_path(store.root, layer.name, shard).exists()]
    records = [store.record(layer.name, shard) for shard in done]
    return {
        "name": layer.name,
        "shards": len(records),
        "samples": sum(record.samples for record in records),
        "failures": sum(len(record.failures) for record in records),
        "bytes": sum(record.bytes for record in records),
        "fingerprint_sha256": layer.fingerprint_sha256,
        "fingerprint": layer.fingerprint,
        "details": _readable(layer.details),
        "fields": [asdict(spec) for spec in layer.fields],
    }


def _readable(details: dict[str, Any]) -> dict[str, Any]:
    """Details without the numbers of a PCA basis."""
    pca = details.get("pca")
    if pca is None:
        return details
    return {**details, "pca": {k: v for k, v in pca.items() if not k.endswith("_base64")}}


def sample_summary(store: Store, key: str) -> dict[str, Any]:
    """Every array of one sample (dtype, shape, smallest and largest value) and its JSON.

    Raises:
        StoreError: the store has no such key.
        CorruptShardError: its bytes are damaged.
    """
    shard, row = store.find(key)
    layers: dict[str, Any] = {}
    for layer in store.manifest.layers:
        if layer.name != GEOMETRY and not record_path(store.root, layer.name, shard).exists():
            continue
        sample = store.read(layer.name, shard, row)
        fields = [_array_summary(spec, sample.arrays[spec.name]) for spec in layer.fields]
        layers[layer.name] = {"fields": fields, "meta": sample.meta}
    return {"key": key, "shard": shard, "row": row, "layers": layers}


def _array_summary(spec: FieldSpec, array: np.ndarray) -> dict[str, Any]:
    """Smallest and largest leave NaN and infinities out; None where nothing is left."""
    finite = array[np.isfinite(array)]
    return {
        "name": spec.name,
        "dtype": spec.dtype,
        "shape": list(array.shape),
        "unit": spec.unit,
        "min": finite.min().item() if finite.size else None,
        "max": finite.max().item() if finite.size else None,
        "not_finite": array.size - finite.size,
    }
