"""extract: run the teacher once over a recording and cache its features and the pairs in shards."""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from p2pkit.errors import ConfigError
from p2pkit.pipelines.extract.job import (
    POLL_SECONDS,
    Job,
    Progress,
    Report,
    check_failures,
    open_job,
    report,
    take,
)
from p2pkit.pipelines.extract.settings import ExtractConfig

SHARDS_AT_ONCE = 2
"""Shards that a process works on where an accelerator computes the maps."""

__all__ = ["ExtractConfig", "Progress", "run", "run_on"]


def run(config: ExtractConfig, *, progress: Report | None = None) -> Path:
    """Extract a recording into a store, or finish or extend an existing store.

    Any number of processes may run this on one store at the same time; each takes shards that
    are not claimed. A killed run loses at most the shards in work, and running again gives the
    same bytes as an uninterrupted run.

    Returns:
        The store's path.

    Raises:
        SourceError: the recording cannot be read, or more than `max_failure_rate` of it is bad.
        FingerprintError: the store was made from other inputs; the message names them.
    """
    job = open_job(config, progress=progress)
    work_until_done(job)
    job.writer.write_failures()
    return job.writer.root


def run_on(engine: str, config: ExtractConfig, *, progress: Report | None = None) -> Path:
    """As `run`, with shards distributed by an engine: `local`, `ray` or `ray://ADDRESS`.

    Raises:
        ConfigError: the engine is unknown, or takes no address.
        MissingDependencyError: its package is not installed.
    """
    name, separator, address = engine.partition("://")
    if name not in ("local", "ray"):
        raise ConfigError(f"unknown engine {name!r}; choose one of local, ray")
    if separator and not address:
        raise ConfigError(f"engine {engine!r} lacks the address after ://; omit :// for none")
    if name == "local":
        if address:
            raise ConfigError(f"the engine local takes no address, found {address!r}")
        return run(config, progress=progress)
    from p2pkit.pipelines.extract import ray

    return ray.run(config, address=address or None, progress=progress)


def _take_all(job: Job, shards: Sequence[int]) -> list[bool]:
    """`take` of each shard; two at a time where there are batches for an accelerator to wait for.

    So it computes one shard's maps while the next one is read and the last one written.
    """
    if not job.worker.has_batches:
        return [take(job, shard) for shard in shards]
    with ThreadPoolExecutor(SHARDS_AT_ONCE, thread_name_prefix="p2pkit-shard") as pool:
        taken = [pool.submit(take, job, shard) for shard in shards]
        try:
            return [done.result() for done in taken]
        except BaseException:
            job.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def work_until_done(job: Job) -> None:
    """Take unclaimed shards until all are committed; wait for those that others hold."""
    start = os.getpid() % len(job.shards)
    turns = [(start + i) % len(job.shards) for i in range(len(job.shards))]
    todo = [shard for shard in turns if not job.is_done(shard)]
    check_failures(job)
    report(job)
    while todo:
        taken = _take_all(job, todo)
        waiting = [shard for shard, done in zip(todo, taken, strict=True) if not done]
        if len(waiting) == len(todo):
            time.sleep(POLL_SECONDS)
        todo = waiting
    check_failures(job)
    report(job)
