"""A shard of a remote store: opened by small requests, read through the local cache."""

import tempfile
import threading
import warnings
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TypeVar

from p2pkit.errors import CorruptShardError, StoreError
from p2pkit.store.location import Location
from p2pkit.store.manifest import Sample
from p2pkit.store.records import ShardRecord
from p2pkit.store.remote.cache import Held, find_cache
from p2pkit.store.remote.client import RemotePath
from p2pkit.store.remote.copy import fetch_shard
from p2pkit.store.shard import Shard

T = TypeVar("T")

READS_OF_DAMAGED = 3
"""Reads of bytes that fail a checksum before they are taken as damaged on the server."""
DIRECT_READS = 1
"""Samples read straight from the server before the whole shard is fetched: a single sample,
as read by `p2pkit shards show`, is not worth a shard."""


class RemoteShard:
    """One open shard of a remote store; reads are thread-safe.

    Index and keys are read and checked by range requests. The first sample too; a second one
    fetches the shard into the cache, from where it is read on. Where the cache has no room, all is
    read by range requests. Every checksum is verified either way.

    Args:
        path: of the shard.
        open_shard: opens and checks it, remote or copied.
        record: of the shard.

    Raises:
        CorruptShardError: the size, the index or the key list is not what the record says.
        StoreError: the server cannot be reached, or refuses.
    """

    def __init__(
        self, path: RemotePath, open_shard: Callable[[Location], Shard], record: ShardRecord
    ) -> None:
        self.path = str(path)
        self._path = path
        self._open = open_shard
        self._record = record
        self._remote = _again(lambda: open_shard(path))
        self._lock = threading.Lock()
        self._direct_reads = 0
        self.keys = self._remote.keys

    def read(self, row: int, fields: Collection[str] | None = None) -> Sample:
        """Read one sample, or some of its fields; the arrays are writable.

        Raises:
            CorruptShardError: the server's bytes differ from those written; a damaged copy in the
                cache is thrown away and never returned.
            StoreError: the server cannot be reached, or refuses.
        """
        held = self._held()
        if held is not None:
            try:
                return held.value.read(row, fields)
            except (CorruptShardError, OSError) as error:
                warnings.warn(
                    f"the copy of {self.path} in the cache is damaged and was deleted: {error}",
                    RuntimeWarning,
                    stacklevel=2,
                )
                find_cache().discard(held)
        return _again(lambda: self._remote.read(row, fields))

    def problems(self) -> Iterator[CorruptShardError]:
        """Download the shard, not by way of the cache, and yield what is wrong with any byte.

        Raises:
            StoreError: the disk has no room for the download.
        """
        with tempfile.TemporaryDirectory(prefix="p2pkit-verify-") as folder:
            copy = Path(folder) / self._path.name
            try:
                fetch_shard(self._path, self._record, copy)
                found = list(self._open(copy).problems())
            except CorruptShardError as error:
                found = [error]
            except OSError as error:
                raise StoreError(
                    f"{self.path} cannot be downloaded to {folder}: {error}; it needs "
                    f"{self._record.bytes} bytes: point TMPDIR to a larger disk"
                ) from None
        for error in found:
            yield CorruptShardError(self.path, error.reason, key=error.key, field=error.field)

    def stored_bytes(self) -> dict[str, int]:
        """As `Shard.stored_bytes`; it reads no payloads."""
        return self._remote.stored_bytes()

    def _held(self) -> Held | None:
        with self._lock:
            wanted = self._direct_reads >= DIRECT_READS
            self._direct_reads += not wanted
        return find_cache().get(self._path, self._record, self._open, fetch=wanted)


def _again(action: Callable[[], T]) -> T:
    """The result of `action`, repeated where bytes are damaged, perhaps only on their way."""
    for _ in range(READS_OF_DAMAGED - 1):
        try:
            return action()
        except CorruptShardError:
            continue
    return action()
