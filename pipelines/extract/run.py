"""extract: run the teacher once over a recording and cache its features and the pairs in shards."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from p2pkit.datasets.frame import Frame, FrameSource
from p2pkit.errors import FrameError, SourceError
from p2pkit.layers.digests import check_inputs
from p2pkit.pipelines.extract.diagnosis import known_inputs
from p2pkit.pipelines.extract.feature_stage import FeatureStage, open_feature_stage
from p2pkit.pipelines.extract.frames import geometry_sample, loadable, open_frames, plan_geometry
from p2pkit.pipelines.extract.settings import ExtractConfig
from p2pkit.pipelines.extract.superpixel_stage import (
    LayerStage,
    SuperpixelStage,
    layer_sample,
    open_superpixel_stage,
)
from p2pkit.store.manifest import Sample, plan_shards
from p2pkit.store.reading import open_store
from p2pkit.store.writing import StoreWriter, create_or_open
from p2pkit.stream.prefetch import ordered_map
from p2pkit.teachers import check_teacher_device

POLL_SECONDS = 1.0
Result = TypeVar("Result")


@dataclass(frozen=True)
class Progress:
    """How far an extraction is.

    Args:
        done: frames that any worker committed or this one has worked on.
        total: frames of the recording.
        failed: bad frames in committed shards.
    """

    done: int
    total: int
    failed: int


def run(config: ExtractConfig, *, progress: Callable[[Progress], None] | None = None) -> Path:
    """Extract a recording into a store, or finish or extend a store that is there.

    Any number of processes may run this on one store at the same time; each takes shards that
    nobody has claimed. A killed run loses at most the shards in work, and running again gives the
    same bytes as an uninterrupted run.

    Returns:
        The store's path.

    Raises:
        SourceError: the recording cannot be read, or more than `max_failure_rate` of it is bad.
        FingerprintError: the store was made from other inputs; the message names them.
    """
    job = begin(config, progress=progress)
    _work_until_done(job)
    job.writer.write_failures()
    return config.out


def begin(config: ExtractConfig, *, progress: Callable[[Progress], None] | None = None) -> "Job":
    """Open the recording, the store and the teacher; `take` then works on single shards.

    Raises:
        ConfigError: a setting is impossible, or the teacher's device is not there.
        SourceError: the recording cannot be read.
        FingerprintError: the store was made from other inputs; the message names them.
    """
    if config.features is not None:
        check_teacher_device(config.features.teacher)
    source, keys = open_frames(config)
    manifest = plan_geometry(config, source, keys)
    writer = create_or_open(config.out, manifest)
    shards = plan_shards(keys, manifest.plan)
    stage = superpixels = None
    if config.features is not None:
        stage, writer = open_feature_stage(
            config.features,
            config.out,
            manifest,
            lambda: _unedited(source, shards, config.out),
            config.codecs,
        )
    if config.superpixels is not None:
        superpixels, writer = open_superpixel_stage(
            config.superpixels, config.out, manifest, config.codecs
        )
    report = progress or (lambda report: None)
    return Job(config, source, writer, stage, shards, report, superpixels=superpixels)


def _unedited(source: FrameSource, shards: list[list[str]], out: Path) -> Iterator[Frame]:
    """The readable frames in the plan's order, each compared with its samples that are there.

    So a layer of a recording that was edited throughout is refused before it is in the manifest.
    """
    store = open_store(out)
    for shard, keys in enumerate(shards):
        stored = known_inputs(store, shard)
        for frame in loadable(source, keys):
            check_inputs(frame, stored.get(frame.key, ()))
            yield frame


@dataclass(frozen=True)
class Job:
    """One worker's view of the work: what to write, and what it knows to be committed.

    Args:
        config: of the extraction.
        source: the recording.
        writer: of the store.
        stage: the teacher and its layer; None where only geometry and labels are extracted.
        shards: the keys of each planned shard.
        progress: told how far the work is.
        failed: bad frames of each shard that is known to be committed.
        superpixels: how images are cut, and the layer of that; None where nobody asked for it.
    """

    config: ExtractConfig
    source: FrameSource
    writer: StoreWriter
    stage: FeatureStage | None
    shards: list[list[str]]
    progress: Callable[[Progress], None]
    failed: dict[int, int] = field(default_factory=dict)
    superpixels: SuperpixelStage | None = None

    @property
    def stages(self) -> tuple[LayerStage, ...]:
        """What fills the layers beside the geometry."""
        return tuple(stage for stage in (self.stage, self.superpixels) if stage is not None)

    def is_done(self, shard: int) -> bool:
        """Whether all layers of a shard are committed, by whomever."""
        if shard not in self.failed:
            layers = ("geometry", *(stage.layer for stage in self.stages))
            if not all(self.writer.is_done(layer, shard) for layer in layers):
                return False
            self.failed[shard] = len(self.writer.record("geometry", shard).failures)
        return True

    @property
    def frames(self) -> int:
        """Planned, of all shards."""
        return sum(len(keys) for keys in self.shards)


def _work_until_done(job: Job) -> None:
    """Take free shards until all are committed; wait for those that others hold."""
    start = os.getpid() % len(job.shards)
    turns = [(start + i) % len(job.shards) for i in range(len(job.shards))]
    todo = [shard for shard in turns if not job.is_done(shard)]
    _report(job)
    while todo:
        waiting = [shard for shard in todo if not take(job, shard)]
        if len(waiting) == len(todo):
            time.sleep(POLL_SECONDS)
        todo = waiting
    _report(job)


def take(job: Job, shard: int) -> bool:
    """Make sure that a shard is committed; False if another worker holds it.

    Raises:
        SourceError: more than `max_failure_rate` of the frames is bad in the shards known so far.
    """
    if job.is_done(shard):
        return True
    claim = job.writer.claim("extract", shard)
    if claim is None:
        return False
    with claim:
        if not job.is_done(shard):
            _extract_shard(job, shard)
            _stop_if_too_many_failed(job, shard)
            _report(job)
    return True


def _extract_shard(job: Job, shard: int) -> None:
    if job.stages and job.writer.is_done("geometry", shard):
        _add_layers(job, shard)
        return
    samples: list[tuple[Sample, ...]] = []
    failures: list[dict[str, str]] = []
    # A shard that was lost is compared with what is left of it.
    stored = known_inputs(open_store(job.config.out), shard)
    work = partial(_all_samples, stored=stored)
    for result in _worked_on(job, job.shards[shard], work):
        if isinstance(result, FrameError):
            failures.append({"key": result.key, "stage": "frame", "reason": result.reason})
        else:
            samples.append(result)
    job.writer.write("geometry", shard, [row[0] for row in samples], failures)
    for number, stage in enumerate(job.stages, start=1):
        if not job.writer.is_done(stage.layer, shard):
            job.writer.write(stage.layer, shard, [row[number] for row in samples])


def _add_layers(job: Job, shard: int) -> None:
    """Write the layers that a shard lacks beside geometry that is there already."""
    store = open_store(job.config.out)
    keys = store.keys(shard)
    stages = [stage for stage in job.stages if not job.writer.is_done(stage.layer, shard)]

    def samples(job: Job, key: str) -> tuple[Sample, ...]:
        try:
            frame = job.source.load(key)
        except FrameError as error:
            raise SourceError(f"{error}; it was readable when the geometry was extracted") from None
        geometry = store.read("geometry", shard, keys.index(key))
        check_inputs(frame, [geometry.meta])
        return tuple(layer_sample(stage, frame, geometry) for stage in stages)

    rows = list(_worked_on(job, keys, samples))
    for number, stage in enumerate(stages):
        job.writer.write(stage.layer, shard, [row[number] for row in rows])


def _all_samples(
    job: Job, key: str, stored: Mapping[str, list[dict[str, Any]]]
) -> tuple[Sample, ...] | FrameError:
    """A frame's samples: of the geometry, then of each stage's layer."""
    try:
        frame = job.source.load(key)
        check_inputs(frame, stored.get(key, ()))
        geometry = geometry_sample(frame, job.config, job.writer.manifest.layers[0])
    except FrameError as error:
        return error
    return (geometry, *(layer_sample(stage, frame, geometry) for stage in job.stages))


def _worked_on(job: Job, keys: list[str], work: Callable[[Job, str], Result]) -> Iterator[Result]:
    """`work` of each key in order, by threads; counts them on the progress report."""
    threads = job.config.threads
    results = ordered_map(lambda key: work(job, key), keys, threads=threads, ahead=2 * threads)
    for number, result in enumerate(results, start=1):
        _report(job, begun=number)
        yield result


def _stop_if_too_many_failed(job: Job, shard: int) -> None:
    failed = sum(job.failed.values()) if job.is_done(shard) else 0
    stop_if_too_many(failed, job.frames, config=job.config, writer=job.writer)


def stop_if_too_many(
    failed: int, frames: int, *, config: ExtractConfig, writer: StoreWriter
) -> None:
    """Raise SourceError where too many of all frames are bad, after their reasons are written."""
    if failed > config.max_failure_rate * frames:
        writer.write_failures()
        raise SourceError(
            f"{failed} of {frames} frames are bad, above the failure rate "
            f"{config.max_failure_rate}; reasons: {config.out / 'failures.jsonl'}. "
            "Mend the recording and extract it into a new folder, or raise --max-failure-rate "
            "to do without these frames"
        )


def _report(job: Job, begun: int = 0) -> None:
    done = begun + sum(len(job.shards[shard]) for shard in job.failed)
    job.progress(Progress(done=done, total=job.frames, failed=sum(job.failed.values())))
