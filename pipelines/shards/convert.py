"""Convert a store from tar to Zarr or back, bit for bit."""

from dataclasses import replace
from pathlib import Path

from p2pkit.errors import StoreError
from p2pkit.pipelines.shards.copying import CopyJob, NewShard, Place, Report, copy_samples
from p2pkit.store.manifest import GEOMETRY
from p2pkit.store.reading import Store, open_store
from p2pkit.store.storages import find_storage


def convert_store(
    path: str | Path, *, out: Path, storage: str, report: Report | None = None
) -> Path:
    """Rewrite a store, of a folder or URL, in the other on-disk format.

    Running it again finishes an interrupted run.

    Plan, fingerprints, failures and layers stay, so the result is what `p2pkit extract` with that
    storage would have written, and the same `p2pkit extract` can add layers to it.

    Raises:
        StoreError: the store is incomplete, or in that storage already.
        CorruptShardError: it is damaged.
    """
    find_storage(storage)
    store = open_store(path)
    if store.manifest.storage == storage:
        raise StoreError(
            f"{path} is already stored as {storage}; copy it, or name the other format"
        )
    names = [layer.name for layer in store.manifest.layers]
    for name in names:
        store.records(name)
    job = CopyJob(
        out=out,
        manifest=replace(store.manifest, storage=storage),
        sources=(store,),
        layers={name: (name,) for name in names},
        shards=[_same_shard(store, shard) for shard in range(store.manifest.plan.shards)],
    )
    return copy_samples(job, report)


def _same_shard(store: Store, shard: int) -> NewShard:
    places = {key: Place(0, shard, row) for row, key in enumerate(store.keys(shard))}
    records = {layer.name: store.record(layer.name, shard) for layer in store.manifest.layers}
    accelerators = {name: record.accelerator for name, record in records.items()}
    return NewShard(places, records[GEOMETRY].failures, accelerators)
