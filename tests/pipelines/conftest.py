"""Fixtures for stages: scripts that die on purpose."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def run_killed_at() -> Callable[..., None]:
    """Runs tests/pipelines/killed_at.py with arguments on one CPU thread; fails if it fails."""

    def run(*arguments: object) -> None:
        done = subprocess.run(
            [sys.executable, Path(__file__).parent / "killed_at.py", *map(str, arguments)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    return run
