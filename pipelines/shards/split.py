"""Two stores out of one, for training and validation, that share no sequence."""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import xxhash

from p2pkit.errors import ConfigError, StoreError
from p2pkit.files import sha256_json
from p2pkit.layers.compatibility import made_beside, made_geometry
from p2pkit.pipelines.shards.copying import (
    CopyJob,
    Place,
    Report,
    copy_samples,
    planned_shards,
    store_places,
)
from p2pkit.store.manifest import GEOMETRY, LayerSpec, Manifest, Plan
from p2pkit.store.reading import Store, open_store
from p2pkit.store.writing import refuse_foreign_folder

By = Literal["sequence", "key-order"]


@dataclass(frozen=True)
class SplitConfig:
    """How a store is cut in two.

    Args:
        store: to be cut; it stays as it is.
        out_train, out_val: the new stores, in the storage of the old.
        val_fraction: share of the samples that validation gets, as nearly as whole sequences allow.
        by: `sequence` keeps each sequence on one side; `key-order` gives the last samples in key
            order to validation, for a store that is one recording.
        seed: of the choice of sequences.
    """

    store: Path
    out_train: Path
    out_val: Path
    val_fraction: float
    by: By = "sequence"
    seed: int = 0


@dataclass(frozen=True)
class SplitResult:
    """What a split made.

    Args:
        train, val: number of samples on each side.
        val_sequences: sequences of the validation side, sorted; empty for `key-order`.
        left_out: frames that are failures of the old store and in neither new one.
    """

    train: int
    val: int
    val_sequences: tuple[str, ...]
    left_out: int


def split_store(config: SplitConfig, report: Report | None = None) -> SplitResult:
    """Write the two stores; running it again finishes an interrupted run.

    Frames that the old store left out have no sequence, so they are in neither store.

    Raises:
        ConfigError: the fraction is not between 0 and 1, or both outputs are one folder.
        StoreError: the samples name no sequence or only one, a side would be empty, the store is
            incomplete, or an output is a folder with other files.
        CorruptShardError: it is damaged.
    """
    if not 0 < config.val_fraction < 1:
        raise ConfigError(
            f"val_fraction is {config.val_fraction}; it must lie between 0 and 1, such as 0.2"
        )
    if config.out_train.absolute() == config.out_val.absolute():
        raise ConfigError(f"both parts would be written to {config.out_val}; name two folders")
    for out in (config.out_train, config.out_val):
        refuse_foreign_folder(out)  # before anything is written to either
    store = open_store(config.store)
    for layer in store.manifest.layers:
        store.records(layer.name)
    places = store_places(store)
    val, sequences = _VALIDATION[config.by](store, places, config)
    parts = {
        "train": {key: place for key, place in places.items() if key not in val},
        "val": {key: place for key, place in places.items() if key in val},
    }
    for part, out in (("train", config.out_train), ("val", config.out_val)):
        copy_samples(_job(store, parts[part], config, part=part, out=out), report)
    return SplitResult(
        train=len(parts["train"]),
        val=len(parts["val"]),
        val_sequences=sequences,
        left_out=store.manifest.plan.frames - len(places),
    )


def _by_sequence(
    store: Store, places: Mapping[str, Place], config: SplitConfig
) -> tuple[set[str], tuple[str, ...]]:
    """A run of the sequences in a seeded order, joined to a ring, goes to validation."""
    keys_of: dict[str, list[str]] = {}
    for key, place in places.items():
        name = store.read(GEOMETRY, place.shard, place.row, fields=()).meta.get("sequence") or ""
        keys_of.setdefault(str(name), []).append(key)
    if len(keys_of) < 2 or "" in keys_of:
        unnamed = len(keys_of.get("", ()))
        raise StoreError(
            f"{store.root} cannot be split by sequence: {unnamed} of {len(places)} samples name "
            f"none, and the others are of {len(keys_of) - ('' in keys_of)}. Frames of one "
            "recording show the same things; --by key-order cuts off its end"
        )

    def position(name: str) -> tuple[int, str]:
        return xxhash.xxh3_64_intdigest(f"{config.seed}:{name}".encode()), name

    order = sorted(keys_of, key=position)
    first, end = _nearest_run([len(keys_of[name]) for name in order], config.val_fraction)
    chosen = (order + order)[first:end]
    return {key for name in chosen for key in keys_of[name]}, tuple(sorted(chosen))


def _nearest_run(sizes: list[int], fraction: float) -> tuple[int, int]:
    """Start and end of the run in a ring of sizes whose sum is nearest to a fraction of all.

    The run is neither empty nor the whole ring. Of equally near ones the first is taken.
    """
    count = len(sizes)
    sums = list(accumulate(sizes + sizes, initial=0))
    wanted = fraction * sums[count]
    runs: list[tuple[float, int, int]] = []
    for first in range(count):
        near = bisect_left(sums, sums[first] + wanted)
        for end in (near - 1, near):
            end = min(max(end, first + 1), first + count - 1)
            runs.append((abs(sums[end] - sums[first] - wanted), first, end))
    return min(runs)[1:]


def _by_key_order(
    store: Store, places: Mapping[str, Place], config: SplitConfig
) -> tuple[set[str], tuple[str, ...]]:
    """The last samples in key order go to validation."""
    count = round(config.val_fraction * len(places))
    if not 0 < count < len(places):
        raise StoreError(
            f"val_fraction {config.val_fraction} of the {len(places)} samples of {store.root} "
            "leaves one side empty; both need a sample"
        )
    return set(sorted(places)[len(places) - count :]), ()


_VALIDATION = {"sequence": _by_sequence, "key-order": _by_key_order}


def _job(
    store: Store, places: Mapping[str, Place], config: SplitConfig, *, part: str, out: Path
) -> CopyJob:
    old = store.manifest
    plan = Plan(seed=old.plan.seed, shard_size=old.plan.shard_size, frames=len(places))
    origin: dict[str, Any] = {
        "split": part,
        "by": config.by,
        "val_fraction": config.val_fraction,
        "seed": config.seed,
        "keys": sha256_json(sorted(places)),
    }
    dataset = {**old.dataset, "part": part}
    layers = _layers(old.layers, dataset, plan, origin)
    manifest = Manifest(dataset=dataset, plan=plan, storage=old.storage, layers=layers)
    return CopyJob(
        out=out,
        manifest=manifest,
        sources=(store,),
        layers={new.name: (was.name,) for was, new in zip(old.layers, layers, strict=True)},
        shards=planned_shards(manifest, places, {}),
    )


def _layers(
    old: Sequence[LayerSpec], dataset: dict[str, Any], plan: Plan, origin: dict[str, Any]
) -> tuple[LayerSpec, ...]:
    sources = [{**origin, "of": layer.fingerprint_sha256} for layer in old]
    geometry = made_geometry(old[0], dataset=dataset, plan=plan, made_from=sources[0])
    others = [made_beside(x, geometry, of) for x, of in zip(old[1:], sources[1:], strict=True)]
    return (geometry, *others)
