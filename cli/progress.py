"""Progress bars on stderr, so that results on stdout can be piped, and which process draws them."""

import io
import os
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

LINE_EVERY_S = 30.0
"""Seconds between lines on a pipe or in a file, where no bar can be redrawn."""
_LINE = "{n_fmt}/{total_fmt}{unit} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"

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

    Where stderr is not a terminal, a line is written every `LINE_EVERY_S`, and one at the end.

    An error before the first step erases it, so that its message does not follow an empty bar.
    """
    from tqdm import tqdm

    kind: dict[str, Any] = {"file": sys.stderr, "mininterval": 0.5}
    is_drawn = sys.stderr.isatty()
    if not is_drawn:
        times = {"mininterval": LINE_EVERY_S, "delay": LINE_EVERY_S, "miniters": 1}
        kind = {"file": _Lines(), "bar_format": _LINE, "leave": False, **times}
    bar = tqdm(total=total, unit=f" {unit}", disable=hide, **kind)
    try:
        yield bar
    except BaseException:
        bar.leave = is_drawn and bar.n > 0
        raise
    finally:
        if bar.n and not is_drawn and not hide:
            bar.display()
        bar.close()


class _Lines(io.StringIO):
    """Writes each state of a bar to stderr as a new line."""

    def write(self, text: str) -> int:
        """Write what would be seen of it."""
        if line := text.strip("\r\n "):
            sys.stderr.write(f"{line}\n")
        return len(text)

    def flush(self) -> None:
        """Show the lines now."""
        sys.stderr.flush()


def shown_on(bar: Any) -> Callable[[int, int], None]:
    """A callback that takes the number done and the total, and shows both on a bar."""

    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return show
