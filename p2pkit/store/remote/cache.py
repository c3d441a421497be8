"""The bounded local cache of remote shards, shared by all processes of a machine.

An entry is one whole shard, a file or (zarr) a folder, named after its URL, its record's checksum
and its size, so a shard that was replaced on the server is another entry. Two lock files go with
an entry: one that its readers share, one that its filler holds. Who removes it holds both alone.
The kernel drops the locks of a killed process.
"""

import contextlib
import errno
import fcntl
import os
import re
import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, overload

import xxhash

from p2pkit.errors import ConfigError, CorruptShardError
from p2pkit.files import TEMPORARY, user_cache_folder
from p2pkit.store.location import Location
from p2pkit.store.records import ShardRecord
from p2pkit.store.remote.client import RemotePath
from p2pkit.store.remote.copy import fetch_shard, remove, shard_checksum
from p2pkit.store.shard import Shard
from p2pkit.store.strict_json import hex64


@overload
def lock_file(path: Path, *, shared: bool, wait: Literal[True]) -> int: ...


@overload
def lock_file(path: Path, *, shared: bool, wait: bool) -> int | None: ...


def lock_file(path: Path, *, shared: bool, wait: bool) -> int | None:
    """A descriptor that holds the lock until it is closed; None where another has it.

    The holder of a lock that is not shared may delete the file.

    Args:
        path: of the lock file, made where needed.
        shared: among other shared holders.
        wait: until the lock is free, instead of returning None.

    Raises:
        OSError: the file cannot be written, or its file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, kind)
            if _is_at(descriptor, path):
                return descriptor
            os.close(descriptor)  # its last holder deleted the file: lock the new one
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise


@contextlib.contextmanager
def locked_alone(path: Path) -> Generator[None, None, None]:
    """Hold the lock alone, waiting for as long as another has it."""
    descriptor = lock_file(path, shared=False, wait=True)
    try:
        yield
    finally:
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


OpenCopy = Callable[[Location], Shard]

FOLDER_VARIABLE = "P2PKIT_CACHE"

LIMIT_VARIABLE = "P2PKIT_CACHE_GB"

DEFAULT_LIMIT_GB = 50.0

HELD_AT_ONCE = 8
"""Entries that a process keeps open between reads; open entries are not removed."""

FETCHES = 2
"""Downloads of a shard before its bytes are taken as damaged on the server."""

LOCKS = ".locks"

ENTRY = re.compile(rf"(?:{re.escape(TEMPORARY)})?([0-9a-f]{{16}}-[0-9a-f]{{32}}-(\d+))")
"""An entry's file name and its size; files of other names are never touched."""


@dataclass(frozen=True, eq=False)
class Held:
    """An entry in use. Its lock goes with the last reference.

    Args:
        name: of the entry.
        value: the shard, opened on the local copy.
    """

    name: str
    value: Shard


class ShardCache:
    """Local copies of remote shards, of at most `limit` bytes together; made by `find_cache`.

    Args:
        folder: of the entries; made where needed.
        limit: largest sum of the shards' sizes (bytes); 0 keeps nothing.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self._guard = threading.Lock()
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._warned = False

    def get(
        self,
        source: RemotePath,
        record: ShardRecord,
        open_copy: OpenCopy,
        *,
        fetch: bool,
    ) -> Held | None:
        """The local copy of a shard, opened; None where there is none and none can be kept.

        Args:
            source: the shard.
            record: of the shard; a fetched copy must have its size and checksum.
            open_copy: opens the copy, and raises CorruptShardError where it is damaged.
            fetch: whether to fetch a shard that is not cached, or wait for the process that does.

        Raises:
            CorruptShardError: the server's bytes are not those of the record.
            StoreError: the server cannot be reached, or refuses.
        """
        if record.bytes > self.limit:
            return None
        name = entry_name(source, record)
        with self._guard:
            held = self._held.get(name)
            if held is not None:
                self._held.move_to_end(name)
                return held
        try:
            found = self._open(name, open_copy, wait=fetch)
            if found is None and fetch and self._fill(name, source, record):
                found = self._open(name, open_copy, wait=True)
        except OSError as error:
            self._warn(error)
            return None
        if found is not None:
            self._keep(found)
        return found

    def discard(self, held: Held) -> None:
        """Remove a damaged copy; who reads it still keeps an open file, or reads it remotely."""
        with self._guard:
            if self._held.get(held.name) is held:
                del self._held[held.name]
        with contextlib.suppress(OSError):
            remove(self.folder / held.name)

    def _keep(self, held: Held) -> None:
        with self._guard:
            self._held[held.name] = held
            while len(self._held) > HELD_AT_ONCE:
                self._held.popitem(last=False)

    def _open(self, name: str, open_copy: OpenCopy, *, wait: bool) -> Held | None:
        path = self.folder / name
        lock = lock_file(self._use_lock(name), shared=True, wait=wait) if path.exists() else None
        if lock is None:
            return None
        try:
            if not path.exists():
                os.close(lock)
                return None
            os.utime(path)
            held = Held(name, open_copy(path))
        except BaseException as error:
            os.close(lock)
            if not isinstance(error, CorruptShardError | FileNotFoundError):
                raise
            with contextlib.suppress(OSError):
                remove(path)
            return None
        weakref.finalize(held, os.close, lock)
        return held

    def _fill(self, name: str, source: RemotePath, record: ShardRecord) -> bool:
        """Fetch an entry, unless another thread or process did meanwhile. False: no room."""
        with locked_alone(self._fill_lock(name)):
            target, temporary = self.folder / name, self.folder / f"{TEMPORARY}{name}"
            if target.exists():
                return True
            if not self._make_room(record.bytes, temporary, folder=record.format != "tar"):
                return False
            try:
                _fetch_verified(source, record, temporary)
                os.rename(temporary, target)
            finally:
                with contextlib.suppress(OSError):
                    remove(temporary)
        return True

    def _make_room(self, size: int, temporary: Path, *, folder: bool) -> bool:
        """Remove the entries used longest ago, then reserve `temporary`, which counts from now."""
        with locked_alone(self.folder / LOCKS / "room"):
            remove(temporary)  # a killed filler may have left it
            for last_try in (False, True):
                if self._shrink(self.limit - size):
                    temporary.mkdir() if folder else temporary.touch()
                    return True
                if not last_try:
                    with self._guard:
                        self._held.clear()
        return False

    def _shrink(self, limit: int) -> bool:
        """Remove entries that nobody has open until at most `limit` bytes are left."""
        entries: list[tuple[float, int, str]] = []
        for entry in os.scandir(self.folder):
            if match := ENTRY.fullmatch(entry.name):
                with contextlib.suppress(FileNotFoundError):
                    entries.append((entry.stat().st_mtime, int(match[2]), match[1]))
        total = sum(size for _, size, _ in entries)
        for _, size, name in sorted(entries):
            if total <= limit:
                break
            if self._evict(name):
                total -= size
        return total <= limit

    def _evict(self, name: str) -> bool:
        """Remove an entry and what a killed filler left of it; False where one is in use."""
        filling, using = self._fill_lock(name), self._use_lock(name)
        with contextlib.ExitStack() as closing:
            for path in (filling, using):
                lock = lock_file(path, shared=False, wait=False)
                if lock is None:
                    return False
                closing.callback(os.close, lock)
            remove(self.folder / name)
            remove(self.folder / f"{TEMPORARY}{name}")
            filling.unlink(missing_ok=True)
            using.unlink(missing_ok=True)
        return True

    def _use_lock(self, name: str) -> Path:
        """Shared by the readers of an entry."""
        return self.folder / LOCKS / name

    def _fill_lock(self, name: str) -> Path:
        """Held by the one that fetches an entry."""
        return self.folder / LOCKS / f"{name}.fill"

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            reason = "the disk is full" if error.errno == errno.ENOSPC else str(error)
            warnings.warn(
                f"the cache of remote shards at {self.folder} cannot be used ({reason}): samples "
                f"are read one by one from the server. Set {FOLDER_VARIABLE} to a folder with "
                f"room, or lower {LIMIT_VARIABLE}",
                RuntimeWarning,
                stacklevel=4,
            )


def entry_name(source: RemotePath, record: ShardRecord) -> str:
    """Name of a shard's entry; it ends with the size, so that counting opens nothing."""
    url = hex64(xxhash.xxh3_64_intdigest(str(source).encode()))
    return f"{url}-{record.xxh3_128}-{record.bytes}"


def find_cache() -> ShardCache:
    """The cache that the environment configures; one object for each folder and limit.

    Raises:
        ConfigError: the limit is not a number, or the cache has no folder.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    text = os.environ.get(LIMIT_VARIABLE, str(DEFAULT_LIMIT_GB))
    try:
        limit = int(float(text) * 1e9)
    except (ValueError, OverflowError):
        limit = -1
    if limit < 0:
        raise ConfigError(
            f"{LIMIT_VARIABLE} is {text!r}; it must be a number of gigabytes, 0 for no cache"
        )
    try:
        place = Path(folder) if folder else user_cache_folder() / "shards"
    except RuntimeError:
        raise ConfigError(
            f"this user has no home folder for the cache of remote shards; set {FOLDER_VARIABLE}"
        ) from None
    return open_cache(place, limit)


@lru_cache(maxsize=16)
def open_cache(folder: Path, limit: int) -> ShardCache:
    """The one object of this process for a folder and a limit (bytes)."""
    return ShardCache(folder, limit)


def _fetch_verified(source: RemotePath, record: ShardRecord, target: Path) -> None:
    """Fetch a shard whose bytes are those of its record; CorruptShardError where they never are."""
    found = ""
    for _ in range(FETCHES):
        fetch_shard(source, record, target)
        found = shard_checksum(target)
        if found == record.xxh3_128:
            return
        remove(target)
    raise CorruptShardError(
        str(source),
        f"xxh3-128 is {found} in each of {FETCHES} downloads; its record says {record.xxh3_128}: "
        "push or extract the shard again",
    )
