"""Ordered work ahead of time, in threads.

Reading, checksums, codecs and the kernels release the GIL, so threads keep up with a training step
at a fraction of the cost of worker processes, and no worker has to copy or pickle a batch.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int
) -> Generator[Result]:
    """Yield `function(item)` in the order of `items`, computed by up to `threads` threads.

    At most `ahead` results exist before they are consumed, so memory is bounded also for endless
    `items`. An exception of `function` is raised at its item's turn. Closing the iterator drops
    what has not begun and waits for what has.
    """
    pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="p2pkit-prefetch")
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
