"""Ending a long stage when the system asks for it, after the work in hand."""

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_on_sigterm() -> Generator[Callable[[], bool]]:
    """Inside, SIGTERM only sets a flag; gives the function that reads it.

    Schedulers send SIGTERM some time before they kill. Outside the main thread signals cannot be
    caught, and the flag stays down.
    """
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
