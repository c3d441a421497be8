"""What RGB-D readers share: from one frame's images and calibration to a `Frame`."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8, UInt16
from PIL import Image

from p2pkit.datasets.frame import DepthImage, Frame, View
from p2pkit.datasets.image_files import check_depth, read_color, read_depth_png
from p2pkit.datasets.listing import frame_list_digest
from p2pkit.datasets.rgbd.calibration import RgbdCalibration
from p2pkit.datasets.rgbd.depth_scale import DepthProbe
from p2pkit.datasets.world import moved, near_origin, origins_json
from p2pkit.errors import FrameError, GeometryError
from p2pkit.files import sha256_json
from p2pkit.geometry.distortion import undistort_depth, undistort_image

Depth = UInt16[np.ndarray, "height width"]
Decode = Callable[[Depth], Depth]


@dataclass(frozen=True, kw_only=True)
class RgbdListed:
    """What is known of a frame before its images are read.

    Args:
        key, sequence: as in `Frame`.
        world_from_depth: pose of the depth camera, or None.
        time_offset_s, speed_m_s: as in `View` and `Frame`.
    """

    key: str
    sequence: str
    world_from_depth: Float64[np.ndarray, "4 4"] | None = None
    time_offset_s: float | None = None
    speed_m_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RgbdFiles(RgbdListed):
    """A frame whose images are separate files."""

    color: Path
    depth: Path

    def paths(self) -> tuple[Path, Path]:
        """Colour and depth."""
        return (self.color, self.depth)


def load_rgbd(
    files: RgbdFiles, calibration: RgbdCalibration, *, decode: Decode | None = None
) -> Frame:
    """Read one frame's images.

    Args:
        files: where they are, and the pose.
        calibration: of the sequence.
        decode: from the numbers in the depth file to the sensor's units.

    Raises:
        FrameError: an image is missing, damaged or of another size, or no depth is valid.
    """
    key = files.key
    size = (calibration.depth.width, calibration.depth.height)
    depth = read_depth_png(files.depth, key, size)
    color_size = (calibration.color.width, calibration.color.height)
    image = read_color(files.color, key, color_size)
    depth = usable_depth(depth if decode is None else decode(depth), calibration, key)
    return assemble(files, image, depth, calibration)


def near_frames(listed: Sequence[RgbdFiles]) -> tuple[list[RgbdFiles], dict[str, Any]]:
    """The frames with poses from a near origin for each sequence, and that for the fingerprint."""
    poses: dict[str, list[Float64[np.ndarray, "4 4"] | None]] = {}
    for files in listed:
        poses.setdefault(files.sequence, []).append(files.world_from_depth)
    origins = {sequence: near_origin(found) for sequence, found in poses.items()}
    near = [
        replace(files, world_from_depth=moved(files.world_from_depth, origins[files.sequence]))
        for files in listed
    ]
    return near, origins_json(origins)


def probe_of(
    files: RgbdFiles, calibration: Callable[[], RgbdCalibration], *, decode: Decode | None = None
) -> DepthProbe:
    """What `check_depth_scale` needs of a frame whose images are files."""

    def depth() -> DepthImage:
        found = calibration()
        values = read_depth_png(files.depth, files.key, (found.depth.width, found.depth.height))
        values = usable_depth(values if decode is None else decode(values), found, files.key)
        return DepthImage(values, found.depth, found.units_per_metre)

    return DepthProbe(files.key, files.sequence, depth, lambda: files.world_from_depth)


def assemble(
    listed: RgbdListed,
    image: UInt8[np.ndarray, "color_height color_width 3"],
    depth: UInt16[np.ndarray, "height width"],
    calibration: RgbdCalibration,
) -> Frame:
    """A frame from its image as stored and its depth from `usable_depth`.

    Raises:
        FrameError: the image's distortion cannot be undone.
    """
    valid = None
    camera = calibration.used_color
    if camera != calibration.color:
        size = (camera.width, camera.height)
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
    if calibration.color_distortion is not None:
        try:
            image, valid = undistort_image(image, camera, calibration.color_distortion)
        except GeometryError as error:
            raise FrameError(listed.key, str(error)) from error
    view = View(
        image=image,
        camera=camera,
        camera_from_sensor=calibration.color_from_depth,
        time_offset_s=listed.time_offset_s,
        valid=valid,
    )
    return Frame(
        key=listed.key,
        views=(view,),
        depth=DepthImage(depth, calibration.depth, calibration.units_per_metre),
        world_from_sensor=listed.world_from_depth,
        sequence=listed.sequence,
        speed_m_s=listed.speed_m_s,
    )


def usable_depth(
    values: UInt16[np.ndarray, "height width"], calibration: RgbdCalibration, key: str
) -> UInt16[np.ndarray, "height width"]:
    """Depth with 0 for every invalid value, and undistorted.

    Raises:
        FrameError: nothing is left, or the distortion cannot be undone.
    """
    for invalid in calibration.invalid_depth:
        if invalid != 0:
            values = np.where(values == invalid, np.uint16(0), values)
    if calibration.depth_distortion is not None:
        try:
            values = undistort_depth(values, calibration.depth, calibration.depth_distortion)
        except GeometryError as error:
            raise FrameError(key, str(error)) from error
    check_depth(values, key, "the depth image")
    return values


def rgbd_fingerprint(
    name: str, frames: Collection[RgbdFiles], calibrations: dict[str, RgbdCalibration]
) -> dict[str, Any]:
    """Frame list digest and the calibration of each sequence."""
    return {
        "dataset": name,
        "frames": len(frames),
        "frame_list": frame_list_digest((frame.key, frame.paths()) for frame in frames),
        "poses": sha256_json(
            [
                None if frame.world_from_depth is None else frame.world_from_depth.tolist()
                for frame in frames
            ]
        ),
        "calibration": {key: value.fingerprint() for key, value in calibrations.items()},
    }


def speed_between(
    poses: Sequence[Float64[np.ndarray, "4 4"]], times: Sequence[float], index: int
) -> float:
    """Speed (m/s) from the pose before `index` to the one after; 0 where there is one only."""
    first, last = max(0, index - 1), min(len(poses) - 1, index + 1)
    seconds = times[last] - times[first]
    moved = float(np.linalg.norm(poses[last][:3, 3] - poses[first][:3, 3]))
    return moved / seconds if seconds > 0 else 0.0
