"""How p2pkit compiles its kernels: serial, without the GIL, cached where a cache can be written.

Kernels never use `parallel=True`: numba's thread pools kill forked children or abort under threads.
Work is spread over frames instead, by threads that call these kernels at the same time.
"""

import os
from collections.abc import Callable
from typing import Any

from p2pkit.files import writable_cache_folder


def _cache_is_usable() -> bool:
    """Set NUMBA_CACHE_DIR before numba reads it; numba raises at import on a read-only install."""
    if "NUMBA_CACHE_DIR" in os.environ:
        return True
    folder = writable_cache_folder("numba")
    if folder is not None:
        os.environ["NUMBA_CACHE_DIR"] = str(folder)
    return folder is not None


_CACHE = _cache_is_usable()

import numba  # noqa: E402  (reads NUMBA_CACHE_DIR when it is imported)


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile `function` with numba: nopython, nogil, serial, exact IEEE order, cached."""
    return numba.njit(nogil=True, cache=_CACHE, fastmath=False)(function)
