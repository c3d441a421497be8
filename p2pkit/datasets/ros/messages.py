"""What `sensor_msgs` hold: images, cameras and clouds of points as arrays.

Encodings as in sensor_msgs/image_encodings.hpp; depth in millimetres (16UC1) or metres (32FC1) as
REP 118 says; `compressedDepth` as image_transport_plugins writes it: twelve bytes, then a PNG,
which holds A / depth + B of 32FC1 images (A and B are the last eight of these bytes).
"""

import struct
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, UInt8, UInt16

from p2pkit.datasets.files.images import decode_color, read_depth_png
from p2pkit.datasets.ros.bag import CAMERA_INFO, COMPRESSED, IMAGE, POINTS, RosBag, find_bags
from p2pkit.errors import FrameError, GeometryError, P2pkitError, SourceError
from p2pkit.geometry.camera import Camera, camera_from_matrix
from p2pkit.geometry.lens_distortion import Distortion

UNITS_PER_METRE = 1000.0
_CHANNELS = {"rgb8": (3, (0, 1, 2)), "bgr8": (3, (2, 1, 0)), "rgba8": (4, (0, 1, 2))}
_COLORS = _CHANNELS | {"bgra8": (4, (2, 1, 0)), "8UC3": (3, (2, 1, 0))}
"""Channels of each colour encoding, and where red, green and blue are; OpenCV's 8UC3 is BGR."""
_DEPTHS = {"16UC1": np.uint16, "mono16": np.uint16, "32FC1": np.float32}
_MODELS = {
    "plumb_bob": ("radial-tangential", 5),
    "rational_polynomial": ("radial-tangential", 8),
    "equidistant": ("fisheye", 4),
    "fisheye": ("fisheye", 4),
}
_NUMBERS = ("i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8")
"""Types of PointField by number, from 1."""
_QUANTISED = struct.Struct("<iff")


class Lens(NamedTuple):
    """The camera of a topic's images as they are stored, and its distortion."""

    camera: Camera
    distortion: Distortion | None


class Points(NamedTuple):
    """A cloud; intensity as stored, None without one."""

    xyz: Float32[np.ndarray, "points 3"]
    intensity: Float32[np.ndarray, " points"] | None


def color_topics(bag: RosBag) -> list[str]:
    """The topics of colour images; of one camera's raw and compressed images the raw ones."""
    return _one_of_each([topic for topic in bag.topics(IMAGE, COMPRESSED) if _is_color(bag, topic)])


def depth_topics(bag: RosBag) -> list[str]:
    """The topics of depth images; of one camera's raw and compressed images the raw ones."""
    return _one_of_each([topic for topic in bag.topics(IMAGE, COMPRESSED) if _is_depth(bag, topic)])


def no_color(bag: RosBag) -> str:
    """Says that none of the bag's images is in an encoding of colour that is read, and lists them.

    Raises:
        SourceError: one cannot be read.
    """
    found = [f"{topic} ({_encoding(bag, topic)})" for topic in bag.topics(IMAGE, COMPRESSED)]
    return (
        f"{bag.path.name} has no topics of colour images; its images are "
        f"{', '.join(found) or 'none'}. Record or convert colour as {', '.join(_COLORS)}, or "
        "compressed as JPEG or PNG"
    )


def _one_of_each(topics: list[str]) -> list[str]:
    return [one for one in topics if base_topic(one) == one or base_topic(one) not in topics]


def dataset_of(root: Path) -> str:
    """`ros-sweeps` where the first bag has clouds of points but no depth images, else `ros-rgbd`.

    The first that can be read; `ros-rgbd` where none can, which opening them reports.
    """
    with suppress(SourceError):
        for path in find_bags(root):
            with suppress(P2pkitError):
                bag = RosBag(path)
                only_points = bag.topics(POINTS) and not depth_topics(bag)
                return "ros-sweeps" if only_points else "ros-rgbd"
    return "ros-rgbd"


def base_topic(topic: str) -> str:
    """The topic without the name that an image transport appends."""
    base, _, last = topic.rpartition("/")
    return base if last in ("compressed", "compressedDepth") else topic


def _encoding(bag: RosBag, topic: str) -> str:
    first = bag.first(topic)
    return str(first.encoding if bag.type_of(topic) == IMAGE else first.format)


def _is_color(bag: RosBag, topic: str) -> bool:
    encoding = _encoding(bag, topic)
    if bag.type_of(topic) == IMAGE:
        return encoding in _COLORS
    return not _is_depth(bag, topic) and not encoding.startswith(("mono", "8UC1", "16UC1"))


def _is_depth(bag: RosBag, topic: str) -> bool:
    encoding = _encoding(bag, topic)
    if bag.type_of(topic) == IMAGE:
        # 16 grey bits are infrared as often.
        return encoding in _DEPTHS and (encoding != "mono16" or "depth" in topic)
    return encoding.partition(";")[0] in ("16UC1", "32FC1") or "compressedDepth" in encoding


def lens_of(bag: RosBag, topic: str) -> Lens | None:
    """From the CameraInfo beside a topic of images; None without one.

    Topics such as `image_rect_color` hold rectified images, whose intrinsics are P.

    Raises:
        SourceError: it cannot be used.
    """
    base = base_topic(topic)
    folder, _, name = base.rpartition("/")
    info_topic = f"{folder}/camera_info"
    if info_topic not in bag.topics(CAMERA_INFO):
        return None
    info = bag.first(info_topic)
    where = f"{bag.path.name}: {info_topic}"
    size = (int(info.width), int(info.height))
    projection = np.reshape(_of(info, "p"), (3, 4))
    is_rectified = "rect" in name and "unrect" not in name and projection[0, 0] > 0
    if is_rectified and projection[:, 3].any():
        raise SourceError(
            f"{where}: P has the fourth column {projection[:, 3].tolist()}, of the second "
            "camera of a stereo pair; read the first camera, or images that are not rectified"
        )
    matrix = projection[:, :3] if is_rectified else np.reshape(_of(info, "k"), (3, 3))
    try:
        lens = None if is_rectified else _distortion(info, where)
        return Lens(camera_from_matrix(matrix, size, where), lens)
    except GeometryError as error:
        raise SourceError(f"{where}: {error}") from error


def _of(info: Any, name: str) -> Any:
    """A field of CameraInfo, which ROS 1 writes in capitals."""
    return getattr(info, name) if hasattr(info, name) else getattr(info, name.upper())


def _distortion(info: Any, where: str) -> Distortion | None:
    coefficients = tuple(float(number) for number in _of(info, "d"))
    if not any(coefficients):
        return None
    if info.distortion_model not in _MODELS:
        raise SourceError(
            f"{where}: distortion_model is {info.distortion_model!r}; expected "
            f"{', '.join(_MODELS)}, or rectified images (image_rect_color)"
        )
    model, count = _MODELS[info.distortion_model]
    if any(coefficients[count:]):
        raise SourceError(
            f"{where}: {info.distortion_model} has the coefficients {coefficients}; expected zeros "
            f"after the first {count}, or rectified images (image_rect_color)"
        )
    return Distortion(model, coefficients[:count])


def color_of(
    message: Any, kind: str, key: str, camera: Camera
) -> UInt8[np.ndarray, "height width 3"]:
    """A colour image of the camera's size.

    Args:
        message: of this type.
        kind: `IMAGE` or `COMPRESSED`.
        key: of the frame, for messages.
        camera: of the images.

    Raises:
        FrameError: the image is damaged, of another size, or in another encoding.
    """
    size = (camera.width, camera.height)
    if kind == COMPRESSED:
        return decode_color(bytes(message.data), key, size)
    if message.encoding not in _COLORS:
        raise FrameError(key, f"expected colour, found the encoding {message.encoding}")
    channels, order = _COLORS[message.encoding]
    pixels = _pixels(message, np.dtype("u1"), channels, key, size)
    return np.ascontiguousarray(pixels[:, :, list(order)])


def depth_of(
    message: Any, kind: str, key: str, camera: Camera, units: float | None
) -> tuple[UInt16[np.ndarray, "height width"], float]:
    """A depth image of the camera's size, and its units per metre.

    Args:
        message: of this type.
        kind: `IMAGE` or `COMPRESSED`.
        key: of the frame, for messages.
        camera: of the images.
        units: per metre of the stored numbers, in place of REP 118's; None takes that.

    Raises:
        FrameError: the image is damaged, of another size, or in another encoding.
    """
    size = (camera.width, camera.height)
    if kind == IMAGE:
        if message.encoding not in _DEPTHS:
            raise FrameError(key, f"expected depth, found the encoding {message.encoding}")
        found = _pixels(message, np.dtype(_DEPTHS[message.encoding]), 1, key, size)[:, :, 0]
    else:
        found = _compressed_depth(message, key, size)
    if found.dtype == np.uint16:
        return found, units or UNITS_PER_METRE
    metres = found.astype(np.float64) / (units or 1.0)
    fits = np.isfinite(metres) & (metres > 0) & (metres * UNITS_PER_METRE <= 65535)
    return np.round(np.where(fits, metres * UNITS_PER_METRE, 0)).astype(np.uint16), UNITS_PER_METRE


def _compressed_depth(message: Any, key: str, size: tuple[int, int]) -> np.ndarray:
    data, text = bytes(message.data), str(message.format)
    if "compressedDepth" not in text:
        return read_depth_png(data, key, size)
    if "rvl" in text.lower():
        raise FrameError(key, f"its depth is {text!r}; expected PNG: record with format png")
    stored = read_depth_png(data[_QUANTISED.size :], key, size)
    if not text.startswith("32FC1"):
        return stored
    _, a, b = _QUANTISED.unpack_from(data)
    with np.errstate(divide="ignore"):
        return np.where(stored > 0, a / (stored.astype(np.float32) - b), np.nan).astype(np.float32)


def _pixels(
    message: Any, dtype: np.dtype[Any], channels: int, key: str, size: tuple[int, int]
) -> np.ndarray:
    found = (int(message.width), int(message.height))
    if found != size:
        raise FrameError(
            key,
            f"an image is {found[0]} x {found[1]} px, but its CameraInfo is for "
            f"{size[0]} x {size[1]}",
        )
    used = size[0] * channels * dtype.itemsize
    data = np.frombuffer(bytes(message.data), dtype=np.uint8)
    if message.step < used or data.size < message.step * size[1]:
        raise FrameError(key, f"an image has {data.size} bytes in rows of {message.step}; too few")
    rows = data[: message.step * size[1]].reshape(size[1], message.step)[:, :used]
    order = dtype.newbyteorder(">" if message.is_bigendian else "<")
    pixels = np.ascontiguousarray(rows).view(order).astype(dtype)
    return pixels.reshape(size[1], size[0], channels)


def points_of(message: Any, key: str) -> Points:
    """The points of a PointCloud2 as float32, with its `intensity` if it has one.

    Raises:
        FrameError: it has no x, y and z, or fewer bytes than it says.
    """
    order = ">" if message.is_bigendian else "<"
    fields = {str(one.name): one for one in message.fields}
    if not {"x", "y", "z"} <= set(fields):
        raise FrameError(key, f"its points have the fields {', '.join(fields)}; expected x, y, z")
    wanted = [name for name in ("x", "y", "z", "intensity") if name in fields]
    rows, width, step = int(message.height), int(message.width), int(message.point_step)
    data = np.frombuffer(bytes(message.data), dtype=np.uint8)
    if data.size < rows * message.row_step or message.row_step < width * step:
        raise FrameError(key, f"a cloud of {width} x {rows} points has {data.size} bytes; too few")
    dtype = np.dtype(
        {
            "names": wanted,
            "formats": [f"{order}{_NUMBERS[fields[name].datatype - 1]}" for name in wanted],
            "offsets": [int(fields[name].offset) for name in wanted],
            "itemsize": step,
        }
    )
    grid = data[: rows * message.row_step].reshape(rows, message.row_step)[:, : width * step]
    records = np.ascontiguousarray(grid).reshape(-1).view(dtype)
    xyz: Float64[np.ndarray, "points 3"] = np.stack([records[name] for name in "xyz"], axis=1)
    intensity = records["intensity"].astype(np.float32) if "intensity" in fields else None
    return Points(xyz.astype(np.float32), intensity)
