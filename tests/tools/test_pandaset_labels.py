"""The converter of PandaSet finds labels with either ending, and says which sweeps have none."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest

TOOL = Path(__file__).parents[2] / "tools" / "pandaset_to_npz.py"


def write_sequence(root: Path, sweep_ending: str, label_ending: str, *, far_m: float = 0.0) -> None:
    """Two sweeps, of which the first has labels."""
    for folder in ("lidar", "camera", "annotations/semseg"):
        (root / folder).mkdir(parents=True)
    rows = {name: np.arange(4.0) + 1 for name in "xyzit"} | {"d": np.zeros(4)}
    rows["y"] = rows["y"] / 8 + far_m
    for number in ("00", "01"):
        pandas.DataFrame(rows).to_pickle(root / "lidar" / f"{number}{sweep_ending}")
    labels = pandas.DataFrame({"class": np.full(4, 7)})
    labels.to_pickle(root / "annotations" / "semseg" / f"00{label_ending}")
    pose = {
        "heading": {"w": 1.0, "x": 0.0, "y": 0.0, "z": 0.0},
        "position": {"x": 0.0, "y": far_m, "z": 0.0},
    }
    (root / "lidar" / "poses.json").write_text(json.dumps([pose, pose]))
    (root / "lidar" / "timestamps.json").write_text("[0.0, 0.1]")


def convert(source: Path, target: Path) -> str:
    """Run the tool; gives what it says on stderr."""
    command = [sys.executable, str(TOOL), str(source), str(target)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stderr


@pytest.mark.parametrize(
    ("sweeps", "labels"), [(".pkl.gz", ".pkl.gz"), (".pkl", ".pkl"), (".pkl", ".pkl.gz")]
)
def test_labels_are_found_with_either_ending(sweeps: str, labels: str, tmp_path: Path) -> None:
    write_sequence(tmp_path / "001", sweeps, labels)
    said = convert(tmp_path / "001", tmp_path / "out")
    with np.load(tmp_path / "out" / "001" / "lidar" / "00.npz") as sweep:
        assert (sweep["label"] == 7).all()
        assert sweep["xyz"].dtype == np.float32
    with np.load(tmp_path / "out" / "001" / "lidar" / "01.npz") as sweep:
        assert (sweep["label"] == 0).all()
    assert "no labels of sweep 01" in said
    assert "sweep 00" not in said


def test_far_coordinates_stay_fine(tmp_path: Path) -> None:
    write_sequence(tmp_path / "001", ".pkl", ".pkl", far_m=5_334_760.0)
    convert(tmp_path / "001", tmp_path / "out")
    with np.load(tmp_path / "out" / "001" / "lidar" / "00.npz") as sweep:
        assert len(np.unique(sweep["xyz"][:, 1])) == 4
