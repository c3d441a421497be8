"""Is each field of a frame what `Frame` promises? The first thing to ask of a new reader."""

import re
from collections.abc import Callable

import numpy as np

from p2pkit.datasets.frame import DepthImage, Frame, View
from p2pkit.errors import GeometryError
from p2pkit.geometry.camera import Camera
from p2pkit.geometry.transforms import check_rigid

KEY = re.compile(r"[A-Za-z0-9_-]+")


def field_problems(frame: Frame) -> list[str]:
    """What is wrong with the frame's fields, each with the field's name; empty if nothing is."""
    problems = [
        *_key_problems(frame),
        *(p for number, view in enumerate(frame.views) for p in _view_problems(number, view)),
        *(_depth_problems(frame.depth) if frame.depth is not None else ()),
        *_point_problems(frame),
        *_label_problems(frame),
    ]
    if frame.world_from_sensor is not None:
        problems += _rigid("world_from_sensor", frame.world_from_sensor)
    return problems


def _key_problems(frame: Frame) -> list[str]:
    problems: list[str] = []
    if not KEY.fullmatch(frame.key):
        problems.append(f"key is {frame.key!r}; letters, digits, _ and - only")
    if (frame.depth is None) == (frame.points is None):
        problems.append("exactly one of depth and points is needed")
    if not frame.views:
        problems.append("views is empty; at least one image is needed")
    return problems


def _view_problems(number: int, view: View) -> list[str]:
    name = f"views[{number}]"
    problems = _array(f"{name}.image", view.image, np.uint8, (*_size(view.camera), 3))
    return problems + _rigid(f"{name}.camera_from_sensor", view.camera_from_sensor)


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
    return problems


def _label_problems(frame: Frame) -> list[str]:
    if frame.labels is None:
        return []
    if frame.depth is not None:
        return _array("labels", frame.labels, np.uint8, frame.depth.values.shape)
    if frame.points is None:
        return []
    return _array("labels", frame.labels, np.uint8, (len(frame.points),))


def _array(
    name: str, array: np.ndarray, dtype: Callable[..., object], shape: tuple[int, ...]
) -> list[str]:
    wanted = np.dtype(dtype)  # pyright: ignore[reportArgumentType, reportCallIssue]
    if array.dtype == wanted and array.shape == shape:
        return []
    return [f"{name} is {array.dtype} {array.shape}; {wanted} {shape} is needed"]


def _rigid(name: str, transform: np.ndarray) -> list[str]:
    try:
        check_rigid(transform, name)
    except GeometryError as error:
        return [str(error)]
    return []


def _size(camera: Camera) -> tuple[int, int]:
    return camera.height, camera.width
