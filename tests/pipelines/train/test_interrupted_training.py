"""Ctrl-C in training, and a second process on one run."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_recording import tiny_train_config

from p2pkit.errors import TrainingError
from p2pkit.files import process_space
from p2pkit.pipelines.train.checkpoints import latest_checkpoint, list_checkpoints
from p2pkit.pipelines.train.logs import read_metrics
from p2pkit.pipelines.train.run import CLAIM, resume, run, stop_on_signal
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
    assert not (tmp_path / "run" / CLAIM).exists()


def test_a_job_that_ignores_ctrl_c_goes_on_ignoring_it() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with stop_on_signal() as asked:
        os.kill(os.getpid(), signal.SIGINT)
        assert not asked()
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked()


def test_a_run_is_trained_by_one_process_at_a_time(room_store: Path, tmp_path: Path) -> None:
    out, refused = tmp_path / "run", []

    def resume_too(report: StepReport) -> None:
        with pytest.raises(TrainingError) as error:
            resume(out)
        refused.append(str(error.value))
        if report.step == 1:
            raise ValueError("a fault of the training")

    with pytest.raises(ValueError, match="a fault of the training"):
        run(tiny_train_config(room_store, steps=2, checkpoint_every=1), out, progress=resume_too)
    assert len(refused) == 2
    owner = f"process {os.getpid()} on {os.uname().nodename}"
    assert f"{out} is being trained by {owner}; two would" in refused[0]
    assert [row["step"] for row in read_metrics(out)] == [0, 1]
    assert not (out / CLAIM).exists()


def test_a_run_of_a_killed_process_is_resumed_at_once(room_store: Path, tmp_path: Path) -> None:
    out = run(tiny_train_config(room_store, steps=2), tmp_path / "run", stop_after=1)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = {"machine": process_space(), "host": "here", "pid": dead.pid, "token": "x"}
    (out / CLAIM).write_text(json.dumps(left))
    assert latest_checkpoint(resume(out)).step == 2
    assert not (out / CLAIM).exists()
