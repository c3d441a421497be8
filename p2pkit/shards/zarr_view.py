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
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import NoReturn

from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    SuffixByteRequest,
)
from zarr.abc.store import Store as ZarrStore
from zarr.core.buffer import Buffer, BufferPrototype

from p2pkit.errors import StoreError
from p2pkit.shards.store import Store, open_store
from p2pkit.shards.zarr_nodes import Nodes

DOCUMENT = "zarr.json"


class TarView(ZarrStore):
    """The read-only Zarr store; made by `open_zarr`.

    Each chunk and each sample's JSON is compared with its XXH3-64 as it is read. Nothing that the
    store's manifest and shards name is ever reported as absent, because zarr reads an absent chunk
    as zeros: it is there, or a CorruptShardError or StoreError is raised.
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
        """This view again; StoreError where a writable one is asked for."""
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
        """Keys at and below a node that start with a prefix; other branches are not looked into."""
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
        StoreError: `path` is no store, is remote, or its shards are Zarr already.
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
