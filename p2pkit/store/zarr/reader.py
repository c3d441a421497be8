"""Reading a shard that is a Zarr v3 group, every checksum verified."""

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import xxhash

from p2pkit.errors import CorruptShardError, StoreError
from p2pkit.store.location import Location
from p2pkit.store.manifest import JSON_FIELD, LayerSpec, Sample
from p2pkit.store.records import ShardRecord
from p2pkit.store.shard_meta import ShardMetaError, parse_object, read_keys
from p2pkit.store.strict_json import LARGEST_JSON, hex64
from p2pkit.store.zarr.arrays import (
    ATTRIBUTE,
    CHECKSUM,
    META,
    StoredArray,
    ZarrArrayError,
    folder_checksum,
    folder_sizes,
    open_array,
    read_part,
    size_of_files,
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
        self._layer = layer
        self._record = record
        try:
            size = size_of_files(path)
        except OSError as error:
            raise self._corrupt(f"cannot be opened: {error.strerror}") from None
        except ZarrArrayError as error:
            raise self._corrupt(str(error)) from None
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

    def _read_keys(self) -> tuple[str, ...]:
        """Keys from the group's own zarr.json, checked against the record."""
        member = self._record.members.get("meta")
        try:
            data = read_part(self._folder, META, LARGEST_JSON)
        except ZarrArrayError as error:
            raise self._corrupt(str(error)) from None
        if member is None or hex64(xxhash.xxh3_64_intdigest(data)) != member.xxh3_64:
            raise self._corrupt(f"{META} differs from its checksum in the record")
        try:
            attributes = parse_object(memoryview(data)).get("attributes")
            meta = attributes.get(ATTRIBUTE) if isinstance(attributes, dict) else None
            if not isinstance(meta, dict):
                raise ShardMetaError(f"has no attribute {ATTRIBUTE!r} that is an object")
            return read_keys(meta, self._layer, self._record)
        except ShardMetaError as error:
            raise self._corrupt(f"{META} {error}") from None

    def _open_arrays(self) -> dict[str, StoredArray]:
        tables = {CHECKSUM: ("<u8", 2, "none")}
        fields = {
            spec.name: (spec.dtype, len(spec.axes), spec.codec) for spec in self._layer.fields
        }
        for name in self._layer.columns:
            tables[f"{name}_offset"] = ("<i8", 1, "none")
        for name in fields:
            tables[f"{name}_shape"] = ("<i8", 2, "none")
        arrays: dict[str, StoredArray] = {}
        wanted = {**fields, JSON_FIELD: ("|u1", 1, "zstd"), **tables}
        for name, (dtype, axes, codec) in wanted.items():
            try:
                arrays[name] = open_array(self._folder / name, dtype=dtype, axes=axes, codec=codec)
            except ZarrArrayError as error:
                raise self._corrupt(f"{name}: {error}") from None
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
        self._check_tables(tables)
        return tables

    def _check_tables(self, tables: dict[str, np.ndarray]) -> None:
        """Each table must have a row for each sample, so that no look-up can miss."""
        samples, columns = len(self.keys), len(self._layer.columns)
        wanted = {CHECKSUM: (samples, columns)}
        wanted |= {f"{name}_offset": (samples + 1,) for name in self._layer.columns}
        for spec in self._layer.fields:
            wanted[f"{spec.name}_shape"] = (samples, len(spec.axes))
        for name, shape in wanted.items():
            if tables[name].shape != shape:
                raise self._corrupt(f"{name} has the shape {tables[name].shape}, not {shape}")
            if name.endswith("_offset"):
                rows = self._arrays[name.removesuffix("_offset")].shape[0]
                if tables[name][-1] != rows:
                    raise self._corrupt(f"{name} ends at {tables[name][-1]} of {rows} rows")
            if name != CHECKSUM and tables[name].min(initial=0) < 0:
                raise self._corrupt(f"{name} contains negative numbers")

    def _read_rows(self, name: str, row: int, key: str) -> np.ndarray:
        """The values of one sample, C-ordered, in the shape in which they are stored."""
        first, end = self._tables[f"{name}_offset"][row : row + 2].tolist()
        return self._values(name, first, end, key, name)

    def _values(
        self, name: str, first: int, end: int, key: str | None, field: str | None
    ) -> np.ndarray:
        """Rows of a stored array; CorruptShardError where they cannot be read."""
        try:
            return self._arrays[name].read(first, end)
        except ZarrArrayError as error:
            raise self._corrupt(f"{name} cannot be read: {error}", key, field) from None
