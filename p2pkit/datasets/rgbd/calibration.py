"""`camera.json`: the calibration of a `posed-rgbd` folder. Nothing in it is guessed."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from p2pkit.datasets.files.text import read_json
from p2pkit.datasets.registry import LARGEST_UNITS
from p2pkit.errors import GeometryError, SourceError
from p2pkit.geometry.camera import Camera, camera_from_json, shown_number
from p2pkit.geometry.lens_distortion import Distortion, distortion_from_json
from p2pkit.geometry.transforms import check_rigid, invert_rigid

POSE_CONVENTIONS = (
    "world_from_depth",
    "depth_from_world",
    "world_from_color",
    "color_from_world",
    "none",
)
LARGEST_COLOR_PX = 4_000_000
"""Larger colour images are shrunk where the depth is smaller, …"""
SHRUNK_COLOR_PX = 2_000_000
"""… to at most this many pixels."""
POSE_AXES = ("opencv", "opengl")
_OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
TEMPLATE = """{
 "format": "posed-rgbd",
 "depth_units_per_metre": 1000,
 "depth": {"width": 640, "height": 480, "fx": 525.0, "fy": 525.0, "cx": 319.5, "cy": 239.5},
 "color": {"width": 640, "height": 480, "fx": 525.0, "fy": 525.0, "cx": 319.5, "cy": 239.5},
 "color_from_depth": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
 "pose": "world_from_depth",
 "invalid_depth": [0]
}"""
MISSING = (
    f"A posed-rgbd folder needs its calibration as camera.json. Fill in this template:\n{TEMPLATE}"
)
_UNREGISTERED = (
    "Depth must be registered to colour: align it when recording or exporting (RealSense "
    "rs.align, Azure Kinect depth_image_to_color_camera), or give both cameras and "
    "color_from_depth in the camera.json of posed-rgbd"
)
_FIELDS = (
    "format",
    "depth_units_per_metre",
    "depth",
    "color",
    "color_from_depth",
    "pose",
    "invalid_depth",
)


@dataclass(frozen=True)
class RgbdCalibration:
    """A validated `camera.json`.

    Args:
        units_per_metre: a stored depth value divided by this is in metres.
        depth, color: intrinsics of the depth and of the colour image.
        color_from_depth: takes points of the depth camera to the colour camera (m).
        pose: which transform `.pose.txt` holds, one of `POSE_CONVENTIONS`.
        pose_axes: axes of the camera in `.pose.txt`: `opencv`, x right, y down, z forward, or
            `opengl`, x right, y up, z backward.
        invalid_depth: stored values that mean no measurement.
        depth_distortion, color_distortion: of the images as they are stored, or None.
    """

    units_per_metre: float
    depth: Camera
    color: Camera
    color_from_depth: Float64[np.ndarray, "4 4"]
    pose: str
    invalid_depth: tuple[int, ...]
    depth_distortion: Distortion | None = None
    color_distortion: Distortion | None = None
    pose_axes: str = "opencv"

    def world_from_depth(
        self, stored: Float64[np.ndarray, "4 4"]
    ) -> Float64[np.ndarray, "4 4"] | None:
        """The depth camera's pose from what `.pose.txt` holds; None where `pose` is "none"."""
        if self.pose_axes == "opengl":
            turn = _OPENGL_FROM_OPENCV
            stored = turn @ stored if self.pose.endswith("_from_world") else stored @ turn
        match self.pose:
            case "world_from_depth":
                return stored
            case "depth_from_world":
                return invert_rigid(stored)
            case "world_from_color":
                return stored @ self.color_from_depth
            case "color_from_world":
                return invert_rigid(stored) @ self.color_from_depth
            case _:
                return None

    def with_units(self, depth_units: float | None) -> "RgbdCalibration":
        """This calibration with other units per metre; itself for None."""
        return self if depth_units is None else replace(self, units_per_metre=depth_units)

    @property
    def used_color(self) -> Camera:
        """The colour camera at the size that is used.

        Images of more than `LARGEST_COLOR_PX` over smaller depth are shrunk by a whole factor: they
        would take gigabytes, in the teacher most of all, and show detail that no depth pixel
        resolves.
        """
        pixels = self.color.width * self.color.height
        if pixels <= LARGEST_COLOR_PX:
            return self.color
        factor = math.ceil(math.sqrt(pixels / SHRUNK_COLOR_PX))
        width, height = self.color.width // factor, self.color.height // factor
        if width < self.depth.width:
            return self.color
        return self.color.resized(width, height)

    def fingerprint(self) -> dict[str, Any]:
        """All that determines the frames' content, as JSON."""
        used = self.used_color
        shrunk = {} if used == self.color else {"used_color_px": [used.width, used.height]}
        return self.to_json() | shrunk

    def to_json(self) -> dict[str, Any]:
        """The calibration in the form of `camera.json`."""
        return {
            "format": "posed-rgbd",
            "depth_units_per_metre": self.units_per_metre,
            "depth": _lens_json(self.depth, self.depth_distortion),
            "color": _lens_json(self.color, self.color_distortion),
            "color_from_depth": self.color_from_depth.tolist(),
            "pose": self.pose,
            "invalid_depth": list(self.invalid_depth),
            **({} if self.pose_axes == "opencv" else {"pose_axes": self.pose_axes}),
        }


def registered(
    camera: Camera,
    units_per_metre: float,
    *,
    distortion: Distortion | None = None,
    pose: str = "none",
    pose_axes: str = "opencv",
) -> RgbdCalibration:
    """Of depth that is registered to colour, pixel by pixel, with 0 for no measurement."""
    return RgbdCalibration(
        units_per_metre=units_per_metre,
        depth=camera,
        color=camera,
        color_from_depth=np.eye(4),
        pose=pose,
        pose_axes=pose_axes,
        invalid_depth=(0,),
        depth_distortion=distortion,
        color_distortion=distortion,
    )


def at_image_sizes(
    calibration: RgbdCalibration, color: tuple[int, int], depth: tuple[int, int], where: str
) -> RgbdCalibration:
    """The calibration of registered images that are larger or smaller than its cameras.

    Pixel coordinates scale as in `Camera.resized`.

    Args:
        calibration: of depth that is registered to colour.
        color: width and height of the colour image (px).
        depth: the depth image's.
        where: the file or topic of the intrinsics, for messages.

    Raises:
        SourceError: an image has another aspect ratio than the intrinsics, to a pixel: it was
            cropped, or depth is as the sensor took it, in the depth camera's pixels.
    """
    camera = calibration.color
    for name, size in (("colour", color), ("depth", depth)):
        by_width = round(size[0] * camera.height / camera.width)
        by_height = round(size[1] * camera.width / camera.height)
        if size[1] != by_width and size[0] != by_height:
            raise SourceError(
                f"colour is {color[0]} x {color[1]} px and depth {depth[0]} x {depth[1]}, but "
                f"{where} is for {camera.width} x {camera.height}: {name} has another aspect "
                f"ratio. {_UNREGISTERED if name == 'depth' else 'Give intrinsics for its size'}"
            )
    return replace(
        calibration, color=camera.resized(*color), depth=calibration.depth.resized(*depth)
    )


def read_calibration(path: Path) -> RgbdCalibration:
    """Read and check a `camera.json`.

    Raises:
        SourceError: the file is missing (the message contains a template) or a field is unknown,
            missing, of the wrong type or out of range; the message names the file and the field.
    """
    if not path.is_file():
        raise SourceError(
            f"{path} does not exist; write the calibration there or pass it with --camera FILE. "
            f"{MISSING}"
        )
    value = read_json(path, "posed-rgbd")
    if set(value) - {"pose_axes"} != set(_FIELDS):
        raise SourceError(f"{path}: {_field_names_differ(value)}. The form is:\n{TEMPLATE}")
    if value["format"] != "posed-rgbd":
        raise SourceError(f"{path}: format is {value['format']!r}; it must be 'posed-rgbd'")
    if value["pose"] not in POSE_CONVENTIONS:
        allowed = ", ".join(POSE_CONVENTIONS)
        raise SourceError(f"{path}: pose is {value['pose']!r}; it must be one of {allowed}")
    axes = value.get("pose_axes", "opencv")
    if axes not in POSE_AXES:
        allowed = ", ".join(POSE_AXES)
        raise SourceError(f"{path}: pose_axes is {axes!r}; it must be one of {allowed}")
    try:
        depth, depth_distortion = lens_from_json(value["depth"], "depth")
        color, color_distortion = lens_from_json(value["color"], "color")
        return RgbdCalibration(
            units_per_metre=_positive_number(value, "depth_units_per_metre", path),
            depth=depth,
            color=color,
            depth_distortion=depth_distortion,
            color_distortion=color_distortion,
            color_from_depth=_transform(value["color_from_depth"], path),
            pose=value["pose"],
            pose_axes=axes,
            invalid_depth=_invalid_values(value["invalid_depth"], path),
        )
    except GeometryError as error:
        raise SourceError(f"{path}: {error}") from error


def lens_from_json(value: Any, where: str) -> tuple[Camera, Distortion | None]:
    """A camera with an optional `distortion`.

    Raises:
        GeometryError: a field is unknown, missing or of the wrong type; the message names `where`.
    """
    if not isinstance(value, dict) or "distortion" not in value:
        return camera_from_json(value, where), None
    pinhole = {name: item for name, item in value.items() if name != "distortion"}
    distortion = distortion_from_json(value["distortion"], where)
    return camera_from_json(pinhole, where), distortion


def _lens_json(camera: Camera, distortion: Distortion | None) -> dict[str, Any]:
    lens: dict[str, Any] = dict(camera.to_json())
    return lens if distortion is None else lens | {"distortion": distortion.to_json()}


def _field_names_differ(value: dict[str, Any]) -> str:
    missing = [name for name in _FIELDS if name not in value]
    unknown = sorted(set(value) - {*_FIELDS, "pose_axes"})
    return f"missing fields {missing}, unknown fields {unknown}"


def _positive_number(value: dict[str, Any], name: str, path: Path) -> float:
    number = value[name]
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise SourceError(f"{path}: {name} is {number!r}; expected a number")
    if not 0 < number <= LARGEST_UNITS:
        raise SourceError(
            f"{path}: {name} is {shown_number(number)}; it must be positive and at most "
            f"{LARGEST_UNITS:g}"
        )
    return float(number)


def _transform(value: Any, path: Path) -> Float64[np.ndarray, "4 4"]:
    is_numbers = isinstance(value, list) and all(
        isinstance(row, list)
        and len(row) == 4
        and all(isinstance(item, int | float) and not isinstance(item, bool) for item in row)
        for row in value
    )
    if not is_numbers or len(value) != 4:
        raise SourceError(
            f"{path}: expected 4 rows of 4 numbers in color_from_depth, found {value!r}"
        )
    try:
        matrix = np.array(value, dtype=np.float64)
    except OverflowError:
        raise SourceError(f"{path}: color_from_depth contains a number that is too large") from None
    return check_rigid(matrix, "color_from_depth")


def _invalid_values(value: Any, path: Path) -> tuple[int, ...]:
    is_list = isinstance(value, list) and all(
        isinstance(item, int) and not isinstance(item, bool) and 0 <= item <= 65535
        for item in value
    )
    if not is_list:
        raise SourceError(
            f"{path}: invalid_depth is {value!r}; expected a list of whole numbers from 0 to 65535"
        )
    return tuple(value)
