"""Depth agreement: exact poses agree, and the alternatives say what they should."""

from itertools import pairwise

import numpy as np
import pytest

from p2pkit.alignment.poses import (
    FramePair,
    PoseHypothesis,
    agreement,
    declared_poses,
    pose_hypotheses,
    posed_depth,
)
from p2pkit.alignment.wrong_calibrations import axis_names, axis_rotations
from p2pkit.datasets.frame import DepthImage, Frame
from p2pkit.geometry.camera import Camera

CAMERA = Camera(width=160, height=120, fx=140.0, fy=140.0, cx=79.5, cy=59.5)
DECLARED = PoseHypothesis("", "", declared_poses)


def wall_frame(moved: tuple[float, float, float]) -> Frame:
    """A wavy wall about 3 m ahead of a camera at `moved`, found by fixed-point iteration."""
    v, u = np.mgrid[:120, :160]
    ray_x, ray_y = (u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy
    depth = np.full(u.shape, 3.0)
    for _ in range(60):
        x, y = ray_x * depth + moved[0], ray_y * depth + moved[1]
        depth = 3 + 0.5 * np.sin(1.5 * x) + 0.3 * np.sin(2 * y) - moved[2]
    pose = np.eye(4)
    pose[:3, 3] = moved
    values = np.round(depth * 1000).astype(np.uint16)
    return Frame(
        key="a", views=(), depth=DepthImage(values, CAMERA, 1000.0), world_from_sensor=pose
    )


def wall_pairs() -> list[FramePair]:
    random = np.random.default_rng(0)
    found = [posed_depth(wall_frame((0.25 * n, -0.1 * n, 0.12 * n)), random) for n in range(4)]
    frames = [frame for frame in found if frame is not None]
    return [FramePair(a, b) for a, b in pairwise(frames)]


def test_exact_poses_agree_best() -> None:
    pairs = wall_pairs()
    declared = agreement(pairs, DECLARED).mean
    assert declared > 0.9
    for tried in pose_hypotheses(pairs):
        if tried.fault != "intrinsics are for another resolution":
            assert agreement(pairs, tried).mean < declared, tried.detail


@pytest.mark.parametrize("factor", [0.2, 0.8, 5.0])
def test_a_wrong_unit_shows_in_the_poses(factor: float) -> None:
    pairs = wall_pairs()
    scaled = [
        FramePair(
            *(
                frame._replace(points=frame.points * factor, image=frame.image * factor)
                for frame in pair
            )
        )
        for pair in pairs
    ]
    scores = {h.detail: agreement(scaled, h).mean for h in pose_hypotheses(scaled)}
    best = max(scores, key=lambda detail: scores[detail])
    assert best == f"multiply the depth by {1 / factor:.4g}"
    assert scores[best] == pytest.approx(agreement(pairs, DECLARED).mean, abs=1e-6)


def test_frames_without_poses_are_left_out() -> None:
    frame = wall_frame((0, 0, 0))
    bare = Frame(key="a", views=(), depth=frame.depth)
    assert posed_depth(bare, np.random.default_rng(0)) is None


def test_a_lidar_that_turns_and_drives_agrees_with_itself() -> None:
    random = np.random.default_rng(1)
    world = random.uniform((-20, -20, -2), (20, 20, 4), (60000, 3))
    world /= np.maximum(np.abs(world[:, :2]).max(axis=1, keepdims=True), 1e-9) / 18  # a square room
    world[:, 2] = random.uniform(-2, 4, len(world))
    frames = []
    for step in range(3):
        pose = np.eye(4)
        angle = 0.2 * step
        pose[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        pose[:3, 3] = (1.5 * step, 0.4 * step, 0)
        points = ((world - pose[:3, 3]) @ pose[:3, :3]).astype(np.float32)
        found = posed_depth(Frame(key="a", views=(), points=points, world_from_sensor=pose), random)
        assert found is not None
        frames.append(found)
    pairs = [FramePair(a, b) for a, b in pairwise(frames)]
    scores = {h.detail: agreement(pairs, h).mean for h in pose_hypotheses(pairs)}
    declared = agreement(pairs, DECLARED).mean
    assert declared > max(scores.values())
    assert declared > scores["no motion at all fits better"] + 0.3


def test_beams_without_return_are_not_compared() -> None:
    points = np.random.default_rng(0).uniform((-20, -20, -2), (20, 20, 4), (500, 3))
    beams = np.concatenate([points, np.zeros((700, 3))]).astype(np.float32)
    frame = Frame(key="a", views=(), points=beams, world_from_sensor=np.eye(4))
    found = posed_depth(frame, np.random.default_rng(0))
    assert found is not None
    assert len(found.points) == 500
    assert np.linalg.norm(found.points, axis=1).min() > 0.05


def test_there_are_23_other_axes_and_opengl_is_named() -> None:
    turns = axis_rotations()
    assert len({axis_names(turn) for turn in turns}) == 23
    assert all(np.linalg.det(turn[:3, :3]) == pytest.approx(1) for turn in turns)
    assert "(x, -y, -z) as in OpenGL" in {axis_names(turn) for turn in turns}
