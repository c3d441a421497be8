"""A real sweep is written in PandaSet's own layout with pandas, converted, and compared.

The layout is documented in the readme of the pandaset-devkit repository and in its `sensors.py`.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from scipy.spatial.transform import Rotation

from p2pkit.datasets.frame import SourceOptions
from p2pkit.datasets.registry import open_source

pytestmark = pytest.mark.realdata
ROOT = Path(__file__).parents[2]
NUMBERS = ("00", "16")
THINNED = 16


def listed(of_number: dict[str, Any]) -> list[Any]:
    """A list whose entry NN is the one of NN; entries of sweeps that are not there are null."""
    return [of_number.get(f"{number:02d}") for number in range(17)]


def pose_json(matrix: list[list[float]]) -> dict[str, dict[str, float]]:
    array = np.array(matrix)
    x, y, z, w = Rotation.from_matrix(array[:3, :3]).as_quat()
    heading = {"w": w, "x": x, "y": y, "z": z}
    return {"position": dict(zip("xyz", array[:3, 3], strict=True)), "heading": heading}


def write_original(npz: Path, root: Path) -> None:
    """PandaSet's own layout around the first two real sweeps."""
    calib = json.loads((npz / "calib.json").read_text())
    lidar, semseg = root / "lidar", root / "annotations" / "semseg"
    lidar.mkdir(parents=True)
    semseg.mkdir(parents=True)
    shutil.copy(npz / "semseg_classes.json", semseg / "classes.json")
    (lidar / "timestamps.json").write_text(json.dumps(listed(calib["lidar_timestamp"])))
    poses = {number: pose_json(calib["lidar_pose"][number]) for number in NUMBERS}
    (lidar / "poses.json").write_text(json.dumps(listed(poses)))
    for number in NUMBERS:
        time = calib["lidar_timestamp"][number]
        with np.load(npz / "lidar" / f"{number}.npz") as sweep:
            fields = {name: sweep[name][::THINNED] for name in sweep}
            frame = pandas.DataFrame(fields["xyz"].astype(np.float64), columns=["x", "y", "z"])
            frame["i"] = fields["intensity"].astype(np.float64)
            frame["t"] = fields["t"].astype(np.float64) + time
            frame["d"] = fields["sensor"].astype(np.int64)
            frame.to_pickle(lidar / f"{number}.pkl.gz")
            classes = pandas.DataFrame({"class": fields["label"].astype(np.int64)})
            classes.to_pickle(semseg / f"{number}.pkl.gz")
    cuboids = root / "annotations" / "cuboids"
    cuboids.mkdir()
    rows = json.loads((npz / "cuboids" / "16.json").read_text())
    pandas.DataFrame(rows).to_pickle(cuboids / "16.pkl.gz")
    for name, camera in calib["cameras"].items():
        folder = root / "camera" / name
        folder.mkdir(parents=True)
        k = camera["K"]
        k = {"fx": k[0][0], "fy": k[1][1], "cx": k[0][2], "cy": k[1][2]}
        (folder / "intrinsics.json").write_text(json.dumps(k))
        poses = {number: pose_json(camera["T_world_camera"][number]) for number in NUMBERS}
        (folder / "poses.json").write_text(json.dumps(listed(poses)))
        (folder / "timestamps.json").write_text(json.dumps(listed(camera["timestamp"])))
        for number in NUMBERS:
            shutil.copy(npz / "camera" / name / f"{number}.jpg", folder)


def test_converted_sweeps_are_those_of_the_npz_form(data_root: Path, tmp_path: Path) -> None:
    write_original(data_root / "pandaset" / "002", tmp_path / "in" / "002")
    tool = ROOT / "tools" / "pandaset_to_npz.py"
    arguments = [sys.executable, str(tool), str(tmp_path / "in"), str(tmp_path / "out")]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip().endswith("2 sweeps")
    converted = open_source("pandaset", SourceOptions(tmp_path / "out"))
    given = open_source("pandaset", SourceOptions(data_root / "pandaset"))
    assert converted.label_names == given.label_names
    assert list(converted.keys()) == ["002_00", "002_16"]
    one, other = converted.load("002_16"), given.load("002_16")
    for name, atol in (("points", 1e-5), ("point_time_s", 1e-6), ("labels", 0), ("intensity", 0)):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name)[::THINNED], atol=atol)
    assert converted.load("002_00").boxes is None
    assert one.boxes is not None
    assert other.boxes is not None
    assert one.boxes.given == other.boxes.given
    for name in ("center", "size", "yaw"):
        np.testing.assert_allclose(getattr(one.boxes, name), getattr(other.boxes, name))
    by_camera = {view.camera: view for view in other.views}
    assert len(by_camera) == len(one.views) == 6
    for view in one.views:
        same = by_camera[view.camera]
        np.testing.assert_allclose(view.camera_from_sensor, same.camera_from_sensor, atol=1e-9)
        assert view.time_offset_s == same.time_offset_s
        np.testing.assert_array_equal(view.image[::50, ::50], same.image[::50, ::50])
