"""benchmarks/accelerator.py with tiny sizes: it runs, and counts what it says."""

import importlib
import json
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_recording import TEACHER

from p2pkit.teachers import TEACHERS

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch, room_recording: Path) -> ModuleType:
    """The script, on a recording of 12 frames."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    found = importlib.import_module("accelerator")
    monkeypatch.setattr(found, "recording", lambda: ("posed-rgbd", room_recording))
    monkeypatch.setattr(found, "RATIOS", (0.8, 3.0))
    monkeypatch.setattr(found, "TEACHERS_ON_CPU", {"a small network": TEACHER})
    monkeypatch.setitem(TEACHERS, "simulated", None)
    return found


def test_batches_wait_for_each_other_on_the_simulated_accelerator(benchmark: ModuleType) -> None:
    teacher = benchmark.Simulated(0.001, 4)
    images = [np.zeros((64, 96, 3), np.uint8)] * 4
    assert teacher.features(images).shape == (4, 2, 3, 320)
    teacher.features(images)
    (begin, end), (later, last) = teacher.spans
    assert (end - begin, last - later) == (pytest.approx(0.004), pytest.approx(0.004))
    assert later >= end
    assert teacher.busy == pytest.approx(0.008 / (last - begin))
    teacher.spans = [(0.0, 1.0), (3.0, 4.0)]
    assert teacher.busy == 0.5


def test_the_whole_script(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    child = CliRunner().invoke(benchmark.main, ["--frames", "12", "--bound-to", "1"])
    found = json.loads(child.stdout)
    assert [row["ratio"] for row in found["rows"]] == [0.8, 3.0]
    assert all(0 < row["busy"] <= 1 + 1e-9 for row in found["rows"])
    assert found["rows"][1]["image_s"] == pytest.approx(3 * found["own_cpu_s"])
    monkeypatch.setattr(benchmark, "on_cores", lambda cores, *_: {**found, "cores": cores})
    sizes = ["--frames", "12", "--cores", "2", "--cpu-frames", "8", "--repeat", "1"]
    shown = CliRunner().invoke(benchmark.main, sizes)
    assert shown.exit_code == 0, shown.output
    assert "extrapolated, not measured: 16 cores would feed" in shown.stdout
    assert "extraction / (teacher + own)" in shown.stdout
    costs = [float(word) for word in re.findall(r"(?:own|extraction) (\d+\.\d)", shown.stdout)]
    assert 0 < costs[0] < costs[1]
