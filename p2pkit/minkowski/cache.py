"""A cache of built wheels: one folder per target, filled by one process at a time.

CACHE/<key>/minkowskiengine-….whl
CACHE/<key>/record.json     target and sha256 of the wheel; written last, the only marker
CACHE/<key>.lock            held while a process builds or checks
"""

import fcntl
import json
import shutil
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from p2pkit.errors import MissingDependencyError
from p2pkit.files import sha256_file, writable_cache_folder, write_json
from p2pkit.minkowski.build import Report
from p2pkit.minkowski.target import BuildTarget


def wheel_cache_folder() -> Path:
    """Where wheels are kept: `wheels` in the user's cache folder, else in the environment."""
    return writable_cache_folder("wheels") or Path(sys.prefix) / "cache" / "p2pkit" / "wheels"


def obtain_wheel(
    target: BuildTarget,
    folder: Path,
    *,
    build: Callable[[BuildTarget, Path], Path],
    check: Callable[[Path], None],
    report: Report,
) -> Path:
    """A wheel for `target` that passes `check`: the cached one if it is whole, else a new one.

    Several processes may ask at the same time: one builds, the others wait for it.

    Args:
        target: the variant that is wanted.
        folder: the cache.
        build: makes the wheel in the folder that it is given.
        check: raises MissingDependencyError for a wheel that must not be used.
        report: takes one line of progress at a time.

    Raises:
        MissingDependencyError: the build failed, or the new wheel fails its check.
    """
    entry = folder / target.cache_key()
    with _locked(folder / f"{entry.name}.lock"):
        wheel = read_entry(entry)
        if wheel is not None:
            try:
                check(wheel)
                report(f"using the wheel built before: {wheel}")
                return wheel
            except MissingDependencyError as error:
                report(f"the wheel built before is not usable, building it again ({error})")
        shutil.rmtree(entry, ignore_errors=True)
        wheel = build(target, entry)
        check(wheel)
        record = {"target": asdict(target), "wheel": wheel.name, "sha256": sha256_file(wheel)}
        write_json(entry / "record.json", record)
        return wheel


def read_entry(entry: Path) -> Path | None:
    """The wheel of one cache folder, or None where it is absent, unfinished or altered."""
    record_file = entry / "record.json"
    if not record_file.is_file():
        return None
    record = json.loads(record_file.read_text())
    wheel = entry / record["wheel"]
    return wheel if wheel.is_file() and sha256_file(wheel) == record["sha256"] else None


@contextmanager
def _locked(path: Path) -> Generator[None]:
    """Hold an exclusive lock that the system frees when the process ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
