"""What `check` says of intensities: of another range, constant, or far too weak."""

from pathlib import Path

import numpy as np
import pytest
from tiny_sweeps import write_sweeps

from p2pkit.pipelines.check.run import INTENSITY_FAULT, CheckReport, run
from p2pkit.pipelines.settings import CheckConfig


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweeps(tmp_path_factory.mktemp("sweeps") / "kitti", sequences=1, frames=1)


def checked(sweeps: Path, out: Path, intensity: np.ndarray | float | None) -> CheckReport:
    """The recording with other intensities; None leaves those of the recording."""
    path = sweeps / "sequences" / "00" / "velodyne" / "000000.bin"
    before = path.read_bytes()
    if intensity is not None:
        records = np.frombuffer(before, np.float32).reshape(-1, 4).copy()
        records[:, 3] = intensity
        path.write_bytes(records.tobytes())
    try:
        return run(CheckConfig(source=sweeps, dataset="kitti-odometry", out=out, frames=1))
    finally:
        path.write_bytes(before)


def test_usual_intensities_pass(sweeps: Path, tmp_path: Path) -> None:
    report = checked(sweeps, tmp_path, None)
    found = {verdict.test: verdict for verdict in report.verdicts}
    assert found["intensity"].outcome == "pass"
    assert (
        0.1 <= found["intensity"].figures["lowest"] < found["intensity"].figures["highest"] <= 0.8
    )
    # A fifth of the points lie before the camera; of those nearly all have a pair.
    assert "% of the points in 1 frame are seen by a camera" in found["coverage"].reason


def test_another_range_is_a_fault_by_name(sweeps: Path, tmp_path: Path) -> None:
    [fields, *_] = checked(sweeps, tmp_path, 255.0).verdicts
    assert (fields.outcome, fields.fault) == ("fail", INTENSITY_FAULT)
    assert "intensity is 255 to 255; expected 0 to 1, the range of this format" in fields.reason


@pytest.mark.parametrize(
    ("intensity", "reason"),
    [(0.3, "0.3 for every point of 1 frames"), (None, "never above 1/50")],
)
def test_intensities_that_tell_nothing_are_a_warning(
    sweeps: Path, tmp_path: Path, intensity: float | None, reason: str
) -> None:
    weak = np.linspace(0, 0.0039, 3000) if intensity is None else intensity
    found = {verdict.test: verdict for verdict in checked(sweeps, tmp_path, weak).verdicts}
    assert found["intensity"].outcome == "cannot tell"
    assert reason in found["intensity"].reason
