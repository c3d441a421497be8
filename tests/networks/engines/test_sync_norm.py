"""Sums over processes that gradients flow through; gloo on the CPU, started by torchrun."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_the_sum_and_its_gradient_are_torchs_without_a_warning() -> None:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *launch, str(Path(__file__).parent / "summed.py")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ours, theirs = json.loads(done.stdout)
    assert ours == theirs
    # d/dx of (1 + 2) i (x_0^2 + x_1^2) at the second rank's x_i = 10 + i.
    assert ours[1] == [3 * i * 2 * (10 + i) for i in range(6)]
