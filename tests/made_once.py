"""Folders that all tests of a session share, also across the processes of pytest-xdist."""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

State = dict[str, list[int]]


def shared_folder(
    factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]
) -> Iterator[Path]:
    """Body of a session fixture: a folder that the first process to need it makes.

    Others wait for it. When the session ends, a test that wrote into the folder fails it: a test
    that writes takes a copy.

    Args:
        factory: pytest's `tmp_path_factory`.
        name: of the folder.
        make: fills the folder, which does not exist yet, at the path that it is given.
    """
    base = factory.getbasetemp()
    everyone = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, made = everyone / "shared" / name, everyone / "shared" / f"{name}.json"
    folder.parent.mkdir(exist_ok=True)
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # what a failed attempt left
            make(folder)
            made.write_text(json.dumps(state(folder)))
    yield folder
    before, after = json.loads(made.read_text()), state(folder)
    written = sorted(path for path in {*before, *after} if before.get(path) != after.get(path))
    assert not written, f"a test wrote into the shared {name}, where it needs a copy: {written}"


def state(folder: Path) -> State:
    """Size and time of change (ns) of each file; claims come and go with readers."""
    files = [path for path in folder.rglob("*") if path.is_file() and ".claims" not in path.parts]
    return {
        str(path.relative_to(folder)): [path.stat().st_size, path.stat().st_mtime_ns]
        for path in files
    }
