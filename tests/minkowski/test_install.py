"""Which variant is installed, and what takes its place where it cannot be built."""

from pathlib import Path
from typing import Any

import pytest

from p2pkit.errors import MissingDependencyError
from p2pkit.minkowski import install
from p2pkit.minkowski.install import Installed, cuda_environment, install_minkowski
from p2pkit.minkowski.target import BuildTarget
from p2pkit.minkowski.toolkit import Toolkit

CPU = {"version": "0.5.4", "built_with_cuda": False, "errors": {"cpu": {}}}
CUDA = {**CPU, "built_with_cuda": True}


class Machine:
    """A machine on which some variants build; keeps what was attempted and reported."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.fails: dict[bool, str] = {}
        self.attempts: list[bool] = []
        self.lines: list[str] = []
        self.patch = patch
        patch.setattr(install, "current_target", self.target)
        patch.setattr(install, "_install", self.build)

    def setup(self, *, gpu: bool, present: dict[str, Any] | None = None) -> None:
        self.patch.setattr(install, "_sees_gpu", lambda: gpu)
        self.patch.setattr(install, "installed_engine", lambda: present)

    def target(self, cuda: bool) -> BuildTarget:
        version = "13.0" if cuda else None
        return BuildTarget("0.5.4", "2.13.0", "cp311", "linux", version, "", "torch", "0" * 64)

    def build(self, target: BuildTarget, report: object) -> dict[str, Any]:
        cuda = target.cuda is not None
        self.attempts.append(cuda)
        if cuda in self.fails:
            raise MissingDependencyError(self.fails[cuda])
        return CUDA if cuda else CPU

    def install(self, cuda: bool | None) -> Installed:
        return install_minkowski(cuda=cuda, report=self.lines.append)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.mark.parametrize(
    ("cuda", "gpu", "present", "attempts"),
    [
        (None, False, None, [False]),
        (None, True, None, [True]),
        (True, False, None, [True]),
        (False, True, None, [False]),
        (None, False, CPU, []),
        (None, False, CUDA, []),
        (None, True, CPU, [True]),
        (None, True, CUDA, []),
        (True, False, CPU, [True]),
        (False, False, CUDA, [False]),
    ],
)
def test_cuda_is_built_where_a_gpu_is_seen_or_asked_for(
    cuda: bool | None,
    gpu: bool,
    present: dict[str, Any] | None,
    attempts: list[bool],
    machine: Machine,
) -> None:
    machine.setup(gpu=gpu, present=present)
    installed = machine.install(cuda)
    assert installed.result is not None
    assert not installed.problem
    assert machine.attempts == attempts


def test_a_failing_cuda_build_gives_way_to_the_cpu_build(machine: Machine) -> None:
    machine.setup(gpu=True)
    machine.fails = {True: "cublas_v2.h: No such file or directory"}
    installed = machine.install(None)
    assert installed == Installed(CPU, "cublas_v2.h: No such file or directory")
    assert machine.attempts == [True, False]
    assert machine.lines == [
        "no CUDA build: cublas_v2.h: No such file or directory; continuing with the CPU build"
    ]


def test_a_working_cpu_build_stays_where_the_cuda_build_fails(machine: Machine) -> None:
    machine.setup(gpu=True, present=CPU)
    machine.fails = {True: "no nvcc"}
    assert machine.install(None) == Installed(CPU, "no nvcc")
    assert machine.attempts == [True]


def test_where_nothing_builds_the_reasons_are_given_and_nothing_is_raised(machine: Machine) -> None:
    machine.setup(gpu=True)
    machine.fails = {True: "no nvcc", False: "no compiler"}
    assert machine.install(None) == Installed(None, "no nvcc; no compiler")


def test_a_folder_that_cannot_be_written_is_a_reason_too(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(target: BuildTarget, report: object) -> dict[str, Any]:
        raise OSError(28, "No space left on device")

    machine.setup(gpu=False)
    monkeypatch.setattr(install, "_install", refuse)
    assert machine.install(None) == Installed(None, "[Errno 28] No space left on device")


@pytest.mark.parametrize("from_pip", [True, False])
def test_a_cuda_build_says_what_it_uses_and_links_pips_libraries(
    from_pip: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toolkit = Toolkit(tmp_path / "cu13", "13.0", from_pip)
    monkeypatch.setattr(install, "require_toolkit", lambda cuda, pip: (toolkit, ["CUDA 12.4"]))
    monkeypatch.setattr(install, "wheel_cache_folder", lambda: tmp_path / "wheels")
    lines: list[str] = []
    environment = cuda_environment("13.0", lines.append)
    assert environment["CUDA_HOME"] == str(tmp_path / "cu13")
    assert lines == ["skipped: CUDA 12.4", f"CUDA toolkit 13.0: {tmp_path / 'cu13'}"]
    linked = environment["LIBRARY_PATH"].startswith(str(tmp_path / "wheels"))
    assert linked is from_pip
