"""extract on Ray: Ray Data maps shard numbers over a pool of actors with one teacher each.

Ray starts the actors, places them on GPUs and replaces those that die. Each writes whole shards
into the store, a folder that all machines see, under the same claims as every other worker; what
travels through Ray is a shard's number and its counts.
"""

import contextlib
import logging
import os
import socket
import time
import warnings
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from p2pkit.errors import ConfigError, MissingDependencyError, P2pkitError, SourceError
from p2pkit.pipelines.extract.job import (
    POLL_SECONDS,
    Job,
    Progress,
    Report,
    open_job,
    stop_if_too_many,
    take,
)
from p2pkit.pipelines.extract.settings import ExtractConfig
from p2pkit.pipelines.extract.start import (
    layers_manifest,
    open_geometry,
    open_recording,
    stored_manifest,
)
from p2pkit.store.location import local_folder
from p2pkit.store.manifest import plan_shards
from p2pkit.store.writing import StoreWriter, read_manifest

TASK_RETRIES = 3
"""How often the workers of one shard may die before the extraction gives up."""
CONNECT_S = 10.0
MOST_BLOCKS = 4096
"""With more shards than this, a task takes several: Ray keeps an object for each task."""
Row = dict[str, Any]


def run(
    config: ExtractConfig,
    *,
    address: str | None = None,
    progress: Report | None = None,
) -> Path:
    """Extract a recording on a Ray cluster, or finish or extend an existing store.

    Args:
        config: of the extraction; with `device` cuda each worker has a separate GPU. The
            recording and the store must have the same absolute paths on all machines.
        address: of a running cluster, HOST:PORT or `auto`; `local` starts one on this machine and
            ends it. None joins the one that RAY_ADDRESS names or that runs on this machine, else
            acts as `local`.
        progress: called after each shard with the state of the work.

    Returns:
        The store's path.

    Raises:
        MissingDependencyError: Ray is not installed.
        ConfigError: the cluster cannot be reached, or has no GPU for `device` cuda.
        P2pkitError: as `extract.run`, or the workers of one shard died again and again.
    """
    everywhere = _with_absolute_paths(config)
    recording = open_recording(everywhere)
    geometry = open_geometry(everywhere, recording, stored_manifest(everywhere.out))
    plan = layers_manifest(everywhere, [geometry]).plan
    frames = [len(shard) for shard in plan_shards(recording.keys, plan)]
    show = progress or (lambda _: None)
    done = failed = 0
    show(Progress(done, sum(frames), failed))
    with _cluster(address) as ray:
        for row in _rows(ray, everywhere, len(frames)):
            if row["error"]:
                raise P2pkitError(row["error"])
            done, failed = done + frames[row["shard"]], failed + row["failed"]
            show(Progress(done, sum(frames), failed))
            stop_if_too_many(failed, sum(frames), config=everywhere)
    StoreWriter(everywhere.out, read_manifest(everywhere.out)).write_failures()
    return everywhere.out


class ShardWorker:
    """An actor's state: the recording, the store and the teacher, opened at its first shard."""

    def __init__(self, config: ExtractConfig) -> None:
        self._config = config

    @cached_property
    def _job(self) -> Job:
        return open_job(self._config)

    def __call__(self, batch: dict[str, Iterable[int]]) -> dict[str, list[Any]]:
        """Commit shards; p2pkit's errors become rows, so that Ray does not retry them."""
        rows = [self._row(int(shard)) for shard in batch["shard"]]
        return {name: [row[name] for row in rows] for name in ("shard", "failed", "error")}

    def _row(self, shard: int) -> Row:
        try:
            # Another worker's claim ends with its work, or grows stale after its death.
            while not take(self._job, shard):
                time.sleep(POLL_SECONDS)
            return {"shard": shard, "failed": self._job.failed[shard], "error": ""}
        except P2pkitError as error:
            return {"shard": shard, "failed": 0, "error": str(error)}


@dataclass(frozen=True)
class Pool:
    """How many actors, and what each reserves.

    Args:
        actors: most that run at the same time.
        cpus: of one machine, for each.
        gpus: 1, or 0 where the teacher runs on the CPU.
    """

    actors: int
    cpus: int
    gpus: int


def pool_for(nodes: Iterable[dict[str, float]], *, device: str, threads: int, shards: int) -> Pool:
    """The actors that fit on a cluster's machines.

    Args:
        nodes: resources of each machine, as Ray names them: `CPU`, `GPU`.
        device: the teacher's.
        threads: frames that a worker processes at the same time.
        shards: their number, an upper bound on useful actors.

    Raises:
        ConfigError: no machine has the resources that one actor needs.
    """
    sizes = [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in nodes]
    if device.startswith("cuda"):
        actors = sum(min(cpus, gpus) for cpus, gpus in sizes)
        pool = Pool(min(actors, shards), cpus=1, gpus=1)
        needed = "a GPU and a CPU core; --device cpu runs the teacher on the CPU"
    else:
        cpus = min([threads, *(cpus for cpus, _ in sizes if cpus)])
        pool = Pool(min(sum(size // cpus for size, _ in sizes), shards), cpus, gpus=0)
        needed = "a CPU core"
    if pool.actors < 1:
        raise ConfigError(
            f"no machine of the Ray cluster has {needed}; found (CPU cores, GPUs) {sizes or 'none'}"
        )
    return pool


def _rows(ray: Any, config: ExtractConfig, shards: int) -> Iterator[Row]:
    """Yield one row for each shard as it is committed."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    device = "cpu" if config.features is None else config.features.teacher.device
    pool = pool_for(nodes, device=device, threads=config.threads, shards=shards)
    numbers = ray.data.from_items(
        [{"shard": shard} for shard in range(shards)], override_num_blocks=min(shards, MOST_BLOCKS)
    )
    with warnings.catch_warnings():
        # Ray 2.60 wants named parameters only, but has no name yet that bounds the retries.
        warnings.simplefilter("ignore", category=ray.util.annotations.RayDeprecationWarning)
        work = numbers.map_batches(
            ShardWorker,
            fn_constructor_args=(config,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=pool.actors),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
            max_restarts=-1,
            max_task_retries=TASK_RETRIES,
        )
    try:
        yield from work.iter_rows()
    except ray.exceptions.RayError as error:
        raise SourceError(
            f"a worker on the Ray cluster failed: {_last_line(error)}. Completed work is kept: run "
            "the same command again to continue"
        ) from error


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@contextlib.contextmanager
def _cluster(address: str | None) -> Generator[Any, None, None]:
    """Connect to Ray; an existing connection stays open."""
    os.environ.setdefault(
        "RAY_USAGE_STATS_ENABLED", "0"
    )  # no usage reports to Ray's makers by default
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingDependencyError(
            f"the engine ray cannot be imported ({error}): pip install 'p2pkit[ray]'"
        ) from error
    mine = not ray.is_initialized()
    if mine:
        _check_listening(address)
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = address or "the address in RAY_ADDRESS"
            raise ConfigError(f"no Ray cluster answers at {where}: {_last_line(error)}") from error
    _quiet(ray.data.DataContext.get_current())
    try:
        yield ray
    finally:
        if mine:
            ray.shutdown()


def _check_listening(address: str | None) -> None:
    """Ray itself retries an address where nobody listens for many minutes."""
    host, separator, port = (address or "").rpartition(":")
    if not separator:
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"no Ray cluster answers at {address}: {error}. Name the head's HOST:PORT, as `ray "
            "status` shows it, or `auto`"
        ) from error


def _quiet(context: Any) -> None:
    """Turn off Ray's bars and logs: p2pkit's bar shows the progress."""
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _with_absolute_paths(config: ExtractConfig) -> ExtractConfig:
    """The settings with absolute paths, for a process in another folder."""
    out = local_folder(config.out, "what is extracted")
    paths = {"root": config.root, "camera": config.camera, "out": out}
    found = {name: path.absolute() for name, path in paths.items() if path is not None}
    if config.features is None:
        return replace(config, **found)
    teacher = config.features.teacher
    if teacher.device.startswith("cuda:"):
        raise ConfigError(
            f"device is {teacher.device!r}; Ray assigns each worker its GPU: use --device cuda"
        )
    kind, colon, path = teacher.name.partition(":")
    if colon and Path(path).exists():
        teacher = replace(teacher, name=f"{kind}:{Path(path).absolute()}")
    if Path(teacher.weights).is_file():
        teacher = replace(teacher, weights=str(Path(teacher.weights).absolute()))
    return replace(config, features=replace(config.features, teacher=teacher), **found)
