"""Extractions in processes of their own, and the one of them that has a shard in work."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from interruptible import interruptible

TEACHER = ("--teacher", "resnet10t", "--layer", "2", "--weights", "random")
DEADLINE_S = 120.0


def extract_command(root: Path, out: Path, *options: str) -> list[str]:
    """`p2pkit extract` of a small recording, four frames per shard."""
    recording = ("extract", str(root), "--dataset", "posed-rgbd", "--voxel-size", "0.02")
    settings = ("--out", str(out), "--shard-size", "4", "--threads", "1", *TEACHER)
    return ["-m", "p2pkit.cli.main", *recording, *settings, *options]


def start(command: list[str], **variables: str) -> subprocess.Popen[str]:
    """Start Python with one thread for the teacher; its output is caught."""
    return subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=interruptible,
    )


def shard_in_work(store: Path, process: subprocess.Popen[str]) -> tuple[int, int]:
    """Wait for the first claimed shard; its number, and the pid of the worker that has it."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end and process.poll() is None:
        for claim in store.glob(".claims/extract-*"):
            try:
                return int(claim.name.split("-")[1]), json.loads(claim.read_text())["pid"]
            except (FileNotFoundError, json.JSONDecodeError):
                continue
        time.sleep(0.002)
    process.kill()
    raise AssertionError(f"no shard was claimed: {process.communicate()}")
