"""What the tests share, and when they may be skipped: made_once.py, required_in_ci.py."""

from collections.abc import Callable
from pathlib import Path

import jaxtyping
import pytest
from made_once import shared_folder
from required_in_ci import fail_if_required


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one of several processes of pytest-xdist."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)


class Factory(pytest.TempPathFactory):
    """pytest's factory in a process of pytest-xdist that has this folder."""

    def __init__(self, base: Path) -> None:
        self._basetemp = base
        base.mkdir()


def folder_with(text: str, made: list[str]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        folder.mkdir()
        (folder / "file").write_text(text)
        made.append(text)

    return make


def test_a_second_process_takes_what_the_first_has_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    made: list[str] = []
    factories = [Factory(tmp_path / name) for name in ("gw0", "gw1")]
    bodies = [
        shared_folder(factory, "room", folder_with(text, made))
        for factory, text in zip(factories, "ab", strict=True)
    ]
    assert next(bodies[0]) == next(bodies[1]) == tmp_path / "shared" / "room"
    assert made == ["a"]
    for body in bodies:
        with pytest.raises(StopIteration):
            next(body)


@pytest.mark.usefixtures("alone")
def test_what_failed_is_made_again(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        folder.mkdir()
        raise ZeroDivisionError

    factory = Factory(tmp_path / "base")
    with pytest.raises(ZeroDivisionError):
        next(shared_folder(factory, "room", fail))
    assert (next(shared_folder(factory, "room", folder_with("a", []))) / "file").is_file()


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("name", ["file", "another"])
def test_writing_into_a_shared_folder_fails_the_session(name: str, tmp_path: Path) -> None:
    body = shared_folder(Factory(tmp_path / "base"), "room", folder_with("a", []))
    (next(body) / name).write_text("changed")
    with pytest.raises(AssertionError, match=f"shared room, where it needs a copy: .'{name}'"):
        next(body)


def skipped(reason: str) -> pytest.TestReport:
    place = ("test_file.py", 3, f"Skipped: {reason}")
    return pytest.TestReport("test", ("test_file.py", 3, "test"), {}, "skipped", place, "setup")


@pytest.mark.parametrize(
    ("reason", "ci", "outcome"),
    [
        ("could not import 'MinkowskiEngine'", "1", "failed"),
        ("no recordings at data: set P2PKIT_DATA to the folder that holds them", "1", "failed"),
        ("no CUDA device", "1", "skipped"),
        ("could not import 'MinkowskiEngine'", "", "skipped"),
    ],
)
def test_ci_may_not_skip_what_it_has_to_have(
    reason: str, ci: str, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P2PKIT_CI", ci)
    report = skipped(reason)
    fail_if_required(report)
    assert report.outcome == outcome
    assert reason in str(report.longrepr)


def test_shapes_are_not_checked_here() -> None:
    assert jaxtyping.config.jaxtyping_disable


@pytest.mark.cuda
def test_a_test_marked_cuda_has_a_device() -> None:
    import torch

    assert torch.cuda.is_available()
