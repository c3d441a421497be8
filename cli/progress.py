"""Progress bars on stderr, so that results on stdout can be piped, and which process draws them."""

import os
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

VARIABLES = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK")
"""Set by torchrun, SLURM and Open MPI to this process's number on its machine."""


def local_rank(environment: Mapping[str, str] | None = None) -> int | None:
    """This process's number on its machine; None without a launcher."""
    values = os.environ if environment is None else environment
    for name in VARIABLES:
        if values.get(name, "").isdecimal():
            return int(values[name])
    return None


def is_first() -> bool:
    """Whether this process is the one on its machine that draws the bar and prints the result."""
    return local_rank() in (None, 0)


@contextmanager
def progress_bar(unit: str, total: int | None = None, *, hide: bool = False) -> Generator[Any]:
    """A tqdm bar on stderr; `hide` draws none, as in all but the first of several processes.

    An error before the first step erases it: so that its message does not follow an empty bar.
    """
    from tqdm import tqdm

    bar = tqdm(
        total=total,
        unit=f" {unit}",
        file=sys.stderr,
        mininterval=0.5,
        disable=hide,
    )
    try:
        yield bar
    except BaseException:
        bar.leave = bar.n > 0
        raise
    finally:
        bar.close()


def shown_on(bar: Any) -> Callable[[int, int], None]:
    """A callback that takes the number done and the total, and shows both on a bar."""

    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return show
