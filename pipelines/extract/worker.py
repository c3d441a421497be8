"""The path of a frame: load, geometry, layers, write.

Extraction, planning and repair all use it.
"""

import threading
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from p2pkit.datasets.frame import Frame, FrameSource
from p2pkit.errors import FrameError, SourceError, TeacherMemoryError
from p2pkit.layers.digests import INPUTS, check_inputs, known_inputs, with_inputs
from p2pkit.layers.features import FeatureLayer
from p2pkit.layers.layer import Layer
from p2pkit.pipelines.extract.teacher_batches import Images, Maps, in_batches
from p2pkit.store.manifest import GEOMETRY, Sample
from p2pkit.store.reading import Store
from p2pkit.store.writing import Commit, StoreWriter
from p2pkit.stream.prefetch import ordered_map

Samples = dict[str, Sample]
"""A frame's samples by layer."""
Known = Mapping[str, Sequence[Mapping[str, Any]]]
"""JSON of each frame's remaining samples, by key."""
Begun = Callable[[int], None]
"""Called with the number of processed frames of a shard."""
Say = Callable[[str], None]
"""Called with a line for the user."""


HELD_BYTES = 1 << 30
"""Limit on cached frames that were read to plan the layers and wait for their shard. Others are
decoded once more.
"""


@dataclass(frozen=True)
class Recording:
    """A recording whose frames are decoded once, though some are needed before their turn.

    Args:
        source: the recording.
        keys: of its frames, in its order.
    """

    source: FrameSource
    keys: Sequence[str]
    _held: dict[str, Frame | FrameError] = field(default_factory=dict)

    def load(self, key: str) -> Frame:
        """The frame; FrameError if it is bad."""
        found = self._held.pop(key, None)
        if isinstance(found, FrameError):
            raise found
        return self.source.load(key) if found is None else found

    def look(self, key: str) -> Frame | FrameError:
        """The frame, which stays in memory until `load` asks for it."""
        found = self._held.get(key)
        if found is None:
            try:
                found = self.source.load(key)
            except FrameError as error:
                found = error
            if sum(map(_frame_bytes, [*self._held.values(), found])) <= HELD_BYTES:
                self._held[key] = found
        return found

    def readable(self, keys: Iterable[str]) -> Iterator[Frame]:
        """The frames that can be read, each loaded on demand."""
        for key in keys:
            found = self.look(key)
            if not isinstance(found, FrameError):
                yield found


def _frame_bytes(frame: Frame | FrameError) -> int:
    """Memory that the images and points of a frame take."""
    if isinstance(frame, FrameError):
        return 0
    arrays = [array for view in frame.views for array in (view.image, view.valid, view.sees)]
    depth = None if frame.depth is None else frame.depth.values
    arrays += [depth, frame.points, frame.labels, frame.intensity, frame.colors]
    arrays.append(frame.instances)
    return sum(array.nbytes for array in arrays if array is not None)


@dataclass(frozen=True)
class Work:
    """Frames, and what is to be made of them.

    Args:
        keys: of the frames.
        layers: names of the wanted layers.
        geometry: existing geometry samples by key, if the geometry is not wanted.
        known: JSON of the frames' remaining samples, by key.
        batch_sizes: images of a batch by feature layer, where not as many as its teacher takes.
    """

    keys: Sequence[str]
    layers: Collection[str]
    geometry: Mapping[str, Sample] = field(default_factory=dict)
    known: Known = field(default_factory=dict)
    batch_sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Worker:
    """Takes the frames of one recording through layers.

    Args:
        recording: the frames.
        layers: geometry first.
        threads: frames worked on at the same time.
    """

    recording: Recording
    layers: Sequence[Layer]
    threads: int
    _reading: threading.Lock = field(default_factory=threading.Lock, compare=False)

    @property
    def names(self) -> list[str]:
        """Names of the layers, geometry first."""
        return [layer.spec.name for layer in self.layers]

    @property
    def has_batches(self) -> bool:
        """Whether a teacher takes several images at once."""
        return any(size > 1 for size in self.batch_sizes(Work((), self.names)).values())

    def batch_sizes(self, work: Work) -> dict[str, int]:
        """Images of a batch of each wanted feature layer."""
        sizes = {name: layer.teacher.batch_size for name, layer in self._teachers(work).items()}
        return {name: work.batch_sizes.get(name, size) for name, size in sizes.items()}

    def samples(
        self, work: Work, finish: Callable[[Samples], None] = lambda samples: None
    ) -> Generator[Samples | FrameError]:
        """Each frame's samples of the wanted layers in order, or why it has none.

        Where a teacher takes one image at a time, a thread does all of a frame; else the images of
        many frames share batches (see `in_batches`).

        Args:
            work: what to do.
            finish: called with each frame's samples in the thread that made them.

        Raises:
            SourceError: a frame differs from the one that its existing samples were made from, or
                can no longer be read.
            TeacherError: a teacher fails.
        """
        teachers, sizes = self._teachers(work), self.batch_sizes(work)
        alone = all(size == 1 for size in sizes.values())

        def begin(key: str) -> Images[Samples] | FrameError:
            return self._begin(key, work, {} if alone else teachers, finish)

        def whole(key: str) -> Samples | FrameError:
            begun = begin(key)
            return begun if isinstance(begun, FrameError) else begun.finish({})

        ahead = 2 * self.threads
        if alone:
            yield from ordered_map(whole, work.keys, threads=self.threads, ahead=ahead)
            return

        def read() -> Generator[Images[Samples] | FrameError]:
            # One shard after another: the accelerator waits for the batches of the first.
            with self._reading:
                yield from ordered_map(begin, work.keys, threads=self.threads, ahead=ahead)

        with closing(read()) as frames:
            yield from in_batches(frames, teachers, sizes=sizes, threads=self.threads)

    def _teachers(self, work: Work) -> dict[str, FeatureLayer]:
        return {
            layer.spec.name: layer
            for layer in self.layers
            if isinstance(layer, FeatureLayer) and layer.spec.name in work.layers
        }

    def _begin(
        self,
        key: str,
        work: Work,
        teachers: Mapping[str, FeatureLayer],
        finish: Callable[[Samples], None],
    ) -> Images[Samples] | FrameError:
        """A frame with its layers that need no teacher, and the images for those that do."""
        geometry = work.geometry.get(key)
        done: Samples = {} if geometry is None else {GEOMETRY: geometry}
        left = [layer for layer in self.layers if layer.spec.name in work.layers]
        try:
            frame = self.recording.load(key)
            check_inputs(frame, work.known.get(key, ()) if geometry is None else [geometry.meta])
            while left and not isinstance(left[0], FeatureLayer):
                self._encode(left.pop(0), frame, done)
        except FrameError as error:
            if geometry is not None:
                raise SourceError(
                    f"{error}; it was readable when the geometry was extracted"
                ) from None
            return error

        def encode_rest(maps: Maps) -> Samples:
            for layer in left:
                self._encode(layer, frame, done, maps.get(layer.spec.name))
            samples = {name: done[name] for name in work.layers}
            finish(samples)
            return samples

        images = {name: layer.images(frame) for name, layer in teachers.items()}
        return Images(frame, images, encode_rest)

    @staticmethod
    def _encode(
        layer: Layer, frame: Frame, done: Samples, maps: Sequence[np.ndarray] | None = None
    ) -> None:
        """Add a layer's sample of a frame to those that are done."""
        if isinstance(layer, FeatureLayer) and maps is not None:
            sample = layer.encode(frame, done, maps)
        else:
            sample = layer.encode(frame, done)
        inputs = done[GEOMETRY].meta.get(INPUTS) if done else None
        done[layer.spec.name] = with_inputs(sample, inputs)

    def write_shard(
        self,
        task: "ShardTask",
        writer: StoreWriter,
        begun: Begun = lambda number: None,
        say: Say = lambda line: None,
    ) -> None:
        """Write some layers of one shard; each replaces existing files only once it is complete.

        Where an accelerator's memory is too small for a batch, the shard starts again with half of
        the batch.

        Args:
            task: what to write.
            writer: of the store.
            begun: called as frames are processed.
            say: called with a line if the shard starts again.

        Raises:
            SourceError: a frame differs from the one that the rest of the shard was made from.
            FingerprintError: a shard would get other bytes than expected.
            TeacherMemoryError: the memory is too small for one image.
            StoreError: the disk is full or does not allow writing.
        """
        work = _work(task, Store(writer.root, writer.manifest))
        while True:
            try:
                results = [*self._counted(work, begun)]
                break
            except TeacherMemoryError as error:
                sizes, reason = self.batch_sizes(work), str(error)
                if max(sizes.values()) == 1:
                    raise
            halves = {name: max(1, size // 2) for name, size in sizes.items()}
            work = replace(work, batch_sizes=halves)
            say(f"shard {task.shard} starts again with batches of {max(halves.values())}: {reason}")
        self._write(task, writer, work, results)

    def _counted(self, work: Work, begun: Begun) -> Iterator[Samples | FrameError]:
        with closing(self.samples(work)) as results:
            for number, result in enumerate(results, start=1):
                begun(number)
                yield result

    def _write(
        self,
        task: "ShardTask",
        writer: StoreWriter,
        work: Work,
        results: Sequence[Samples | FrameError],
    ) -> None:
        failures = [
            {"key": result.key, "stage": "frame", "reason": result.reason}
            for result in results
            if isinstance(result, FrameError)
        ]
        teachers, sizes = self._teachers(work), self.batch_sizes(work)
        for layer in self.names:
            if layer in task.layers:
                accelerator = teachers[layer].teacher.accelerator if layer in teachers else None
                writer.write(
                    layer,
                    task.shard,
                    [row[layer] for row in results if not isinstance(row, FrameError)],
                    failures if layer == GEOMETRY else (),
                    Commit(
                        expected=task.expected.get(layer),
                        replace=task.replace,
                        accelerator=accelerator and {**accelerator, "batch_size": sizes[layer]},
                    ),
                )


def _work(task: "ShardTask", store: Store) -> Work:
    """What a shard needs, given what the store has of it."""
    sizes = task.batch_sizes
    if GEOMETRY in task.layers:
        known = known_inputs(store, task.shard)
        return Work(task.keys, task.layers, known=known, batch_sizes=sizes)
    keys = store.keys(task.shard)
    rows = {key: store.read(GEOMETRY, task.shard, i) for i, key in enumerate(keys)}
    return Work(keys, task.layers, geometry=rows, batch_sizes=sizes)


@dataclass(frozen=True)
class ShardTask:
    """What to write of one shard.

    Args:
        shard: its number.
        keys: of the planned frames.
        layers: names of those to write.
        expected: required xxh3-128 of the shard by layer, if known.
        replace: whether shards that are complete by then are replaced; they stay by default.
        batch_sizes: see `Work`.
    """

    shard: int
    keys: Sequence[str]
    layers: Collection[str]
    expected: Mapping[str, str] = field(default_factory=dict)
    replace: bool = False
    batch_sizes: Mapping[str, int] = field(default_factory=dict)
