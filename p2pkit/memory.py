"""How this process takes memory from the kernel: less often, and in larger pages."""

import ctypes
import os


def prefer_huge_pages() -> None:
    """Have torch ask the kernel for huge pages, unless the environment already decides that.

    A network's activations are allocated again for each image or step, up to gigabytes for a large
    one. In pages of 4 KiB the kernel then works as long as the network; in pages of 2 MiB much
    less, and the results are the same to the bit. Torch reads the variable when it first allocates
    memory and never again; without such pages it changes nothing.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def keep_freed_memory() -> None:
    """Make glibc keep the memory of one frame for the next; elsewhere do nothing.

    By default it returns large arrays to the kernel, which clears every page that comes back: up to
    a tenth of an extraction's CPU time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3
        mallopt(mmap_threshold, 32 << 20)
        mallopt(trim_threshold, 256 << 20)
