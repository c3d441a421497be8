"""The images of a shard's frames, run through their teachers in batches of one size.

Which images share a batch follows from their order alone: those of one size, in the order of the
frames, are cut into batches as they come, and what is left at the end makes smaller ones. So two
runs on one accelerator compute the same batches, however many threads read, encode and wait.
"""

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from p2pkit.datasets.frame import Frame
from p2pkit.errors import BadMapError, FrameError
from p2pkit.layers.features import FeatureLayer, bad_map
from p2pkit.teachers.teacher import Image

CALLS = 2
"""Batches that a teacher is given at once: it copies one while it computes another."""
AHEAD = 2
"""Further batches of images that may wait for their turn, which bounds their memory."""

Result = TypeVar("Result")
Maps = Mapping[str, list[np.ndarray]]
"""A frame's maps by feature layer, in the order of `FeatureLayer.images`."""


@dataclass(frozen=True)
class Images(Generic[Result]):
    """A frame on its way through the teachers.

    Args:
        frame: that the images are of.
        of: the images of each feature layer, by the layer's name.
        finish: what is to be done once all maps are there.
    """

    frame: Frame
    of: Mapping[str, list[Image]]
    finish: Callable[[Maps], Result]


@dataclass(eq=False)
class _Waiting(Generic[Result]):
    images: Images[Result]
    left: int
    maps: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)
    result: "Future[Result]" = field(default_factory=Future)


_Place = tuple[_Waiting[Result], int]
"""A frame, and the number of one of its images."""


class _Batches(Generic[Result]):
    """Collects images, and runs and finishes what is complete in threads.

    Args:
        layers: the feature layers, by name.
        sizes: images of a full batch, by layer.
        threads: frames that are finished at the same time.
    """

    def __init__(
        self, layers: Mapping[str, FeatureLayer], sizes: Mapping[str, int], threads: int
    ) -> None:
        self._layers, self._sizes = layers, sizes
        self._open: defaultdict[tuple[str, int, int], list[_Place[Result]]] = defaultdict(list)
        self._lock = threading.Lock()
        self._turns = threading.Semaphore(CALLS + AHEAD)
        self._calls = ThreadPoolExecutor(CALLS, thread_name_prefix="p2pkit-batch")
        self._finishers = ThreadPoolExecutor(threads, thread_name_prefix="p2pkit-encode")

    def add(self, images: Images[Result]) -> "Future[Result]":
        """Put a frame's images into batches; waits while too many batches wait."""
        waiting = _Waiting(images, sum(map(len, images.of.values())))
        if not waiting.left:
            self._finishers.submit(self._finish, waiting)
        for name, rows in images.of.items():
            for number, image in enumerate(rows):
                size = (name, image.shape[1], image.shape[0])
                self._open[size].append((waiting, number))
                if len(self._open[size]) == self._sizes[name]:
                    self._submit(size)
        return waiting.result

    def flush(self) -> None:
        """Run what is left in smaller batches."""
        for size in list(self._open):
            self._submit(size)

    def close(self) -> None:
        """Drop what has not begun and wait for what has."""
        for pool in (self._calls, self._finishers):
            pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, size: tuple[str, int, int]) -> None:
        places = self._open.pop(size)
        self._turns.acquire()
        self._calls.submit(self._run, size[0], places)

    def _run(self, name: str, places: list[_Place[Result]]) -> None:
        images = [waiting.images.of[name][number] for waiting, number in places]
        try:
            maps = self._layers[name].teacher.features(images)
            for place, found in zip(places, maps, strict=True):
                self._deliver(place, name, found)
        except BadMapError as error:
            waiting, number = places[error.image]
            self._fail(places, bad_map(waiting.images.frame, number, error))
        except BaseException as error:
            self._fail(places, error)
        finally:
            self._turns.release()

    def _deliver(self, place: _Place[Result], name: str, found: np.ndarray) -> None:
        waiting, number = place
        with self._lock:
            waiting.maps[name, number] = found
            waiting.left -= 1
            complete = not waiting.left
        if complete:
            self._finishers.submit(self._finish, waiting)

    def _finish(self, waiting: _Waiting[Result]) -> None:
        try:
            maps = {
                name: [waiting.maps[name, number] for number in range(len(rows))]
                for name, rows in waiting.images.of.items()
            }
            waiting.result.set_result(waiting.images.finish(maps))
        except BaseException as error:
            waiting.result.set_exception(error)

    def _fail(self, places: list[_Place[Result]], error: BaseException) -> None:
        with self._lock:
            for waiting in {id(waiting): waiting for waiting, _ in places}.values():
                if not waiting.result.done():
                    waiting.result.set_exception(error)


def in_batches(
    frames: Iterable[Images[Result] | FrameError],
    layers: Mapping[str, FeatureLayer],
    *,
    sizes: Mapping[str, int],
    threads: int,
) -> Generator[Result | FrameError]:
    """What each frame's `finish` gives, in order; bad frames pass and are in no batch.

    Args:
        frames: in the plan's order, which decides the batches.
        layers: the feature layers, by name.
        sizes: images of a full batch, by layer.
        threads: frames that are finished at the same time.

    Raises:
        TeacherError: a teacher fails; where the map of one image cannot be stored, it names frame
            and view.
    """
    batches: _Batches[Result] = _Batches(layers, sizes, threads)
    results: deque[Future[Result] | FrameError] = deque()
    try:
        for one in frames:
            results.append(one if isinstance(one, FrameError) else batches.add(one))
            while results and (isinstance(results[0], FrameError) or results[0].done()):
                yield _value(results.popleft())
        batches.flush()
        while results:
            yield _value(results.popleft())
    finally:
        batches.close()


def _value(found: "Future[Result] | FrameError") -> Result | FrameError:
    return found if isinstance(found, FrameError) else found.result()
