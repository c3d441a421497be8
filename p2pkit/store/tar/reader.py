"""Reading a tar shard by byte ranges: one `pread` or request per sample, checksums verified."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from jaxtyping import UInt64

from p2pkit.errors import CorruptShardError, StoreError
from p2pkit.store.codecs import decode
from p2pkit.store.location import Location
from p2pkit.store.manifest import JSON_FIELD, LayerSpec, Sample
from p2pkit.store.npy import LARGEST_PAYLOAD, NpyError, parse_npy
from p2pkit.store.records import ShardRecord
from p2pkit.store.shard_meta import ShardMetaError, parse_object, read_keys
from p2pkit.store.strict_json import KEY, LARGEST_JSON, hex64
from p2pkit.store.tar.byte_file import open_file
from p2pkit.store.tar.writer import (
    BLOCK,
    END,
    INDEX,
    LONGEST_NAME,
    META,
    StoredSample,
    member_name,
    tar_header,
)

SIZE = slice(124, 136)


@dataclass(frozen=True)
class Cut:
    """The first member that is not whole; key and field where it belongs to a sample."""

    name: str
    key: str | None
    field: str | None


def first_cut(read: Callable[[int, int], bytes | memoryview], size: int) -> Cut | None:
    """The first member of which bytes are missing; None where the headers do not show it.

    Args:
        read: gives bytes from (offset, length), inside the file.
        size: of the file (bytes).
    """
    position = 0
    while position + BLOCK <= size:
        header = bytes(read(position, BLOCK))
        name = header[:LONGEST_NAME].rstrip(b"\0").decode("latin-1")
        digits = header[SIZE].rstrip(b"\0 ")
        length = int(digits, 8) if digits.isdigit() and not digits.strip(b"01234567") else -1
        if length < 0 or not name.isascii() or header != tar_header(name, length):
            return None
        end = position + BLOCK + length
        if end > size:
            return _cut(name)
        position = end + -length % BLOCK
    return None


def _cut(name: str) -> Cut:
    """Key and field from a member's name, `<key>.<field>.npy` or `<key>.json`."""
    key, _, rest = name.partition(".")
    if not KEY.fullmatch(key):
        return Cut(name, None, None)
    return Cut(name, key, JSON_FIELD if rest == JSON_FIELD else rest.removesuffix(".npy"))


READ_AHEAD = 1 << 22

LARGEST_TABLE = {"index": LARGEST_PAYLOAD, "meta": LARGEST_JSON}


class TarShard:
    """One open tar shard. Its file closes with the last reference; reads are thread-safe.

    Args:
        path: of the tar.
        layer: whose fields table the shard follows.
        record: of the shard.

    Raises:
        CorruptShardError: the size, the index or the key list is not what the record says.
    """

    def __init__(self, path: Location, layer: LayerSpec, record: ShardRecord) -> None:
        self.path = str(path)
        self._layer = layer
        self._record = record
        self._columns = {name: column for column, name in enumerate(layer.columns)}
        try:
            self._file = open_file(path)
        except OSError as error:
            raise CorruptShardError(self.path, f"cannot be opened: {error.strerror}") from None
        size = self._file.size
        if size != record.bytes:
            raise self._of_another_size(size)
        self._index = self._read_index()
        self.keys = self._read_keys()
        self._check_tail()

    def read(self, row: int, fields: Collection[str] | None = None) -> Sample:
        """Read one sample, or some of its fields, with one `pread` or request.

        The arrays are writable.

        Raises:
            CorruptShardError: a checksum, a header or the JSON is wrong; it names key and field.
        """
        key = self.keys[row]
        arrays: dict[str, np.ndarray] = {}
        meta: dict[str, Any] = {}
        for name, payload in self._payloads(row, self._layer.choose(fields)):
            try:
                if name == JSON_FIELD:
                    meta = parse_object(payload)
                else:
                    spec = self._layer.field(name)
                    arrays[name] = decode(payload, spec.codec)
                    spec.check(arrays[name], key)
            except (NpyError, ShardMetaError, StoreError) as error:
                raise self._corrupt(str(error), key, name) from None
        return Sample(key, arrays, meta)

    def stored(self, row: int) -> StoredSample:
        """One sample's payloads as they are, each checked against its checksum.

        Raises:
            CorruptShardError: a checksum is wrong; it names key and field.
        """
        return StoredSample(self.keys[row], dict(self._payloads(row, self._layer.choose(None))))

    def payload(self, row: int, field: str) -> memoryview:
        """The payload of one field of one sample, checked against its checksum.

        Raises:
            CorruptShardError: the checksum is wrong; it names key and field.
        """
        ((_, payload),) = self._payloads(row, [(field, self._columns[field])])
        return payload

    def payload_head(self, row: int, field: str, length: int) -> memoryview:
        """At most the first `length` bytes of a payload; these alone have no checksum."""
        offset, whole, _ = self._index[row, self._columns[field]].tolist()
        return self._pread(offset, min(length, whole))

    def stored_bytes(self) -> dict[str, int]:
        """Bytes of all payloads of each column."""
        lengths = self._index[..., 1].sum(axis=0).tolist()
        return dict(zip(self._columns, lengths, strict=True))

    def problems(self) -> Iterator[CorruptShardError]:
        """Read every byte; yield what is wrong: headers, padding, payloads, whole-file checksum."""
        digest, position = xxhash.xxh3_128(), 0
        while position < self._record.bytes:
            chunk = self._pread(position, min(READ_AHEAD, self._record.bytes - position))
            digest.update(chunk)
            position += len(chunk)
        for row, key in enumerate(self.keys):
            for name, column in self._columns.items():
                try:
                    offset, length, _ = self._index[row, column].tolist()
                    self._check_member(member_name(key, name), offset, length, key=key, field=name)
                    self.read(row, [] if name == JSON_FIELD else [name])
                except CorruptShardError as error:
                    if error.field in (name, None):
                        yield error
        yield from self._tail_problems()
        if digest.hexdigest() != self._record.xxh3_128:
            reason = f"xxh3-128 of the file is {digest.hexdigest()}; its record says "
            yield CorruptShardError(self.path, reason + self._record.xxh3_128)

    def _tail_problems(self) -> Iterator[CorruptShardError]:
        """What is wrong with the headers of index and meta, and behind them."""
        for name, table in ((INDEX, "index"), (META, "meta")):
            member = self._record.members[table]
            try:
                self._check_member(name, member.offset, member.length)
            except CorruptShardError as error:
                yield error
        if any(self._pread(self._record.bytes - len(END), len(END))):
            yield self._corrupt("the blocks that close the tar are not empty")

    def _corrupt(self, reason: str, key: str | None = None, field: str | None = None):
        return CorruptShardError(self.path, reason, key=key, field=field)

    def _payloads(
        self, row: int, chosen: list[tuple[str, int]]
    ) -> Iterator[tuple[str, memoryview]]:
        """(Column, verified payload) of columns in file order, from one range of the file."""
        ranges = self._index[row].tolist()
        start = ranges[chosen[0][1]][0]
        data = self._pread(start, sum(ranges[chosen[-1][1]][:2]) - start)
        for name, column in chosen:
            offset, length, checksum = ranges[column]
            payload = data[offset - start : offset - start + length]
            if xxhash.xxh3_64_intdigest(payload) != checksum:
                raise self._corrupt("the bytes differ from their checksum", self.keys[row], name)
            yield name, payload

    def _of_another_size(self, size: int) -> CorruptShardError:
        """Finds the first member that lost bytes to a cut, if any."""
        reason = f"has {size} bytes; its record says {self._record.bytes}"
        cut = first_cut(self._pread, size) if size < self._record.bytes else None
        if cut is None:
            return self._corrupt(reason)
        return self._corrupt(f"{reason}: it is truncated in {cut.name}", cut.key, cut.field)

    def _pread(self, offset: int, length: int) -> memoryview:
        data = np.empty(length, np.uint8).data
        done = 0
        while done < length:
            got = self._file.read_into(data[done:], offset + done)
            if got == 0:
                raise self._corrupt(f"ends at byte {offset + done}; expected {length - done} more")
            done += got
        return data

    def _table(self, name: str) -> memoryview:
        """Payload of one of the shard's own tables, checked against the record."""
        member = self._record.members.get(name)
        if member is None or member.offset + member.length > self._record.bytes:
            raise self._corrupt(f"its record places the {name} at {member}, outside the file")
        if member.length > LARGEST_TABLE[name]:
            raise self._corrupt(
                f"its record gives the {name} {member.length} bytes; expected at most "
                f"{LARGEST_TABLE[name]}"
            )
        data = self._pread(member.offset, member.length)
        if hex64(xxhash.xxh3_64_intdigest(data)) != member.xxh3_64:
            raise self._corrupt(f"the {name} differs from its checksum in the record")
        return data

    def _read_index(self) -> UInt64[np.ndarray, "samples fields 3"]:
        try:
            index = parse_npy(self._table("index"))
        except NpyError as error:
            raise self._corrupt(f"the index cannot be read: {error}") from None
        shape = (self._record.samples, len(self._columns), 3)
        if index.dtype != np.uint64 or index.shape != shape:
            raise self._corrupt(
                f"the index is {index.dtype.str} {index.shape}; expected <u8 {shape}"
            )
        self._check_ranges(index)
        return index

    def _check_ranges(self, index: UInt64[np.ndarray, "samples fields 3"]) -> None:
        """Each payload must start where the member before it, its padding and a header end."""
        limit = np.uint64(self._record.bytes)
        offset, length = index[..., 0].reshape(-1), index[..., 1].reshape(-1)
        if (offset > limit).any() or (length > limit).any():
            raise self._corrupt("the index points outside the file")
        if (length > np.uint64(LARGEST_PAYLOAD)).any():
            raise self._corrupt(
                f"the index has a member of {length.max()} bytes; at most {LARGEST_PAYLOAD} are "
                "allowed"
            )
        ends = (offset + length + np.uint64(BLOCK - 1)) // np.uint64(BLOCK) * np.uint64(BLOCK)
        starts = np.append(offset, np.uint64(self._record.members["index"].offset))
        if (starts != np.append(np.uint64(0), ends) + np.uint64(BLOCK)).any():
            raise self._corrupt("the index does not lay its members one after the other")

    def _read_keys(self) -> tuple[str, ...]:
        try:
            return read_keys(parse_object(self._table("meta")), self._layer, self._record)
        except ShardMetaError as error:
            raise self._corrupt(f"{META} {error}") from None

    def _check_tail(self) -> None:
        """Meta must follow the index, and nothing but the end may follow meta."""
        index, meta = self._record.members["index"], self._record.members["meta"]
        after_index = index.offset + index.length + -index.length % BLOCK + BLOCK
        end = meta.offset + meta.length + -meta.length % BLOCK + len(END)
        if meta.offset != after_index or end != self._record.bytes:
            raise self._corrupt("index and meta are not the last members of the tar")

    def _check_member(
        self,
        name: str,
        offset: int,
        length: int,
        *,
        key: str | None = None,
        field: str | None = None,
    ) -> None:
        """Raise where the header or the padding of a member is not what the writer makes."""
        if bytes(self._pread(offset - BLOCK, BLOCK)) != tar_header(name, length):
            raise self._corrupt(f"the tar header of {name} is damaged", key, field)
        if any(self._pread(offset + length, -length % BLOCK)):
            raise self._corrupt(f"the padding behind {name} is not empty", key, field)
