"""Build a store from the samples of others, as convert and merge do.

Between tar shards the members' payloads are copied unchanged, each checked against its checksum
on the way; to or from Zarr shards, and between codecs, each sample is decoded and encoded again.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from p2pkit.errors import StoreError
from p2pkit.store.manifest import GEOMETRY, FieldSpec, LayerSpec, Manifest, Sample, plan_shards
from p2pkit.store.reading import Store
from p2pkit.store.strict_json import KEY
from p2pkit.store.tar.reader import TarShard
from p2pkit.store.tar.writer import StoredSample
from p2pkit.store.writing import Commit, StoreWriter, create_or_open

POLL_S = 0.2
Report = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sample of the new store comes from.

    Args:
        source: number of the source store.
        shard, row: of the sample in that store.
    """

    source: int
    shard: int
    row: int


@dataclass(frozen=True)
class NewShard:
    """One shard of the new store.

    Args:
        samples: in order, by new key.
        failures: of the geometry.
        accelerators: what the records say of the accelerator that computed it, by layer.
    """

    samples: dict[str, Place]
    failures: tuple[dict[str, str], ...] = ()
    accelerators: Mapping[str, dict[str, Any] | None] = field(default_factory=dict)


@dataclass(frozen=True)
class CopyJob:
    """A store to build.

    Args:
        out: the new store.
        manifest: of the new store.
        sources: the stores that samples come from.
        layers: the layer's name in each source, by its name in the new store.
        shards: what each planned shard holds.
    """

    out: Path
    manifest: Manifest
    sources: tuple[Store, ...]
    layers: Mapping[str, tuple[str, ...]]
    shards: list[NewShard]


def copy_samples(job: CopyJob, report: Report | None = None) -> Path:
    """Write the new store, or finish one; safe in several processes at once.

    Args:
        job: what to write.
        report: called with the number of finished shards and the total, over all layers.

    Raises:
        CorruptShardError: a source is damaged; the shard in work is not written.
        FingerprintError: `out` is another store.
    """
    writer = create_or_open(job.out, job.manifest)
    todo = [(layer, shard) for shard in range(len(job.shards)) for layer in job.layers]
    total = len(todo)
    while todo:
        waiting: list[tuple[str, int]] = []
        for number, piece in enumerate(todo, start=1):
            if not _take(job, writer, *piece):
                waiting.append(piece)
            elif report:
                report(total - len(todo) + number - len(waiting), total)
        if len(waiting) == len(todo):
            time.sleep(POLL_S)
        todo = waiting
    writer.write_failures()
    return writer.root


def _take(job: CopyJob, writer: StoreWriter, layer: str, shard: int) -> bool:
    """Make sure that a shard exists; False while another worker holds it."""
    if writer.is_done(layer, shard):
        return True
    claim = writer.claim(layer, shard)
    if claim is None:
        return False
    with claim:
        if not writer.is_done(layer, shard):
            _write(job, writer, layer, shard)
    return True


def _write(job: CopyJob, writer: StoreWriter, layer: str, shard: int) -> None:
    new = job.shards[shard]
    failures = new.failures if layer == GEOMETRY else ()
    spec = next(spec for spec in job.manifest.layers if spec.name == layer)
    one_of_each = {place.source: place for place in new.samples.values()}.values()
    if job.manifest.storage == "tar" and all(_can_copy(job, spec, x) for x in one_of_each):
        writer.write_stored(layer, shard, _stored(job, layer, new), failures)
    else:
        commit = Commit(accelerator=new.accelerators.get(layer))
        writer.write(layer, shard, _decoded(job, layer, new), failures, commit)


def _can_copy(job: CopyJob, spec: LayerSpec, place: Place) -> bool:
    """Whether the source's payloads can be copied unchanged."""
    source, name = job.sources[place.source], job.layers[spec.name][place.source]
    same_fields = _by_name(source.layer(name).fields) == _by_name(spec.fields)
    return same_fields and isinstance(source.shard(name, place.shard), TarShard)


def _by_name(fields: tuple[FieldSpec, ...]) -> dict[str, FieldSpec]:
    """A fields table without its order."""
    return {spec.name: spec for spec in fields}


def _stored(job: CopyJob, layer: str, new: NewShard) -> Iterator[StoredSample]:
    for key, place in new.samples.items():
        opened = job.sources[place.source].shard(job.layers[layer][place.source], place.shard)
        assert isinstance(opened, TarShard)
        yield replace(opened.stored(place.row), key=key)


def _decoded(job: CopyJob, layer: str, new: NewShard) -> Iterator[Sample]:
    for key, place in new.samples.items():
        source = job.sources[place.source]
        sample = source.read(job.layers[layer][place.source], place.shard, place.row)
        yield replace(sample, key=key)


def planned_shards(
    manifest: Manifest, samples: Mapping[str, Place], failures: Mapping[str, dict[str, str]]
) -> list[NewShard]:
    """Cut samples and failures, both by new key, into the shards of the manifest's plan."""
    return [
        NewShard(
            {key: samples[key] for key in keys if key in samples},
            tuple(failures[key] for key in keys if key in failures),
        )
        for keys in plan_shards([*samples, *failures], manifest.plan)
    ]


def store_places(store: Store, source: int = 0, prefix: str = "") -> dict[str, Place]:
    """Every sample of a store by key, in the store's order, with a prefix on each key.

    Raises:
        StoreError: the store is incomplete or damaged, or repeats a key.
    """
    places: dict[str, Place] = {}
    for shard in range(store.manifest.plan.shards):
        for row, key in enumerate(store.keys(shard)):
            if prefix + key in places:
                raise StoreError(
                    f"{store.root} has the key {key} twice; `p2pkit shards verify` shows where"
                )
            places[prefix + key] = Place(source, shard, row)
    return places


def store_failures(store: Store, prefix: str = "") -> dict[str, dict[str, str]]:
    """The failures of a store by key, each with a prefix; rows without a known key are skipped."""
    return {
        prefix + row["key"]: {**row, "key": prefix + row["key"]}
        for record in store.records(GEOMETRY)
        for row in record.failures
        if KEY.fullmatch(row["key"])
    }
