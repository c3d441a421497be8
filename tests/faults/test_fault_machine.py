"""Disks that are full or read-only, users without a home, clocks that differ, hosts that share."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from store_files import tree
from tiny_store import manifest, write_all

from p2pkit.store import claims
from p2pkit.store.claims import try_claim
from p2pkit.store.writing import create_or_open

ROOT = Path(__file__).parents[2]
WORK = Path(__file__).with_name("in_folder.py")


def shell(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a shell script in a mount name space of its own; skip where that is not allowed."""
    allowed = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    if allowed.returncode != 0:
        pytest.skip(f"no mount name space: {allowed.stderr.decode().strip()}")
    command = ["unshare", "-m", "sh", "-ec", script, "sh", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHON": sys.executable}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_full_disk_is_told_and_what_is_complete_stays(tmp_path: Path) -> None:
    script = """
    mount -t tmpfs -o size=28k tmpfs "$1"
    "$PYTHON" "$2" refused "$1/store"
    find "$1/store" -name '.tmp-*' | wc -l
    mount -o remount,size=10m "$1"
    "$PYTHON" "$2" write "$1/store" && "$PYTHON" "$2" read "$1/store"
    cp -r "$1/store" "$3"
    """
    (tmp_path / "small").mkdir()
    done = shell(script, tmp_path / "small", WORK, tmp_path / "copy")
    assert done.returncode == 0, done.stderr
    message, _, leftovers = done.stdout.splitlines()[:3]
    assert "cannot be written: No space left on device" in message
    assert leftovers.strip() == "0"
    write_all(tmp_path / "whole")
    assert tree(tmp_path / "copy") == tree(tmp_path / "whole")


def test_file_size_limit_is_told(tmp_path: Path) -> None:
    """As a full disk, for users who may not mount one."""
    script = f'ulimit -f 1; "{sys.executable}" "{WORK}" refused "{tmp_path / "store"}"'
    ignore = "trap '' XFSZ; " + script
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = ["bash", "-c", ignore]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "cannot be written: File too large" in done.stdout
    assert not list(tmp_path.rglob(".tmp-*"))


def test_read_only_store_reads_verifies_and_refuses_writing(whole_tar: Path) -> None:
    script = """
    mount --bind "$1" "$1" && mount -o remount,ro,bind "$1"
    "$PYTHON" "$2" read "$1"
    "$PYTHON" "$2" refused "$1"
    """
    before = tree(whole_tar)
    done = shell(script, whole_tar, WORK)
    assert done.returncode == 0, done.stderr
    assert "cannot be written: Read-only file system" in done.stdout
    assert tree(whole_tar) == before


TRAIN = """
import sys
import numpy as np
from pathlib import Path
from tiny_recording import tiny_train_config
from p2pkit.store.reading import open_store
from p2pkit.stream.batches import BatchStream, StreamSource
store = open_store(sys.argv[1])
config = tiny_train_config(Path(sys.argv[1])).stream
stream = BatchStream(
    [StreamSource(store, store.feature_layers[0], np.arange(12))], config=config
)
print(sum(batch.frames for batch in stream.batches(0, 6)))
"""


def test_training_batches_come_from_a_read_only_store(room_store: Path, tmp_path: Path) -> None:
    root = shutil.copytree(room_store, tmp_path / "store")
    script = """
    mount --bind "$1" "$1" && mount -o remount,ro,bind "$1"
    PYTHONPATH="$PYTHONPATH:$3" "$PYTHON" -c "$2" "$1"
    """
    done = shell(script, root, TRAIN, ROOT / "tests")
    assert done.stdout.strip() == "12", done.stderr


@pytest.mark.parametrize(
    "command", [["verify", "STORE", "--deep"], ["info", "STORE"], ["ls", "STORE"]]
)
def test_commands_work_without_home(whole_tar: Path, command: list[str]) -> None:
    """A user id that has no name, so that not even the password file knows a home."""
    nameless = ["unshare", "-U", "--map-user=54321"]
    allowed = subprocess.run([*nameless, "true"], capture_output=True, check=False)
    if allowed.returncode != 0:
        pytest.skip(f"no user name space: {allowed.stderr.decode().strip()}")
    arguments = [str(whole_tar) if word == "STORE" else word for word in command]
    done = subprocess.run(
        [*nameless, sys.executable, "-m", "p2pkit.cli.main", "shards", *arguments],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def hosts() -> None:
    """Skip where no host names can be given."""
    allowed = subprocess.run(["unshare", "-u", "-n", "true"], capture_output=True, check=False)
    if allowed.returncode != 0:
        pytest.skip(f"no name spaces of hosts: {allowed.stderr.decode().strip()}")


def on_host(name: str, what: str, root: Path) -> subprocess.Popen[str]:
    """Start work with a host name and network of its own."""
    script = f'echo "{name}" > /proc/sys/kernel/hostname; exec "$@"'
    command = ["unshare", "-u", "-n", "sh", "-ec", script, "sh", sys.executable, str(WORK)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*command, what, str(root)], env=environment, stdout=subprocess.PIPE, text=True
    )


def test_two_hosts_share_one_folder(tmp_path: Path) -> None:
    hosts()
    workers = [on_host(name, "write", tmp_path / "store") for name in ("host-a", "host-b")]
    said = [worker.communicate(timeout=60)[0].split() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert said == [["host-a"], ["host-b"]]
    write_all(tmp_path / "whole")
    assert tree(tmp_path / "store") == tree(tmp_path / "whole")


def test_claim_of_a_killed_worker_on_another_host_goes_stale(tmp_path: Path) -> None:
    """Its process id means nothing here, so only its silence counts."""
    hosts()
    worker = on_host("host-c", "hold", tmp_path)
    assert worker.stdout is not None
    assert worker.stdout.readline().strip() == "held"
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    path = tmp_path / ".claims" / "extract-000000"
    writer = create_or_open(tmp_path, manifest())
    assert writer.claim("extract", 0) is None
    past = time.time() - 130
    os.utime(path, (past, past))
    claim = writer.claim("extract", 0)
    assert claim is not None
    claim.release()


@pytest.mark.parametrize("skew_s", [-100.0, 100.0, 3600.0, 10 * 365 * 86_400.0])
def test_a_clock_that_is_wrong_neither_takes_nor_keeps_a_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skew_s: float
) -> None:
    """A dead host's clock was wrong: its claim holds at first, and goes once nobody touches it."""
    path = tmp_path / "claim"
    path.write_text('{"machine":"elsewhere","pid":1,"token":"x"}')
    touched = time.time() + skew_s
    os.utime(path, (touched, touched))
    now = [time.monotonic()]
    monkeypatch.setattr(claims.time, "monotonic", lambda: now[0])
    assert try_claim(path) is None
    now[0] += 100
    os.utime(path, (touched + 20, touched + 20))
    assert try_claim(path) is None
    now[0] += 119
    assert try_claim(path) is None
    now[0] += 2
    claim = try_claim(path)
    assert claim is not None
    claim.release()


def test_a_claim_cannot_be_stolen_while_it_changes_hands(tmp_path: Path) -> None:
    """Many processes pass one claim on as fast as they can; two must never hold it."""
    code = (
        "import os, sys; from pathlib import Path; from p2pkit.store.claims import locked\n"
        "folder = Path(sys.argv[1])\n"
        "for _ in range(60):\n"
        "    with locked(folder / 'claim', poll_s=0.0005):\n"
        "        os.close(os.open(folder / 'held', os.O_CREAT | os.O_EXCL))\n"
        "        os.unlink(folder / 'held')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(tmp_path)]
    workers = [subprocess.Popen(command, env=environment) for _ in range(4)]
    assert [worker.wait(60) for worker in workers] == [0] * 4


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b'{"pid":1e400}', b"\xff" * 10_000])
def test_claim_files_that_say_nothing_hold_until_they_are_old(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "claim"
    path.write_bytes(content)
    assert try_claim(path) is None
    os.utime(path, (1, 1))
    claim = try_claim(path)
    assert claim is not None
    claim.release()
