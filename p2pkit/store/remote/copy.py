"""Copying a shard from a local file or folder to an object store, and reading it back."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import xxhash

from p2pkit.errors import CorruptShardError
from p2pkit.files import fsync_file, fsync_folder
from p2pkit.store.location import Location
from p2pkit.store.records import ShardRecord
from p2pkit.store.remote.client import PART_BYTES, RemotePath, ShortAnswerError
from p2pkit.store.strict_json import hex64

PARTS_AT_ONCE = 4

HASHED_AT_ONCE = 4 << 20


def fetch_shard(source: RemotePath, record: ShardRecord, target: Path) -> None:
    """Download one shard of either storage to a new or empty `target`. Nothing is verified.

    Raises:
        CorruptShardError: it is missing, or has another size than its record says.
        StoreError: the server cannot be reached, or refuses.
        OSError: the local disk is full or cannot be written.
    """
    if record.format == "tar":
        _fetch_file(source, record, target)
    else:
        _fetch_folder(source, record, target)


def shard_checksum(path: Path) -> str:
    """What a shard's record calls xxh3_128, computed from a local file or folder."""
    if path.is_dir():
        from p2pkit.store.zarr.arrays import folder_checksum

        return folder_checksum(path)[1]
    digest = xxhash.xxh3_128()
    with open(path, "rb", buffering=0) as file:
        while data := file.read(HASHED_AT_ONCE):
            digest.update(data)
    return digest.hexdigest()


def shard_bytes(shard: Location, storage: str) -> int | None:
    """Bytes of a shard's file, or of all files of its folder; None where there is none."""
    if storage == "tar":
        if isinstance(shard, RemotePath):
            return shard.size()
        return shard.stat().st_size if shard.is_file() else None
    from p2pkit.store.zarr.arrays import folder_sizes

    sizes = [size for _, size in folder_sizes(shard)]
    return sum(sizes) if sizes else None


def commit_fetched(temporary: Path, target: Path) -> None:
    """Make a fetched shard durable and give it its name."""
    if temporary.is_dir():
        from p2pkit.store.zarr.writer import fsync_tree, rename_folder

        fsync_tree(temporary)
        rename_folder(temporary, target)
        return
    fsync_file(temporary)
    os.replace(temporary, target)
    fsync_folder(target.parent)


def remove(shard: Path) -> None:
    """Delete a local shard of either storage, if it exists."""
    if shard.is_dir():
        shutil.rmtree(shard)
    else:
        shard.unlink(missing_ok=True)


def _fetch_file(source: RemotePath, record: ShardRecord, target: Path) -> None:
    found, size = source.size(), record.bytes
    if found != size:
        raise _wrong_size(source, found, record)
    descriptor = os.open(target, os.O_CREAT | os.O_TRUNC | os.O_RDWR, 0o644)
    try:
        if size:
            os.posix_fallocate(descriptor, 0, size)

        def part(offset: int) -> None:
            data = _range(source, offset, min(PART_BYTES, size - offset))
            while data:
                written = os.pwrite(descriptor, data, offset)
                data, offset = data[written:], offset + written

        with ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
            list(pool.map(part, range(0, size, PART_BYTES)))
    finally:
        os.close(descriptor)


def _fetch_folder(source: RemotePath, record: ShardRecord, target: Path) -> None:
    files = source.files()
    size = sum(size for _, size in files)
    if size != record.bytes:
        raise _wrong_size(source, size if files else None, record)

    def one(entry: tuple[str, int]) -> None:
        name, length = entry
        if ".." in PurePosixPath(name).parts or name.startswith("/"):
            raise CorruptShardError(str(source), f"contains a file {name!r}, outside the shard")
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_range(source / name, 0, length))

    with ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
        list(pool.map(one, files))


def _range(source: RemotePath, offset: int, length: int) -> memoryview:
    try:
        return source.read_range(offset, length)
    except ShortAnswerError as error:
        raise CorruptShardError(str(source), f"is cut short: {error}") from None
    except FileNotFoundError:
        raise CorruptShardError(str(source), "was deleted while it was read") from None


def _wrong_size(source: RemotePath, size: int | None, record: ShardRecord) -> CorruptShardError:
    found = "is missing" if size is None else f"has {size} bytes"
    return CorruptShardError(str(source), f"{found}; its record says {record.bytes}")


FILES_AT_ONCE = 8


def send_shard(source: Path, record: ShardRecord, target: RemotePath) -> None:
    """Upload one shard of either storage; of a zarr shard, files that are not its own are deleted.

    Raises:
        StoreError: the server cannot be reached, or refuses.
    """
    if record.format == "tar":
        target.write(source)
        return
    from p2pkit.store.zarr.arrays import folder_files

    files = dict(folder_files(source))
    for name, _ in target.files():
        if name not in files:
            (target / name).delete()
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        list(pool.map(lambda name: (target / name).write(files[name]), files))


def remote_checksum(shard: RemotePath, record: ShardRecord) -> str:
    """What the record calls xxh3_128, of the bytes that the server sends now.

    Raises:
        CorruptShardError: the server sends fewer bytes than the object has.
        StoreError: the server cannot be reached, or refuses.
    """
    digest = xxhash.xxh3_128()
    try:
        if record.format == "tar":
            for offset in range(0, record.bytes, PART_BYTES):
                length = min(PART_BYTES, record.bytes - offset)
                digest.update(shard.read_range(offset, length))
        else:
            for line in _lines(shard):
                digest.update(line.encode())
    except ShortAnswerError as error:
        raise CorruptShardError(str(shard), f"is cut short: {error}") from None
    return digest.hexdigest()


def _lines(shard: RemotePath) -> list[str]:
    """A line of a zarr shard's checksum for each of its files, in their order."""

    def line(entry: tuple[str, int]) -> str:
        data = (shard / entry[0]).read_range(0, entry[1])
        return f"{entry[0]} {hex64(xxhash.xxh3_64_intdigest(data))}\n"

    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        return list(pool.map(line, shard.files()))
