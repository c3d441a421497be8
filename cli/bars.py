"""Progress bars: on stderr, so that results on stdout can be piped."""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any


@contextmanager
def progress_bar(
    unit: str, total: int | None = None, initial: int = 0, *, hide: bool = False
) -> Generator[Any]:
    """A tqdm bar on stderr; `hide` draws none, as in all but the first of several processes.

    An error before the first step erases it: its message shall not stand behind an empty bar.
    """
    from tqdm import tqdm

    bar = tqdm(
        total=total,
        initial=initial,
        unit=f" {unit}",
        file=sys.stderr,
        mininterval=0.5,
        disable=hide,
    )
    try:
        yield bar
    except BaseException:
        bar.leave = bar.n > initial
        raise
    finally:
        bar.close()
