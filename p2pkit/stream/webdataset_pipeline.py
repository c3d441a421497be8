"""Shards as a webdataset pipeline, for code that already reads webdataset."""

import json
from pathlib import Path
from typing import Any

from p2pkit.errors import StoreError
from p2pkit.store.codecs import decode
from p2pkit.store.location import shard_path
from p2pkit.store.manifest import LayerSpec
from p2pkit.store.reading import Store, open_store


def webdataset_pipeline(store: Store | str | Path, layer: str = "geometry") -> Any:
    """A `webdataset.WebDataset` over one layer's tar shards, in shard order, fields decoded.

    Args:
        store: open, or the folder of one.
        layer: one of the store's; see `Store.layer`.

    Each item is a dict of `__key__`, the fields as numpy arrays by name, and `json`, the sample's
    metadata. Stock webdataset verifies no checksum: read through `Store` where that matters.

    Raises:
        StoreError: the store keeps its shards in another format than tar, or is remote.
    """
    from webdataset.compat import WebDataset

    if not isinstance(store, Store):
        store = open_store(store)
    if store.manifest.storage != "tar":
        raise StoreError(
            f"{store.root} is stored as {store.manifest.storage}; webdataset reads tar shards only"
        )
    if not isinstance(store.root, Path):
        raise StoreError(
            f"{store.root} is remote; webdataset would read it by other means, without the cache: "
            "copy it with `p2pkit shards pull` first"
        )
    spec = store.layer(layer)
    shards = range(store.manifest.plan.shards)
    urls = [str(shard_path(store.root, spec.name, shard, ".tar")) for shard in shards]
    return WebDataset(urls, shardshuffle=False).map(lambda item: _decoded(item, spec))


def _decoded(item: dict[str, Any], layer: LayerSpec) -> dict[str, Any]:
    sample: dict[str, Any] = {"__key__": item["__key__"], "json": json.loads(item["json"])}
    for field in layer.fields:
        sample[field.name] = decode(memoryview(item[f"{field.name}.npy"]), field.codec)
    return sample
