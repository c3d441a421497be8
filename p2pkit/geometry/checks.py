"""Run-time checks of what enters a kernel: a wrong shape there would read foreign memory."""

import numpy as np
from numpy.typing import DTypeLike

from p2pkit.errors import GeometryError


def check_array(
    name: str, array: np.ndarray, dtypes: tuple[DTypeLike, ...], shape: tuple[int | None, ...]
) -> None:
    """Check dtype and shape; None in `shape` stands for any length.

    Raises:
        GeometryError: naming the array, what it is and what it should be.
    """
    fits = array.ndim == len(shape) and all(
        wanted is None or found == wanted for found, wanted in zip(array.shape, shape, strict=True)
    )
    if not (fits and array.dtype in dtypes):
        wanted_shape = ", ".join("any" if length is None else str(length) for length in shape)
        wanted_dtype = " or ".join(np.dtype(dtype).name for dtype in dtypes)
        raise GeometryError(
            f"{name} is {array.dtype} {list(array.shape)}; it must be {wanted_dtype} "
            f"[{wanted_shape}]"
        )
