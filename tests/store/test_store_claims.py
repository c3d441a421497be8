import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from tiny_store import KEYS, geometry_sample, manifest

from p2pkit.files import process_space
from p2pkit.store import claims as claims_module
from p2pkit.store.claims import claim_unless_owned, locked, owner_name, sweep, try_claim
from p2pkit.store.manifest import plan_shards
from p2pkit.store.reading import open_store
from p2pkit.store.writing import create_or_open

HERE = Path(__file__).parents[1]

HOLD = """
import sys, time
from pathlib import Path
from p2pkit.store.claims import try_claim
claim = try_claim(Path(sys.argv[1]))
print("held" if claim else "refused", flush=True)
time.sleep(60)
"""

WRITE_SLOWLY = """
import sys, time
from pathlib import Path
from tiny_store import KEYS, geometry_sample, manifest
from p2pkit.store.writing import create_or_open
from p2pkit.store.manifest import plan_shards
writer = create_or_open(Path(sys.argv[1]), manifest())
claim = writer.claim("geometry", 0)
keys = plan_shards(KEYS, writer.manifest.plan)[0]
def samples():
    for number, key in enumerate(keys):
        yield geometry_sample(key)
        if number == 1:
            print("half", flush=True)
            time.sleep(60)
writer.write("geometry", 0, samples())
"""


def start(code: str, *arguments: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_one_of_many_threads_gets_the_claim(tmp_path: Path):
    got = []
    threads = [
        threading.Thread(target=lambda: got.append(try_claim(tmp_path / "a"))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [held] = [claim for claim in got if claim]
    held.release()
    assert not (tmp_path / "a").exists()


def test_claim_ends_with_its_block(tmp_path: Path):
    writer = create_or_open(tmp_path, manifest())
    claim = writer.claim("features/tiny-0123abcd", 2)
    assert claim is not None
    with claim:
        assert writer.claim("features/tiny-0123abcd", 2) is None
        other = writer.claim("geometry", 2)
        assert other is not None
        other.release()
    again = writer.claim("features/tiny-0123abcd", 2)
    assert again is not None
    again.release()


def test_claim_of_a_living_process_holds_and_of_a_killed_one_does_not(tmp_path: Path):
    process = start(HOLD, tmp_path / "claim")
    try:
        assert first_line(process) == "held"
        assert try_claim(tmp_path / "claim") is None
    finally:
        kill(process)
    claim = try_claim(tmp_path / "claim")
    assert claim is not None
    claim.release()


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds, time.time() - seconds))


def foreign(path: Path) -> None:
    path.write_text('{"machine":"elsewhere","pid":1,"token":"x"}')


def test_claim_of_another_machine_is_taken_over_when_its_heart_stops(tmp_path: Path):
    path = tmp_path / "claim"
    foreign(path)
    age(path, 100)
    assert try_claim(path) is None
    age(path, 140)
    claim = try_claim(path)
    assert claim is not None
    claim.release()


def test_an_owner_elsewhere_is_watched_until_it_touches_its_claim_or_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path, waits = tmp_path / "claim", []
    foreign(path)

    def touch_after_three(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            age(path, 10)

    monkeypatch.setattr(time, "sleep", touch_after_three)
    assert claim_unless_owned(path) is None
    assert len(waits) == 3
    age(path, 140)
    claim = claim_unless_owned(path)
    assert claim is not None
    with claim:
        assert claim_unless_owned(path) is None
        assert owner_name(path) == f"process {os.getpid()} on {os.uname().nodename}"
    assert owner_name(path) == "another process"


def test_age_is_measured_by_the_folders_own_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    foreign(tmp_path / "claim")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 10_000)
    assert try_claim(tmp_path / "claim") is None


def test_heartbeat_keeps_a_claim_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(claims_module, "HEARTBEAT_S", 0.02)
    claim = try_claim(tmp_path / "claim")
    assert claim is not None
    with claim:
        age(tmp_path / "claim", 1000)
        deadline = time.monotonic() + 5
        while time.time() - (tmp_path / "claim").stat().st_mtime > 500:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_owner_that_lost_its_claim_leaves_the_new_one(tmp_path: Path):
    claim = try_claim(tmp_path / "claim")
    assert claim is not None
    foreign(tmp_path / "claim")
    claim.release()
    assert (tmp_path / "claim").exists()


def test_a_claim_that_is_forgotten_is_given_up(tmp_path: Path):
    claim = try_claim(tmp_path / "claim")
    assert claim is not None
    assert (tmp_path / "claim").exists()
    del claim
    assert not (tmp_path / "claim").exists()


@pytest.mark.parametrize("way", ["try_claim", "locked"])
def test_ctrl_c_at_any_step_leaves_no_file(tmp_path: Path, way: str):
    """Before each bytecode of taking a claim, holding it and giving it up."""

    def hold() -> None:
        if way == "locked":
            with locked(tmp_path / "claim"):
                return
        claim = try_claim(tmp_path / "claim")
        assert claim is not None
        with claim:
            return

    files = {claims_module.__file__, __file__, contextlib.__file__}
    steps = 0
    while interrupted_after(steps, hold, files):
        assert not (tmp_path / "claim").exists(), steps
        assert not [x for x in threading.enumerate() if x.name == "claim claim"], steps
        steps += 1
    assert steps > 50


def interrupted_after(steps: int, work: Callable[[], None], files: set[str]) -> bool:
    """Do the work, with Ctrl-C after so many bytecodes in these files; False where it ended."""
    left = steps

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in files:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            if left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
            left -= 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def test_lock_excludes(tmp_path: Path):
    inside, most = [], []

    def work() -> None:
        with locked(tmp_path / "lock", poll_s=0.001):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.002)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 6


def test_kill_during_a_write_leaves_no_half_shard(tmp_path: Path):
    process = start(WRITE_SLOWLY, tmp_path)
    try:
        assert first_line(process) == "half"
        assert open_store(tmp_path).manifest == manifest()
    finally:
        kill(process)
    names = [path.name for path in (tmp_path / "geometry").iterdir()]
    assert [name.startswith(".tmp-000000.tar") for name in names] == [True]

    writer = create_or_open(tmp_path, manifest())
    assert list((tmp_path / "geometry").iterdir()) == []
    assert list((tmp_path / ".claims").iterdir()) == []
    keys = plan_shards(KEYS, writer.manifest.plan)[0]
    failures = [{"key": key, "stage": "load", "reason": "cut"} for key in keys[1:]]
    writer.write("geometry", 0, [geometry_sample(keys[0])], failures)
    assert open_store(tmp_path).keys(0) == keys[:1]


def test_sweep_leaves_what_the_living_write(tmp_path: Path):
    here = process_space()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    mine = tmp_path / f".tmp-000000.tar-{here}-{os.getpid()}"
    theirs = tmp_path / f".tmp-000000.tar-elsewhere-{dead.pid}"
    gone = tmp_path / f".tmp-000000.tar-{here}-{dead.pid}"
    folder = tmp_path / f".tmp-000000.zarr-{here}-{dead.pid}"
    for path in (mine, theirs, gone):
        path.touch()
    (folder / "points").mkdir(parents=True)
    sweep(tmp_path, tmp_path / ".claims")
    assert set(tmp_path.iterdir()) == {mine, theirs}


def test_sweep_passes_over_what_others_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Other workers drop a layer and commit a zarr shard just before their folders are listed."""
    shard = tmp_path / "geometry" / "000000.zarr"
    writing = tmp_path / "geometry" / f".tmp-000001.zarr-{process_space()}-{os.getpid()}"
    dropped = tmp_path / "features"
    for folder in (shard / "points", writing / "points", dropped / "tiny"):
        folder.mkdir(parents=True)
    listed, scandir = [], os.scandir

    def scandir_late(path: str | Path) -> Any:
        listed.append(Path(path))
        if Path(path) in (writing, dropped):
            Path(path).rename(tmp_path / "elsewhere")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scandir_late)
    sweep(tmp_path, tmp_path / ".claims")
    assert {tmp_path, shard.parent, dropped} <= set(listed)
    assert not {shard, writing} & set(listed)
