"""Kernels of the codecs."""

import numpy as np

from p2pkit.geometry.kernels.jit import kernel


@kernel
def undo_shuffle(shuffled: np.ndarray, out_bytes: np.ndarray) -> None:
    """Put the bytes of each value together again.

    Args:
        shuffled: uint8 (itemsize, n): the first bytes of all values, then the second bytes, ...
        out_bytes: uint8 (n, itemsize): the memory of the values.
    """
    for byte in range(shuffled.shape[0]):
        row = shuffled[byte]
        for i in range(row.size):
            out_bytes[i, byte] = row[i]


@kernel
def running_sum(values: np.ndarray) -> None:
    """Replace integers (n,) by their running sums, modulo the size of their type."""
    value = np.uint64(0)
    for i in range(values.size):
        value += np.uint64(values[i])
        values[i] = value
