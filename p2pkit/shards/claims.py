"""Claim files, through which workers on any number of machines share work without a scheduler.

A claim is a file made with O_EXCL; a thread touches it while its owner lives. A claim that was not
touched for two minutes, or whose owner on this machine is gone, may be taken over. Two workers that
hold one claim (a suspended owner that wakes up) only waste work: shards are deterministic.
"""

import contextlib
import json
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Generator
from pathlib import Path
from types import TracebackType

from p2pkit.files import canonical_json

STALE_S = 120.0
HEARTBEAT_S = 20.0


def _machine() -> str:
    """The machine and, on Linux, the process id space: in both a pid means one process."""
    try:
        return f"{os.uname().nodename}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return os.uname().nodename


class Claim:
    """A claim that is held; leaving its `with` block, or `release`, gives it up."""

    def __init__(self, path: Path, token: str) -> None:
        self.path = path
        self._token = token
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"claim {path.name}", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            with contextlib.suppress(FileNotFoundError):
                os.utime(self.path)

    def release(self) -> None:
        """Stop the heartbeat and remove the file, unless another worker took it over."""
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join()
            if _token(self.path) == self._token:
                self.path.unlink(missing_ok=True)

    def __enter__(self) -> "Claim":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def try_claim(path: Path, *, stale_s: float = STALE_S) -> Claim | None:
    """Take the claim `path`, or return None where another worker holds it.

    Args:
        path: of the claim file; its folder is made where needed.
        stale_s: age at which a claim without a heartbeat counts as left behind (s).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    claim = _create(path)
    if claim is None and _is_stale(path, stale_s) and _discard(path):
        claim = _create(path)
    return claim


@contextlib.contextmanager
def locked(path: Path, *, poll_s: float = 0.02) -> Generator[Claim, None, None]:
    """Hold the claim `path`, waiting for as long as another worker holds it."""
    while (claim := try_claim(path)) is None:
        time.sleep(poll_s)
    with claim:
        yield claim


def sweep(root: Path, claims: Path) -> None:
    """Delete the `.tmp-*` under `root` and the claims that this machine's killed processes left."""
    here = re.compile(rf"\.tmp-.+-{re.escape(os.uname().nodename)}-(\d+)")
    for path in root.rglob(".tmp-*"):
        match = here.fullmatch(path.name)
        if match and not _alive(int(match[1])):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    for path in claims.glob("[!.]*"):
        if _owner_died(_owner(path)):
            _discard(path)


def _temporary(purpose: str) -> str:
    """A name that `sweep` knows as left behind once this process is gone."""
    return f".tmp-{purpose}-{uuid.uuid4().hex}-{os.uname().nodename}-{os.getpid()}"


def _create(path: Path) -> Claim | None:
    token = uuid.uuid4().hex
    owner = {"machine": _machine(), "pid": os.getpid(), "token": token}
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return None
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(canonical_json(owner))
    return Claim(path, token)


def _owner(path: Path) -> dict[str, object]:
    """What a claim says; empty where it is gone, or not written yet."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _token(path: Path) -> object:
    return _owner(path).get("token")


def _is_stale(path: Path, stale_s: float) -> bool:
    if _owner_died(_owner(path)):
        return True
    try:
        return _folder_time(path.parent) - path.stat().st_mtime > stale_s
    except FileNotFoundError:
        return True


def _owner_died(owner: dict[str, object]) -> bool:
    pid = owner.get("pid")
    return owner.get("machine") == _machine() and isinstance(pid, int) and not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _folder_time(folder: Path) -> float:
    """The file system's own time, which may differ from this machine's clock on a network mount."""
    probe = folder / _temporary("clock")
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()


def _discard(path: Path) -> bool:
    """Remove a stale claim. False where another worker has just renewed it: that one stays.

    The file is renamed before it is judged again, so that of several workers one wins.
    """
    seen = _token(path)
    aside = path.with_name(_temporary("stale"))
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return True
    same = _token(aside) == seen
    if not same:
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
    aside.unlink()
    return same
