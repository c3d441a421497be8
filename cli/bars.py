"""Progress bars: on stderr, so that results on stdout can be piped."""

import io
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

LINE_EVERY_S = 30.0
"""How often a pipe or a file, where no bar can be redrawn, is given a line."""
_LINE = "{n_fmt}/{total_fmt}{unit} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


@contextmanager
def progress_bar(unit: str, total: int | None = None, *, hide: bool = False) -> Generator[Any]:
    """A tqdm bar on stderr; `hide` draws none, as in all but the first of several processes.

    Where stderr is no terminal, a line is written every `LINE_EVERY_S`, and one at the end.

    An error before the first step erases it: its message shall not stand behind an empty bar.
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
    """Writes each state of a bar to stderr as a line, in place of over the one before."""

    def write(self, text: str) -> int:
        """Write what would be seen of it."""
        if line := text.strip("\r\n "):
            sys.stderr.write(f"{line}\n")
        return len(text)

    def flush(self) -> None:
        """Show the lines now."""
        sys.stderr.flush()


def shown_on(bar: Any) -> Callable[[int, int], None]:
    """What takes how many are done, and of how many, and shows both on a bar."""

    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return show
