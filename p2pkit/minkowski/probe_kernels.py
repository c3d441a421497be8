"""A kernel that shows whether numba compiles here."""

from p2pkit.geometry.kernels.jit import kernel


@kernel
def count_up(limit: int) -> int:
    """Add up 0 … limit - 1."""
    total = 0
    for value in range(limit):
        total += value
    return total
