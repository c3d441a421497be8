"""Ctrl-C in training."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_recording import tiny_train_config

from p2pkit.pipelines.train.checkpoints import latest_checkpoint, list_checkpoints
from p2pkit.pipelines.train.run import resume, run, stop_on_signal
from p2pkit.pipelines.train.step import StepReport


@pytest.fixture(autouse=True)
def python_handler() -> Iterator[None]:
    """Ctrl-C as in a foreground process, whoever started the tests."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_saves_the_step_in_work(
    room_store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupt(report: StepReport) -> None:
        if report.step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(tiny_train_config(room_store), out, progress=interrupt)
    assert latest_checkpoint(out).step == 2
    assert "Stopping with a checkpoint after the current step" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resume(out)
    assert latest_checkpoint(out).step == 6


def test_a_second_ctrl_c_stops_at_once(room_store: Path, tmp_path: Path) -> None:
    def interrupt(report: StepReport) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tiny_train_config(room_store), tmp_path / "run", progress=interrupt)
    assert not list_checkpoints(tmp_path / "run")


def test_a_job_that_ignores_ctrl_c_goes_on_ignoring_it() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stop_on_signal() as asked:
        os.kill(os.getpid(), signal.SIGINT)
        assert not asked()
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked()
