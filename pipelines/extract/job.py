"""One process's share of an extraction: shards that it claims, works on and commits."""

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass, field, replace

from p2pkit.errors import SourceError
from p2pkit.memory import keep_freed_memory
from p2pkit.pipelines.extract.settings import ExtractConfig
from p2pkit.pipelines.extract.start import begin
from p2pkit.pipelines.extract.worker import ShardTask, Worker
from p2pkit.store.location import local_folder
from p2pkit.store.manifest import GEOMETRY, plan_shards
from p2pkit.store.writing import StoreWriter, read_manifest

POLL_SECONDS = 1.0
CLAIM = "extract"
"""A worker's claim on a shard while its frames are processed."""


@dataclass(frozen=True)
class Progress:
    """Progress of an extraction.

    Args:
        done: frames that any worker committed or this one has processed.
        total: frames of the recording.
        failed: bad frames in committed shards.
        line: what the user should read of the shard in work, if anything.
    """

    done: int
    total: int
    failed: int
    line: str = ""


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Job:
    """One process's view of the work: what to write, and what is known to be committed.

    Args:
        config: of the extraction.
        worker: takes frames through the layers.
        writer: of the store.
        shards: the keys of each planned shard.
        progress: called with the state of the work.
        failed: number of bad frames of each shard that is known to be committed.
        begun: processed frames of each shard that this process works on.
        stop: set where other shards in work are to be given up.
    """

    config: ExtractConfig
    worker: Worker
    writer: StoreWriter
    shards: list[list[str]]
    progress: Report
    failed: dict[int, int] = field(default_factory=dict)
    begun: dict[int, int] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)
    reporting: threading.Lock = field(default_factory=threading.Lock)

    def is_done(self, shard: int) -> bool:
        """Whether all layers of a shard are committed, by any worker."""
        if shard not in self.failed:
            if self.lacking(shard):
                return False
            self.failed[shard] = len(self.writer.record(GEOMETRY, shard).failures)
        return True

    def lacking(self, shard: int) -> list[str]:
        """Layers that a shard does not have yet."""
        return [name for name in self.worker.names if not self.writer.is_done(name, shard)]

    @property
    def frames(self) -> int:
        """Planned frames of all shards."""
        return sum(map(len, self.shards))


def open_job(config: ExtractConfig, *, progress: Report | None = None) -> Job:
    """Open the recording, the store and the teacher; `take` then works on single shards.

    Raises:
        P2pkitError: as `start.begin`.
    """
    keep_freed_memory()
    config = replace(config, out=local_folder(config.out, "what is extracted"))
    recording, layers, writer = begin(config)
    worker = Worker(recording, layers, config.threads)
    shards = plan_shards(recording.keys, writer.manifest.plan)
    return Job(config, worker, writer, shards, progress or (lambda _: None))


def take(job: Job, shard: int) -> bool:
    """Make sure that a shard is committed; False if another worker holds it.

    Raises:
        SourceError: more than `max_failure_rate` of the frames is bad in the shards known so far.
    """
    if job.is_done(shard):
        return True
    claim = job.writer.claim(CLAIM, shard)
    if claim is None:
        return False
    with claim:
        if not job.is_done(shard):
            _write(job, shard)
            if job.is_done(shard):
                check_failures(job)
            report(job)
    return True


def _write(job: Job, shard: int) -> None:
    task = ShardTask(shard, job.shards[shard], job.lacking(shard))

    def begun(frames: int) -> None:
        if job.stop.is_set():
            raise CancelledError
        job.begun[shard] = frames
        report(job)

    try:
        job.worker.write_shard(task, job.writer, begun, lambda line: report(job, line))
    finally:
        job.begun.pop(shard, None)


def check_failures(job: Job) -> None:
    """As `stop_if_too_many`, of the shards that are known to be committed, by any worker."""
    stop_if_too_many(sum([*job.failed.values()]), job.frames, config=job.config)


def stop_if_too_many(failed: int, frames: int, *, config: ExtractConfig) -> None:
    """Raise SourceError if too many of all frames are bad, after writing the reasons."""
    if failed > config.max_failure_rate * frames:
        StoreWriter(config.out, read_manifest(config.out)).write_failures()
        raise SourceError(
            f"{failed} of {frames} frames are bad, above the allowed failure rate "
            f"{config.max_failure_rate}; for reasons see {config.out / 'failures.jsonl'}. Fix the "
            "recording and extract it into a new folder, or raise --max-failure-rate to accept the "
            "loss of these frames"
        )


def report(job: Job, line: str = "") -> None:
    """Report progress, including the frames of the shards in work, and a line for the user."""
    with job.reporting:
        failed, begun = dict(job.failed), dict(job.begun)
        done = sum(begun.values()) + sum(len(job.shards[shard]) for shard in failed)
        job.progress(Progress(done, job.frames, sum(failed.values()), line))
