"""Checks that each field of a frame is what `Frame` promises, to be run first on a new reader."""

import re
from collections.abc import Callable, Sequence

import numpy as np

from p2pkit.datasets.frame import DepthImage, Frame
from p2pkit.errors import GeometryError
from p2pkit.geometry.camera import Camera
from p2pkit.geometry.transforms import check_rigid

KEY = re.compile(r"[A-Za-z0-9_-]+")
LONGEST_SWEEP_S = 10.0
"""Times of points are relative to the frame's; larger ones are absolute or in another unit."""


def field_problems(frame: Frame, label_names: Sequence[str] | None = None) -> list[str]:
    """The errors in a frame's fields, each with the field's name; empty if there are none.

    Args:
        frame: of any source.
        label_names: of the source; each label value must have one.
    """
    problems = [
        *_key_problems(frame),
        *(p for number in range(len(frame.views)) for p in _view_problems(frame, number)),
        *(_depth_problems(frame.depth) if frame.depth is not None else ()),
        *_point_problems(frame),
        *_label_problems(frame, label_names),
        *_motion_problems(frame),
    ]
    if frame.world_from_sensor is not None:
        problems += _rigid("world_from_sensor", frame.world_from_sensor)
    return problems


def _key_problems(frame: Frame) -> list[str]:
    problems: list[str] = []
    if not KEY.fullmatch(frame.key):
        problems.append(f"key is {frame.key!r}; expected letters, digits, _ and - only")
    if (frame.depth is None) == (frame.points is None):
        problems.append("expected exactly one of depth and points")
    if not frame.views and frame.colors is None:
        problems.append("views is empty; expected at least one image, or colors of the points")
    return problems


def _view_problems(frame: Frame, number: int) -> list[str]:
    view, name = frame.views[number], f"views[{number}]"
    problems = _array(f"{name}.image", view.image, np.uint8, (*_size(view.camera), 3))
    problems += _rigid(f"{name}.camera_from_sensor", view.camera_from_sensor)
    if view.valid is not None:
        problems += _array(f"{name}.valid", view.valid, np.bool_, _size(view.camera))
    if view.sees is not None and frame.points is None:
        problems.append(f"{name}.sees is given, but the frame has no points; expected None")
    elif view.sees is not None and frame.points is not None:
        problems += _array(f"{name}.sees", view.sees, np.bool_, (len(frame.points),))
    if view.time_offset_s is not None and not np.isfinite(view.time_offset_s):
        problems.append(f"{name}.time_offset_s is {view.time_offset_s}; expected seconds or None")
    return problems


def _depth_problems(depth: DepthImage) -> list[str]:
    problems = _array("depth.values", depth.values, np.uint16, _size(depth.camera))
    if not problems and not depth.values.any():
        problems.append("depth.values is 0 everywhere: no measurement")
    if not depth.units_per_metre > 0:
        problems.append(f"depth.units_per_metre is {depth.units_per_metre}; it must be positive")
    return problems


def _point_problems(frame: Frame) -> list[str]:
    if frame.points is None:
        return []
    count = len(frame.points)
    problems = _array("points", frame.points, np.float32, (count, 3))
    if not problems and not np.isfinite(frame.points).all():
        problems.append("points holds NaN or infinity")
    if count == 0:
        problems.append("points is empty")
    if frame.colors is not None:
        problems += _array("colors", frame.colors, np.uint8, (count, 3))
    return problems


def _label_problems(frame: Frame, label_names: Sequence[str] | None) -> list[str]:
    if frame.labels is None or (frame.depth is None and frame.points is None):
        return []
    shape = frame.depth.values.shape if frame.depth is not None else _rows(frame)
    problems = _array("labels", frame.labels, np.uint8, shape)
    if problems or frame.labels.size == 0:
        return problems
    if label_names is None:
        return ["labels are given, but the source's label_names is None"]
    largest = int(frame.labels.max())
    if largest >= len(label_names):
        return [f"labels holds {largest}; label_names has names for 0 to {len(label_names) - 1}"]
    return []


def _motion_problems(frame: Frame) -> list[str]:
    problems: list[str] = []
    if not (np.isfinite(frame.speed_m_s) and frame.speed_m_s >= 0):
        problems.append(f"speed_m_s is {frame.speed_m_s}; expected 0 or more, 0 if unknown")
    if frame.depth is not None and not (frame.intensity is None and frame.point_time_s is None):
        problems.append("intensity and point_time_s belong to points; expected None with depth")
    if frame.points is None:
        return problems
    if frame.intensity is not None:
        problems += _array("intensity", frame.intensity, np.float32, _rows(frame)) or _within(
            "intensity", frame.intensity, 0.0, 1.0
        )
    if frame.point_time_s is not None:
        problems += _array("point_time_s", frame.point_time_s, np.float32, _rows(frame)) or _within(
            "point_time_s", frame.point_time_s, -LONGEST_SWEEP_S, LONGEST_SWEEP_S
        )
    return problems


def _rows(frame: Frame) -> tuple[int, ...]:
    return () if frame.points is None else (len(frame.points),)


def _within(name: str, values: np.ndarray, low: float, high: float) -> list[str]:
    if ((values >= low) & (values <= high)).all():
        return []
    return [f"{name} is {values.min():g} to {values.max():g}; expected {low:g} to {high:g}"]


def _array(
    name: str, array: object, dtype: Callable[..., object], shape: tuple[int, ...]
) -> list[str]:
    wanted = np.dtype(dtype)  # pyright: ignore[reportArgumentType, reportCallIssue]
    if not isinstance(array, np.ndarray):
        return [f"{name} is a {type(array).__name__}; expected an array {wanted} {shape}"]
    if array.dtype == wanted and array.shape == shape:
        return []
    return [f"{name} is {array.dtype} {array.shape}; expected {wanted} {shape}"]


def _rigid(name: str, transform: np.ndarray) -> list[str]:
    try:
        check_rigid(transform, name)
    except GeometryError as error:
        return [str(error)]
    return []


def _size(camera: Camera) -> tuple[int, int]:
    return camera.height, camera.width
