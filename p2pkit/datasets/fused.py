"""Samples of several posed frames: one cloud, gravity up, with pairs into every image."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64

from p2pkit.datasets.boxes import joined_boxes
from p2pkit.datasets.derived import DerivedFrames
from p2pkit.datasets.frame import ANY_DEPTH, Boxes, DepthImage, Frame, FrameSource, View
from p2pkit.datasets.left_out import LeftOut
from p2pkit.errors import ConfigError, FrameError
from p2pkit.geometry.backproject import back_project
from p2pkit.geometry.gravity import level_normals, rotation_to_z_up, up_direction
from p2pkit.geometry.project import nearest_pixels, project
from p2pkit.geometry.transforms import invert_rigid, transform_points
from p2pkit.geometry.voxelize import majority_labels, voxel_deduplicate

VOXEL_M = 0.02
MOST_FUSED = 256
"""A pair names its view by one byte."""
AGREE_M, AGREE_RELATIVE = 0.03, 0.02
"""A view sees a point if its depth image agrees to within the larger of the two there."""


class FusedFrames(DerivedFrames):
    """Each `count` neighbouring frames of a sequence as one point frame with `count` views.

    The points are those of all depth images, the first in each voxel of 2 cm, in a frame with z up
    whose origin is the middle of the cameras. A view is paired with the points that its own depth
    image confirms, so that what another frame saw behind or in front is not.

    Args:
        source: frames with depth and poses; choose their spacing with `SourceOptions.every`.
        count: frames per sample; the rest of a sequence that makes no full sample is left out.
        depth_range_m: nearest and farthest depth that gives a point, and that a view is paired at.
        world_up: z where that axis of the world points up; None to estimate the direction.

    Raises:
        ConfigError: `count` is below 2 or above 256, or no sequence has that many frames.
    """

    def __init__(
        self,
        source: FrameSource,
        count: int,
        *,
        depth_range_m: tuple[float, float] = ANY_DEPTH,
        world_up: Literal["z"] | None = None,
    ) -> None:
        if not 2 <= count <= MOST_FUSED:
            raise ConfigError(
                f"fuse is {count}; expected 2 to {MOST_FUSED} frames, or leave it out"
            )
        super().__init__(source)
        self._count, self._world_up = count, world_up
        self._depth_range_m = depth_range_m
        self._runs = _runs(source.keys())
        self._groups = {
            run[start]: tuple(run[start : start + count])
            for run in self._runs
            for start in range(0, len(run) - count + 1, count)
        }
        if not self._groups:
            raise ConfigError(
                f"fuse is {count}, but no sequence of the recording has that many frames; it has "
                f"{len(source.keys())} in all"
            )

    @property
    def left_out(self) -> Sequence[LeftOut]:
        """What the source leaves out, and the frames of each sequence that make no full sample."""
        rests = [
            LeftOut(
                _stem(run[0]).rstrip("_-") or run[0],
                f"{len(run) % self._count} of {len(run)} frames make no full sample of "
                f"{self._count}",
            )
            for run in self._runs
            if len(run) % self._count
        ]
        return [*super().left_out, *rests]

    def keys(self) -> Sequence[str]:
        """The key of each sample's first frame."""
        return list(self._groups)

    def load(self, key: str) -> Frame:
        """Read and fuse the frames of a sample.

        Raises:
            FrameError: a frame is bad, has no depth or pose, or is of another sequence than the
                first.
        """
        if key not in self._groups:
            raise FrameError(key, f"no such sample among the {len(self._groups)} of this recording")
        frames = [self._load_posed(key, member) for member in self._groups[key]]
        world_from_scene = self._scene_pose(frames)
        points, labels = _cloud(frames, world_from_scene, self._depth_range_m)
        if len(points) == 0:
            near, far = self._depth_range_m
            raise FrameError(key, f"none of its frames has a depth in {near}–{far} m")
        voxels = voxel_deduplicate(points, VOXEL_M)
        labels = None if labels is None else majority_labels(points, labels, voxels)
        points = np.ascontiguousarray(points[voxels.keep])
        return Frame(
            key=key,
            views=tuple(
                _view(frame, points, world_from_scene, self._depth_range_m) for frame in frames
            ),
            points=points,
            world_from_sensor=world_from_scene,
            labels=labels,
            sequence=frames[0].sequence,
            boxes=_boxes(frames, world_from_scene),
            speed_m_s=max(frame.speed_m_s for frame in frames),
        )

    def fingerprint(self) -> dict[str, Any]:
        """The source's, and what fusing depends on."""
        fusion: dict[str, Any] = {
            "frames": self._count,
            "voxel_m": VOXEL_M,
            "agree_m": AGREE_M,
            "agree_relative": AGREE_RELATIVE,
        }
        if self._depth_range_m != ANY_DEPTH:
            fusion["depth_range_m"] = list(self._depth_range_m)
        return self._source.fingerprint() | {"fused": fusion}

    def _load_posed(self, key: str, member: str) -> Frame:
        try:
            frame = self._source.load(member)
        except FrameError as error:
            raise FrameError(key, f"its frame {member}: {error.reason}") from error
        if frame.depth is None or frame.world_from_sensor is None:
            raise FrameError(
                key, f"its frame {member} has no depth image or no pose, which fusing needs"
            )
        return frame

    def _scene_pose(self, frames: list[Frame]) -> Float64[np.ndarray, "4 4"]:
        """world_from_scene: origin between the cameras, z up."""
        names = {frame.sequence for frame in frames}
        if len(names) > 1:
            raise FrameError(
                frames[0].key, f"its frames belong to several sequences: {', '.join(sorted(names))}"
            )
        up = np.array([0.0, 0.0, 1.0]) if self._world_up else _estimated_up(frames)
        pose = np.eye(4)
        pose[:3, :3] = rotation_to_z_up(up).T
        pose[:3, 3] = np.mean([_pose(frame)[:3, 3] for frame in frames], axis=0)
        return pose


def _runs(keys: Sequence[str]) -> list[list[str]]:
    """Neighbouring keys that differ in their last number only: the frames of one sequence."""
    return [list(run) for _, run in groupby(keys, key=_stem)]


def _stem(key: str) -> str:
    """A key without its last number."""
    return key.rstrip("0123456789")


def _pose(frame: Frame) -> Float64[np.ndarray, "4 4"]:
    assert frame.world_from_sensor is not None
    return frame.world_from_sensor


def _depth(frame: Frame) -> DepthImage:
    assert frame.depth is not None
    return frame.depth


def _estimated_up(frames: list[Frame]) -> Float64[np.ndarray, "3"]:
    """Up in the world: the cameras' mean up, and the level surfaces near it."""
    normals = [
        level_normals(_depth(frame).values, _depth(frame).camera, _depth(frame).units_per_metre)
        @ _pose(frame)[:3, :3].T
        for frame in frames
    ]
    guess = -np.sum([_pose(frame)[:3, 1] for frame in frames], axis=0)
    return up_direction(np.concatenate(normals), guess)


def _cloud(
    frames: list[Frame],
    world_from_scene: Float64[np.ndarray, "4 4"],
    depth_range_m: tuple[float, float],
) -> tuple[Float32[np.ndarray, "points 3"], np.ndarray | None]:
    """All points in the scene's frame, and their labels if every frame has labels."""
    points: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for frame in frames:
        depth = _depth(frame)
        found = back_project(
            depth.values,
            depth.camera,
            units_per_metre=depth.units_per_metre,
            depth_range_m=depth_range_m,
        )
        scene_from_depth = invert_rigid(world_from_scene) @ _pose(frame)
        points.append(transform_points(scene_from_depth, found.points))
        if frame.labels is not None:
            labels.append(frame.labels.reshape(-1)[found.pixel])
    has_labels = len(labels) == len(frames)
    return np.concatenate(points), np.concatenate(labels) if has_labels else None


def _boxes(frames: list[Frame], world_from_scene: Float64[np.ndarray, "4 4"]) -> Boxes | None:
    """The boxes of all frames, each object once; None unless every frame was annotated."""
    scene_from_world = invert_rigid(world_from_scene)
    parts = [
        (frame.boxes, scene_from_world @ _pose(frame))
        for frame in frames
        if frame.boxes is not None
    ]
    return joined_boxes(parts, np.eye(3)) if len(parts) == len(frames) else None


def _view(
    frame: Frame,
    points: Float32[np.ndarray, "points 3"],
    world_from_scene: Float64[np.ndarray, "4 4"],
    depth_range_m: tuple[float, float],
) -> View:
    depth_from_scene = invert_rigid(_pose(frame)) @ world_from_scene
    view = frame.views[0]
    return replace(
        view,
        camera_from_sensor=view.camera_from_sensor @ depth_from_scene,
        sees=_confirmed(points, _depth(frame), depth_from_scene, depth_range_m),
    )


def _confirmed(
    points: Float32[np.ndarray, "points 3"],
    depth: DepthImage,
    depth_from_scene: Float64[np.ndarray, "4 4"],
    depth_range_m: tuple[float, float],
) -> Bool[np.ndarray, " points"]:
    """Where the depth image has the point's own depth at its pixel, and that lies in the range."""
    found = project(points, depth.camera, depth_from_scene)
    inside = np.flatnonzero(found.visible)
    u, v = nearest_pixels(found.pixel_uv[inside], depth.camera.width, depth.camera.height)
    measured = depth.values[v, u] / depth.units_per_metre
    expected = found.depth_m[inside].astype(np.float64)
    agrees = np.abs(measured - expected) <= np.maximum(AGREE_M, AGREE_RELATIVE * expected)
    sees = np.zeros(len(points), dtype=bool)
    near, far = depth_range_m
    sees[inside] = agrees & (measured > 0) & (near <= measured) & (measured <= far)
    return sees
