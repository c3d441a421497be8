"""Random access to the bytes of one file, local or remote."""

import errno
import os
import weakref
from pathlib import Path
from typing import Protocol, runtime_checkable

from p2pkit.errors import CorruptShardError
from p2pkit.files import open_regular
from p2pkit.store.location import Location
from p2pkit.store.remote.client import RemotePath, ShortAnswerError


@runtime_checkable
class ByteFile(Protocol):
    """An open file. Reads are thread-safe."""

    @property
    def size(self) -> int:
        """Bytes of the file."""
        ...

    def read_into(self, data: memoryview, offset: int) -> int:
        """Fill `data` from `offset` on; returns how many bytes were read, 0 at the end."""
        ...


class LocalFile:
    """A local file by `preadv`. Its descriptor closes with the last reference."""

    def __init__(self, path: Path) -> None:
        self._file = open_regular(path)
        weakref.finalize(self, os.close, self._file)

    @property
    def size(self) -> int:
        """Bytes of the file now."""
        return os.fstat(self._file).st_size

    def read_into(self, data: memoryview, offset: int) -> int:
        """As `ByteFile.read_into`."""
        return os.preadv(self._file, [data], offset)


class RemoteFile:
    """A remote file by range requests."""

    def __init__(self, path: RemotePath) -> None:
        size = path.size()
        if size is None:
            raise FileNotFoundError(errno.ENOENT, "No such object")
        self._path = path
        self.size = size

    def read_into(self, data: memoryview, offset: int) -> int:
        """As `ByteFile.read_into`; one request for the whole range.

        Raises:
            CorruptShardError: the object is gone, or the server sends too few bytes each time.
            StoreError: the server cannot be reached, or refuses.
        """
        length = max(0, min(len(data), self.size - offset))
        try:
            data[:length] = self._path.read_range(offset, length)
        except FileNotFoundError:
            raise CorruptShardError(str(self._path), "was deleted while it was read") from None
        except ShortAnswerError as error:
            raise CorruptShardError(str(self._path), f"is cut short: {error}") from None
        return length


def open_file(path: Location) -> ByteFile:
    """Open a file for reading; OSError where it is missing or locked."""
    return RemoteFile(path) if isinstance(path, RemotePath) else LocalFile(path)
