"""Faults that a store must survive, or report. The long versions stand in benchmarks/faults.py."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tools")]

from tiny_store import write_all  # noqa: E402  (found through the line above)


@pytest.fixture
def whole_tar(tmp_path: Path) -> Path:
    """A written tar store."""
    write_all(tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def whole_zarr(tmp_path: Path) -> Path:
    """A written zarr store."""
    write_all(tmp_path / "store", "zarr")
    return tmp_path / "store"
