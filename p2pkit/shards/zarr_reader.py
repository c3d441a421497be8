"""Reading a shard that is a Zarr v3 group, every checksum verified."""

import math
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import xxhash
import zarr

from p2pkit.errors import CorruptShardError, StoreError
from p2pkit.shards.checks import hex64
from p2pkit.shards.location import Location
from p2pkit.shards.model import JSON_FIELD, LayerSpec, Sample
from p2pkit.shards.npy import LARGEST_ARRAY
from p2pkit.shards.record import ShardRecord
from p2pkit.shards.remote import RemotePath, first_line
from p2pkit.shards.shard_meta import ShardMetaError, parse_object, read_keys
from p2pkit.shards.zarr_writer import (
    ATTRIBUTE,
    CHECKSUM,
    META,
    folder_checksum,
    folder_sizes,
    table_names,
    tables_checksum,
)


class ZarrShard:
    """One open Zarr shard; reads are thread-safe.

    Args:
        path: of the group's folder.
        layer: whose fields table the shard follows.
        record: of the shard.

    Raises:
        CorruptShardError: the size, the tables or the key list is not what the record says.
    """

    def __init__(self, path: Location, layer: LayerSpec, record: ShardRecord) -> None:
        self.path = str(path)
        self._folder = path
        self._source = path.zarr_store() if isinstance(path, RemotePath) else self.path
        self._layer = layer
        self._record = record
        sizes = [size for _, size in folder_sizes(path)]
        if not sizes:
            raise CorruptShardError(self.path, "cannot be opened: No such folder")
        size = sum(sizes)
        if size != record.bytes:
            raise CorruptShardError(self.path, f"has {size} bytes; its record says {record.bytes}")
        self.keys = self._read_keys()
        self._arrays = self._open_arrays()
        self._tables = self._read_tables()

    def read(self, row: int, fields: Collection[str] | None = None) -> Sample:
        """Read one sample, or some of its fields; the arrays are writable.

        Raises:
            CorruptShardError: a checksum or the JSON is wrong, or a chunk is missing; it names key
                and field.
        """
        key = self.keys[row]
        arrays: dict[str, np.ndarray] = {}
        meta: dict[str, Any] = {}
        for name, column in self._layer.choose(fields):
            array = self._read_rows(name, row, key)
            if xxhash.xxh3_64_intdigest(array.data) != int(self._tables[CHECKSUM][row, column]):
                raise self._corrupt("the values differ from their checksum", key, name)
            try:
                if name == JSON_FIELD:
                    meta = parse_object(array.data)
                else:
                    arrays[name] = array.reshape(self._tables[f"{name}_shape"][row])
                    self._layer.field(name).check(arrays[name], key)
            except (ShardMetaError, StoreError, ValueError) as error:
                raise self._corrupt(str(error), key, name) from None
        return Sample(key, arrays, meta)

    def stored_bytes(self) -> dict[str, int]:
        """Bytes of the files of each column, without the tables that go with it."""
        sizes = dict.fromkeys(self._layer.columns, 0)
        for name, size in folder_sizes(self._folder):
            column = name.split("/")[0]
            if column in sizes:
                sizes[column] += size
        return sizes

    def problems(self) -> Iterator[CorruptShardError]:
        """Read every byte; yield what is wrong: values, and the checksum over all files."""
        for row, key in enumerate(self.keys):
            for name in self._layer.columns:
                try:
                    self.read(row, [] if name == JSON_FIELD else [name])
                except CorruptShardError as error:
                    if (error.key, error.field) == (key, name):
                        yield error
        _, checksum = folder_checksum(self._folder)
        if checksum != self._record.xxh3_128:
            reason = f"xxh3-128 over its files is {checksum}; its record says "
            yield CorruptShardError(self.path, reason + self._record.xxh3_128)

    def _corrupt(self, reason: str, key: str | None = None, field: str | None = None):
        return CorruptShardError(self.path, reason, key=key, field=field)

    def _unreadable(
        self, what: str, error: Exception, key: str | None = None, field: str | None = None
    ) -> StoreError:
        """Damage, unless it is a server that cannot be reached."""
        if type(error).__module__.startswith("obstore"):
            return StoreError(
                f"{self.path}: {what} cannot be read: {first_line(error)}. Check network, endpoint "
                "and credentials, then run the same command again"
            )
        return self._corrupt(f"{what} cannot be read: {error!r}", key, field)

    def _read_keys(self) -> tuple[str, ...]:
        """Keys from the group's own zarr.json, checked against the record before zarr reads it."""
        member = self._record.members.get("meta")
        path = self._folder / META
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            data = b""
        if member is None or hex64(xxhash.xxh3_64_intdigest(data)) != member.xxh3_64:
            raise self._corrupt(f"{META} differs from its checksum in the record")
        try:
            attributes = parse_object(memoryview(data)).get("attributes", {})
            return read_keys(attributes.get(ATTRIBUTE, {}), self._layer, self._record)
        except ShardMetaError as error:
            raise self._corrupt(f"{META} {error}") from None

    def _open_arrays(self) -> dict[str, zarr.Array[Any]]:
        arrays: dict[str, zarr.Array[Any]] = {}
        names = [*self._layer.columns, *table_names(self._layer)]
        try:
            group = zarr.open_group(self._source, mode="r", zarr_format=3, use_consolidated=False)
            for name in names:
                array = group[name]
                if not isinstance(array, zarr.Array):
                    raise self._corrupt(f"{name} is no array")
                arrays[name] = array
        except StoreError:
            raise
        except Exception as error:  # damaged metadata makes zarr raise errors of many types
            raise self._unreadable("its group", error) from error
        return arrays

    def _read_tables(self) -> dict[str, np.ndarray]:
        tables: dict[str, np.ndarray] = {}
        for name in table_names(self._layer):
            tables[name] = self._values(name, 0, self._arrays[name].shape[0], None, None)
        size, checksum = tables_checksum(tables)
        member = self._record.members.get("index")
        if member is None or (size, checksum) != (member.length, member.xxh3_64):
            raise self._corrupt(
                "its tables of offsets, shapes and checksums differ from the record"
            )
        return tables

    def _read_rows(self, name: str, row: int, key: str) -> np.ndarray:
        """The values of one sample, C-ordered, in the shape in which they are stored."""
        first, end = self._tables[f"{name}_offset"][row : row + 2].tolist()
        stored = self._arrays[name]
        if not 0 <= first <= end <= stored.shape[0]:
            raise self._corrupt(f"rows {first} to {end} of {stored.shape[0]}", key, name)
        return self._values(name, first, end, key, name)

    def _values(
        self, name: str, first: int, end: int, key: str | None, field: str | None
    ) -> np.ndarray:
        """Rows of a stored array; CorruptShardError where zarr cannot read them."""
        stored = self._arrays[name]
        if (end - first) * math.prod(stored.shape[1:]) * stored.dtype.itemsize > LARGEST_ARRAY:
            raise self._corrupt(f"{name} declares more than {LARGEST_ARRAY} bytes", key, field)
        try:
            return np.asarray(stored[first:end], order="C")
        except Exception as error:  # damaged chunks make zarr raise errors of many types
            raise self._unreadable(name, error, key, field) from error
