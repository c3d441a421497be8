"""Writing a shard as a plain POSIX tar with an index at its end. Equal samples give equal bytes."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from p2pkit.errors import StoreError
from p2pkit.files import write_atomic
from p2pkit.store.codecs import Buffer, encode
from p2pkit.store.manifest import JSON_FIELD, LayerSpec, Sample
from p2pkit.store.records import Member, Written
from p2pkit.store.shard_meta import object_bytes, shard_meta
from p2pkit.store.strict_json import check_key, hex64

BLOCK = 512
END = bytes(2 * BLOCK)
LONGEST_NAME = 100
LARGEST_MEMBER = 8**11 - 1
INDEX = "__p2pkit__/__index__.npy"
META = "__p2pkit__/__meta__.json"

_AFTER_SIZE = b"%011o\0" % 0
_BEFORE_SIZE = b"0000644\0" + 2 * b"0000000\0"
_AFTER_CHECKSUM = b"0" + bytes(100) + b"ustar\x0000" + bytes(247)
_FIXED_SUM = sum(_BEFORE_SIZE) + sum(_AFTER_SIZE) + 8 * 0x20 + sum(_AFTER_CHECKSUM)


@dataclass(frozen=True)
class StoredSample:
    """One frame of one layer as a tar shard holds it, to be copied without decoding.

    Args:
        key: the frame's key.
        payloads: the verified bytes of each member, by the layer's columns.
    """

    key: str
    payloads: dict[str, memoryview]

    def __post_init__(self) -> None:
        check_key(self.key)


def member_name(key: str, column: str) -> str:
    """Name of the tar member of one field, or of the JSON, of a sample."""
    return f"{key}.json" if column == JSON_FIELD else f"{key}.{column}.npy"


def tar_header(name: str, size: int) -> bytes:
    """The USTAR header of a regular file: mode 0644, owner 0, time 0.

    Raises:
        StoreError: the name is longer than 100 bytes, or the size needs more than 11 octal digits.
    """
    encoded = name.encode("ascii")
    if len(encoded) > LONGEST_NAME:
        raise StoreError(
            f"tar member {name!r} has {len(encoded)} characters; at most {LONGEST_NAME} are "
            "allowed: use shorter keys"
        )
    if size > LARGEST_MEMBER:
        raise StoreError(f"tar member {name!r} has {size} bytes; the limit is {LARGEST_MEMBER}")
    digits = b"%011o\0" % size
    checksum = _FIXED_SUM + sum(encoded) + sum(digits)
    head = encoded.ljust(LONGEST_NAME, b"\0") + _BEFORE_SIZE + digits + _AFTER_SIZE
    return head + b"%06o\0 " % checksum + _AFTER_CHECKSUM


class _Tar:
    """A tar being written: yields its bytes and counts them."""

    def __init__(self) -> None:
        self.bytes = 0
        self.digest = xxhash.xxh3_128()

    def _out(self, chunk: Buffer) -> Buffer:
        self.digest.update(chunk)
        self.bytes += len(chunk)
        return chunk

    def member(
        self, name: str, payload: Sequence[Buffer], row: list[tuple[int, int, int]]
    ) -> Iterator[Buffer]:
        """Bytes of one member; appends its payload's (offset, length, xxh3-64) to `row`."""
        size = sum(map(len, payload))
        yield self._out(tar_header(name, size))
        offset, digest = self.bytes, xxhash.xxh3_64()
        for chunk in payload:
            digest.update(chunk)
            yield self._out(chunk)
        row.append((offset, size, digest.intdigest()))
        yield self._out(bytes(-size % BLOCK))

    def end(self) -> Buffer:
        """The two empty blocks that close a tar."""
        return self._out(END)


def _members(layer: LayerSpec, sample: Sample) -> Iterator[tuple[str, list[Buffer]]]:
    """Name and payload of each member of a sample, in the layer's column order."""
    layer.check(sample)
    for column in layer.columns[:-1]:
        payload = encode(sample.arrays[column], layer.field(column).codec)
        yield member_name(sample.key, column), payload
    yield member_name(sample.key, JSON_FIELD), [object_bytes(sample.meta, f"sample {sample.key}")]


def write_tar(path: Path, layer: LayerSpec, samples: Iterable[Sample]) -> Written:
    """Write one shard atomically; `samples` is consumed as the file grows.

    Raises:
        StoreError: a sample does not match the fields table, or a key repeats or is too long.
    """
    return _write(path, layer, ((sample.key, _members(layer, sample)) for sample in samples))


def write_stored_tar(path: Path, layer: LayerSpec, samples: Iterable[StoredSample]) -> Written:
    """Write one shard atomically from the payloads of others, bytes as they are.

    Raises:
        StoreError: a key repeats or is too long.
    """

    def members(sample: StoredSample) -> Iterator[tuple[str, list[Buffer]]]:
        for column in layer.columns:
            yield member_name(sample.key, column), [sample.payloads[column]]

    return _write(path, layer, ((sample.key, members(sample)) for sample in samples))


def _write(
    path: Path,
    layer: LayerSpec,
    samples: Iterable[tuple[str, Iterable[tuple[str, list[Buffer]]]]],
) -> Written:
    """Write one shard of samples given as (key, (member's name, payload) in column order)."""
    tar, keys = _Tar(), dict[str, None]()
    tables: list[tuple[int, int, int]] = []

    def chunks() -> Iterator[Buffer]:
        rows: list[list[tuple[int, int, int]]] = []
        for key, members in samples:
            if key in keys:
                raise StoreError(f"shard {path}: key {key} occurs twice")
            keys[key] = None
            rows.append([])
            for name, payload in members:
                yield from tar.member(name, payload, rows[-1])
        index = np.array(rows, np.uint64).reshape(len(rows), len(layer.columns), 3)
        meta = object_bytes(shard_meta(layer, keys), f"shard {path}")
        yield from tar.member(INDEX, encode(index, "none"), tables)
        yield from tar.member(META, [meta], tables)
        yield tar.end()

    write_atomic(path, chunks())
    members = (Member(offset, length, hex64(checksum)) for offset, length, checksum in tables)
    return Written(
        keys=tuple(keys),
        bytes=tar.bytes,
        xxh3_128=tar.digest.hexdigest(),
        members=dict(zip(("index", "meta"), members, strict=True)),
    )
