import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from written_recording import CALIBRATION

from p2pkit.datasets.rgbd.calibration import POSE_CONVENTIONS, TEMPLATE, read_calibration
from p2pkit.errors import SourceError
from p2pkit.geometry.transforms import invert_rigid

HUGE_DISTORTION = {"model": "fisheye", "coefficients": [10**400, 0, 0, 0]}
MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0]).tolist()


def read(folder: Path, value: Any):
    path = folder / "camera.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return read_calibration(path)


def test_template_is_itself_valid(tmp_path: Path):
    assert read(tmp_path, TEMPLATE).units_per_metre == 1000.0


def test_round_trip(tmp_path: Path):
    first = read(tmp_path, CALIBRATION | {"pose": "color_from_world", "invalid_depth": [0, 65535]})
    second = read(tmp_path, first.to_json())
    assert first.to_json() == second.to_json()


def test_missing_file_prints_a_template(tmp_path: Path):
    with pytest.raises(SourceError) as caught:
        read_calibration(tmp_path / "camera.json")
    assert TEMPLATE in str(caught.value)
    assert "--camera" in str(caught.value)


@pytest.mark.parametrize("name", sorted(CALIBRATION))
def test_missing_field_is_named(tmp_path: Path, name: str):
    value = {key: item for key, item in CALIBRATION.items() if key != name}
    with pytest.raises(SourceError, match=rf"camera\.json: missing fields \['{name}'\]"):
        read(tmp_path, value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth_unit": 1}, r"unknown fields \['depth_unit'\]"),
        ({"format": "tum"}, "format is 'tum'"),
        ({"pose": "sideways"}, "pose is 'sideways'.*world_from_depth"),
        ({"depth_units_per_metre": 0}, "depth_units_per_metre is 0; it must be positive"),
        ({"depth_units_per_metre": -5}, "depth_units_per_metre is -5"),
        ({"depth_units_per_metre": "1000"}, "depth_units_per_metre is '1000'; expected a number"),
        ({"depth_units_per_metre": True}, "depth_units_per_metre is True; expected a number"),
        ({"depth": {"width": 4}}, "depth: a camera needs exactly"),
        ({"color": CALIBRATION["color"] | {"fx": "far"}}, "color: fx is 'far'"),
        ({"color": CALIBRATION["color"] | {"fx": -1}}, "fx=-1"),
        (
            {"depth": CALIBRATION["depth"] | {"distortion": {"model": "x", "coefficients": [1]}}},
            "depth: distortion model is 'x'",
        ),
        ({"color_from_depth": MIRROR}, "color_from_depth is not rigid"),
        ({"color_from_depth": [[1, 0], [0, 1]]}, "4 rows of 4 numbers in color_from_depth"),
        ({"color_from_depth": None}, "4 rows of 4 numbers in color_from_depth"),
        ({"invalid_depth": 0}, "invalid_depth is 0"),
        ({"invalid_depth": [70000]}, r"invalid_depth is \[70000\]"),
        ({"invalid_depth": [1.5]}, r"invalid_depth is \[1.5\]"),
        (
            {"depth": CALIBRATION["depth"] | {"width": float("nan")}},
            "depth: width is nan; expected a whole",
        ),
        ({"color": CALIBRATION["color"] | {"height": float("inf")}}, "color: height is inf"),
        ({"color": CALIBRATION["color"] | {"height": 10**400}}, "color: height is a huge number"),
        ({"color": CALIBRATION["color"] | {"fx": 10**400}}, "color: a number of fx, fy, cx and cy"),
        ({"depth_units_per_metre": 10**400}, "depth_units_per_metre is a huge number; it must be"),
        ({"depth_units_per_metre": float("nan")}, "depth_units_per_metre is nan; it must be"),
        ({"color_from_depth": [[10**400, 0, 0, 0]] * 4}, "color_from_depth contains a number that"),
        (
            {"depth": CALIBRATION["depth"] | {"distortion": HUGE_DISTORTION}},
            "depth: int too large",
        ),
    ],
)
def test_wrong_value_names_file_and_field(tmp_path: Path, changes: dict[str, Any], message: str):
    with pytest.raises(SourceError, match=rf"camera\.json: (.*){message}"):
        read(tmp_path, CALIBRATION | changes)


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", "[" * 100_000, '{"a":' * 100_000])
def test_other_json_or_none_is_refused(tmp_path: Path, text: str):
    with pytest.raises(SourceError, match=r"camera\.json"):
        read(tmp_path, text)


def test_pose_conventions_agree(tmp_path: Path):
    angle = 0.3
    color_from_depth, world_from_depth = np.eye(4), np.eye(4)
    color_from_depth[0, 3] = -0.025
    world_from_depth[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    world_from_depth[:3, 3] = 1, 2, 3
    world_from_color = world_from_depth @ invert_rigid(color_from_depth)
    stored = {
        "world_from_depth": world_from_depth,
        "depth_from_world": invert_rigid(world_from_depth),
        "world_from_color": world_from_color,
        "color_from_world": invert_rigid(world_from_color),
    }
    assert {*stored, "none"} == set(POSE_CONVENTIONS)
    for pose, matrix in stored.items():
        changes = {"pose": pose, "color_from_depth": color_from_depth.tolist()}
        calibration = read(tmp_path, CALIBRATION | changes)
        np.testing.assert_allclose(
            calibration.world_from_depth(matrix), world_from_depth, atol=1e-12
        )
    assert read(tmp_path, CALIBRATION | {"pose": "none"}).world_from_depth(np.eye(4)) is None
