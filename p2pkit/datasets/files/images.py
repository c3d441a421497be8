"""Reading one frame's files. Whatever is wrong with them becomes a FrameError with the value."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Float64, UInt8, UInt16
from PIL import ExifTags, Image, UnidentifiedImageError

from p2pkit.datasets.files.plain_png import decode_plain_grey16, decode_plain_rgb
from p2pkit.datasets.files.text import TEXT_ENCODING, short_name
from p2pkit.errors import FrameError, GeometryError, SourceError
from p2pkit.geometry.camera import Camera
from p2pkit.geometry.transforms import nearest_rigid

# What Pillow raises on damaged files, by format and kind of damage.
_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_COLOR_MODES = ("RGB",)
_TURNED_BY_90 = range(5, 9)
# Pillow before 11.3 opens a 16-bit grey PNG as "I".
_DEPTH_MODES = ("I;16", "I;16B", "I")
FARTHEST_MEDIAN_M = 100.0
"""No depth image has a larger median: such values are millimetres."""


def read_color(
    path: Path, key: str, size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """Decode an RGB image of exactly `size` (width, height in px), or of any size."""
    return _decode(path, key, modes=_COLOR_MODES, expected="8-bit RGB", size=size)


def decode_color(
    data: bytes, key: str, size: tuple[int, int]
) -> UInt8[np.ndarray, "height width 3"]:
    """Decode an RGB image in memory, of exactly `size` (width, height in px)."""
    return _decode(BytesIO(data), key, modes=_COLOR_MODES, expected="8-bit RGB", size=size)


def read_depth_png(
    source: Path | bytes, key: str, size: tuple[int, int]
) -> UInt16[np.ndarray, "height width"]:
    """Decode a 16-bit grey PNG, a file or in memory, of exactly `size` (width, height in px).

    Values are in the file's units.
    """
    place = BytesIO(source) if isinstance(source, bytes) else source
    values = _decode(place, key, modes=_DEPTH_MODES, expected="16-bit grey", size=size)
    # Only files that Pillow before 11.3 opens as 32-bit can hold other values.
    if values.dtype != np.uint16 and (values.min() < 0 or values.max() > np.iinfo(np.uint16).max):
        raise FrameError(
            key,
            f"expected 16-bit depth, found values from {values.min()} to {values.max()} in "
            f"{_name(place)}",
        )
    return values.astype(np.uint16, copy=False)


def read_depth_npy(
    path: Path, key: str, camera: Camera, units_per_metre: float
) -> UInt16[np.ndarray, "height width"]:
    """Read float32 metres and round them to 1 / `units_per_metre`.

    NaN, infinity and what 16 bits cannot hold become 0, no measurement.

    Raises:
        FrameError: the file cannot be read, holds another type or shape, negative depth, or a
            median that millimetres have.
    """
    try:
        metres = np.load(path, allow_pickle=False)
    except _DECODING_ERRORS as error:
        raise FrameError(key, f"{short_name(path)} cannot be read: {error}") from error
    if metres.dtype != np.float32 or metres.shape != (camera.height, camera.width):
        raise FrameError(
            key,
            f"expected float32 {(camera.height, camera.width)} (height, width) in metres, found "
            f"{metres.dtype} {metres.shape} in {short_name(path)}",
        )
    units = np.round(metres.astype(np.float64) * units_per_metre)
    if (units < 0).any():
        raise FrameError(
            key, f"{short_name(path)} contains a negative depth, {np.nanmin(metres):g} m"
        )
    _refuse_other_unit(metres, path, key)
    fits = np.isfinite(units) & (units <= np.iinfo(np.uint16).max)
    return np.where(fits, units, 0).astype(np.uint16)


def _refuse_other_unit(metres: np.ndarray, path: Path, key: str) -> None:
    measured = metres[np.isfinite(metres) & (metres > 0)]
    median = float(np.median(measured)) if measured.size else 0.0
    if median > FARTHEST_MEDIAN_M:
        raise FrameError(
            key,
            f"{short_name(path)} has a median depth of {median:g} m; at most "
            f"{FARTHEST_MEDIAN_M:g} m is plausible: if it contains millimetres, divide by 1000",
        )


def read_labels(
    path: Path, key: str, size: tuple[int, int], classes: int
) -> UInt8[np.ndarray, "height width"]:
    """Decode an 8-bit label image of exactly `size` (width, height) with values below `classes`."""
    labels = _decode(path, key, modes=("L", "P"), expected="8-bit grey or palette", size=size)
    if labels.max() >= classes:
        raise FrameError(
            key,
            f"{short_name(path)} contains label {labels.max()}, but only 0 to {classes - 1} have "
            "names",
        )
    return labels


def read_pose(path: Path, key: str) -> Float64[np.ndarray, "4 4"]:
    """Read 16 numbers separated by white space as a rigid transform, row by row."""
    try:
        numbers = [float(word) for word in path.read_text(TEXT_ENCODING).split()]
    except (OSError, ValueError) as error:
        raise FrameError(key, f"{short_name(path)} cannot be read as numbers: {error}") from error
    if len(numbers) != 16:
        raise FrameError(
            key,
            f"expected the 16 numbers of a 4 x 4 pose, found {len(numbers)} in {short_name(path)}",
        )
    try:
        return nearest_rigid(np.array(numbers).reshape(4, 4), short_name(path))
    except GeometryError as error:
        raise FrameError(key, str(error)) from error


def image_size(path: Path) -> tuple[int, int]:
    """Width and height of an image (px), from its header.

    Raises:
        SourceError: the file does not exist, or is not an image.
    """
    try:
        with Image.open(path) as image:
            return image.size
    except _DECODING_ERRORS as error:
        raise SourceError(f"{short_name(path)} cannot be read as an image: {error}") from error


def check_depth(values: UInt16[np.ndarray, "height width"], key: str, name: str) -> None:
    """Raise FrameError if no pixel of `values` has a measurement."""
    if not values.any():
        raise FrameError(
            key, f"{name} has no valid depth: all {values.size} pixels are 0 or invalid"
        )


def _opaque(image: Image.Image, key: str, name: str) -> Image.Image:
    """An RGBA image without its alpha channel, where that says that every pixel counts."""
    if image.mode != "RGBA":
        return image
    low, _ = image.getchannel("A").getextrema()
    if low != 255:
        raise FrameError(
            key,
            f"{name} is transparent somewhere (alpha {low}); expected 8-bit RGB, or alpha 255 "
            "everywhere",
        )
    return image.convert("RGB")


def _refuse_unclear_turn(image: Image.Image, key: str, name: str, *, is_sized: bool) -> None:
    """Raise FrameError where an EXIF orientation leaves open which pixels a calibration means.

    Some programs turn the pixels by it, others do not. Where it swaps width and height, a size that
    fits the calibration settles the question.
    """
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _DECODING_ERRORS:
        # Damaged metadata is no reason to leave out an image; damaged pixels show when decoded.
        return
    is_known = is_sized and orientation in _TURNED_BY_90 and image.width != image.height
    if orientation in range(2, 9) and not is_known:
        raise FrameError(
            key,
            f"{name} has the EXIF orientation {orientation}, by which some programs turn an image "
            "and others do not: write the pixels as the calibration means them, without the tag",
        )


def _name(source: Path | BytesIO) -> str:
    return short_name(source) if isinstance(source, Path) else "the embedded image"


def _decode(
    source: Path | BytesIO,
    key: str,
    *,
    modes: tuple[str, ...],
    expected: str,
    size: tuple[int, int] | None,
) -> np.ndarray:
    name = _name(source)
    try:
        data = source.read_bytes() if isinstance(source, Path) else source.getvalue()
        if (plain := _decode_plain(data, modes, size)) is not None:
            return plain
        with Image.open(BytesIO(data)) as opened:
            image = _opaque(opened, key, name) if modes == _COLOR_MODES else opened
            if image.mode not in modes:
                raise FrameError(key, f"{name} has mode {image.mode!r}; expected {expected}")
            if size is not None and image.size != size:
                raise FrameError(
                    key,
                    f"{name} is {image.width} x {image.height} px, but the calibration says "
                    f"{size[0]} x {size[1]}",
                )
            is_jpeg = opened.format == "JPEG" and modes == _COLOR_MODES
            if not is_jpeg:
                opened.load()  # raises here; EXIF, which may follow the pixels, loads them quietly
            _refuse_unclear_turn(opened, key, name, is_sized=size is not None)
            pixels = _decode_jpeg(data) if is_jpeg else None
            return np.array(image) if pixels is None else pixels
    except FileNotFoundError as error:
        raise FrameError(key, f"{name} does not exist") from error
    except UnidentifiedImageError as error:
        # Pillow's message names the place in memory, which is another each time.
        raise FrameError(key, f"{name} cannot be decoded: not an image file") from error
    except _DECODING_ERRORS as error:
        raise FrameError(key, f"{name} cannot be decoded: {error}") from error


def _decode_plain(
    data: bytes, modes: tuple[str, ...], size: tuple[int, int] | None
) -> np.ndarray | None:
    """The pixels of a PNG that nothing turns or marks, as Pillow has them; None of other files."""
    if modes == _DEPTH_MODES:
        return decode_plain_grey16(data, size)
    return decode_plain_rgb(data, size) if modes == _COLOR_MODES else None


def _decode_jpeg(data: bytes) -> UInt8[np.ndarray, "height width 3"] | None:
    """The pixels of an RGB JPEG by libjpeg-turbo, as Pillow has them; None where anything is odd.

    It writes three bytes per pixel into the array, where Pillow writes four and copies them twice.
    """
    import simplejpeg

    try:
        return simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:  # Pillow says what is wrong, or reads it all the same
        return None
