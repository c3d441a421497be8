"""The path of a frame: load, geometry, layers, write.

Extraction, planning and repair all use it.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from p2pkit.datasets.frame import Frame, FrameSource
from p2pkit.errors import FrameError, SourceError
from p2pkit.layers.digests import INPUTS, check_inputs, known_inputs, with_inputs
from p2pkit.layers.layer import Layer
from p2pkit.store.manifest import GEOMETRY, Sample
from p2pkit.store.reading import Store
from p2pkit.store.writing import StoreWriter
from p2pkit.stream.prefetch import ordered_map

Samples = dict[str, Sample]
"""A frame's samples by layer."""
Known = Mapping[str, Sequence[Mapping[str, Any]]]
"""JSON of each frame's remaining samples, by key."""
Begun = Callable[[int], None]
"""Called with the number of processed frames of a shard."""


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

    @property
    def names(self) -> list[str]:
        """Names of the layers, geometry first."""
        return [layer.spec.name for layer in self.layers]

    def frame(
        self,
        key: str,
        wanted: Collection[str],
        *,
        geometry: Sample | None = None,
        known: Sequence[Mapping[str, Any]] = (),
    ) -> Samples | FrameError:
        """One frame's samples for the wanted layers, or why it has none.

        Args:
            key: of the frame.
            wanted: names of layers.
            geometry: the frame's existing geometry sample, if it is not wanted.
            known: JSON of the frame's remaining samples.

        Raises:
            SourceError: the frame differs from the one that these samples were made from, or can no
                longer be read.
        """
        done: Samples = {} if geometry is None else {GEOMETRY: geometry}
        try:
            frame = self.recording.load(key)
            check_inputs(frame, known if geometry is None else [geometry.meta])
            for layer in self.layers:
                if layer.spec.name in wanted:
                    sample = layer.encode(frame, done)
                    inputs = done[GEOMETRY].meta.get(INPUTS) if done else None
                    done[layer.spec.name] = with_inputs(sample, inputs)
        except FrameError as error:
            if geometry is not None:
                raise SourceError(
                    f"{error}; it was readable when the geometry was extracted"
                ) from None
            return error
        return {name: done[name] for name in wanted}

    def frames(
        self, work: Callable[[str], Samples | FrameError], keys: Sequence[str]
    ) -> Iterator[Samples | FrameError]:
        """`work` of each key in order, several at a time."""
        return ordered_map(work, keys, threads=self.threads, ahead=2 * self.threads)

    def write_shard(
        self,
        task: "ShardTask",
        writer: StoreWriter,
        begun: Begun | None = None,
    ) -> None:
        """Write some layers of one shard; each replaces existing files only once it is complete.

        Raises:
            SourceError: a frame differs from the one that the rest of the shard was made from.
            FingerprintError: a shard would get other bytes than expected.
            StoreError: the disk is full or does not allow writing.
        """
        store = Store(writer.root, writer.manifest)
        rows: dict[str, Sample] = {}
        keys: Sequence[str] = task.keys
        known: Known = {}
        if GEOMETRY in task.layers:
            known = known_inputs(store, task.shard)
        else:
            keys = store.keys(task.shard)
            rows = {key: store.read(GEOMETRY, task.shard, i) for i, key in enumerate(keys)}

        def work(key: str) -> Samples | FrameError:
            left = known.get(key, ())
            return self.frame(key, task.layers, geometry=rows.get(key), known=left)

        samples: list[Samples] = []
        failures: list[dict[str, str]] = []
        for number, result in enumerate(self.frames(work, keys), start=1):
            if begun is not None:
                begun(number)
            if isinstance(result, FrameError):
                failures.append({"key": result.key, "stage": "frame", "reason": result.reason})
            else:
                samples.append(result)
        for layer in self.names:
            if layer in task.layers:
                writer.write(
                    layer,
                    task.shard,
                    [row[layer] for row in samples],
                    failures if layer == GEOMETRY else (),
                    expected=task.expected.get(layer),
                )


@dataclass(frozen=True)
class ShardTask:
    """What to write of one shard.

    Args:
        shard: its number.
        keys: of the planned frames.
        layers: names of those to write.
        expected: required xxh3-128 of the shard by layer, if known.
    """

    shard: int
    keys: Sequence[str]
    layers: Collection[str]
    expected: Mapping[str, str] = field(default_factory=dict)
