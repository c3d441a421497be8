"""Reading and writing .npy headers, strictly: version 1.0, C order, plain little-endian numbers."""

import io
import re
from functools import lru_cache
from math import prod

import numpy as np

MAGIC = b"\x93NUMPY\x01\x00"
PREFIX = len(MAGIC) + 2
LARGEST_HEADER = 4096
LARGEST_ARRAY = 1 << 30
LARGEST_PAYLOAD = LARGEST_ARRAY + (LARGEST_ARRAY >> 7) + 2 * LARGEST_HEADER
"""Bytes of a payload: the largest array, grown as far as a compressor may grow it, and headers."""
MOST_AXES = 32
DTYPES = ("|b1", "|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8", "<f2", "<f4", "<f8")
HEADER = re.compile(
    r"\{'descr': '([<|][biuf][1248])', 'fortran_order': False, 'shape': "
    r"\(((?:\d+, )*\d+,?|)\), \} *\n"
)


class NpyError(ValueError):
    """Bytes are not a .npy that this format allows; the caller adds where they stood."""


@lru_cache(maxsize=4096)
def npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """The bytes before the data of a C-ordered array, as numpy itself writes them."""
    file = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def extent(shape: tuple[int, ...]) -> int:
    """Number of elements without axes of size 0: an empty array may have no absurd axes either."""
    return prod(size for size in shape if size)


@lru_cache(maxsize=4096)
def _parse(header: bytes) -> tuple[np.dtype, tuple[int, ...], int]:
    match = HEADER.fullmatch(header[PREFIX:].decode("latin-1"))
    if match is None:
        raise NpyError("expected the .npy header of a C-ordered array of little-endian numbers")
    if match[1] not in DTYPES:
        raise NpyError(f"the .npy header names the dtype {match[1]!r}; expected one of {DTYPES}")
    dtype = np.dtype(match[1])
    shape = tuple(int(size) for size in match[2].split(",") if size.strip())
    if len(shape) > MOST_AXES:
        raise NpyError(f"the .npy header has {len(shape)} axes; at most {MOST_AXES} are allowed")
    nbytes = prod(shape) * dtype.itemsize
    if extent(shape) * dtype.itemsize > LARGEST_ARRAY:
        raise NpyError(
            f"the .npy header declares the shape {shape} of {dtype.str}; at most {LARGEST_ARRAY} "
            "bytes are allowed"
        )
    return dtype, shape, nbytes


def parse_header(data: memoryview) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """Read the header at the start of `data`: (dtype, shape, bytes of the data, header length).

    Raises:
        NpyError: other version, too long a header, objects, Fortran order, or too large an array.
    """
    if len(data) < PREFIX or bytes(data[: len(MAGIC)]) != MAGIC:
        raise NpyError("the bytes do not start as a .npy of version 1.0")
    length = PREFIX + int.from_bytes(data[len(MAGIC) : PREFIX], "little")
    if length > LARGEST_HEADER or length > len(data):
        raise NpyError(
            f"the .npy header is {length} bytes long; there are {len(data)}, and at most "
            f"{LARGEST_HEADER} are allowed"
        )
    dtype, shape, nbytes = _parse(bytes(data[:length]))
    return dtype, shape, nbytes, length


def parse_npy(data: memoryview) -> np.ndarray:
    """The array in `data`, as a view that shares its memory.

    Raises:
        NpyError: as `parse_header`, or more or fewer bytes follow than the header declares.
    """
    dtype, shape, nbytes, length = parse_header(data)
    if len(data) != length + nbytes:
        raise NpyError(
            f"the .npy header declares {nbytes} bytes of data; {len(data) - length} follow"
        )
    return np.ndarray(shape, dtype, buffer=data, offset=length)
