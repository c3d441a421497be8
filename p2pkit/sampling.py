"""Which few of many items are taken where all parts of a recording should be represented."""

import numpy as np
from jaxtyping import Int64


def evenly_spread(length: int, count: int) -> Int64[np.ndarray, " chosen"]:
    """Up to `count` different indices below `length`, the first and the last among them, ascending.

    With `count` 1 only the first is taken.
    """
    return np.linspace(0, length - 1, min(count, length)).round().astype(np.int64)
