"""Where the time of a loop goes, by part, over all of its threads."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable

Lap = Callable[[str], None]
START = ""
"""Part that is charged nothing: the next lap of this thread begins here."""


def no_lap(part: str) -> None:
    """Measure nothing."""


class Laps:
    """Called with a part's name when it ends; charges it the time since its thread's last call.

    Args:
        settle: called before the clock is read, to wait for work that a device has still to do.

    Attributes:
        seconds: by part, summed over threads.
    """

    def __init__(self, settle: Callable[[], None] | None = None) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._settle = settle
        self._lock = threading.Lock()
        self._thread = threading.local()

    def __call__(self, part: str) -> None:
        """End `part`, or with `START` only begin the next one."""
        if self._settle is not None:
            self._settle()
        now = time.perf_counter()
        before = getattr(self._thread, "before", now)
        self._thread.before = now
        if part != START:
            with self._lock:
                self.seconds[part] += now - before
