"""Reading the text files that describe a recording as a whole; a fault is a SourceError."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from p2pkit.errors import GeometryError, SourceError
from p2pkit.geometry.transforms import check_rigid

TEXT_ENCODING = "utf-8-sig"
"""UTF-8, with or without the mark in front that editors on Windows write."""


def short_name(path: Path) -> str:
    """A file as FOLDER/NAME, since files of one name lie in several folders of a recording.

    KITTI raw calls all these folders `data`, so that the one above is given too.
    """
    return "/".join(path.parts[-3 if path.parent.name == "data" else -2 :])


def read_text(path: Path, needed_by: str) -> str:
    """A text file.

    Raises:
        SourceError: it does not exist, cannot be read, or is not UTF-8.
    """
    if not path.is_file():
        raise SourceError(f"{path} does not exist; {needed_by} needs it")
    try:
        return path.read_text(TEXT_ENCODING)
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} cannot be read as text: {error}") from error


def read_json(path: Path, needed_by: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        SourceError: the file is missing, not JSON, or holds another kind of value.
    """
    value = _json_value(path, needed_by)
    if not isinstance(value, dict):
        raise SourceError(f"expected a JSON object, found a {type(value).__name__} in {path}")
    return value


def read_json_list(path: Path, needed_by: str) -> list[dict[str, Any]]:
    """A JSON list of objects.

    Raises:
        SourceError: the file is missing, not JSON, or holds another kind of value.
    """
    value = _json_value(path, needed_by)
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise SourceError(f"expected a JSON list of objects in {path}")
    return value


def _json_value(path: Path, needed_by: str) -> Any:
    text = read_text(path, needed_by)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path} is not JSON: {error}") from error


def json_field(value: Any, name: str, path: Path) -> Any:
    """A field of a JSON object that came from `path`.

    Raises:
        SourceError: `value` is not an object or lacks the field; the message lists its fields.
    """
    if not isinstance(value, dict):
        raise SourceError(f"{path}: expected an object with {name}, found a {type(value).__name__}")
    if name not in value:
        raise SourceError(f"{path}: {name} is missing; found {sorted(map(str, value))[:12]}")
    return value[name]


def numeric_array(
    value: Any, name: str, path: Path, *, finite: bool = True
) -> Float64[np.ndarray, "..."]:
    """Nested lists of numbers as an array.

    Raises:
        SourceError: ragged, not numbers, or, if `finite`, NaN or infinity.
    """
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise SourceError(f"{path}: {name} is {value!r}; expected numbers") from error
    if finite and not np.isfinite(array).all():
        raise SourceError(f"{path}: {name} contains NaN or infinity")
    return array


def numbers(values: Any, count: int, name: str, path: Path) -> tuple[float, ...]:
    """So many numbers of a box; NaN is allowed, because such boxes are left out one by one.

    Raises:
        SourceError: other kinds of values, or more or fewer.
    """
    try:
        found = tuple(float(value) for value in values)
    except (TypeError, ValueError) as error:
        raise SourceError(f"{path}: {name} is {values!r}; expected numbers") from error
    if len(found) != count:
        raise SourceError(f"{path}: {name} has {len(found)} numbers; expected {count}")
    return found


def rigid(transform: np.ndarray, where: str) -> Float64[np.ndarray, "4 4"]:
    """`transform`, if it is rigid.

    Raises:
        SourceError: it is not.
    """
    try:
        return check_rigid(transform, where)
    except GeometryError as error:
        raise SourceError(str(error)) from error
