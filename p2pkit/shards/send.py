"""Copying a shard from a local file or folder to an object store, and reading it back."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import xxhash

from p2pkit.errors import CorruptShardError
from p2pkit.shards.checks import hex64
from p2pkit.shards.record import ShardRecord
from p2pkit.shards.remote import PART_BYTES, RemotePath, ShortAnswerError

FILES_AT_ONCE = 8


def send_shard(source: Path, record: ShardRecord, target: RemotePath) -> None:
    """Upload one shard of either storage; of a zarr shard, files that are not its own are deleted.

    Raises:
        StoreError: the server cannot be reached, or refuses.
    """
    if record.format == "tar":
        target.write(source)
        return
    from p2pkit.shards.zarr_tables import folder_files

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
