"""16-bit grey PNGs of the plainest kind, decoded in two thirds of Pillow's time.

PNG specification, third edition: chunks (5), filters (9). Anything else is left to Pillow, which
then says what is wrong or decodes it.
"""

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt16

from p2pkit.datasets.files.grey_png_kernels import unfilter

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY_16 = b"\x10\x00\x00\x00\x00"
"""Depth 16, grey, deflate, the five filters, not interlaced."""


def decode_plain_grey16(
    data: bytes, size: tuple[int, int]
) -> UInt16[np.ndarray, "height width"] | None:
    """The pixels of a PNG of `size` (width, height); None unless it is whole and plain.

    Plain is 16-bit grey, not interlaced, without chunks but IHDR, IDAT and IEND: nothing turns or
    marks its pixels.
    """
    chunks = list(_chunks(data))
    kinds = [kind for kind, _ in chunks]
    if len(kinds) < 3 or kinds != [b"IHDR", *[b"IDAT"] * (len(kinds) - 2), b"IEND"]:
        return None
    width, height = size
    if bytes(chunks[0][1]) != struct.pack(">II", width, height) + _GREY_16:
        return None
    expected, stream = height * (1 + 2 * width), zlib.decompressobj()
    try:
        filtered = stream.decompress(b"".join(part for _, part in chunks[1:-1]), expected + 1)
    except zlib.error:
        return None
    if not stream.eof or len(filtered) != expected:
        return None
    pixels = np.empty((height, width), np.uint16)
    known = unfilter(np.frombuffer(filtered, np.uint8).reshape(height, -1), pixels)
    return pixels if known else None


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
