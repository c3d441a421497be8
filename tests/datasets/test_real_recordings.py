import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from p2pkit.datasets.frame import Frame, SourceOptions
from p2pkit.datasets.registry import open_source
from p2pkit.datasets.rgbd.depth_scale import depth_agreement
from p2pkit.errors import SourceError
from p2pkit.geometry.transforms import invert_rigid

pytestmark = pytest.mark.realdata
FRAMES = {"7scenes_redkitchen": 250, "tum_fr3_cabinet": 58, "slambook2_office": 5}


def agreement(first: Frame, second: Frame) -> float:
    assert first.depth is not None
    assert second.depth is not None
    assert first.world_from_sensor is not None
    assert second.world_from_sensor is not None
    j_from_i = invert_rigid(second.world_from_sensor) @ first.world_from_sensor
    metres = [frame.depth.values / frame.depth.units_per_metre for frame in (first, second)]
    return depth_agreement(metres[0], metres[1], first.depth.camera, j_from_i)


@pytest.mark.parametrize("name", FRAMES)
def test_recording_opens_as_it_lies_there(data_root: Path, name: str):
    source = open_source("posed-rgbd", SourceOptions(data_root / name))
    assert len(source.keys()) == FRAMES[name]
    for key in (source.keys()[0], source.keys()[-1]):
        frame = source.load(key)
        assert frame.depth is not None
        metres = frame.depth.values / frame.depth.units_per_metre
        assert 0.5 < np.median(metres[metres > 0]) < 4.0
        assert frame.depth.values.max() < 65535


def test_poses_and_depth_of_neighbours_agree(data_root: Path):
    source = open_source("posed-rgbd", SourceOptions(data_root / "7scenes_redkitchen"))
    frames = [source.load(key) for key in source.keys()[:4]]
    values = [agreement(first, second) for first, second in pairwise(frames)]
    assert min(values) > 0.8


@pytest.mark.parametrize(
    ("name", "units"),
    [("7scenes_redkitchen", 5000), ("tum_fr3_cabinet", 1000), ("slambook2_office", 5000)],
)
def test_wrong_depth_scale_does_not_pass(data_root: Path, tmp_path: Path, name: str, units: int):
    calibration = json.loads((data_root / name / "camera.json").read_text())
    true_units = calibration["depth_units_per_metre"]
    camera_file = tmp_path / "camera.json"
    camera_file.write_text(json.dumps(calibration | {"depth_units_per_metre": units}))
    with pytest.raises(
        SourceError,
        match=rf"is {units}, .* with {true_units} they .* Give --depth-units {true_units}",
    ):
        open_source("posed-rgbd", SourceOptions(data_root / name, camera_file=camera_file))


def test_registration_moves_pixels_of_seven_scenes(data_root: Path):
    source = open_source("posed-rgbd", SourceOptions(data_root / "7scenes_redkitchen", limit=1))
    frame = source.load(source.keys()[0])
    assert frame.depth is not None
    color, depth = frame.views[0].camera, frame.depth.camera
    v, u = np.nonzero(frame.depth.values)
    z = frame.depth.values[v, u] / frame.depth.units_per_metre
    points = np.stack([(u - depth.cx) / depth.fx * z, (v - depth.cy) / depth.fy * z, z], axis=1)
    moved = points @ frame.views[0].camera_from_sensor[:3, :3].T
    moved += frame.views[0].camera_from_sensor[:3, 3]
    registered = moved[:, 0] / moved[:, 2] * color.fx + color.cx
    ignored = points[:, 0] / points[:, 2] * color.fx + color.cx
    assert 5 < np.median(np.abs(registered - ignored)) < 12
