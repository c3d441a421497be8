"""A tar store seen as one Zarr v3 hierarchy, read-only: chunks are ranges of the tar shards.

    /                                       group, attributes: dataset, plan, layers
    /<layer>                                group, attributes: fingerprint, fields, details
    /<layer>/samples/<key>                  group, attributes: the sample's JSON
    /<layer>/samples/<key>/<field>          array, one chunk
    /<layer>/stacked                        group, attributes: keys, in the order of the rows
    /<layer>/stacked/<field>                array [samples, ...], one chunk per sample

A field is under `stacked` where all samples of the store have one shape. Chunks are the decoded
values, little-endian, behind no codec but `bytes`: for a field with codec `none` the very bytes of
the tar, for others decoded as they are read.
"""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    SuffixByteRequest,
)
from zarr.abc.store import Store as ZarrStore
from zarr.core.buffer import Buffer, BufferPrototype

from p2pkit.errors import CorruptShardError, StoreError
from p2pkit.store.codecs import decode
from p2pkit.store.manifest import GEOMETRY, FieldSpec, LayerSpec
from p2pkit.store.npy import NpyError, parse_header
from p2pkit.store.reading import Store, open_store
from p2pkit.store.tar.reader import TarShard

SAMPLES, STACKED = "samples", "stacked"

HEAD = 512
"""Bytes of a payload that hold its .npy headers, unless these are of unusual length."""

Document = dict[str, Any]

Shape = tuple[int, ...]


class Nodes:
    """What a path of the view means. All methods are thread-safe."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._layers = {layer.name: layer for layer in store.manifest.layers}
        self._groups = {x.kind for x in store.manifest.layers if x.name != GEOMETRY}
        self._lock = threading.Lock()
        self._shapes: dict[tuple[str, str], Shape | None] = {}

    @cached_property
    def _places(self) -> dict[str, tuple[int, int]]:
        """Shard and row of each sample, in the store's order."""
        shards = range(self._store.manifest.plan.shards)
        return {key: (s, row) for s in shards for row, key in enumerate(self._store.keys(s))}

    @cached_property
    def _order(self) -> list[str]:
        return list(self._places)

    def document(self, path: str) -> Document | None:
        """The zarr.json of a node, None if no node has this path."""
        if path == "":
            return _group(self._root_attributes())
        if path in self._groups:
            return _group({})
        layer, rest = self._split(path)
        if layer is None:
            return None
        match rest:
            case []:
                return _group(_layer_attributes(layer))
            case ["samples"]:
                return _group({})
            case ["samples", key] if key in self._places:
                return _group(self._store.read(layer.name, *self._places[key], fields=()).meta)
            case ["samples", key, field] if key in self._places and field in _fields(layer):
                return _array(layer.field(field), self._read(layer, key, field).shape)
            case ["stacked"]:
                return _group({"keys": self._order})
            case ["stacked", field] if field in _fields(layer):
                return self._stacked_document(layer, field)
            case _:
                return None

    def children(self, path: str) -> list[str] | None:
        """Names of the nodes below a group, None for arrays and if no node has this path."""
        if path == "":
            return sorted({layer.kind for layer in self._layers.values()})
        if path in self._groups:
            return [x.name.split("/")[1] for x in self._layers.values() if x.kind == path]
        layer, rest = self._split(path)
        if layer is None:
            return None
        match rest:
            case []:
                return [SAMPLES, STACKED]
            case ["samples"]:
                return self._order
            case ["samples", key] if key in self._places:
                return _fields(layer)
            case ["stacked"]:
                names = _fields(layer)
                return [name for name in names if self._common_shape(layer, name) is not None]
            case _:
                return None

    def chunk_keys(self, path: str) -> list[str]:
        """The chunks of an array, below its path; none if the array does not exist or is empty."""
        document = self.document(path)
        if document is None or document["node_type"] != "array" or 0 in document["shape"]:
            return []
        axes = len(document["shape"])
        if path.split("/")[-2] != STACKED:
            return ["/".join(["c"] + ["0"] * axes)]
        return ["/".join(["c", str(row)] + ["0"] * (axes - 1)) for row in range(len(self._order))]

    def chunk(self, path: str) -> memoryview | None:
        """The verified, decoded bytes of one chunk, None where no array has this chunk.

        Raises:
            CorruptShardError: the bytes differ from those written.
        """
        layer, rest = self._split(path)
        if layer is None:
            return None
        match rest:
            case ["samples", key, field, "c", *place] if field in _fields(layer):
                if key not in self._places or place != _origin(layer, field):
                    return None
                return _bytes(self._read(layer, key, field))
            case ["stacked", field, "c", row, *place] if field in _fields(layer):
                if place != _origin(layer, field) or not row.isdecimal():
                    return None
                return self._stacked_chunk(layer, field, int(row))
            case _:
                return None

    def _stacked_document(self, layer: LayerSpec, field: str) -> Document | None:
        shape = self._common_shape(layer, field)
        return None if shape is None else _array(layer.field(field), shape, len(self._order))

    def _stacked_chunk(self, layer: LayerSpec, field: str, row: int) -> memoryview | None:
        shape = self._common_shape(layer, field)
        if shape is None or row >= len(self._order):
            return None
        key = self._order[row]
        array = self._read(layer, key, field)
        if array.shape != shape:
            # The shapes were taken from headers alone; this one was changed to look like another.
            raise CorruptShardError(
                self._shard(layer, key).path,
                f"has shape {array.shape}; its header said {shape}",
                key=key,
                field=field,
            )
        return _bytes(array)

    def _common_shape(self, layer: LayerSpec, field: str) -> Shape | None:
        """The shape that a field has in every sample, None where there is none. Found once."""
        with self._lock:
            known = self._shapes.get((layer.name, field), ())
            if (layer.name, field) not in self._shapes:
                known = self._find_common_shape(layer, field)
                self._shapes[layer.name, field] = known
        return known

    def _find_common_shape(self, layer: LayerSpec, field: str) -> Shape | None:
        if not self._order:
            return None
        shape = self._read(layer, self._order[0], field).shape
        for key in self._order[1:]:
            # A header that differs is believed only once its checksum was compared.
            differs = self._shape_in_header(layer, key, field) != shape
            if differs and self._read(layer, key, field).shape != shape:
                return None
        return shape

    def _shape_in_header(self, layer: LayerSpec, key: str, field: str) -> Shape | None:
        head = self._shard(layer, key).payload_head(self._places[key][1], field, HEAD)
        try:
            _, shape, _, length = parse_header(head)
            return shape if layer.field(field).codec == "none" else parse_header(head[length:])[1]
        except NpyError:
            return None

    def _read(self, layer: LayerSpec, key: str, field: str) -> np.ndarray:
        shard, spec = self._shard(layer, key), layer.field(field)
        payload = shard.payload(self._places[key][1], field)
        try:
            array = decode(payload, spec.codec)
        except NpyError as error:
            raise CorruptShardError(shard.path, str(error), key=key, field=field) from None
        spec.check(array, key)
        return array

    def _shard(self, layer: LayerSpec, key: str) -> TarShard:
        opened = self._store.shard(layer.name, self._places[key][0])
        if not isinstance(opened, TarShard):
            raise StoreError(
                f"{self._store.root}: the zarr view needs tar shards in a local folder"
            )
        return opened

    def _split(self, path: str) -> tuple[LayerSpec | None, list[str]]:
        """The layer that a path lies in, and the names below it."""
        for name, layer in self._layers.items():
            if path == name or path.startswith(f"{name}/"):
                return layer, path[len(name) + 1 :].split("/") if path != name else []
        return None, []

    def _root_attributes(self) -> Document:
        manifest = self._store.manifest
        return {
            "dataset": manifest.dataset,
            "plan": asdict(manifest.plan),
            "layers": list(self._layers),
        }


def _fields(layer: LayerSpec) -> list[str]:
    return list(layer.columns[:-1])


def _origin(layer: LayerSpec, field: str) -> list[str]:
    """Where a chunk that holds a whole sample lies, along the sample's own axes."""
    return ["0"] * len(layer.field(field).axes)


def _bytes(array: np.ndarray) -> memoryview:
    return np.asarray(array, order="C").reshape(-1).view(np.uint8).data


def _layer_attributes(layer: LayerSpec) -> Document:
    return {
        "fingerprint": layer.fingerprint,
        "fingerprint_sha256": layer.fingerprint_sha256,
        "fields": [asdict(spec) for spec in layer.fields],
        "details": layer.details,
    }


def _group(attributes: Document) -> Document:
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def _array(spec: FieldSpec, shape: Shape, samples: int | None = None) -> Document:
    """The zarr.json of one sample's array, or of those of all samples, stacked."""
    dtype = np.dtype(spec.dtype)
    chunk = [max(1, size) for size in shape]
    stacked = samples is not None
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [samples, *shape] if stacked else list(shape),
        "data_type": dtype.name,
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [1, *chunk] if stacked else chunk},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "fill_value": False if dtype.kind == "b" else 0,
        "attributes": {"unit": spec.unit, "description": spec.description},
        "dimension_names": ["samples", *spec.axes] if stacked else list(spec.axes),
    }


DOCUMENT = "zarr.json"


class TarView(ZarrStore):
    """The read-only Zarr store; made by `open_zarr`.

    Each chunk and each sample's JSON is compared with its XXH3-64 as it is read. Nothing that the
    store's manifest and shards name is ever reported as absent, because zarr reads an absent chunk
    as zeros: it is found, or a CorruptShardError or StoreError is raised.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(read_only=True)
        self._store = store
        self._nodes = Nodes(store)

    def __eq__(self, value: object) -> bool:
        return isinstance(value, TarView) and value._store.root == self._store.root

    def __hash__(self) -> int:
        return hash(self._store.root)

    def __str__(self) -> str:
        return f"p2pkit://{self._store.root}"

    @property
    def supports_writes(self) -> bool:
        """False."""
        return False

    @property
    def supports_deletes(self) -> bool:
        """False."""
        return False

    @property
    def supports_listing(self) -> bool:
        """True."""
        return True

    def with_read_only(self, read_only: bool = False) -> "TarView":
        """This view again; StoreError if a writable one is requested."""
        if not read_only:
            self._refuse()
        return TarView(self._store)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """A document or a chunk; None where the store names nothing of this key."""
        await self._ensure_open()
        # In a thread, so that zarr's concurrent requests overlap as they do on files.
        value = await asyncio.to_thread(self._value, key)
        if value is None:
            return None
        return prototype.buffer.from_bytes(value[_slice(byte_range, len(value))])

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """`get` of each key and range."""
        requests = [self.get(key, prototype, byte_range) for key, byte_range in key_ranges]
        return list(await asyncio.gather(*requests))

    async def exists(self, key: str) -> bool:
        """Whether there is a document or chunk of this key; its bytes are read and verified."""
        return await asyncio.to_thread(self._value, key) is not None

    async def set(self, key: str, value: Buffer) -> None:
        """Refused: StoreError."""
        self._refuse()

    async def delete(self, key: str) -> None:
        """Refused: StoreError."""
        self._refuse()

    async def list(self) -> AsyncIterator[str]:
        """All documents and chunks."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """All documents and chunks whose key starts so."""
        for key in await asyncio.to_thread(lambda: sorted(self._below("", prefix))):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Names directly below a node."""
        path = prefix.strip("/")
        for name in await asyncio.to_thread(self._names, path):
            yield name

    def _value(self, key: str) -> bytes | memoryview | None:
        if key == DOCUMENT or key.endswith(f"/{DOCUMENT}"):
            document = self._nodes.document(key[: -len(DOCUMENT)].rstrip("/"))
            return None if document is None else json.dumps(document).encode()
        return self._nodes.chunk(key)

    def _names(self, path: str) -> tuple[str, ...]:
        children = self._nodes.children(path)
        if children is not None:
            return (DOCUMENT, *children)
        return (DOCUMENT, "c") if self._nodes.chunk_keys(path) else ()

    def _below(self, path: str, prefix: str) -> Iterator[str]:
        """Keys at and below a node that start with a prefix; other branches are not searched."""
        inside = f"{path}/" if path else ""
        for leaf in (DOCUMENT, *self._nodes.chunk_keys(path)):
            if (inside + leaf).startswith(prefix):
                yield inside + leaf
        for name in self._nodes.children(path) or ():
            child = f"{inside}{name}/"
            if child.startswith(prefix) or prefix.startswith(child):
                yield from self._below(inside + name, prefix)

    def _refuse(self) -> NoReturn:
        raise StoreError(
            f"the zarr view of {self._store.root} is read-only; `p2pkit shards convert --format "
            "zarr` writes a copy that is zarr on disk"
        )


def open_zarr(path: str | Path) -> TarView:
    """Open a tar store as a read-only zarr store, for `zarr.open_group(view, mode="r")`.

    Raises:
        StoreError: `path` is not a store, is remote, or its shards are Zarr already.
    """
    store = open_store(path)
    if not isinstance(store.root, Path):
        raise StoreError(
            f"{path} is remote; the zarr view needs a local store: `p2pkit shards pull` copies it"
        )
    if store.manifest.storage != "tar":
        raise StoreError(
            f"{path} is stored as {store.manifest.storage}: each shard is a Zarr group already, "
            f"such as {store.root / 'geometry' / '000000.zarr'}"
        )
    return TarView(store)


def _slice(request: ByteRequest | None, size: int) -> slice:
    match request:
        case None:
            return slice(0, size)
        case RangeByteRequest(start, end):
            return slice(start, end)
        case OffsetByteRequest(offset):
            return slice(offset, size)
        case SuffixByteRequest(suffix):
            return slice(max(0, size - suffix), size)
