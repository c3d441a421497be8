"""The fixture that writes a small recording for the tests that damage it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from written_recording import write_calibration, write_frame


@pytest.fixture
def make_recording(tmp_path: Path) -> Callable[..., Path]:
    """Write a recording of `count` frames in a folder of this name below tmp_path."""

    def make(name: str = "walk", count: int = 3, units: float = 1000.0) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        write_calibration(folder, depth_units_per_metre=units)
        for number in range(count):
            write_frame(folder, number, units)
        return folder

    return make
