"""Workers of one extraction that die or are interrupted in the middle of a shard."""

import os
import signal
from pathlib import Path

import pytest
from claimed import extract_command, shard_in_work, start
from store_files import tree

pytestmark = pytest.mark.slow

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def is_committed(store: Path, shard: int) -> bool:
    return (store / "geometry" / f"{shard:06d}.json").exists()


def test_a_killed_slurm_task_costs_its_shard_only(
    room_recording: Path, room_store: Path, tmp_path: Path
) -> None:
    """The other task of the array takes the dead one's shard over and finishes."""
    out = tmp_path / "rooms.store"
    command = extract_command(room_recording, out)
    tasks = [start(command, SLURM_LOCALID="0", SLURM_ARRAY_TASK_ID=str(n)) for n in range(2)]
    shard, pid = shard_in_work(out, tasks[0])
    os.kill(pid, signal.SIGKILL)
    assert not is_committed(out, shard)
    outputs = {task.pid: (task.communicate()[1], task.returncode) for task in tasks}
    assert outputs.pop(pid)[1] == -signal.SIGKILL
    ((errors, code),) = outputs.values()
    assert code == 0, errors
    assert tree(out) == tree(room_store)


def test_torchrun_starts_again_after_a_killed_rank(
    room_recording: Path, room_store: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rooms.store"
    command = [*TORCHRUN, "--max-restarts=1", *extract_command(room_recording, out)]
    launcher = start(command)
    shard, pid = shard_in_work(out, launcher)
    os.kill(pid, signal.SIGKILL)
    assert not is_committed(out, shard)
    _, errors = launcher.communicate()
    assert launcher.returncode == 0, errors
    assert tree(out) == tree(room_store)
