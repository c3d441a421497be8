"""Do the depths of posed frames agree? One share per set of poses or units that is tried.

Points of one frame are moved into another by the poses and compared with the depth measured there.
Tolerances are shares of the depth, so that a unit that is wrong everywhere shows only in the poses.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from p2pkit.alignment.edge_points import returned
from p2pkit.alignment.edges import Score
from p2pkit.alignment.wrong_calibrations import SCALES, UNIT_FACTORS, axis_names, axis_rotations
from p2pkit.datasets.frame import Frame
from p2pkit.geometry.camera import Camera

TOLERANCE = 0.03
POINTS = 6000
FEWEST = 200
PARTS = 8
"""Clusters of a pair: upright stripes of the depth image, or sectors of 45 degrees."""
BIN_RAD = np.deg2rad(0.7)


class PosedDepth(NamedTuple):
    """What one frame measures, and its pose.

    Fields:
        points: a random part of its points (m).
        image: depth (RGB-D) or distance by azimuth and elevation (LiDAR) in m, 0 where none.
        camera: of `image`; None for a LiDAR.
        world_from_sensor: as declared.
    """

    points: Float64[np.ndarray, "points 3"]
    image: np.ndarray
    camera: Camera | None
    world_from_sensor: Float64[np.ndarray, "4 4"]


class FramePair(NamedTuple):
    """Two posed frames of one sequence; pairs are taken to be independent of each other."""

    one: PosedDepth
    other: PosedDepth


class PoseHypothesis(NamedTuple):
    """Poses or units that are tried: the relative motion of a pair, and the factor of its focal
    lengths (1 where they are as declared).
    """

    fault: str
    detail: str
    other_from_one: Callable[[FramePair], Float64[np.ndarray, "4 4"]]
    focal_factor: float = 1.0


def posed_depth(frame: Frame, random: np.random.Generator) -> PosedDepth | None:
    """The frame ready for comparing; None without a pose."""
    if frame.world_from_sensor is None:
        return None
    if frame.depth is not None:
        camera = frame.depth.camera
        image = frame.depth.values / frame.depth.units_per_metre
        rows = np.flatnonzero(image)
        rows = random.choice(rows, min(POINTS, len(rows)), replace=False)
        v, u = np.divmod(rows, camera.width)
        points = _back_projected(u, v, image.reshape(-1)[rows], camera)
        return PosedDepth(points, image, camera, frame.world_from_sensor)
    assert frame.points is not None
    points = frame.points[returned(frame.points)].astype(np.float64)
    image = np.zeros((round(np.pi / BIN_RAD), round(2 * np.pi / BIN_RAD)))
    distance, bins = _spherical(points, image.shape)
    far_to_near = np.argsort(-distance, kind="stable")
    image.reshape(-1)[bins[far_to_near]] = distance[far_to_near]
    chosen = random.choice(len(points), min(POINTS, len(points)), replace=False)
    return PosedDepth(points[chosen], image, None, frame.world_from_sensor)


def agreement(pairs: Sequence[FramePair], tried: PoseHypothesis) -> Score:
    """How well the points that land on a measurement agree with it: 1 if exactly, 0 from the
    tolerance on; by part of each pair, for a recording may have few pairs.
    """
    total, count = np.zeros((len(pairs), PARTS)), np.zeros((len(pairs), PARTS))
    for row, pair in enumerate(pairs):
        agrees = _agreements(pair, tried.other_from_one(pair), tried.focal_factor)
        landed = np.isfinite(agrees)
        if landed.sum() >= FEWEST:
            part = _part(pair.one)[landed]
            total[row] = np.bincount(part, agrees[landed], minlength=PARTS)
            count[row] = np.bincount(part, minlength=PARTS)
    return Score(total.reshape(-1), count.reshape(-1))


def _part(one: PosedDepth) -> Int64[np.ndarray, " points"]:
    x, y, z = one.points.T
    if one.camera is None:
        share = (np.arctan2(y, x) + np.pi) / (2 * np.pi)
    else:
        share = (one.camera.fx * x / z + one.camera.cx + 0.5) / one.camera.width
    return np.clip(share * PARTS, 0, PARTS - 1).astype(np.int64)


def declared_poses(pair: FramePair) -> Float64[np.ndarray, "4 4"]:
    """Motion as the poses say."""
    return np.linalg.inv(pair.other.world_from_sensor) @ pair.one.world_from_sensor


def pose_hypotheses(pairs: Sequence[FramePair]) -> list[PoseHypothesis]:
    """The alternatives to the declared poses, units and intrinsics; the first is no motion."""

    def no_motion(pair: FramePair) -> np.ndarray:
        return np.eye(4)

    def inverted(pair: FramePair) -> np.ndarray:
        return pair.other.world_from_sensor @ np.linalg.inv(pair.one.world_from_sensor)

    def scaled(pair: FramePair, factor: float) -> np.ndarray:
        moved = declared_poses(pair)
        moved[:3, 3] /= factor
        return moved

    found = [
        PoseHypothesis("the poses do not fit", "no motion at all fits better", no_motion),
        PoseHypothesis("the poses are inverted", "invert them", inverted),
    ]
    for turn in axis_rotations():
        found += [
            PoseHypothesis(
                "wrong axes of the poses",
                f"the sensor's axes in the poses are {axis_names(turn)}",
                lambda pair, turn=turn: turn.T @ declared_poses(pair) @ turn,
            ),
            PoseHypothesis(
                "the poses are inverted",
                f"invert them, and the sensor's axes in them are {axis_names(turn)}",
                lambda pair, turn=turn: turn.T @ inverted(pair) @ turn,
            ),
        ]
    found += [
        PoseHypothesis(
            "wrong depth scale",
            f"multiply the depth by {factor:.4g}",
            lambda pair, factor=factor: scaled(pair, factor),
        )
        for factor in (*UNIT_FACTORS, 0.8, 0.9, 1.1, 1.25)
    ]
    if pairs and pairs[0].one.camera is not None:
        fault = "intrinsics are for another resolution"
        found += [
            PoseHypothesis(fault, f"multiply them by {s:.3g}", declared_poses, s) for s in SCALES
        ]
    return found


def _agreements(
    pair: FramePair, other_from_one: Float64[np.ndarray, "4 4"], focal_factor: float
) -> np.ndarray:
    """How well each point agrees; NaN where it lands on no measurement."""
    other = pair.other
    if other.camera is None or pair.one.camera is None:
        moved = pair.one.points @ other_from_one[:3, :3].T + other_from_one[:3, 3]
        return _spherical_agreements(moved, other.image)
    one_camera = scaled_camera(pair.one.camera, focal_factor)
    camera = scaled_camera(other.camera, focal_factor)
    points = _with_camera(pair.one.points, pair.one.camera, one_camera)
    moved = points @ other_from_one[:3, :3].T + other_from_one[:3, 3]
    depth = np.where(moved[:, 2] > 0.05, moved[:, 2], np.nan)
    u = np.rint(camera.fx * moved[:, 0] / depth + camera.cx)
    v = np.rint(camera.fy * moved[:, 1] / depth + camera.cy)
    inside = (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
    measured = np.zeros(len(moved))
    measured[inside] = other.image[v[inside].astype(np.int64), u[inside].astype(np.int64)]
    measured[measured == 0] = np.nan
    return np.maximum(1 - np.abs(measured - depth) / (TOLERANCE * measured), 0)


def _spherical_agreements(points: Float64[np.ndarray, "points 3"], image: np.ndarray) -> np.ndarray:
    """Against the nearest in distance of the 3 x 3 bins around each point."""
    distance, bins = _spherical(points, image.shape)
    rows, columns = np.divmod(bins, image.shape[1])
    best = np.full(len(points), np.inf)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            row = np.clip(rows + down, 0, image.shape[0] - 1)
            measured = image[row, (columns + right) % image.shape[1]]
            error = np.where(measured > 0, np.abs(measured - distance), np.inf)
            best = np.minimum(best, error)
    best[np.isinf(best)] = np.nan
    return np.maximum(1 - best / (TOLERANCE * distance), 0)


def _spherical(
    points: Float64[np.ndarray, "points 3"], shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    distance = np.linalg.norm(points, axis=1)
    azimuth = np.arctan2(points[:, 1], points[:, 0])
    elevation = np.arcsin(np.clip(points[:, 2] / np.maximum(distance, 1e-9), -1, 1))
    row = np.clip((elevation + np.pi / 2) / np.pi * shape[0], 0, shape[0] - 1).astype(np.int64)
    column = ((azimuth + np.pi) / (2 * np.pi) * shape[1]).astype(np.int64) % shape[1]
    return distance, row * shape[1] + column


def scaled_camera(camera: Camera, factor: float) -> Camera:
    """The intrinsics times a factor for the same image."""
    if factor == 1.0:
        return camera
    return Camera(
        width=camera.width,
        height=camera.height,
        fx=camera.fx * factor,
        fy=camera.fy * factor,
        cx=factor * (camera.cx + 0.5) - 0.5,
        cy=factor * (camera.cy + 0.5) - 0.5,
    )


def _with_camera(
    points: Float64[np.ndarray, "points 3"], declared: Camera, tried: Camera
) -> Float64[np.ndarray, "points 3"]:
    if tried is declared:
        return points
    z = points[:, 2]
    u = declared.fx * points[:, 0] / z + declared.cx
    v = declared.fy * points[:, 1] / z + declared.cy
    return _back_projected(u, v, z, tried)


def _back_projected(
    u: np.ndarray, v: np.ndarray, z: np.ndarray, camera: Camera
) -> Float64[np.ndarray, "points 3"]:
    return np.stack([(u - camera.cx) / camera.fx * z, (v - camera.cy) / camera.fy * z, z], axis=1)
