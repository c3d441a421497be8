from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from written_recording import slanted_wall_depth, write_calibration

from p2pkit.datasets.frame import SourceOptions
from p2pkit.datasets.registry import open_source
from p2pkit.datasets.rgbd.calibration import read_calibration
from p2pkit.datasets.rgbd.depth_scale import depth_agreement
from p2pkit.errors import SourceError

MakeRecording = Callable[..., Path]


@pytest.mark.parametrize("true_units", [1000.0, 4000.0, 5000.0])
def test_poses_reveal_another_unit(make_recording: MakeRecording, true_units: float):
    folder = make_recording(count=10, units=true_units)
    for units in (256, 1000, 4000, 5000, 10000):
        write_calibration(folder, depth_units_per_metre=units)
        options = SourceOptions(folder, limit=1)
        if units == true_units:
            assert open_source("posed-rgbd", options).keys() == ["frame-000000"]
        else:
            message = rf"depth_units_per_metre is {units}, .* with {true_units:g} they agree"
            with pytest.raises(SourceError, match=message):
                open_source("posed-rgbd", options)


@pytest.mark.parametrize("units", [1, 10, 100_000])
def test_median_depth_must_be_plausible_without_poses(make_recording: MakeRecording, units: int):
    folder = make_recording(count=2)
    write_calibration(folder, depth_units_per_metre=units, pose="none")
    with pytest.raises(SourceError, match=f"depth_units_per_metre is {units:g}, .* 0.05 to 100 m"):
        open_source("posed-rgbd", SourceOptions(folder))


def test_bad_frames_do_not_stop_the_check(make_recording: MakeRecording):
    folder = make_recording(count=10)
    for number in (0, 5, 9):
        (folder / f"frame-{number:06d}.depth.png").write_bytes(b"cut")
    (folder / "frame-000004.pose.txt").write_text("nan")
    assert len(open_source("posed-rgbd", SourceOptions(folder)).keys()) == 10


def test_agreement_of_a_plane_is_one_at_the_true_scale_only(make_recording: MakeRecording):
    camera = read_calibration(make_recording(count=0) / "camera.json").depth
    j_from_i = np.eye(4)
    j_from_i[2, 3] = -0.5
    near, far = slanted_wall_depth(0.5), slanted_wall_depth(0.0)
    assert depth_agreement(far, near, camera, j_from_i) > 0.99
    assert depth_agreement(5 * far, 5 * near, camera, j_from_i) < 0.05
    assert np.isnan(depth_agreement(far, np.zeros_like(far), camera, j_from_i))
