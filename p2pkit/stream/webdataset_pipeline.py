"""Shards as a webdataset pipeline, for code that already reads webdataset."""

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from p2pkit.errors import StoreError
from p2pkit.layers.frames import StoredFrame
from p2pkit.store.codecs import decode
from p2pkit.store.location import shard_path
from p2pkit.store.manifest import LayerSpec, Sample
from p2pkit.store.reading import Store, open_store


def webdataset_pipeline(store: Store | str | Path) -> Any:
    """A `webdataset.WebDataset` over the tar shards of all layers, joined, in shard order.

    Each item is a dict of `__key__` and `frame`, a `StoredFrame` as `open_store` gives them.
    Webdataset's own stages follow, such as `.shuffle(100)` and `.map(…)`; in the workers of a
    `DataLoader` each takes its share of the shards. Stock webdataset verifies no checksum: read
    through `open_store` where that matters.

    Args:
        store: open, or the folder of one.

    Raises:
        StoreError: the store keeps its shards in another format than tar, or is remote.
    """
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
    layers = store.manifest.layers
    first, *others = (
        _shards(store.root, layer.name, store.manifest.plan.shards) for layer in layers
    )
    return _items(first).compose(partial(_joined, others, layers))


def _items(shards: list[str]) -> Any:
    """Stock webdataset's items; none in a worker of a loader that has more workers than shards."""
    from webdataset.compat import WebDataset

    return WebDataset(shards, shardshuffle=False, empty_check=False)


def _shards(root: Path, layer: str, count: int) -> list[str]:
    return [str(shard_path(root, layer, shard, ".tar")) for shard in range(count)]


def _joined(
    others: Sequence[list[str]], layers: Sequence[LayerSpec], items: Iterable[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Frames out of the first layer's items and those of the other layers' shards, whose samples
    have the same order.
    """
    rest = [_items(shards) for shards in others]
    specs = {layer.name: layer for layer in layers}
    for parts in zip(items, *rest, strict=True):
        pairs = zip(parts, layers, strict=True)
        samples = {layer.name: _decoded(item, layer) for item, layer in pairs}
        keys = {sample.key for sample in samples.values()}
        if len(keys) > 1:
            raise StoreError(f"the layers' shards differ in their order: {', '.join(sorted(keys))}")
        (key,) = keys
        yield {"__key__": key, "frame": StoredFrame(key, samples, specs)}


def _decoded(item: dict[str, Any], layer: LayerSpec) -> Sample:
    arrays = {
        field.name: decode(memoryview(item[f"{field.name}.npy"]), field.codec)
        for field in layer.fields
    }
    return Sample(item["__key__"], arrays, json.loads(item["json"]))
