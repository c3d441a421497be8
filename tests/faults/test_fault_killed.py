"""Writers that are killed lose at most the shards in work: the short form of the benchmark."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def test_three_killed_writers_leave_a_store_that_ends_the_same() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "faults.py")]
    options = ["--rounds", "4", "--extract-rounds", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *options], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = done.stdout.splitlines()[1:]
    assert [row.endswith("equal to the byte") for row in rows] == [True] * 3
    assert all(int(row.split()[-7]) > 0 for row in rows), "nobody was killed"
