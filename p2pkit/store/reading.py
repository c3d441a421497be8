"""The reading side of a store: any sample, any order, any thread, every checksum verified."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Int64

from p2pkit.errors import CorruptShardError, FingerprintError, StoreError
from p2pkit.store.location import Location, as_location, record_path, shard_path
from p2pkit.store.manifest import FEATURES, GEOMETRY, SUPERPIXELS, LayerSpec, Manifest, Sample
from p2pkit.store.records import ShardRecord, read_record
from p2pkit.store.shard import Shard
from p2pkit.store.storages import find_storage
from p2pkit.store.strict_json import MissingFileError
from p2pkit.store.writing import read_manifest

T = TypeVar("T")

OPEN_SHARDS = 64
REQUESTS = 16
"""Small files of a remote store that are read at the same time."""


class Store:
    """A store of format 1; made by `open_store`. All methods are thread-safe."""

    def __init__(self, root: Location, manifest: Manifest) -> None:
        self.root = root
        self.manifest = manifest
        self._storage = find_storage(manifest.storage)
        self._lock = threading.Lock()
        self._records: dict[tuple[str, int], ShardRecord] = {}
        self._open: OrderedDict[tuple[str, int], Shard] = OrderedDict()

    @property
    def feature_layers(self) -> tuple[str, ...]:
        """Names of the layers with a teacher's features."""
        return tuple(x.name for x in self.manifest.layers if x.name.startswith(FEATURES))

    @property
    def superpixel_layers(self) -> tuple[str, ...]:
        """Names of the layers with superpixels."""
        return tuple(x.name for x in self.manifest.layers if x.name.startswith(SUPERPIXELS))

    @property
    def samples(self) -> int:
        """Number of samples in the store."""
        return int(self.sizes(GEOMETRY).sum())

    def layer(self, name: str) -> LayerSpec:
        """The layer of this name, or the only one whose name, or teacher's name, starts or ends so.

        Raises:
            StoreError: no layer or several fit; the message lists them.
        """
        layers = {layer.name: layer for layer in self.manifest.layers}
        if name in layers:
            return layers[name]
        fitting = [
            full
            for full in layers
            if name and (full.startswith(name) or full.endswith(name) or f"/{name}" in full)
        ]
        if len(fitting) != 1:
            problem = f"matches {', '.join(fitting)}" if fitting else "does not exist"
            raise StoreError(
                f"layer {name!r} {problem} in {self.root}; name one of {', '.join(layers)}"
            )
        return layers[fitting[0]]

    def record(self, layer: str, shard: int) -> ShardRecord:
        """The record of one shard.

        Raises:
            StoreError: the shard does not exist, is not extracted yet, or its record is damaged.
            FingerprintError: the shard was made from other inputs than the layer.
        """
        spec = self.layer(layer)
        if not 0 <= shard < self.manifest.plan.shards:
            raise StoreError(
                f"shard {shard} does not exist; the plan has {self.manifest.plan.shards}"
            )
        record = self._records.get((spec.name, shard))
        if record is None:
            path = record_path(self.root, spec.name, shard)
            try:
                record = read_record(path)
            except MissingFileError:
                raise self._incomplete(spec.name) from None
            if record.fingerprint != spec.fingerprint_sha256:
                raise FingerprintError(
                    f"{path} has the fingerprint {record.fingerprint}; layer {spec.name} has "
                    f"{spec.fingerprint_sha256}: delete the shard and extract it again"
                )
            if record.format != self.manifest.storage:
                raise StoreError(
                    f"{path} is stored as {record.format}; expected {self.manifest.storage}, "
                    "like the rest of the store"
                )
            self._records[spec.name, shard] = record
        return record

    def records(self, layer: str) -> list[ShardRecord]:
        """The records of all planned shards.

        Raises:
            StoreError: some are missing: the extraction did not finish.
        """
        return self._each_shard(lambda shard: self.record(layer, shard))

    def sizes(self, layer: str = GEOMETRY) -> Int64[np.ndarray, " shards"]:
        """Number of samples in each shard."""
        return np.array([record.samples for record in self.records(layer)], np.int64)

    def keys(self, shard: int) -> list[str]:
        """Keys of the samples of one shard, in row order."""
        return list(self.shard(GEOMETRY, shard).keys)

    def all_keys(self) -> list[list[str]]:
        """`keys` of all shards; read once."""
        return self._keys

    def read(
        self, layer: str, shard: int, row: int, fields: Collection[str] | None = None
    ) -> Sample:
        """Read one sample of one layer; the arrays are new and writable.

        Args:
            layer: as for `layer`.
            shard: number of the shard.
            row: of the sample in the shard; row i is the same frame in every layer.
            fields: names of the arrays wanted; None means all.

        Raises:
            CorruptShardError: the bytes differ from those written; names shard, key and field.
            StoreError: the layer, shard, row or field does not exist.
        """
        opened = self.shard(layer, shard)
        if not 0 <= row < len(opened.keys):
            raise StoreError(
                f"shard {shard} of {layer} has no row {row}: {len(opened.keys)} samples"
            )
        return opened.read(row, fields)

    def find(self, key: str) -> tuple[int, int]:
        """Shard and row of a sample; StoreError where the store has no such key."""
        if key not in self._places:
            raise StoreError(
                f"the store at {self.root} has no sample {key!r}; `p2pkit shards ls` lists them"
            )
        return self._places[key]

    def shard(self, layer: str, shard: int) -> Shard:
        """An open shard, from the bounded set that the store keeps open.

        Raises:
            CorruptShardError: it does not match its record, or its keys are not the geometry's.
        """
        name = self.layer(layer).name
        with self._lock:
            opened = self._open.get((name, shard))
            if opened is not None:
                self._open.move_to_end((name, shard))
                return opened
        opened = self._open_shard(name, shard)
        with self._lock:
            self._open[name, shard] = opened
            while len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)
        return opened

    def alone(self, layer: str, shard: int) -> Shard:
        """A shard that is compared with its record alone, and not with the geometry.

        Raises:
            StoreError: it has no readable record, or is not what that says.
        """
        name = self.layer(layer).name
        path = shard_path(self.root, name, shard, self._storage.suffix)
        return self._storage.open(path, self.layer(name), self.record(name, shard))

    def _open_shard(self, layer: str, shard: int) -> Shard:
        path = shard_path(self.root, layer, shard, self._storage.suffix)
        opened = self.alone(layer, shard)
        if layer != GEOMETRY and opened.keys != self.shard(GEOMETRY, shard).keys:
            raise CorruptShardError(
                str(path), "its keys are not those of the geometry; extract this layer again"
            )
        return opened

    def __reduce__(self) -> tuple[Callable[..., "Store"], tuple[Location, Manifest]]:
        """What is open stays here: a copy in another process reopens its shards."""
        return type(self), (self.root, self.manifest)

    @cached_property
    def _keys(self) -> list[list[str]]:
        return self._each_shard(self.keys)

    @cached_property
    def _places(self) -> dict[str, tuple[int, int]]:
        return {
            key: (shard, row)
            for shard, keys in enumerate(self.all_keys())
            for row, key in enumerate(keys)
        }

    def _each_shard(self, action: Callable[[int], T]) -> list[T]:
        """`action` of each shard's number; many at a time where each waits for a server."""
        shards = range(self.manifest.plan.shards)
        if isinstance(self.root, Path):
            return [action(shard) for shard in shards]
        with ThreadPoolExecutor(REQUESTS) as pool:
            return list(pool.map(action, shards))

    def _incomplete(self, layer: str) -> StoreError:
        shards = self.manifest.plan.shards
        done = sum(record_path(self.root, layer, shard).exists() for shard in range(shards))
        local = "`p2pkit extract` (or `shards merge`, `convert` or `pull`)"
        command = local if isinstance(self.root, Path) else "`p2pkit shards push`"
        return StoreError(
            f"layer {layer} of {self.root} is incomplete: {done} of {shards} shards; run the same "
            f"{command} again to finish it"
        )


def open_store(path: str | Location) -> Store:
    """Open a store for reading. Shards are opened when they are first read.

    Args:
        path: a folder, or a URL such as `s3://bucket/rooms.store`: see docs/sharing.md.

    Raises:
        StoreError: `path` is not a store, or its manifest is damaged or of another version.
        MissingDependencyError: it is a URL, and obstore is not installed.
    """
    root = as_location(path)
    return Store(root, read_manifest(root))
