"""What a store and a sample hold, as JSON for the command line and for reports."""

from dataclasses import asdict
from typing import Any

import numpy as np

from p2pkit.shards.layout import record_path
from p2pkit.shards.model import GEOMETRY, FieldSpec, LayerSpec
from p2pkit.shards.statistics import layer_statistics, provenance
from p2pkit.shards.store import Store


def store_summary(store: Store, *, samples: int = 0, seed: int = 0) -> dict[str, Any]:
    """Dataset, plan and layers of a store, also of one whose extraction is not finished.

    Args:
        store: to be described.
        samples: how many samples of each layer the statistics look at; 0 leaves them out.
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
