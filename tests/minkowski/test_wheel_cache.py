"""The cache of wheels, with small wheels instead of five-minute ones."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from p2pkit.errors import MissingDependencyError
from p2pkit.minkowski.cache import obtain_wheel, read_entry, wheel_cache_folder
from p2pkit.minkowski.target import BuildTarget

TARGET = BuildTarget("0.5.4", "2.13.0", "cp311", "linux-x86_64", None, "", "torch", "0" * 64)

PROCESS = """
import os, sys, time
from pathlib import Path
from p2pkit.minkowski.cache import obtain_wheel
from p2pkit.minkowski.target import BuildTarget
def build(target, folder):
    with open(sys.argv[2], "a") as log:
        log.write("built\\n")
    time.sleep(0.5)
    folder.mkdir(parents=True)
    (folder / "engine.whl").write_bytes(b"wheel")
    return folder / "engine.whl"
target = BuildTarget("0.5.4", "2.13.0", "cp311", "linux-x86_64", None, "", "torch", "0" * 64)
obtain_wheel(target, Path(sys.argv[1]), build=build, check=lambda wheel: None, report=print)
"""


class Builder:
    """Counts its builds, and makes a wheel with the text `content`."""

    def __init__(self, content: str = "good") -> None:
        self.content = content
        self.builds = 0

    def __call__(self, target: BuildTarget, folder: Path) -> Path:
        self.builds += 1
        folder.mkdir(parents=True)
        wheel = folder / f"engine-{target.engine}.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("content", self.content)
        return wheel


def check(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        if archive.read("content") != b"good":
            raise MissingDependencyError("computes wrongly")


def ignore(line: str) -> None:
    del line


def obtain(folder: Path, builder: Builder, target: BuildTarget = TARGET) -> Path:
    return obtain_wheel(target, folder, build=builder, check=check, report=ignore)


def test_a_second_call_builds_nothing(tmp_path: Path) -> None:
    builder = Builder()
    first = obtain(tmp_path, builder)
    assert obtain(tmp_path, builder) == first
    assert builder.builds == 1


def test_another_torch_gets_its_own_wheel(tmp_path: Path) -> None:
    builder = Builder()
    other = BuildTarget("0.5.4", "2.14.0", "cp311", "linux-x86_64", None, "", "torch", "0" * 64)
    assert obtain(tmp_path, builder) != obtain(tmp_path, builder, other)
    assert builder.builds == 2


def test_an_altered_or_unfinished_entry_is_built_again(tmp_path: Path) -> None:
    builder = Builder()
    wheel = obtain(tmp_path, builder)
    wheel.write_bytes(wheel.read_bytes()[:-1])
    assert read_entry(wheel.parent) is None
    wheel = obtain(tmp_path, builder)
    (wheel.parent / "record.json").unlink()
    assert obtain(tmp_path, builder) == wheel
    assert builder.builds == 3


def test_a_cached_wheel_that_fails_its_check_is_built_again(tmp_path: Path) -> None:
    bad = Builder("bad")
    obtain_wheel(TARGET, tmp_path, build=bad, check=lambda wheel: None, report=ignore)
    good = Builder()
    check(obtain(tmp_path, good))
    assert good.builds == 1


def test_a_new_wheel_that_fails_its_check_is_never_kept(tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError, match="computes wrongly"):
        obtain(tmp_path, Builder("bad"))
    assert read_entry(tmp_path / TARGET.cache_key()) is None


def test_the_record_tells_what_the_wheel_is_for(tmp_path: Path) -> None:
    wheel = obtain(tmp_path, Builder())
    record = json.loads((wheel.parent / "record.json").read_text())
    assert BuildTarget(**record["target"]) == TARGET


def test_of_several_processes_one_builds(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", PROCESS, str(tmp_path / "cache"), str(log)]
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert log.read_text() == "built\n"


def test_wheels_are_kept_in_the_environment_where_home_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert wheel_cache_folder() == tmp_path / "cache" / "p2pkit" / "wheels"
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    assert wheel_cache_folder() == tmp_path / "venv" / "cache" / "p2pkit" / "wheels"
