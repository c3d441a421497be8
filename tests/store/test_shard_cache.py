import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from object_server import Bucket
from test_remote_store import read_everything, whole_reads
from tiny_store import flip, geometry_sample, manifest, write_all

from p2pkit.errors import ConfigError
from p2pkit.store.reading import Store, open_store
from p2pkit.store.remote.cache import ENTRY, LOCKS, find_cache, lock_file, open_cache
from p2pkit.store.writing import create_or_open

READ_ALL = """
import sys, warnings
sys.path[:0] = sys.argv[2:]
from test_remote_store import read_everything
from p2pkit.store.reading import open_store
warnings.simplefilter("error" if sys.argv[1][0] != "!" else "always")
print("ready", flush=True)
sys.stdin.readline()
read_everything(open_store(sys.argv[1].lstrip("!")))
print("done", flush=True)
"""
PATHS = [str(Path(__file__).parent), str(Path(__file__).parents[1])]


def start(url: str, before: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    """A process that will read the store once a line is sent to it."""
    process = subprocess.Popen(
        [sys.executable, "-c", READ_ALL, url, *PATHS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for such a process; returns what it said on stderr."""
    out, errors = process.communicate(timeout=60)
    assert (out, process.returncode) == ("done\n", 0), errors
    return errors


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def entries(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.name != LOCKS]


def used(cache: Path) -> int:
    return sum(path.stat().st_size for path in entries(cache))


def test_a_second_store_reads_from_the_cache(
    tiny_tar: Path, bucket: Bucket, remote_environment: Path
) -> None:
    url = bucket.upload(tiny_tar)
    read_everything(open_store(url))
    fetched = whole_reads(bucket)
    assert len(fetched) == len(set(fetched)) == len(entries(remote_environment))
    bucket.faults.requests.clear()
    read_everything(open_store(url))
    assert not whole_reads(bucket)
    assert used(remote_environment) == sum(
        (tiny_tar / path.partition("rooms.store/")[2]).stat().st_size for path in fetched
    )


def test_a_shard_that_was_replaced_is_fetched_anew(
    tiny_tar: Path, bucket: Bucket, remote_environment: Path
) -> None:
    read_everything(open_store(bucket.upload(tiny_tar)))
    before = set(entries(remote_environment))
    shutil.rmtree(tiny_tar)
    write_all(tiny_tar)
    other = geometry_sample("frame-4")
    other.arrays["points"][0, 0] += 1
    writer = create_or_open(tiny_tar, manifest())
    shard, row = open_store(tiny_tar).find("frame-4")
    keys = open_store(tiny_tar).keys(shard)
    writer.write("geometry", shard, [other if k == "frame-4" else geometry_sample(k) for k in keys])
    store = open_store(bucket.upload(tiny_tar))
    for _ in range(2):
        found = store.read("geometry", shard, row)
    np.testing.assert_array_equal(found.arrays["points"], other.arrays["points"])
    assert len(set(entries(remote_environment)) - before) == 1


def read_twice(store: Store, layer: str, shard: int) -> None:
    """Enough to have it fetched."""
    for _ in range(2):
        store.read(layer, shard, 0)


def test_the_shards_used_longest_ago_make_room(
    tiny_tar: Path, bucket: Bucket, remote_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(bucket.upload(tiny_tar))
    sizes = [store.record("geometry", shard).bytes for shard in range(3)]
    monkeypatch.setenv("P2PKIT_CACHE_GB", f"{(sizes[0] + sizes[1]) / 1e9:.9f}")
    remote_environment.mkdir()
    foreign = remote_environment / "notes-2024"
    foreign.write_text("mine")
    read_twice(store, "geometry", 0)
    read_twice(store, "geometry", 1)
    first, second = sorted(
        (path for path in entries(remote_environment) if path != foreign),
        key=lambda path: path.stat().st_size != sizes[0],
    )
    os.utime(first, (1, 1))
    os.utime(second, (2, 2))
    read_twice(store, "geometry", 2)
    left = {path for path in entries(remote_environment) if path != foreign}
    assert first not in left
    assert second in left
    assert sum(int(path.name.rpartition("-")[2]) for path in left) <= sizes[0] + sizes[1]
    assert foreign.read_text() == "mine"
    read_everything(store)


def test_a_shard_in_use_is_never_removed(
    tiny_tar: Path, bucket: Bucket, remote_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = bucket.upload(tiny_tar)
    store = open_store(url)
    size = store.record("geometry", 1).bytes
    read_twice(store, "geometry", 1)
    [entry] = entries(remote_environment)
    monkeypatch.setenv("P2PKIT_CACHE_GB", f"{size / 1e9:.9f}")
    other = lock_file(remote_environment / LOCKS / entry.name, shared=True, wait=True)
    try:
        read_everything(open_store(url))
        assert entries(remote_environment) == [entry]
    finally:
        os.close(other)
    open_cache.cache_clear()
    read_everything(open_store(url))
    assert entries(remote_environment) != [entry]
    assert used(remote_environment) <= size


def test_threads_fetch_a_shard_once(tiny_tar: Path, bucket: Bucket) -> None:
    store = open_store(bucket.upload(tiny_tar))
    bucket.faults.choose = lambda r: 0.1 if (r.range or "").startswith("bytes=0-") else None
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda turn: store.read("geometry", 1, turn % 3), range(40)))
    assert len(whole_reads(bucket)) == 1


def test_two_processes_fill_the_cache_at_once(
    tiny_tar: Path, bucket: Bucket, remote_environment: Path
) -> None:
    url = bucket.upload(tiny_tar)
    bucket.faults.choose = lambda r: 0.1 if (r.range or "").startswith("bytes=0-") else None
    processes = [start(url), start(url)]
    for process in processes:
        go(process)
    for process in processes:
        finish(process)
    fetched = whole_reads(bucket)
    assert len(fetched) == len(set(fetched)) == len(entries(remote_environment)) > 2
    assert all(ENTRY.fullmatch(path.name) for path in entries(remote_environment))


def test_a_killed_process_leaves_nothing_in_the_way(
    tiny_tar: Path, bucket: Bucket, remote_environment: Path
) -> None:
    url = bucket.upload(tiny_tar)
    fetching = threading.Event()

    def slow(request: object) -> float | None:
        if (getattr(request, "range", None) or "").startswith("bytes=0-"):
            fetching.set()
            return 1.0
        return None

    bucket.faults.choose = slow
    process = start(url)
    go(process)
    assert fetching.wait(30)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [path.name[:5] for path in entries(remote_environment)] == [".tmp-"]
    bucket.faults.choose = lambda request: None
    read_everything(open_store(url))
    assert all(not path.name.startswith(".tmp-") for path in entries(remote_environment))


def damage(path: Path, how: str) -> None:
    if how == "flip":
        flip(path, 520)
    elif how == "truncate":
        os.truncate(path, 900)
    elif how == "empty":
        os.truncate(path, 0)
    else:
        path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("how", ["flip", "truncate", "empty", "zeros"])
def test_a_damaged_copy_is_noticed_and_fetched_anew(
    tiny_tar: Path, bucket: Bucket, remote_environment: Path, how: str
) -> None:
    url = bucket.upload(tiny_tar)
    read_everything(open_store(url))
    good = {path: path.read_bytes() for path in entries(remote_environment)}
    for path in good:
        damage(path, how)
    open_cache.cache_clear()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the copy of .* in the cache is damaged", RuntimeWarning)
        store = open_store(url)
        read_everything(store)
        read_everything(store)
    assert {path: path.read_bytes() for path in good} == good


def test_a_damaged_copy_is_told_of(
    tiny_tar: Path, bucket: Bucket, remote_environment: Path
) -> None:
    store = open_store(bucket.upload(tiny_tar))
    read_twice(store, "geometry", 1)
    [path] = entries(remote_environment)
    flip(path, 520)
    with pytest.warns(RuntimeWarning, match=r"geometry/000001\.tar in the cache is damaged"):
        store.read("geometry", 1, 0)


def small_files_only() -> None:
    """No file of the process may grow beyond 4 KB, so that no shard fits on the disk."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


def test_a_disk_that_takes_no_more_leaves_the_server(
    tiny_tar: Path, bucket: Bucket, remote_environment: Path
) -> None:
    process = start("!" + bucket.upload(tiny_tar), small_files_only)
    go(process)
    message = finish(process)
    assert message.count("cannot be used (") == 1
    assert "Set P2PKIT_CACHE to a folder with room" in message
    assert not entries(remote_environment)


def test_a_cache_that_is_no_folder(
    tiny_tar: Path, bucket: Bucket, remote_environment: Path
) -> None:
    remote_environment.write_text("a file")
    store = open_store(bucket.upload(tiny_tar))
    with pytest.warns(RuntimeWarning, match="samples are read one by one"):
        read_everything(store)
    assert remote_environment.read_text() == "a file"


def test_a_limit_of_0_keeps_nothing(
    tiny_tar: Path, bucket: Bucket, remote_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P2PKIT_CACHE_GB", "0")
    read_everything(open_store(bucket.upload(tiny_tar)))
    assert not remote_environment.exists()


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf", ""])
def test_a_limit_that_is_no_number(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2PKIT_CACHE_GB", text)
    with pytest.raises(ConfigError, match=r"P2PKIT_CACHE_GB is .* a number of gigabytes"):
        find_cache()


def test_a_lock_whose_file_was_deleted_is_taken_on_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "one"
    held = lock_file(path, shared=False, wait=True)
    assert lock_file(path, shared=True, wait=False) is None
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lock_file, path, shared=False, wait=True)
        time.sleep(0.05)
        path.unlink()
        os.close(held)
        taken = waiting.result(timeout=10)
    assert taken is not None
    assert os.path.samestat(os.fstat(taken), path.stat())
    os.close(taken)
