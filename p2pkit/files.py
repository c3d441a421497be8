"""Crash-safe files and canonical JSON: the two things that every stage writes with."""

import hashlib
import json
import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

CHUNKS_PER_WRITE = 64


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces and no NaN, so that equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256_json(value: Any) -> str:
    """Hex sha256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def write_atomic(path: Path, chunks: bytes | Iterable[bytes | memoryview]) -> None:
    """Write a file that is either complete under its name or absent, also after a power cut.

    The bytes go to a temporary name in the same folder, are fsynced, renamed, and the folder is
    fsynced. A leftover of a killed writer is called `.tmp-*` and may be deleted at any time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".tmp-{path.name}-{os.uname().nodename}-{os.getpid()}"
    try:
        with open(temporary, "wb", buffering=0) as file:
            _write_all(file.fileno(), (chunks,) if isinstance(chunks, bytes) else chunks)
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


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
