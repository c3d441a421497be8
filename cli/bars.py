"""Progress bars: on stderr, so that results on stdout can be piped."""

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any


@contextmanager
def progress_bar(unit: str, total: int | None = None, *, hide: bool = False) -> Generator[Any]:
    """A tqdm bar on stderr; `hide` draws none, as in all but the first of several processes.

    An error before the first step erases it: its message shall not stand behind an empty bar.
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
    """What takes how many are done, and of how many, and shows both on a bar."""

    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return show
