"""One array of a Zarr shard, read strictly: regular chunks, default names, one known compressor.

The zarr library follows links, allocates what the metadata declares and decodes to whatever size a
chunk claims. A shard from a stranger may declare anything, with checksums made to fit; so shards
are read here, chunk by chunk, into memory of a size that was checked before.
"""

import math
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from p2pkit.errors import StoreError
from p2pkit.store.codecs import decode_zstd
from p2pkit.store.location import Location
from p2pkit.store.manifest import LayerSpec
from p2pkit.store.npy import LARGEST_ARRAY, LARGEST_PAYLOAD, NpyError, extent
from p2pkit.store.remote.client import RemotePath
from p2pkit.store.shard_meta import ShardMetaError, parse_object
from p2pkit.store.strict_json import (
    LARGEST_JSON,
    TooLargeError,
    count,
    exact_object,
    hex64,
    read_bounded,
    typed,
)

ATTRIBUTE = "p2pkit"

CHECKSUM = "checksum"


def table_names(layer: LayerSpec) -> list[str]:
    """The arrays that say where samples lie; read and verified when a shard is opened."""
    shapes = [f"{name}_shape" for name in layer.columns[:-1]]
    return [CHECKSUM, *(f"{name}_offset" for name in layer.columns), *shapes]


def tables_checksum(tables: dict[str, np.ndarray]) -> tuple[int, str]:
    """Bytes and xxh3-64 of all tables, in name order, each C-ordered and little-endian."""
    digest, size = xxhash.xxh3_64(), 0
    for name in sorted(tables):
        digest.update(np.ascontiguousarray(tables[name]).data)
        size += tables[name].nbytes
    return size, hex64(digest.intdigest())


def folder_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """(relative path with slashes, path) of each file, sorted by the former."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    yield from sorted((path.relative_to(folder).as_posix(), path) for path in paths)


def folder_sizes(folder: Location) -> list[tuple[str, int]]:
    """(relative path with slashes, bytes) of each file, sorted; empty without a folder."""
    if isinstance(folder, RemotePath):
        return folder.files()
    return [(name, path.stat().st_size) for name, path in folder_files(folder)]


def folder_checksum(folder: Location) -> tuple[int, str]:
    """Bytes of all files, and xxh3-128 over a line `<path> <xxh3-64 of the file>` for each."""
    digest, size = xxhash.xxh3_128(), 0
    for name, _ in folder_sizes(folder):
        data = (folder / name).read_bytes()
        digest.update(f"{name} {hex64(xxhash.xxh3_64_intdigest(data))}\n".encode())
        size += len(data)
    return size, digest.hexdigest()


META = "zarr.json"

ENTRIES = (
    *("shape", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value", "codecs"),
    *("attributes", "zarr_format", "node_type", "storage_transformers"),
)

CHUNK_NAMES = {"name": "default", "configuration": {"separator": "/"}}


class ZarrArrayError(ValueError):
    """A file of a Zarr shard is not what the format allows; the caller adds which shard."""


def _decode_blosc(data: memoryview, out: np.ndarray) -> None:
    from numcodecs import blosc  # pyright: ignore[reportAttributeAccessIssue]

    if int.from_bytes(data[4:8], "little") != out.nbytes or len(data) < 16:
        raise NpyError("the blosc chunk declares another size than its array")
    if int.from_bytes(data[12:16], "little") != len(data):
        raise NpyError("the blosc chunk declares another length than its file has")
    blosc.decompress(data, out.view(np.uint8))


DECODERS: dict[str, tuple[str, Callable[[memoryview, np.ndarray], None]] | None] = {
    "none": None,
    "lz4": ("blosc", _decode_blosc),
    "zstd": ("zstd", decode_zstd),
    "shuffle-lz4": ("blosc", _decode_blosc),
    "shuffle-zstd": ("blosc", _decode_blosc),
    "delta-shuffle-lz4": ("blosc", _decode_blosc),
}
"""Name and reader of Zarr's codec for each name in the fields table; None stores plain bytes."""


@dataclass(frozen=True)
class StoredArray:
    """An array whose chunks hold runs of rows, all other axes whole.

    Args:
        folder: of the array.
        shape: of the array.
        dtype: of its numbers.
        rows: rows of a chunk; the last chunk is padded to it.
        codec: a name in `DECODERS`.
    """

    folder: Location
    shape: tuple[int, ...]
    dtype: np.dtype
    rows: int
    codec: str

    def read(self, first: int, end: int) -> np.ndarray:
        """Rows `first` … `end - 1`, in new memory.

        Raises:
            ZarrArrayError: a chunk is missing, does not decode to its size, or the rows are too
                many to hold.
        """
        if not 0 <= first <= end <= self.shape[0]:
            raise ZarrArrayError(f"rows {first} to {end} of {self.shape[0]}")
        if extent((end - first, *self.shape[1:])) * self.dtype.itemsize > LARGEST_ARRAY:
            raise ZarrArrayError(f"rows {first} to {end} have more than {LARGEST_ARRAY} bytes")
        out = np.empty((end - first, *self.shape[1:]), self.dtype)
        if out.size == 0:
            return out
        if first % self.rows == 0 and end - first == self.rows:
            return self._chunk(first // self.rows)
        for number in range(first // self.rows, -(-end // self.rows)):
            start, stop = max(first, number * self.rows), min(end, (number + 1) * self.rows)
            rows = slice(start - number * self.rows, stop - number * self.rows)
            out[start - first : stop - first] = self._chunk(number)[rows]
        return out

    def _chunk(self, number: int) -> np.ndarray:
        name = "/".join(["c", str(number), *"0" * (len(self.shape) - 1)])
        shape = (self.rows, *self.shape[1:])
        data = read_part(self.folder, name, LARGEST_PAYLOAD)
        out = np.empty(shape, self.dtype)
        decoder = DECODERS[self.codec]
        try:
            if decoder is not None:
                decoder[1](memoryview(data), out.reshape(-1))
            elif len(data) == out.nbytes:
                out.reshape(-1).view(np.uint8)[:] = np.frombuffer(data, np.uint8)
            else:
                raise NpyError(f"has {len(data)} bytes; expected {out.nbytes}")
        except (RuntimeError, ValueError) as error:
            raise ZarrArrayError(f"chunk {name} does not decode: {error}") from None
        return out


def read_part(folder: Location, name: str, limit: int) -> bytes:
    """The content of the file `name` below a folder of a shard.

    Raises:
        ZarrArrayError: it is missing, not a plain file, or has more than `limit` bytes.
        StoreError: its server cannot be reached, or refuses.
    """
    try:
        return read_bounded(folder / name, limit)
    except OSError as error:
        raise ZarrArrayError(f"{name} cannot be read: {error.strerror or error}") from None
    except TooLargeError as error:
        raise ZarrArrayError(str(error)) from None


def open_array(folder: Location, *, dtype: str, axes: int, codec: str) -> StoredArray:
    """Read and check an array's metadata.

    Args:
        folder: of the array.
        dtype: numpy's name of the number type that it must have.
        axes: how many it must have, or one.
        codec: its name in the fields table.

    Raises:
        ZarrArrayError: the metadata is missing, or is not what `write_zarr` makes.
    """
    data = read_part(folder, META, LARGEST_JSON)
    try:
        value = parse_object(memoryview(data))
        value.pop("dimension_names", None)
        exact_object(value, ENTRIES, META)
        _check_codecs(value["codecs"], codec)
        for name, wanted in (
            ("zarr_format", 3),
            ("node_type", "array"),
            ("data_type", np.dtype(dtype).name),
            ("chunk_key_encoding", CHUNK_NAMES),
            ("storage_transformers", []),
        ):
            if value[name] != wanted:
                raise StoreError(f"{META} has the {name} {value[name]!r}; expected {wanted!r}")
        shape = _sizes(value["shape"], "shape", least=0)
        grid = exact_object(value["chunk_grid"], ("name", "configuration"), f"{META}: chunk_grid")
        sizes = exact_object(grid["configuration"], ("chunk_shape",), f"{META}: chunk_grid")
        chunk = _sizes(sizes["chunk_shape"], "chunk_shape", least=1)
    except (ShardMetaError, StoreError) as error:
        raise ZarrArrayError(str(error)) from None
    if grid["name"] != "regular" or len(shape) not in {1, axes}:
        raise ZarrArrayError(f"{META} has the chunks {grid} of the shape {shape}: not as written")
    if len(chunk) != len(shape) or chunk[1:] != tuple(max(1, size) for size in shape[1:]):
        raise ZarrArrayError(f"{META} has chunks of {chunk} in {shape}; only rows may be cut")
    if math.prod(chunk) * np.dtype(dtype).itemsize > LARGEST_ARRAY:
        raise ZarrArrayError(f"{META} has chunks of {chunk}: more than {LARGEST_ARRAY} bytes")
    return StoredArray(folder, shape, np.dtype(dtype), chunk[0], codec)


def size_of_files(folder: Location) -> int:
    """Bytes of all files of a shard.

    Raises:
        ZarrArrayError: it is not a folder, or something in it is a link, a pipe or a device.
        StoreError: its server cannot be reached, or cannot list.
    """
    if isinstance(folder, RemotePath):
        sizes = [size for _, size in folder.files()]
        if not sizes:
            raise ZarrArrayError("cannot be opened: No such folder")
        return sum(sizes)
    if folder.is_symlink() or not folder.is_dir():
        raise ZarrArrayError("cannot be opened: No such folder")
    total, folders = 0, [str(folder)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    folders.append(entry.path)
                elif stat.S_ISREG(status.st_mode):
                    total += status.st_size
                else:
                    name = os.path.relpath(entry.path, folder)
                    raise ZarrArrayError(
                        f"{name} is a link or not a regular file; neither belongs in a shard"
                    )
    return total


def _sizes(value: Any, name: str, *, least: int) -> tuple[int, ...]:
    sizes: list[Any] = typed(value, list, f"{META}: {name}")
    if not 1 <= len(sizes) <= 32:
        raise StoreError(f"{META} has {len(sizes)} axes in its {name}")
    return tuple(count(size, f"{META}: {name}", least=least) for size in sizes)


def _check_codecs(value: Any, codec: str) -> None:
    """The codecs must be little-endian bytes, then the compressor of this codec name."""
    rows: list[Any] = typed(value, list, f"{META}: codecs")
    names = [row.get("name") if isinstance(row, dict) else None for row in rows]
    decoder = DECODERS[codec]
    wanted = ["bytes", *([] if decoder is None else [decoder[0]])]
    if names != wanted:
        raise StoreError(f"{META} has the codecs {names}; expected {wanted} for {codec}")
    settings = rows[0].get("configuration", {})
    if not isinstance(settings, dict) or settings.get("endian", "little") != "little":
        raise StoreError(f"{META} has numbers that are not little-endian")
