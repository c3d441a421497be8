"""Progress bars: on stderr, so that results on stdout can be piped."""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any


@contextmanager
def progress_bar(unit: str, total: int | None = None, initial: int = 0) -> Generator[Any]:
    """A tqdm bar on stderr, drawn only where that is a terminal or a last line is wanted."""
    from tqdm import tqdm

    bar = tqdm(total=total, initial=initial, unit=f" {unit}", file=sys.stderr, mininterval=0.5)
    try:
        yield bar
    finally:
        bar.close()
