"""Crash-safe files and canonical JSON: the two things that every stage writes with."""

import errno
import hashlib
import json
import os
import stat
import tempfile
import uuid
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

CHUNKS_PER_WRITE = 64


def is_utf8(text: str) -> bool:
    """Whether it holds no byte that is not UTF-8, as `os.fsdecode` gives them in paths."""
    return not any("\udc80" <= character <= "\udcff" for character in text)


def printable(text: str) -> str:
    r"""Text for a page or a log; bytes of a path that are not UTF-8 become escapes like `\xe9`."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def write_text(path: Path, text: str) -> None:
    """Write `printable(text)` atomically, as UTF-8."""
    write_atomic(path, printable(text).encode())


@contextmanager
def utf8_path(path: Path) -> Generator[Path]:
    """A path of the same file or folder for libraries that read UTF-8 names only.

    Where its own is not UTF-8, it leads through a link in a temporary folder.
    """
    if is_utf8(str(path)):
        yield path
        return
    target = path.parent if is_utf8(path.name) else path
    with tempfile.TemporaryDirectory() as place:
        link = Path(place) / f"link{target.suffix if target == path else ''}"
        link.symlink_to(target.absolute())
        yield link if target == path else link / path.name


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces and no NaN, so that equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256_json(value: Any) -> str:
    """Hex sha256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomic(path: Path, chunks: bytes | Iterable[bytes | memoryview]) -> None:
    """Write a file that is either complete under its name or absent, also after a power cut.

    The bytes go to a temporary name in the same folder, are fsynced, renamed, and the folder is
    fsynced. A leftover of a killed writer is called `.tmp-*` and may be deleted at any time.

    Raises:
        OSError: the file system refuses; `filename` is `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / temporary_name(path.name)
    try:
        with open(temporary, "wb", buffering=0) as file:
            _write_all(file.fileno(), (chunks,) if isinstance(chunks, bytes) else chunks)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and (
            error.filename == temporary or error.errno in (errno.ENOSPC, errno.EDQUOT)
        ):
            # The system names the temporary file, and with a full disk none.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    fsync_folder(path.parent)


def process_space() -> str:
    """Where a process id means one process: host name, and on Linux boot and pid name space.

    Host names repeat: containers share their host's, and machines are cloned.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
        space = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return os.uname().nodename
    return f"{os.uname().nodename}-{boot[:8]}-{space}"


TEMPORARY = ".tmp-"
"""How names of unfinished files begin."""


def temporary_name(name: str) -> str:
    """A name that no other writer uses, and that says which process made it."""
    return f"{TEMPORARY}{name}-{uuid.uuid4().hex[:12]}-{process_space()}-{os.getpid()}"


def open_regular(path: Path) -> int:
    """Descriptor of a regular file, for reading; a pipe is never waited for.

    Raises:
        OSError: it cannot be opened, or is a folder, pipe, socket or device.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "Not a regular file", str(path))


def _write_all(descriptor: int, chunks: Iterable[bytes | memoryview]) -> None:
    """Write the chunks without gathering them in a buffer first, many to a system call."""
    source = iter(chunks)
    while batch := list(islice(source, CHUNKS_PER_WRITE)):
        written = os.writev(descriptor, batch)
        if written < sum(map(len, batch)):
            rest = memoryview(b"".join(batch))[written:]
            while rest:
                rest = rest[os.write(descriptor, rest) :]


def json_text(value: Any) -> str:
    """`value` as indented JSON with sorted keys and a final newline."""
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write `value` atomically as indented JSON with sorted keys and a final newline."""
    write_atomic(path, json_text(value).encode())


def fsync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    fsync_file(folder)


def fsync_file(path: Path) -> None:
    """Make the content of a file, or the names in a folder, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def user_cache_folder() -> Path:
    """`$XDG_CACHE_HOME/p2pkit`, else `~/.cache/p2pkit`; not created here."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "p2pkit"


def writable_cache_folder(name: str) -> Path | None:
    """The folder `name` in the user's cache, made if absent; None where it cannot be written."""
    try:
        folder = user_cache_folder() / name
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except (OSError, RuntimeError):  # no HOME, or a read-only one
        return None
