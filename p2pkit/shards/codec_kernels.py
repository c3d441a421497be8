"""Kernels of the codecs."""

import numpy as np

from p2pkit.geometry.jit import kernel


@kernel
def undo_delta_shuffle(shuffled: np.ndarray, out_bytes: np.ndarray, out: np.ndarray) -> None:
    """Put the bytes of each step together again, then sum the steps up.

    Args:
        shuffled: uint8 (itemsize, n): the first bytes of all steps, then the second bytes, ...
        out_bytes: uint8 (n, itemsize): the memory of `out`.
        out: integers (n,): receives the running sums, modulo the size of the type.
    """
    for byte in range(shuffled.shape[0]):
        row = shuffled[byte]
        for i in range(row.size):
            out_bytes[i, byte] = row[i]
    value = np.uint64(0)
    for i in range(out.size):
        value += np.uint64(out[i])
        out[i] = value
