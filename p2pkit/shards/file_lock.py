"""Locks between the processes of one machine, which the kernel drops with a killed process."""

import contextlib
import fcntl
import os
from collections.abc import Generator
from pathlib import Path
from typing import Literal, overload


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
