"""The tables and checksums of a Zarr shard, as its writer and its reader both see them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xxhash

from p2pkit.shards.checks import hex64
from p2pkit.shards.location import Location
from p2pkit.shards.model import LayerSpec
from p2pkit.shards.remote import RemotePath

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
    """(relative path with slashes, bytes) of each file, sorted; empty where there is no folder."""
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
