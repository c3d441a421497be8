"""PNGs of the plainest kinds, 16-bit grey and 8-bit RGB, decoded in half of Pillow's time.

PNG specification, third edition: chunks (5), filters (9). Anything else is left to Pillow, which
then says what is wrong or decodes it.
"""

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image

from p2pkit.datasets.files.inflate import inflate
from p2pkit.datasets.files.plain_png_kernels import unfilter_grey16, unfilter_rgb

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY_16 = b"\x10\x00\x00\x00\x00"
_RGB_8 = b"\x08\x02\x00\x00\x00"
"""Depth, colour type, deflate, the five filters, not interlaced."""
_ABOUT_COLOR = frozenset({b"sRGB", b"gAMA", b"cHRM", b"pHYs"})
"""Chunks that stand before the pixels and change none."""


def decode_plain_grey16(
    data: bytes, size: tuple[int, int] | None
) -> UInt16[np.ndarray, "height width"] | None:
    """The pixels of a 16-bit grey PNG of `size` (width, height), or of any; None unless plain.

    Plain is whole, not interlaced, without chunks but IHDR, IDAT, IEND and those of colour space
    and resolution: nothing turns or marks its pixels.
    """
    found = _filtered(data, size, _GREY_16, bytes_per_pixel=2)
    if found is None:
        return None
    pixels = np.empty((len(found), found.shape[1] // 2), np.uint16)
    return pixels if unfilter_grey16(found, pixels) else None


def decode_plain_rgb(
    data: bytes, size: tuple[int, int] | None
) -> UInt8[np.ndarray, "height width 3"] | None:
    """The pixels of an 8-bit RGB PNG; otherwise as `decode_plain_grey16`."""
    found = _filtered(data, size, _RGB_8, bytes_per_pixel=3)
    if found is None:
        return None
    pixels = np.empty((len(found), found.shape[1] // 3, 3), np.uint8)
    return pixels if unfilter_rgb(found, pixels.reshape(len(found), -1)) else None


def _filtered(
    data: bytes, size: tuple[int, int] | None, form: bytes, *, bytes_per_pixel: int
) -> UInt8[np.ndarray, "height row"] | None:
    """The rows of a plain PNG of this form, each with its filter's number first; else None."""
    chunks = list(_chunks(data))
    kinds = [kind for kind, _ in chunks]
    if kinds[:1] != [b"IHDR"] or len(chunks[0][1]) != 13 or b"IDAT" not in kinds:
        return None
    first = kinds.index(b"IDAT")
    parts = chunks[first:-1]
    if not _ABOUT_COLOR.issuperset(kinds[1:first]) or kinds[-1] != b"IEND":
        return None
    width, height = struct.unpack_from(">II", chunks[0][1])
    is_wanted = bytes(chunks[0][1][8:]) == form and size in (None, (width, height))
    if not is_wanted or not 0 < width * height <= (Image.MAX_IMAGE_PIXELS or 0):
        return None
    if any(kind != b"IDAT" for kind, _ in parts):
        return None
    row = 1 + bytes_per_pixel * width
    try:
        rows, is_whole = inflate(b"".join(part for _, part in parts), height * row + 1)
    except ValueError:
        return None
    if not is_whole or len(rows) != height * row:
        return None
    return np.frombuffer(rows, np.uint8).reshape(height, row)


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and content of each chunk; nothing more from the first damaged one on."""
    at, view = len(SIGNATURE), memoryview(data)
    if data[:at] != SIGNATURE:
        return
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        if end + 4 > len(data) or zlib.crc32(view[at + 4 : end]) != int.from_bytes(
            data[end : end + 4], "big"
        ):
            return
        yield data[at + 4 : at + 8], view[at + 8 : end]
        at = end + 4
