"""Recordings with a known fault, for testing whether `p2pkit check` finds it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from p2pkit.alignment.poses import scaled_camera
from p2pkit.alignment.timing import part_of_motion
from p2pkit.datasets.frame import DepthImage, Frame, FrameSource, View
from p2pkit.geometry.transforms import invert_rigid

OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


class FaultySource:
    """A source whose frames are changed by `change`, which is given the source for neighbours."""

    def __init__(self, source: FrameSource, change: Callable[[FrameSource, Frame], Frame]) -> None:
        self._source = source
        self._change = change
        self.name = source.name
        self.label_names: Sequence[str] | None = source.label_names
        self.ignore_label: int | None = source.ignore_label

    def keys(self) -> Sequence[str]:
        """As the source's."""
        return self._source.keys()

    def load(self, key: str) -> Frame:
        """The source's frame with the fault."""
        return self._change(self._source, self._source.load(key))

    def fingerprint(self) -> dict[str, Any]:
        """As the source's: a fault does not show there."""
        return self._source.fingerprint()


def with_views(frame: Frame, change: Callable[[View], View]) -> Frame:
    """The frame with each view changed."""
    return replace(frame, views=tuple(change(view) for view in frame.views))


def swap_uv(source: FrameSource, frame: Frame) -> Frame:
    """Images read as image[u, v]: transposed, and what lies outside repeats the border."""

    def change(view: View) -> View:
        height, width, _ = view.image.shape
        rows = np.minimum(np.arange(width), height - 1)
        columns = np.minimum(np.arange(height), width - 1)
        image = view.image[rows[None, :], columns[:, None]]
        return replace(view, image=np.ascontiguousarray(image))

    return with_views(frame, change)


def mirror(source: FrameSource, frame: Frame) -> Frame:
    """Images mirrored left to right."""
    return with_views(
        frame, lambda view: replace(view, image=np.ascontiguousarray(view.image[:, ::-1]))
    )


def half_intrinsics(source: FrameSource, frame: Frame) -> Frame:
    """The colour cameras' intrinsics are those of an image of half the size."""
    return with_views(frame, lambda view: replace(view, camera=scaled_camera(view.camera, 0.5)))


def half_intrinsics_of_both(source: FrameSource, frame: Frame) -> Frame:
    """The same for colour and depth."""
    assert frame.depth is not None
    depth = replace(frame.depth, camera=scaled_camera(frame.depth.camera, 0.5))
    return replace(half_intrinsics(source, frame), depth=depth)


def unregistered(source: FrameSource, frame: Frame) -> Frame:
    """Colour is taken to lie on the depth's pixels."""
    assert frame.depth is not None
    camera = frame.depth.camera
    return with_views(
        frame, lambda view: replace(view, camera=camera, camera_from_sensor=np.eye(4))
    )


def moved_extrinsic(source: FrameSource, frame: Frame) -> Frame:
    """The cameras are believed to stand 5 cm (RGB-D) or 1 m (LiDAR) farther to the left."""
    offset = np.eye(4)
    offset[0, 3] = 0.05 if frame.depth is not None else 1.0
    return with_views(
        frame, lambda view: replace(view, camera_from_sensor=offset @ view.camera_from_sensor)
    )


def inverted_extrinsic(source: FrameSource, frame: Frame) -> Frame:
    """sensor_from_camera in place of camera_from_sensor."""
    return with_views(
        frame,
        lambda view: replace(view, camera_from_sensor=invert_rigid(view.camera_from_sensor)),
    )


def inverted_pose(source: FrameSource, frame: Frame) -> Frame:
    """sensor_from_world in place of world_from_sensor."""
    assert frame.world_from_sensor is not None
    return replace(frame, world_from_sensor=invert_rigid(frame.world_from_sensor))


def opengl_camera(source: FrameSource, frame: Frame) -> Frame:
    """The cameras' y and z axes point the other way."""
    return with_views(
        frame, lambda view: replace(view, camera_from_sensor=OPENGL @ view.camera_from_sensor)
    )


def opengl_pose(source: FrameSource, frame: Frame) -> Frame:
    """The sensor's y and z axes point the other way in the poses."""
    assert frame.world_from_sensor is not None
    return replace(frame, world_from_sensor=frame.world_from_sensor @ OPENGL)


def turned_points(source: FrameSource, frame: Frame) -> Frame:
    """Points with x to the right and y forward in place of x forward and y to the left."""
    assert frame.points is not None
    x, y, z = frame.points.T
    return replace(frame, points=np.stack([-y, x, z], axis=1))


def stale_rotation(axis: int, degrees: float = 2.0) -> Callable[[FrameSource, Frame], Frame]:
    """The cameras have turned by some degrees about their x, y or z axis since calibration."""
    one, two = (axis + 1) % 3, (axis + 2) % 3
    turn = np.eye(4)
    turn[one, one] = turn[two, two] = np.cos(np.deg2rad(degrees))
    turn[one, two], turn[two, one] = -np.sin(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))

    def change(source: FrameSource, frame: Frame) -> Frame:
        return with_views(
            frame, lambda view: replace(view, camera_from_sensor=turn @ view.camera_from_sensor)
        )

    return change


def late_images(source: FrameSource, frame: Frame) -> Frame:
    """Each frame has the images of the next one; the last keeps its own."""
    keys = list(source.keys())
    after = keys[min(keys.index(frame.key) + 1, len(keys) - 1)]
    images = [view.image for view in source.load(after).views]
    views = [replace(view, image=image) for view, image in zip(frame.views, images, strict=True)]
    return replace(frame, views=tuple(views))


def half_late_images(source: FrameSource, frame: Frame) -> Frame:
    """Images of the next frame, with transforms that account for half of the motion until then."""
    late, keys = late_images(source, frame), list(source.keys())
    after = source.load(keys[min(keys.index(frame.key) + 1, len(keys) - 1)]).world_from_sensor
    assert frame.world_from_sensor is not None
    assert after is not None
    half = part_of_motion(invert_rigid(after) @ frame.world_from_sensor, 0.5)
    return with_views(
        late, lambda view: replace(view, camera_from_sensor=view.camera_from_sensor @ half)
    )


def one_stale_camera(source: FrameSource, frame: Frame) -> Frame:
    """The second of several cameras has turned by 2 degrees about its y axis."""
    turned = stale_rotation(1)(source, frame)
    return replace(frame, views=(frame.views[0], turned.views[1], *frame.views[2:]))


def wrong_depth_scale(factor: float) -> Callable[[FrameSource, Frame], Frame]:
    """Depths or points are `factor` times too large."""

    def change(source: FrameSource, frame: Frame) -> Frame:
        if frame.depth is not None:
            depth = frame.depth
            unit = depth.units_per_metre / factor
            return replace(frame, depth=DepthImage(depth.values, depth.camera, unit))
        assert frame.points is not None
        return replace(frame, points=(frame.points * factor).astype(np.float32))

    return change


FAULTS: dict[str, tuple[Callable[[FrameSource, Frame], Frame], tuple[str, ...]]] = {
    "U/V swap": (swap_uv, ("u and v are swapped",)),
    "mirrored image": (mirror, ("the image is mirrored",)),
    "intrinsics at half size, colour": (
        half_intrinsics,
        ("intrinsics are for another resolution",),
    ),
    "intrinsics at half size, both": (
        half_intrinsics_of_both,
        ("intrinsics are for another resolution",),
    ),
    "colour unregistered": (unregistered, ("colour is not registered to depth",)),
    "extrinsic offset": (
        moved_extrinsic,
        ("stale calibration", "colour is not registered to depth"),
    ),
    "extrinsic inverted": (inverted_extrinsic, ("the extrinsic transform is inverted",)),
    "pose inverted": (inverted_pose, ("the poses are inverted",)),
    "wrong axes, camera": (opengl_camera, ("wrong axes",)),
    "wrong axes, pose": (opengl_pose, ("wrong axes of the poses",)),
    "wrong axes, points": (turned_points, ("wrong axes",)),
    "stale calibration, 2° about x": (stale_rotation(0), ("stale calibration",)),
    "stale calibration, 2° about y": (stale_rotation(1), ("stale calibration",)),
    "stale calibration, 2° about z": (stale_rotation(2), ("stale calibration",)),
    "images one frame late": (late_images, ("points and images differ in time",)),
    "images half a frame late": (half_late_images, ("points and images differ in time",)),
    "one of the cameras turned by 2° about y": (one_stale_camera, ("stale calibration",)),
    "depth scale × 5": (wrong_depth_scale(5.0), ("wrong depth scale",)),
    "depth scale × 1.25": (wrong_depth_scale(1.25), ("wrong depth scale",)),
}
"""Each fault by name: what injects it, and the names under which it counts as recognised."""


def not_applicable(fault: str, frame: Frame, frames: int) -> str | None:
    """Why a fault cannot be injected into frames like this or cannot show; None if it can."""
    if not frame.views:
        return "no images"
    is_depth = frame.depth is not None
    declared = [view.camera_from_sensor for view in frame.views]
    if fault in ("intrinsics at half size, both", "colour unregistered") and not is_depth:
        return "no depth image"
    if fault == "colour unregistered" and all(np.array_equal(one, np.eye(4)) for one in declared):
        return "colour is registered"
    if fault == "wrong axes, points" and is_depth:
        return "no points"
    if fault == "extrinsic inverted" and all(np.array_equal(one, np.eye(4)) for one in declared):
        return "the transform is the identity"
    needs_poses = ("pose inverted", "wrong axes, pose")
    if fault in needs_poses and (frame.world_from_sensor is None or frames < 2):
        return "no poses of two frames"
    if fault in ("intrinsics at half size, both", "depth scale × 1.25") and (
        frame.world_from_sensor is None or frames < 2
    ):
        return "no poses of two frames to compare with"
    if fault.startswith("one of the cameras") and len(frame.views) < 2:
        return "one camera"
    if fault.endswith("frame late") and (frame.world_from_sensor is None or frames < 2):
        return "no two frames of one drive"
    return None
