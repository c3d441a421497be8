"""The probe of `plan`: single frames extracted in memory, and timed."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from p2pkit.datasets.frame import Frame, FrameSource
from p2pkit.errors import FrameError, SourceError
from p2pkit.pipelines.extract_plan import ExtractConfig, geometry_sample
from p2pkit.pipelines.plan_left import Lacking, WorkLeft
from p2pkit.pipelines.superpixel_stage import LayerStage, layer_sample
from p2pkit.shards.inputs import check_inputs
from p2pkit.shards.model import GEOMETRY, Manifest, Sample
from p2pkit.shards.sizes import sample_bytes
from p2pkit.stream.prefetch import ordered_map

Progress = Callable[[int, int], None]
"""Told how many of how many frames are probed."""


@dataclass(frozen=True)
class Worker:
    """What extracts single frames in memory.

    Args:
        extraction: how.
        source: the recording.
        stages: what fills the layers beside the geometry.
        manifest: of the store as it would be, with those layers.
    """

    extraction: ExtractConfig
    source: FrameSource
    stages: tuple[LayerStage, ...]
    manifest: Manifest

    def geometry(self, key: str) -> tuple[Frame, Sample] | FrameError:
        """The frame and its geometry sample, encoded once as writing would."""
        layer = self.manifest.layers[0]
        try:
            frame = self.source.load(key)
            sample = geometry_sample(frame, self.extraction, layer)
        except FrameError as error:
            return error
        sample_bytes(layer, sample)
        return frame, sample

    def whole(self, key: str) -> tuple[Sample, ...] | FrameError:
        """The samples of all layers, geometry first, encoded once as writing would."""
        found = self.geometry(key)
        if isinstance(found, FrameError):
            return found
        others = tuple(layer_sample(stage, *found) for stage in self.stages)
        for layer, sample in zip(self.manifest.layers[1:], others, strict=True):
            sample_bytes(layer, sample)
        return found[1], *others

    def further(self, geometry: Sample, lacking: Lacking) -> None:
        """As `extract` adds layers to the geometry of a frame that is there."""
        frame = self.source.load(geometry.key)
        check_inputs(frame, [geometry.meta])
        for stage, layer in zip(self.stages, self.manifest.layers[1:], strict=True):
            if layer.name in lacking:
                sample_bytes(layer, layer_sample(stage, frame, geometry))


@dataclass(frozen=True)
class Probe:
    """What the probed frames gave.

    Args:
        chosen: keys of the frames that were extracted whole.
        many: keys of those whose geometry was, the chosen ones among them.
        samples: of each layer, geometry first.
        failed: the reason of each bad frame.
        seconds_per_frame: with all layers.
        seconds_of: the same by what a frame's shard lacks.
    """

    chosen: list[str]
    many: list[str]
    samples: tuple[list[Sample], ...]
    failed: dict[str, str]
    seconds_per_frame: float
    seconds_of: dict[Lacking, float]


def _untold(_done: int, _frames: int) -> None:
    pass


def probe_frames(
    worker: Worker,
    chosen: list[str],
    many: list[str],
    left: WorkLeft,
    progress: Progress | None = None,
) -> Probe:
    """Extract the chosen frames in memory, as `extract` would, and the geometry of the others.

    Raises:
        SourceError: no chosen frame is good.
    """
    progress = progress or _untold
    threads = worker.extraction.threads
    others = [key for key in many if key not in set(chosen)]
    frames = len(chosen) + len(others)
    progress(0, frames)
    worker.whole(chosen[0])  # compiled kernels and the network's first pass are slower: not timed
    began = time.perf_counter()
    whole: list[tuple[Sample, ...] | FrameError] = []
    for row in ordered_map(worker.whole, chosen, threads=threads, ahead=2 * threads):
        whole.append(row)
        progress(len(whole), frames)
    seconds = (time.perf_counter() - began) / len(chosen)
    rest: list[tuple[Frame, Sample] | FrameError] = []
    for found in ordered_map(worker.geometry, others, threads=threads, ahead=2 * threads):
        rest.append(found)
        progress(len(chosen) + len(rest), frames)
    good = [row for row in whole if not isinstance(row, FrameError)]
    failed = {row.key: row.reason for row in (*whole, *rest) if isinstance(row, FrameError)}
    if not good:
        raise SourceError(
            f"none of the {len(chosen)} probed frames can be used; the first: {whole[0]}"
        )
    samples = tuple(map(list, zip(*good, strict=True)))
    seconds_of = {
        lacking: seconds if lacking[0] == GEOMETRY else _timed(worker, samples[0], lacking)
        for lacking in left.lacking
    }
    samples[0].extend(row[1] for row in rest if isinstance(row, tuple))
    return Probe(chosen, many, samples, failed, seconds, seconds_of)


def _timed(worker: Worker, geometry: Sequence[Sample], lacking: Lacking) -> float:
    """Seconds of a frame whose shard has its geometry and lacks these layers."""
    threads = worker.extraction.threads
    began = time.perf_counter()
    work = partial(worker.further, lacking=lacking)
    done = list(ordered_map(work, geometry, threads=threads, ahead=2 * threads))
    return (time.perf_counter() - began) / len(done)
