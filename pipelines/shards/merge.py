"""Merge stores that were made in the same way from different recordings or parts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2pkit.errors import ConfigError, FingerprintError, StoreError
from p2pkit.layers.compatibility import (
    check_one_family,
    family_key,
    joined_details,
    made_beside,
    made_geometry,
)
from p2pkit.pipelines.shards.copying import (
    CopyJob,
    Place,
    Report,
    copy_samples,
    planned_shards,
    store_failures,
    store_places,
)
from p2pkit.store.manifest import GEOMETRY, LayerSpec, Manifest, Plan
from p2pkit.store.reading import Store, open_store
from p2pkit.store.strict_json import check_key, differences

LABELS = ("label_names", "ignore_label")


@dataclass(frozen=True)
class MergeConfig:
    """Which stores become one.

    Args:
        stores: at least two, folders or URLs; their layers must be of the same families.
        out: the new store, in the storage of the first.
        prefixes: one prefix for the keys of each store; empty for none.
        shard_size: samples planned per shard; None takes the first store's.
        seed: of the new plan; None takes the first store's.
    """

    stores: tuple[str | Path, ...]
    out: Path
    prefixes: tuple[str, ...] = ()
    shard_size: int | None = None
    seed: int | None = None


def merge_stores(config: MergeConfig, report: Report | None = None) -> Path:
    """Write all samples and failures of the stores into one new store, mixed by its own plan.

    Running it again finishes an interrupted run.

    Raises:
        ConfigError: fewer than two stores, or not one prefix for each.
        FingerprintError: their layers were made in different ways; the message says how.
        StoreError: a layer is in some stores only, a key is in two, or a store is incomplete; or a
            prefix makes a key that cannot name a sample.
        CorruptShardError: a source is damaged.
    """
    if len(config.stores) < 2:
        raise ConfigError(f"expected at least two stores to merge, found {len(config.stores)}")
    prefixes = config.prefixes or ("",) * len(config.stores)
    if len(prefixes) != len(config.stores):
        raise ConfigError(
            f"{len(config.stores)} stores and {len(prefixes)} prefixes; give one for each, in order"
        )
    stores = tuple(open_store(path) for path in config.stores)
    twins = {layer.name: _twins(layer, stores) for layer in stores[0].manifest.layers}
    _check_no_layer_is_lost(stores, twins)
    samples, failures = _all_keys(stores, prefixes)
    plan = _plan(config, stores[0].manifest.plan, len(samples) + len(failures))
    layers = _layers(stores, twins, plan, prefixes)
    manifest = Manifest(
        dataset=layers[GEOMETRY].fingerprint["dataset"],
        plan=plan,
        storage=stores[0].manifest.storage,
        layers=tuple(layers.values()),
    )
    job = CopyJob(
        out=config.out,
        manifest=manifest,
        sources=stores,
        layers={
            made.name: tuple(twin.name for twin in twins[name]) for name, made in layers.items()
        },
        shards=planned_shards(manifest, samples, failures),
    )
    return copy_samples(job, report)


def _twins(layer: LayerSpec, stores: Sequence[Store]) -> list[LayerSpec]:
    """The layer of the same family in each store."""
    found: list[LayerSpec] = []
    for store in stores:
        same_kind = [x for x in store.manifest.layers if x.kind == layer.kind]
        fitting = [x for x in same_kind if family_key(x) == family_key(layer)] or same_kind
        if len(fitting) != 1:
            raise StoreError(
                f"{layer.name} of {stores[0].root} has no layer of its kind in {store.root}, which "
                f"has {', '.join(x.name for x in store.manifest.layers)}: extract it there, or "
                "drop it here with `p2pkit shards drop-layer`"
            )
        found += fitting
    check_one_family(found, [store.root for store in stores])
    return found


def _check_no_layer_is_lost(
    stores: Sequence[Store], twins: Mapping[str, Sequence[LayerSpec]]
) -> None:
    for number, store in enumerate(stores):
        used = {layers[number].name for layers in twins.values()}
        for layer in store.manifest.layers:
            if layer.name not in used:
                raise StoreError(
                    f"{layer.name} of {store.root} has no layer of its kind in {stores[0].root}: "
                    "extract it there, or drop it here with `p2pkit shards drop-layer`"
                )
            store.records(layer.name)


def _all_keys(
    stores: Sequence[Store], prefixes: Sequence[str]
) -> tuple[dict[str, Place], dict[str, dict[str, str]]]:
    samples: dict[str, Place] = {}
    failures: dict[str, dict[str, str]] = {}
    for number, (store, prefix) in enumerate(zip(stores, prefixes, strict=True)):
        places = store_places(store, number, prefix)
        failed = store_failures(store, prefix)
        for key in (*places, *failed):
            check_key(key)
        twice = sorted({*places, *failed} & {*samples, *failures})
        if twice:
            raise StoreError(
                f"{store.root} has {len(twice)} keys that an earlier store has too, such as "
                f"{', '.join(twice[:3])}: omit the duplicate, or distinguish them with a --prefix "
                "for each store"
            )
        samples |= places
        failures |= failed
    return samples, failures


def _plan(config: MergeConfig, first: Plan, frames: int) -> Plan:
    return Plan(
        seed=first.seed if config.seed is None else config.seed,
        shard_size=first.shard_size if config.shard_size is None else config.shard_size,
        frames=frames,
    )


def _layers(
    stores: Sequence[Store],
    twins: Mapping[str, Sequence[LayerSpec]],
    plan: Plan,
    prefixes: Sequence[str],
) -> dict[str, LayerSpec]:
    """The new store's layers by their name in the first store, geometry first."""
    made: dict[str, LayerSpec] = {}
    dataset = _dataset(stores)
    for name, layers in twins.items():
        origin: dict[str, Any] = {"merge": [layer.fingerprint_sha256 for layer in layers]}
        joined = LayerSpec(name, layers[0].fields, layers[0].fingerprint, joined_details(layers))
        if name == GEOMETRY:
            origin["prefixes"] = list(prefixes)
            made[name] = made_geometry(joined, dataset=dataset, plan=plan, made_from=origin)
        else:
            made[name] = made_beside(joined, made[GEOMETRY], origin)
    return made


def _dataset(stores: Sequence[Store]) -> dict[str, Any]:
    datasets = [store.manifest.dataset for store in stores]
    shared = {name: datasets[0].get(name) for name in LABELS}
    for store, dataset in zip(stores, datasets, strict=True):
        rows = differences(shared, {name: dataset.get(name) for name in LABELS}, "dataset")
        if rows:
            changes = "; ".join(f"{path} is {a!r} and {b!r}" for path, a, b in rows)
            raise FingerprintError(
                f"{stores[0].root} and {store.root} have different classes, so their labels cannot "
                f"be mixed: {changes}"
            )
    names = sorted({str(dataset.get("dataset")) for dataset in datasets})
    return {"dataset": "+".join(names), **shared, "sources": datasets}
