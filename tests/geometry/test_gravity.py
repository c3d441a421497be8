from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from p2pkit.datasets.frame import SourceOptions
from p2pkit.datasets.registry import open_source
from p2pkit.errors import GeometryError
from p2pkit.geometry.gravity import level_normals, rotation_to_z_up, up_direction

PARTS = st.floats(-1, 1, allow_subnormal=False)


@settings(deadline=None)
@given(x=PARTS, y=PARTS, z=PARTS)
@example(x=0.0, y=1.192092896e-07, z=-1.0)
@example(x=4.5e-6, y=0.0, z=-1.0)
@example(x=1e-3, y=-1e-3, z=-1.0)
def test_rotation_takes_up_to_z(x: float, y: float, z: float) -> None:
    up = np.array([x, y, z])
    if np.linalg.norm(up) < 1e-3:
        return
    up /= np.linalg.norm(up)
    rotation = rotation_to_z_up(up)
    np.testing.assert_allclose(rotation @ up, [0, 0, 1], atol=1e-9)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(rotation) == pytest.approx(1.0)


def test_straight_down_is_turned_over() -> None:
    np.testing.assert_array_equal(
        rotation_to_z_up(np.array([0.0, 0.0, -1.0])), np.diag([1, -1, -1])
    )


def test_up_is_found_among_walls_and_noise() -> None:
    random = np.random.default_rng(0)
    true_up = np.array([0.1, -0.2, 0.97])
    true_up /= np.linalg.norm(true_up)
    level = true_up * random.choice([-1, 1], (400, 1)) + random.normal(0, 0.03, (400, 3))
    wall = np.cross(true_up, random.normal(size=(900, 3)))
    other = random.normal(size=(200, 3))
    normals = np.concatenate([level, wall, other])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    found = up_direction(normals, np.array([0.5, 0.2, 0.9]))
    assert np.rad2deg(np.arccos(found @ true_up)) < 1.0


def test_few_normals_leave_the_guess() -> None:
    guess = np.array([0.0, 3.0, 4.0])
    np.testing.assert_allclose(up_direction(np.zeros((0, 3)), guess), [0, 0.6, 0.8])
    with pytest.raises(GeometryError, match="expected a direction"):
        up_direction(np.zeros((0, 3)), np.zeros(3))


@pytest.mark.realdata
def test_nyuv2s_own_gravity_is_found(data_root: Path) -> None:
    """The data set gives each frame's rotation to a frame whose y points down."""
    root = data_root / "nyuv2_half"
    rotations = np.loadtxt(root / "gravity_rotations.txt").reshape(-1, 3, 3)
    source = open_source("nyuv2", SourceOptions(root))
    errors, guesses = [], []
    for key in source.keys()[::20]:
        depth = source.load(key).depth
        assert depth is not None
        normals = level_normals(depth.values, depth.camera, depth.units_per_metre, step=4)
        up = up_direction(normals, np.array([0.0, -1.0, 0.0]))
        truth = -rotations[int(key) - 1][1]
        errors.append(np.rad2deg(np.arccos(np.clip(up @ truth, -1, 1))))
        guesses.append(np.rad2deg(np.arccos(np.clip(-truth[1], -1, 1))))
    # The depth has steps of 39 mm: floors themselves are 5.5° off by the data set's own gravity.
    assert np.median(errors) < 5.0
    assert np.median(errors) < 0.8 * np.median(guesses)
