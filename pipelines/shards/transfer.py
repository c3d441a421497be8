"""transfer: copy a store between a local folder and an object store, resumable and verified."""

import contextlib
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from p2pkit.errors import ConfigError, CorruptShardError, FingerprintError, StoreError
from p2pkit.files import json_text, temporary_name, write_atomic
from p2pkit.pipelines.settings import TransferConfig
from p2pkit.store.comparison import check_same_inputs
from p2pkit.store.location import (
    FAILURES,
    MANIFEST,
    Location,
    as_location,
    record_path,
    shard_path,
)
from p2pkit.store.manifest import GEOMETRY, Manifest
from p2pkit.store.reading import Store, open_store
from p2pkit.store.records import ShardRecord, read_record
from p2pkit.store.remote.client import RemotePath
from p2pkit.store.remote.copy import (
    commit_fetched,
    fetch_shard,
    remote_checksum,
    remove,
    send_shard,
    shard_bytes,
    shard_checksum,
)
from p2pkit.store.storages import find_storage
from p2pkit.store.strict_json import sealed
from p2pkit.store.writing import create_or_open, read_manifest, refuse_foreign_folder

COPIES = 2
"""Attempts to copy a shard before its bytes count as damaged in transit."""


@dataclass(frozen=True)
class TransferReport:
    """What was copied; also the progress of a transfer.

    Args:
        copied: shards copied and verified.
        kept: shards that already existed with an equal record.
        shards: shards of the chosen layers.
        bytes: of the finished shards.
        total_bytes: of all shards.
    """

    copied: int
    kept: int
    shards: int
    bytes: int
    total_bytes: int


Progress = Callable[[TransferReport], None]


def run(config: TransferConfig, *, progress: Progress | None = None) -> TransferReport:
    """Copy a store, or what is missing of it.

    Each shard is copied, read back from the target and compared with the xxh3-128 of its record;
    then its record is written. The manifest comes last, so a partial copy does not
    open. A shard whose record already exists and is equal, with data of the record's size, is kept
    without reading it again.

    Raises:
        ConfigError: not exactly one of source and target is local.
        StoreError: the source is incomplete or has fewer samples than the target, which may hold no
            other files; or a server cannot be reached: run it again to continue.
        CorruptShardError: a shard of the source is damaged.
        FingerprintError: the target holds another store.
    """
    source, target = as_location(config.source), as_location(config.target)
    _check_ends(source, target)
    store = open_store(source)
    manifest = _chosen(store, config.layers)
    _check_target(target, manifest)
    records = {layer.name: store.records(layer.name) for layer in manifest.layers}
    jobs = [
        _Job(source, target, layer.name, shard, records[layer.name][shard])
        for layer in manifest.layers
        for shard in range(manifest.plan.shards)
    ]
    for job in jobs:
        _refuse_loss(job)
    report = _copy_all(jobs, config.workers, progress or (lambda report: None))
    _finish(source, target, manifest)
    return report


@dataclass(frozen=True)
class _Job:
    """One shard to copy."""

    source: Location
    target: Location
    layer: str
    number: int
    record: ShardRecord


def _check_ends(source: Location, target: Location) -> None:
    if isinstance(source, Path) == isinstance(target, Path):
        kind = "local paths" if isinstance(source, Path) else "URLs"
        raise ConfigError(
            f"{source} and {target} are both {kind}; a transfer is between a local store and a URL"
        )
    if isinstance(target, RemotePath) and target.url.startswith("http"):
        raise ConfigError(f"{target} cannot be written: push to an s3:// or gs:// URL")
    if isinstance(target, Path):
        refuse_foreign_folder(target)


def _chosen(store: Store, layers: tuple[str, ...]) -> Manifest:
    """The manifest with the geometry and the wanted layers."""
    wanted = {GEOMETRY, *(store.layer(name).name for name in layers)}
    kept = tuple(x for x in store.manifest.layers if not layers or x.name in wanted)
    whole = store.manifest
    return Manifest(dataset=whole.dataset, plan=whole.plan, storage=whole.storage, layers=kept)


def _check_target(target: Location, manifest: Manifest) -> None:
    if (target / MANIFEST).is_file():
        check_same_inputs(read_manifest(target), manifest, target)


def _copy_all(jobs: list[_Job], workers: int, progress: Progress) -> TransferReport:
    total = sum(job.record.bytes for job in jobs)
    report = TransferReport(0, 0, len(jobs), 0, total)
    progress(report)
    with _cancelling(ThreadPoolExecutor(workers)) as pool:
        running: dict[Future[bool], _Job] = {pool.submit(_copy, job): job for job in jobs}
        for done in as_completed(running):
            copied = done.result()
            report = TransferReport(
                copied=report.copied + copied,
                kept=report.kept + (not copied),
                shards=len(jobs),
                bytes=report.bytes + running[done].record.bytes,
                total_bytes=total,
            )
            progress(report)
    return report


@contextlib.contextmanager
def _cancelling(pool: ThreadPoolExecutor) -> Generator[ThreadPoolExecutor]:
    """A thread pool that drops pending work if its block raises."""
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _copy(job: _Job) -> bool:
    """Copy one shard and then its record; False if both already existed."""
    name = (job.layer, job.number, find_storage(job.record.format).suffix)
    there = shard_path(job.target, *name)
    if _is_there(job, there):
        return False
    if isinstance(job.source, RemotePath) and isinstance(there, Path):
        _pull(shard_path(job.source, *name), there, job.record)
    elif isinstance(job.source, Path) and isinstance(there, RemotePath):
        _push(shard_path(job.source, *name), there, job.record)
    record = record_path(job.source, job.layer, job.number).read_bytes()
    _write(record_path(job.target, job.layer, job.number), record)
    return True


def _is_there(job: _Job, there: Location) -> bool:
    """Whether the target has the shard and its record, which is written after it was verified."""
    path = record_path(job.target, job.layer, job.number)
    if not path.is_file():
        return False
    found = read_record(path)
    if found.fingerprint != job.record.fingerprint:
        raise FingerprintError(
            f"{path} has the fingerprint {found.fingerprint}, the source's shard has "
            f"{job.record.fingerprint}: {job.target} holds another store; choose another target"
        )
    return found == job.record and shard_bytes(there, found.format) == found.bytes


def _refuse_loss(job: _Job) -> None:
    """Raise StoreError if the target's shard has samples that the source's has lost."""
    path = record_path(job.target, job.layer, job.number)
    if not path.exists():
        return
    samples = read_record(path).samples
    if samples > job.record.samples:
        raise StoreError(
            f"{path} has {samples} samples, the source's shard {job.record.samples}: the source "
            "lost frames, perhaps in a repair. Repair it with --source, or choose another target; "
            "nothing was copied"
        )


def _push(source: Path, target: RemotePath, record: ShardRecord) -> None:
    size = shard_bytes(source, record.format)
    if size != record.bytes:
        state = "is missing" if size is None else f"has {size} bytes"
        raise CorruptShardError(str(source), f"{state}; its record says {record.bytes} bytes")
    found = shard_checksum(source)
    if found != record.xxh3_128:
        raise _damaged(source, found, record)
    if _is_intact(target, record):  # an earlier run was stopped before the record
        return
    for _ in range(COPIES):
        send_shard(source, record, target)
        if _is_intact(target, record):
            return
    raise StoreError(
        f"{target} did not read back as the bytes that were sent, {COPIES} times; nothing was "
        "recorded at the target. Check the server, then run the same command again"
    )


def _is_intact(shard: RemotePath, record: ShardRecord) -> bool:
    if shard_bytes(shard, record.format) != record.bytes:
        return False
    return remote_checksum(shard, record) == record.xxh3_128


def _pull(source: RemotePath, target: Path, record: ShardRecord) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(temporary_name(target.name))
    found = ""
    try:
        for _ in range(COPIES):
            remove(temporary)
            fetch_shard(source, record, temporary)
            found = shard_checksum(temporary)
            if found == record.xxh3_128:
                commit_fetched(temporary, target)
                return
    except OSError as error:
        raise StoreError(
            f"{target} cannot be written: {error.strerror}; {record.bytes} bytes are needed. Fix "
            "that, then run the same command again"
        ) from None
    finally:
        remove(temporary)
    raise _damaged(source, found, record)


def _damaged(shard: Location, found: str, record: ShardRecord) -> CorruptShardError:
    return CorruptShardError(
        str(shard),
        f"xxh3-128 is {found}; its record says {record.xxh3_128}: extract or copy it again",
    )


def _write(path: Location, content: bytes) -> None:
    if isinstance(path, RemotePath):
        path.write(content)
    else:
        write_atomic(path, content)


def _finish(source: Location, target: Location, manifest: Manifest) -> None:
    """Copy the list of failures, and the manifest that makes the copy a store."""
    with contextlib.suppress(FileNotFoundError):  # a finished extraction writes it last
        _write(target / FAILURES, (source / FAILURES).read_bytes())
    if isinstance(target, Path):
        create_or_open(target, manifest)
        return
    if (target / MANIFEST).is_file():
        there = read_manifest(target)
        names = {layer.name for layer in there.layers}
        for layer in manifest.layers:
            there = there if layer.name in names else there.with_layer(layer)
        manifest = there
    (target / MANIFEST).write(json_text(sealed(manifest.to_json())).encode())
