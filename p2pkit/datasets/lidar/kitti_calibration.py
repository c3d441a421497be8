"""KITTI's calibration texts: lines `NAME: numbers`, projections of rectified cameras.

Geiger et al., "Vision meets Robotics: The KITTI Dataset", IJRR 2013, section 2, and the readme
files of the object, raw and odometry development kits.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float64

from p2pkit.datasets.files.text import read_text, rigid
from p2pkit.errors import SourceError


def read_named_numbers(path: Path, needed_by: str) -> dict[str, list[float]]:
    """The lines `NAME: numbers`; lines that hold other text, such as dates, are left out.

    Raises:
        SourceError: the file is missing or is not text.
    """
    found: dict[str, list[float]] = {}
    for line in read_text(path, needed_by).splitlines():
        name, _, rest = line.partition(":")
        try:
            found[name.strip()] = [float(word) for word in rest.split()]
        except ValueError:
            continue
    return found


def matrix_of(
    values: dict[str, list[float]], name: str, shape: tuple[int, int], path: Path
) -> Float64[np.ndarray, "rows columns"]:
    """A named matrix, row by row.

    Raises:
        SourceError: it is missing, of another size, or not finite.
    """
    if name not in values:
        raise SourceError(f"{path}: {name} is missing; found {', '.join(values) or 'nothing'}")
    numbers = np.array(values[name], dtype=np.float64)
    if numbers.size != shape[0] * shape[1] or not np.isfinite(numbers).all():
        wanted = f"expected {shape[0]} x {shape[1]} finite numbers"
        raise SourceError(f"{path}: {name} is {values[name]}; {wanted}")
    return numbers.reshape(shape)


def transform_of(
    values: dict[str, list[float]], name: str, path: Path
) -> Float64[np.ndarray, "4 4"]:
    """A named rigid transform: 3 x 4, or a rotation of 3 x 3.

    Raises:
        SourceError: it is missing, of another size, or not rigid.
    """
    columns = 3 if len(values.get(name, ())) == 9 else 4
    transform = np.eye(4)
    transform[:3, :columns] = matrix_of(values, name, (3, columns), path)
    return rigid(transform, f"{path}: {name}")


def split_projection(
    projection: Float64[np.ndarray, "3 4"], name: str, path: Path
) -> tuple[Float64[np.ndarray, "3 3"], Float64[np.ndarray, "4 4"]]:
    """K and camera_from_reference of a rectified camera's projection K [I | t].

    The fourth column is not the translation but K t: for KITTI's P2 the difference is 6 cm.

    Raises:
        SourceError: K cannot be inverted.
    """
    intrinsics = projection[:, :3]
    if not np.linalg.det(intrinsics) > 0:
        raise SourceError(f"{path}: {name} is {projection.tolist()}; it has no usable K")
    camera_from_reference = np.eye(4)
    camera_from_reference[:3, 3] = np.linalg.solve(intrinsics, projection[:, 3])
    return intrinsics.copy(), camera_from_reference
