"""Stores to test on."""

from pathlib import Path

import pytest
from tiny_store import write_all


@pytest.fixture(params=["tar", "zarr"])
def tiny_store(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A written store, once per storage."""
    write_all(tmp_path / "store", request.param)
    return tmp_path / "store"


@pytest.fixture
def tiny_tar(tmp_path: Path) -> Path:
    """A written tar store."""
    write_all(tmp_path / "store")
    return tmp_path / "store"
