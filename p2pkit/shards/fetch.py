"""Copying a shard from a remote store to a local file or folder."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import xxhash

from p2pkit.errors import CorruptShardError
from p2pkit.files import fsync_file, fsync_folder
from p2pkit.shards.location import Location
from p2pkit.shards.record import ShardRecord
from p2pkit.shards.remote import PART_BYTES, RemotePath, ShortAnswerError

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
        from p2pkit.shards.zarr_tables import folder_checksum

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
    from p2pkit.shards.zarr_tables import folder_sizes

    sizes = [size for _, size in folder_sizes(shard)]
    return sum(sizes) if sizes else None


def commit_fetched(temporary: Path, target: Path) -> None:
    """Make a fetched shard durable and give it its name."""
    if temporary.is_dir():
        from p2pkit.shards.zarr_writer import fsync_tree, rename_folder

        fsync_tree(temporary)
        rename_folder(temporary, target)
        return
    fsync_file(temporary)
    os.replace(temporary, target)
    fsync_folder(target.parent)


def remove(shard: Path) -> None:
    """Delete a local shard of either storage, if it is there."""
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
            raise CorruptShardError(str(source), f"holds a file {name!r}, outside the shard")
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
