"""MATLAB's files of published datasets: up to version 7 by scipy, version 7.3 (HDF5) by h5py.

Nothing in them is executed.
"""

import struct
import zlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from p2pkit.errors import MissingDependencyError, SourceError

_DECODING_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    NotImplementedError,
    struct.error,
    zlib.error,
)
"""What scipy raises on damaged files, by kind of damage."""


def read_mat(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Variables of a file up to version 7.

    Raises:
        SourceError: it is missing, damaged, of version 7.3, or lacks a variable.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    if not path.is_file():
        raise SourceError(f"{path} does not exist")
    try:
        found = loadmat(path, variable_names=list(names))
    except (MatReadError, *_DECODING_ERRORS) as error:
        raise SourceError(f"{path} cannot be read as a MATLAB file: {error}") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise SourceError(f"{path} lacks the variable {', '.join(missing)}")
    return {name: found[name] for name in names}


def cell_texts(cell: np.ndarray) -> list[str]:
    """The texts of a cell array that `read_mat` returned; empty cells are empty texts."""
    return [mat_text(one) for one in cell.ravel()]


def mat_text(value: Any) -> str:
    """A text that `read_mat` returned in a cell or a field; empty where there is none."""
    return str(np.ravel(value)[0]) if np.size(value) else ""


@contextmanager
def open_hdf5(path: Path) -> Generator[Any]:
    """A file of version 7.3, open for reading; axes come in the reverse of MATLAB's order.

    Raises:
        SourceError: it is missing, or not HDF5.
        MissingDependencyError: h5py is not installed.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{path.name} is an HDF5 file, which needs h5py: pip install 'p2pkit[matlab]'"
        ) from error
    if not path.is_file():
        raise SourceError(f"{path} does not exist")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise SourceError(f"{path} cannot be read as HDF5 (MATLAB 7.3): {error}") from error
    with file:
        yield file


def hdf5_texts(file: Any, name: str) -> list[str]:
    """The texts of a cell array in an open file of version 7.3.

    Raises:
        SourceError: the file has no such cell array.
    """
    try:
        references = np.asarray(file[name]).ravel()
        return ["".join(map(chr, np.asarray(file[one]).ravel())) for one in references]
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise SourceError(f"{file.filename}: {name} is not a cell array of texts") from error
