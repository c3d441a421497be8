"""Points as text, one row of numbers each, also where a file has a stray control character."""

import re
import warnings
from io import StringIO
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from p2pkit.errors import FrameError

# All bytes are characters of Latin-1, so that a stray one cannot stop the decoding.
_ENCODING = "latin-1"
# S3DIS has one between two numbers, in Area_5/hallway_6/Annotations/ceiling_1.txt.
_STRAY = re.compile(r"[^\S\r\n]|[\x00-\x08\x0e-\x1f\x7f-\xff]")


def read_rows(path: Path, key: str, columns: int) -> Float64[np.ndarray, "rows columns"]:
    """Rows of exactly `columns` finite numbers, separated by white space; blank lines are skipped.

    Control and non-ASCII characters are treated as white space where the file cannot be read
    otherwise.

    Raises:
        FrameError: the file is missing or empty, or a line does not have such numbers; the reason
            names file and line.
    """
    try:
        rows = _parsed(path, columns)
    except OSError as error:
        raise FrameError(key, f"{place_of(path)} cannot be read: {error}") from error
    except ValueError:
        rows = _mended(path, key, columns)
    if not len(rows):
        raise FrameError(key, f"{place_of(path)} is empty; expected rows of {columns} numbers")
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise FrameError(key, f"{place_of(path)}: row {row + 1} contains NaN or infinity")
    return rows


def _parsed(source: Path | StringIO, columns: int) -> Float64[np.ndarray, "rows columns"]:
    """Raises ValueError where a line is not `columns` numbers."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "loadtxt: input contained no data", UserWarning)
        rows = np.loadtxt(source, np.float64, comments=None, ndmin=2, encoding=_ENCODING)
    if rows.size and rows.shape[1] != columns:
        raise ValueError(f"{rows.shape[1]} columns")
    return rows.reshape(-1, columns)


def _mended(path: Path, key: str, columns: int) -> Float64[np.ndarray, "rows columns"]:
    text = _STRAY.sub(" ", path.read_text(encoding=_ENCODING))
    try:
        return _parsed(StringIO(text), columns)
    except ValueError:
        number, line = _first_wrong(text, columns)
    raise FrameError(
        key,
        f"{place_of(path)}, line {number}, is {line[:60]!r}; expected {columns} numbers separated "
        "by spaces; correct the line",
    )


def _first_wrong(text: str, columns: int) -> tuple[int, str]:
    """Number and content of the first line that is not `columns` numbers."""
    lines = enumerate(text.splitlines(), start=1)
    wrong = (pair for pair in lines if pair[1].strip() and not _is_row(pair[1], columns))
    return next(wrong)


def _is_row(line: str, columns: int) -> bool:
    try:
        # To Python, unlike to numpy's reader, 1_0 is a number.
        return len(list(map(float, line.split()))) == columns and "_" not in line
    except ValueError:
        return False


def place_of(path: Path) -> str:
    """The end of a path, long enough to find the file in its data set."""
    return "/".join(path.parts[-4:])
