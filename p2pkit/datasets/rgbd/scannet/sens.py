"""ScanNet's `.sens` files, read frame by frame where they lie; nothing is unpacked to disk.

The form is that of SensReader/c++/src/sensorData.h and SensReader/python/SensorData.py in the
ScanNet repository, version 4, little-endian: a header with intrinsics and sizes, then for each
frame its pose, two time stamps, two lengths and the compressed colour and depth.
"""

import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import Float64, UInt8, UInt16

from p2pkit.datasets.files.images import decode_color
from p2pkit.datasets.files.inflate import inflate
from p2pkit.datasets.plausible import median_interval_s
from p2pkit.errors import FrameError, GeometryError, SourceError
from p2pkit.geometry.camera import Camera, camera_from_matrix

VERSION = 4
_MATRIX = struct.Struct("<16f")
_SIZES = struct.Struct("<iiIIIIfQ")
_FRAME = struct.Struct("<16fQQQQ")
_LONGEST_NAME = 4096
_LONGEST_SIDE = 16384
_COLOR_RAW, _COLOR_PNG, _COLOR_JPEG = 0, 1, 2
_DEPTH_RAW, _DEPTH_ZLIB = 0, 1


@dataclass(frozen=True)
class SensHeader:
    """What the file says of all of its frames.

    Args:
        color, depth: intrinsics; colour is registered to depth in calibrated files.
        color_coding, depth_coding: 0 raw, 1 PNG, 2 JPEG; 0 raw, 1 zlib.
        units_per_metre: of the depth.
        frames: how many there are.
        first: where the first frame begins (bytes).
    """

    color: Camera
    depth: Camera
    color_coding: int
    depth_coding: int
    units_per_metre: float
    frames: int
    first: int


class SensPlace(NamedTuple):
    """Where one frame lies.

    Fields:
        start: of its pose (bytes).
        color_bytes, depth_bytes: lengths of the compressed images.
    """

    start: int
    color_bytes: int
    depth_bytes: int


class SensFrame(NamedTuple):
    """One decoded frame.

    Fields:
        world_from_camera: None where tracking was lost, which the file marks by infinite numbers.
        time_offset_s: colour's time minus depth's, or None where a time stamp is 0.
        speed_m_s: of the camera, from the frame before to the one after; 0 where it is not known.
        interval_s: the median time between the file's depth images; None where it is not known.
    """

    image: UInt8[np.ndarray, "color_height color_width 3"]
    depth: UInt16[np.ndarray, "height width"]
    world_from_camera: Float64[np.ndarray, "4 4"] | None
    time_offset_s: float | None
    speed_m_s: float
    interval_s: float | None


class _Stamp(NamedTuple):
    """What stands before a frame's images; times in µs."""

    pose: Float64[np.ndarray, "4 4"]
    color_us: int
    depth_us: int


@lru_cache(maxsize=2048)
def read_header(path: Path) -> SensHeader:
    """Read and check the beginning of a `.sens` file.

    Raises:
        SourceError: it is cut, of another version, or holds values that make no sense.
    """
    try:
        with open(path, "rb") as file:
            return _header(file, path)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error}") from error
    except struct.error as error:
        raise SourceError(f"{path} ends within its header: {error}") from error
    except GeometryError as error:
        raise SourceError(f"{path}: {error}") from error


def _header(file: BinaryIO, path: Path) -> SensHeader:
    version, name_length = struct.unpack("<IQ", file.read(12))
    if version != VERSION or name_length > _LONGEST_NAME:
        raise SourceError(
            f"{path} begins with version {version} and a name of {name_length} bytes; expected "
            f".sens version {VERSION}"
        )
    file.seek(name_length, 1)
    matrices = [
        np.array(_MATRIX.unpack(file.read(_MATRIX.size)), dtype=np.float64).reshape(4, 4)
        for _ in range(4)
    ]
    _refuse_uncalibrated(matrices[1], matrices[3], path)
    values = _SIZES.unpack(file.read(_SIZES.size))
    color_coding, depth_coding, width, height, depth_width, depth_height, units, frames = values
    sides = (width, height, depth_width, depth_height)
    if not 1 <= min(sides) <= max(sides) <= _LONGEST_SIDE:
        raise SourceError(f"{path} has images of {sides} px; expected 1 to {_LONGEST_SIDE}")
    if color_coding not in (_COLOR_RAW, _COLOR_PNG, _COLOR_JPEG):
        raise SourceError(
            f"{path}: colour coding {color_coding} is unknown; expected raw, PNG or JPEG (0, 1, 2)"
        )
    if depth_coding not in (_DEPTH_RAW, _DEPTH_ZLIB):
        raise SourceError(
            f"{path}: depth coding {depth_coding} is unknown; expected raw or zlib (0, 1)"
        )
    if not (np.isfinite(units) and units > 0):
        raise SourceError(
            f"{path}: the depth has {units} units per metre; expected a positive number"
        )
    if frames * _FRAME.size > path.stat().st_size:
        raise SourceError(f"{path} says that it has {frames} frames, but is too small for them")
    return SensHeader(
        color=camera_from_matrix(matrices[0], (width, height), "the colour intrinsics"),
        depth=camera_from_matrix(matrices[2], (depth_width, depth_height), "the depth intrinsics"),
        color_coding=color_coding,
        depth_coding=depth_coding,
        units_per_metre=float(units),
        frames=frames,
        first=file.tell(),
    )


def _refuse_uncalibrated(color: np.ndarray, depth: np.ndarray, path: Path) -> None:
    for name, extrinsic in (("colour", color), ("depth", depth)):
        if not np.allclose(extrinsic, np.eye(4), atol=1e-4):
            raise SourceError(
                f"{path}: the {name} camera's extrinsics are {extrinsic.tolist()}; a calibrated "
                "file, whose colour is registered to depth, has the identity"
            )


@lru_cache(maxsize=256)
def frame_places(path: Path) -> tuple[SensPlace, ...]:
    """Where each frame lies, by reading 96 bytes of each; fewer than said if the file is cut."""
    header = read_header(path)
    places: list[SensPlace] = []
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = header.first
        while len(places) < header.frames and start + _FRAME.size <= size:
            file.seek(start)
            color_bytes, depth_bytes = _FRAME.unpack(file.read(_FRAME.size))[-2:]
            end = start + _FRAME.size + color_bytes + depth_bytes
            if end > size:
                break
            places.append(SensPlace(start, color_bytes, depth_bytes))
            start = end
    return tuple(places)


def read_frame(path: Path, number: int, key: str) -> SensFrame:
    """Read and decode one frame.

    Raises:
        FrameError: the file ends before it, or its images are damaged.
    """
    header, places = read_header(path), frame_places(path)
    place = _place(path, number, key)
    around = (places[max(number - 1, 0)], places[min(number + 1, len(places) - 1)])
    with open(path, "rb") as file:
        before, after = (_stamp(file, other) for other in around)
        stamp = _stamp(file, place)
        color, depth = file.read(place.color_bytes), file.read(place.depth_bytes)
    known = stamp.color_us > 0 and stamp.depth_us > 0
    return SensFrame(
        image=_color(color, header, key),
        depth=_depth(depth, header, key),
        world_from_camera=stamp.pose if np.isfinite(stamp.pose).all() else None,
        time_offset_s=(stamp.color_us - stamp.depth_us) / 1e6 if known else None,
        speed_m_s=_speed(before, after),
        interval_s=_interval_s(path),
    )


def read_frame_depth(path: Path, number: int, key: str) -> UInt16[np.ndarray, "height width"]:
    """Read the depth of one frame, without its colour; raises as `read_frame`."""
    place = _place(path, number, key)
    with open(path, "rb") as file:
        file.seek(place.start + _FRAME.size + place.color_bytes)
        return _depth(file.read(place.depth_bytes), read_header(path), key)


def read_frame_pose(path: Path, number: int, key: str) -> Float64[np.ndarray, "4 4"] | None:
    """world_from_camera of one frame, None where tracking was lost; raises as `read_frame`."""
    with open(path, "rb") as file:
        pose = _stamp(file, _place(path, number, key)).pose
    return pose if np.isfinite(pose).all() else None


def _place(path: Path, number: int, key: str) -> SensPlace:
    places = frame_places(path)
    if number >= len(places):
        frames = read_header(path).frames
        raise FrameError(
            key, f"{path.name} is truncated: it has {len(places)} of its {frames} frames"
        )
    return places[number]


@lru_cache(maxsize=256)
def _interval_s(path: Path) -> float | None:
    """The median time between depth images (s)."""
    with open(path, "rb") as file:
        stamps = [_stamp(file, place).depth_us for place in frame_places(path)]
    return median_interval_s([stamp / 1e6 if stamp else None for stamp in stamps])


def _stamp(file: BinaryIO, place: SensPlace) -> _Stamp:
    """Read what stands before a frame's images; the file is left where these begin."""
    file.seek(place.start)
    values = _FRAME.unpack(file.read(_FRAME.size))
    pose = np.array(values[:16], dtype=np.float64).reshape(4, 4)
    return _Stamp(pose, *values[16:18])


def _speed(before: _Stamp, after: _Stamp) -> float:
    known = 0 < before.depth_us < after.depth_us
    moved = float(np.linalg.norm(after.pose[:3, 3] - before.pose[:3, 3])) if known else np.nan
    return moved / (after.depth_us - before.depth_us) * 1e6 if np.isfinite(moved) else 0.0


def _color(data: bytes, header: SensHeader, key: str) -> UInt8[np.ndarray, "height width 3"]:
    width, height = header.color.width, header.color.height
    if header.color_coding != _COLOR_RAW:
        return decode_color(data, key, (width, height))
    if len(data) != width * height * 3:
        raise FrameError(key, f"raw colour has {len(data)} bytes; expected {width * height * 3}")
    return np.frombuffer(data, dtype=np.uint8).reshape(height, width, 3)


def _depth(data: bytes, header: SensHeader, key: str) -> UInt16[np.ndarray, "height width"]:
    width, height = header.depth.width, header.depth.height
    wanted = width * height * 2
    if header.depth_coding == _DEPTH_ZLIB:
        try:
            data, _ = inflate(data, wanted + 1)
        except ValueError as error:
            raise FrameError(key, f"the depth cannot be decompressed: {error}") from error
    if len(data) != wanted:
        raise FrameError(
            key, f"the depth has {len(data)} bytes; expected {wanted} for {width} x {height} px"
        )
    return np.frombuffer(data, dtype="<u2").reshape(height, width)
