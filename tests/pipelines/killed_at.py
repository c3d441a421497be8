"""Runs stages in forked children that SIGKILL themselves at chosen moments; a script for tests.

Forks of one process that has imported everything but computed nothing are cheap and exact: a
moment is "just before the n-th fsync or rename", not a time.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch.utils.tensorboard  # noqa: F401
from tiny_recording import recording_config, tiny_train_config

import p2pkit.teachers.network_teacher
import p2pkit.teachers.timm_network  # noqa: F401
from p2pkit.networks import choose_engine
from p2pkit.pipelines.extract import run as extract
from p2pkit.pipelines.train import run as train
from p2pkit.pipelines.train.step import StepReport


def fork(work: Callable[[], object]) -> int:
    """Start a child that does `work`; gives its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return pid


def wait(pid: int) -> int:
    """The child's exit code; negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_before_commit(work: Callable[[], object], number: int) -> int:
    """Do `work` in a child that dies before its fsync or rename of that number (from 1)."""
    left = [number]

    def count(call: Callable[..., object]) -> Callable[..., object]:
        def counted(*arguments: object) -> object:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments)

        return counted

    def patched() -> None:
        os.fsync, os.replace = count(os.fsync), count(os.replace)
        work()

    return wait(fork(patched))


def killed_after_step(work: Callable[[train.Progress], object], step: int) -> int:
    """Do `work` in a child that dies when it reports that step."""

    def kill(report: StepReport) -> None:
        if report.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return wait(fork(lambda: work(kill)))


def extract_killed(root: Path, folder: Path, moments: list[int]) -> None:
    """Kill an extraction at each moment, then run it again."""
    for moment in moments:
        config = recording_config(root, folder / str(moment))
        assert killed_before_commit(lambda c=config: extract.run(c), moment) == -signal.SIGKILL
        assert wait(fork(lambda c=config: extract.run(c))) == 0


def extract_at_once(root: Path, folder: Path, workers: int) -> None:
    """Start several extractions of one store at the same moment."""
    config = recording_config(root, folder / "together")
    children = [fork(lambda: extract.run(config)) for _ in range(workers)]
    assert [wait(child) for child in children] == [0] * workers


def train_interrupted(
    store: Path, folder: Path, commits: list[int], steps: list[int], stops: list[int]
) -> None:
    """Train without a break into `whole`, then in two parts, broken off in three ways."""
    choose_engine("auto")
    config = tiny_train_config(store)
    assert wait(fork(lambda: train.run(config, folder / "whole"))) == 0
    for number in commits:
        out = folder / f"commit-{number}"
        code = killed_before_commit(lambda o=out: train.run(config, o), number)
        assert code == -signal.SIGKILL
        assert wait(fork(lambda o=out: train.resume(o))) == 0
    for step in steps:
        out = folder / f"step-{step}"
        code = killed_after_step(lambda show, o=out: train.run(config, o, progress=show), step)
        assert code == -signal.SIGKILL
        assert wait(fork(lambda o=out: train.resume(o))) == 0
    for stop in stops:
        out = folder / f"stop-{stop}"
        assert wait(fork(lambda o=out, n=stop: train.run(config, o, stop_after=n))) == 0
        assert wait(fork(lambda o=out: train.resume(o))) == 0


if __name__ == "__main__":
    stage, source, target, *numbers = sys.argv[1:]
    lists = [[int(number) for number in text.split(",")] for text in numbers]
    if stage == "extract":
        extract_killed(Path(source), Path(target), lists[0])
        extract_at_once(Path(source), Path(target), workers=2)
    else:
        train_interrupted(Path(source), Path(target), *lists)
