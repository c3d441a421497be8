"""The vertices of PLY files: binary or text, scalar properties only, which is what ScanNet ships.

The format is Greg Turk's "The PLY Polygon File Format" (1994).
"""

from pathlib import Path

import numpy as np

from p2pkit.errors import SourceError

_TYPES = {
    "char": "i1",
    "int8": "i1",
    "uchar": "u1",
    "uint8": "u1",
    "short": "i2",
    "int16": "i2",
    "ushort": "u2",
    "uint16": "u2",
    "int": "i4",
    "int32": "i4",
    "uint": "u4",
    "uint32": "u4",
    "float": "f4",
    "float32": "f4",
    "double": "f8",
    "float64": "f8",
}
_ORDER = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": "<"}
_LONGEST_HEADER = 65536


def read_vertices(path: Path) -> np.ndarray:
    """The vertices as a structured array with the file's property names.

    Raises:
        SourceError: the file is missing, not a PLY file, truncated, or does not begin with
            vertices.
    """
    if not path.is_file():
        raise SourceError(f"{path} does not exist")
    data = path.read_bytes()
    end = data.find(b"end_header", 0, _LONGEST_HEADER)
    if not data.startswith(b"ply") or end < 0:
        raise SourceError(f"{path} is not a PLY file: it begins with {data[:12]!r}")
    body = data.find(b"\n", end) + 1
    lines = data[:end].decode("ascii", errors="replace").split("\n")
    form, count, fields = _layout([line.split() for line in lines], path)
    dtype = np.dtype([(name, _ORDER[form] + kind) for name, kind in fields])
    if form == "ascii":
        return _text_vertices(data[body:], count, dtype, path)
    if len(data) - body < count * dtype.itemsize:
        raise SourceError(
            f"{path} is truncated: expected {count} vertices of {dtype.itemsize} bytes, found "
            f"{len(data) - body} bytes"
        )
    return np.frombuffer(data, dtype=dtype, count=count, offset=body)


def _layout(lines: list[list[str]], path: Path) -> tuple[str, int, list[tuple[str, str]]]:
    """The form, and the number and the properties of the vertices."""
    form, count, fields, element = "", -1, [], ""
    for words in lines:
        match words:
            case ["format", name, *_] if name in _ORDER:
                form = name
            case ["element", "vertex", number] if not element and number.isdecimal():
                element, count = "vertex", int(number)
            case ["element", name, *_]:
                element = element and name
            case ["property", kind, name] if element == "vertex" and kind in _TYPES:
                fields.append((name, _TYPES[kind]))
            case ["property", *_] if element == "vertex":
                raise SourceError(
                    f"{path}: the vertex property {' '.join(words)!r} is not supported"
                )
            case _:
                continue
    if not form or count < 0 or not fields or len({name for name, _ in fields}) < len(fields):
        raise SourceError(f"{path}: expected a format, then vertices with distinct properties")
    return form, count, fields


def _text_vertices(body: bytes, count: int, dtype: np.dtype, path: Path) -> np.ndarray:
    rows = [line.split() for line in body.split(b"\n")[:count]]
    width = len(dtype.names or ())
    if len(rows) != count or any(len(row) != width for row in rows):
        raise SourceError(f"{path}: expected {count} lines of {width} numbers")
    try:
        numbers = np.array([[float(word) for word in row] for row in rows]).reshape(count, width)
    except ValueError as error:
        raise SourceError(f"{path}: {error}") from error
    vertices = np.empty(count, dtype=dtype)
    for column, name in enumerate(dtype.names or ()):
        vertices[name] = numbers[:, column]
    return vertices
