"""Claim files, through which workers on any number of machines share work without a scheduler.

A claim is a file made with O_EXCL; a thread touches it while its owner lives. A claim that was not
touched for two minutes, or whose owner on this machine is gone, may be taken over. Its age is
measured by the file system's clock, and a waiting worker also watches by its own clock whether it
is touched at all, so a wrong clock cannot keep a dead worker's claim. Two workers that hold one
claim (a suspended owner that wakes up) only waste work: shards are deterministic.
"""

import contextlib
import json
import os
import re
import shutil
import threading
import time
import uuid
import weakref
from collections import OrderedDict
from collections.abc import Generator, Iterator
from pathlib import Path
from types import TracebackType

from p2pkit.files import (
    TEMPORARY,
    canonical_json,
    open_regular,
    process_space,
    temporary_name,
)

STALE_S = 120.0
HEARTBEAT_S = 20.0
ABANDONED_S = 86_400.0
MOST_WATCHED = 10_000
LARGEST_CLAIM = 4096
SHARD = re.compile(r"\d{6,}\.[a-z]+")

State = tuple[int, int]

_watched: OrderedDict[tuple[str, int, int], float] = OrderedDict()
"""When this process first saw a claim file in its present state (s, monotonic)."""


class Claim:
    """A claim that is held; leaving its `with` block, `release`, or being forgotten gives it up.

    Its file is made, touched and removed by a separate thread. Ctrl-C interrupts the main thread
    alone, between any two of its steps: what it loses there is collected, and ends the thread.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._keeper = _Keeper(path)
        self._forgotten = weakref.finalize(self, self._keeper.end)
        self.held = self._keeper.begin()

    def release(self) -> None:
        """Stop the heartbeat and remove the file, unless another worker took it over."""
        self._keeper.end()
        self._forgotten.detach()

    def __enter__(self) -> "Claim":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


class _Keeper:
    """The thread of one claim, which does not know the claim."""

    def __init__(self, path: Path) -> None:
        self._path, self._token = path, uuid.uuid4().hex
        self._held = False
        self._error: OSError | None = None
        self._ready, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"claim {path.name}", daemon=True)

    def begin(self) -> bool:
        """Make the file; False if another worker's exists.

        Raises:
            OSError: it cannot be written.
        """
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            raise self._error
        return self._held

    def end(self) -> None:
        """Let the thread remove the file; again or before the beginning does nothing."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _keep(self) -> None:
        try:
            self._held = _create(self._path, self._token)
        except OSError as error:
            self._error = error
        finally:
            self._ready.set()
        if self._held:
            self._beat()

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            # The file is gone or the folder no longer writable: others may take the claim, no harm.
            with contextlib.suppress(OSError):
                os.utime(self._path)
        # What cannot be removed grows stale; work that is done stays done.
        with contextlib.suppress(OSError):
            if _token(self._path) == self._token:
                self._path.unlink(missing_ok=True)


def try_claim(path: Path, *, stale_s: float = STALE_S) -> Claim | None:
    """Take the claim `path`, or return None where another worker holds it.

    Args:
        path: of the claim file; its folder is made where needed.
        stale_s: age at which a claim without a heartbeat is taken as left behind (s).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    seen = _state(path)
    if seen is not None and not (_is_stale(path, seen, stale_s) and _discard(path, seen)):
        return None
    claim = Claim(path)
    return claim if claim.held else None


def claim_unless_owned(path: Path, *, poll_s: float = 1.0) -> Claim | None:
    """Take the claim `path`, or return None where its owner lives.

    Whether an owner on another machine lives shows when it touches the claim, or did not for
    `STALE_S`; this waits for either.
    """
    first = _state(path)
    while (claim := try_claim(path)) is None:
        is_here = _owner(path).get("machine") == process_space()
        if is_here or _state(path) not in (first, None):
            return None
        time.sleep(poll_s)
    return claim


def owner_name(path: Path) -> str:
    """Who holds the claim `path`, such as `process 12 on gpu-3`."""
    owner = _owner(path)
    if not {"pid", "host"} <= owner.keys():
        return "another process"
    return f"process {owner['pid']} on {owner['host']}"


@contextlib.contextmanager
def locked(path: Path, *, poll_s: float = 0.02) -> Generator[Claim, None, None]:
    """Hold the claim `path`, waiting for as long as another worker holds it."""
    while (claim := try_claim(path)) is None:
        time.sleep(poll_s)
    with claim:
        yield claim


def sweep(root: Path, claims: Path) -> None:
    """Delete the `.tmp-*` under `root` and the claims that this machine's killed processes left.

    Those of other machines go when nothing was written to them for a day.
    """
    here = re.compile(rf"{re.escape(TEMPORARY)}.+-{re.escape(process_space())}-(\d+)")
    for path in list(_temporaries(root)):
        match = here.fullmatch(path.name)
        if not _alive(int(match[1])) if match else _is_abandoned(path):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    for path in claims.glob("[!.]*"):
        seen = _state(path)
        if seen is not None and _owner_died(_owner(path)):
            _discard(path, seen)


def _temporaries(root: Path) -> Iterator[Path]:
    """The `.tmp-*` under `root`, but for those inside another, or in a shard that is a folder.

    What other workers rename or delete meanwhile is passed over.
    """
    for folder, folders, files in os.walk(root):
        yield from (Path(folder, x) for x in (*folders, *files) if x.startswith(TEMPORARY))
        folders[:] = [x for x in folders if not x.startswith(TEMPORARY) and not SHARD.fullmatch(x)]


def _is_abandoned(path: Path) -> bool:
    try:
        return _age(path) > ABANDONED_S
    except FileNotFoundError:
        return False


def _create(path: Path, token: str) -> bool:
    owner = {
        "machine": process_space(),
        "host": os.uname().nodename,
        "pid": os.getpid(),
        "token": token,
    }
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(canonical_json(owner))
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return True


def _owner(path: Path) -> dict[str, object]:
    """What a claim says; empty if it is gone, not written yet, or not one of our claims."""
    try:
        with open(open_regular(path), "rb") as file:
            value = json.loads(file.read(LARGEST_CLAIM))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _token(path: Path) -> object:
    return _owner(path).get("token")


def _state(path: Path) -> State | None:
    """What changes when a claim is touched or replaced; None where it is gone."""
    try:
        status = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def _is_stale(path: Path, seen: State, stale_s: float) -> bool:
    if _owner_died(_owner(path)):
        return True
    try:
        return _age(path) > stale_s or _watched_s(path, seen) > stale_s
    except FileNotFoundError:
        return False


def _owner_died(owner: dict[str, object]) -> bool:
    pid = owner.get("pid")
    return owner.get("machine") == process_space() and isinstance(pid, int) and not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """Whether a process ended and its parent has not asked how, as under a container's own init."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[:1] in (["Z"], ["X"])


def _age(path: Path) -> float:
    """Seconds since a file was touched, by the file system's clock: a mount's may differ from ours.

    Raises:
        FileNotFoundError: it is gone.
    """
    probe = path.with_name(temporary_name("clock"))
    probe.touch()
    try:
        return probe.stat().st_mtime - path.stat().st_mtime
    finally:
        probe.unlink()


def _watched_s(path: Path, seen: State) -> float:
    """For how long this process has seen the file in one state (s), by its own steady clock."""
    now = time.monotonic()
    first = _watched.setdefault((str(path), *seen), now)
    while len(_watched) > MOST_WATCHED:
        _watched.popitem(last=False)
    return now - first


def _discard(path: Path, seen: State) -> bool:
    """Remove a claim that was judged in state `seen`. False where it changed since: it stays.

    The file is renamed before it is compared again, so that of several workers one wins.
    """
    aside = path.with_name(temporary_name("stale"))
    if _state(path) != seen:
        return False
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return False
    same = _state(aside) == seen
    if not same:
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
    aside.unlink()
    return same
