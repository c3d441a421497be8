"""What is wrong with the shards of a store, each layer looked at by itself, and what to do."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from p2pkit.errors import CorruptShardError, StoreError
from p2pkit.layers.digest_files import read_inputs
from p2pkit.layers.digests import INPUTS
from p2pkit.store.location import record_path, shard_path
from p2pkit.store.manifest import GEOMETRY
from p2pkit.store.reading import Store
from p2pkit.store.records import ShardRecord
from p2pkit.store.shard import Shard, find_storage

DROPPED = "repair"
"""Stage of the failure rows of frames that a repair dropped."""

What = Literal["rewrite", "extract", "drop", "leave"]


@dataclass(frozen=True)
class Condition:
    """The state of one shard of one layer.

    Args:
        reasons: what is wrong; empty where nothing is.
        missing: whether it has no record, so that it was never finished.
        keys: of its samples, None where it cannot be opened.
        bad: keys of the samples whose values are damaged, each with the reason.
        failures: of its record, where that can be read.
    """

    reasons: tuple[str, ...] = ()
    missing: bool = False
    keys: tuple[str, ...] | None = None
    bad: tuple[tuple[str, str], ...] = ()
    failures: tuple[dict[str, str], ...] = ()

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.reasons

    @property
    def values_are_good(self) -> bool:
        """Whether every sample can be read, whatever is wrong around them."""
        return self.keys is not None and not self.bad

    def has_good(self, key: str) -> bool:
        """Whether the sample of this key can be read."""
        return self.keys is not None and key in self.keys and key not in dict(self.bad)


Conditions = Mapping[str, Condition]
"""By layer."""


@dataclass(frozen=True)
class Action:
    """What a repair does with one shard of one layer.

    Args:
        what: `rewrite` from its own verified values, `extract` again from the recording, `drop` the
            samples that are lost, or `leave` as it is.
        reason: why.
        keys: of the samples that `drop` takes out of this layer; `?` where a key cannot be known.
    """

    layer: str
    shard: int
    what: What
    reason: str
    keys: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The action as a JSON object."""
        return asdict(self)


def examine(store: Store, layer: str, shard: int) -> Condition:
    """Read every byte of one shard, without regard to the other layers."""
    if not record_path(store.root, layer, shard).exists():
        return Condition(("it has no record: it was never finished",), missing=True)
    failures: tuple[dict[str, str], ...] = ()
    try:
        record = store.record(layer, shard)
        failures = record.failures
        opened = open_alone(store, layer, shard)
        found = list(opened.problems())
        _check_count(store, layer, shard, record)
    except StoreError as error:
        return Condition((told(store, error),), failures=failures)
    bad: list[tuple[str, str]] = []
    for row, key in enumerate(opened.keys):
        if any(error.key == key for error in found):
            # A damaged header or padding leaves the values good.
            try:
                opened.read(row)
            except StoreError as error:
                bad.append((key, told(store, error)))
    reasons = tuple(told(store, error) for error in found)
    return Condition(reasons, keys=opened.keys, bad=tuple(bad), failures=failures)


def told(store: Store, error: StoreError) -> str:
    """An error about a shard that is named beside it, without the store's own path."""
    if not isinstance(error, CorruptShardError):
        return str(error).replace(f"{store.root}/", "")
    return ", ".join(part for part in (error.key, error.field) if part) + (
        f": {error.reason}" if error.key else error.reason
    )


def open_alone(store: Store, layer: str, shard: int) -> Shard:
    """A shard that is compared with its record alone; `Store.shard` needs the geometry's too.

    Raises:
        StoreError: it has no readable record, or is not what that says.
    """
    storage = find_storage(store.manifest.storage)
    path = shard_path(store.root, layer, shard, storage.suffix)
    return storage.open(path, store.layer(layer), store.record(layer, shard))


def known_inputs(store: Store, shard: int) -> dict[str, list[dict[str, Any]]]:
    """What is known of a shard's frames for `check_inputs`, by key.

    It is the JSON of each sample that can be read, of whatever layers; of frames without one the
    digests that were kept apart.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for layer in store.manifest.layers:
        try:
            opened = open_alone(store, layer.name, shard)
        except StoreError:
            continue
        for row, key in enumerate(opened.keys):
            with contextlib.suppress(StoreError):
                found.setdefault(key, []).append(opened.read(row, ()).meta)
    kept = read_inputs(store.root, shard)
    return {key: [{INPUTS: row}] for key, row in kept.items()} | found


def _check_count(store: Store, layer: str, shard: int, record: ShardRecord) -> None:
    planned = store.manifest.plan.planned(shard)
    if layer == GEOMETRY and record.samples + len(record.failures) != planned:
        raise StoreError(
            f"{record.samples} samples and {len(record.failures)} failures; {planned} frames are "
            "planned"
        )


def actions_from_source(shard: int, conditions: Conditions, planned: Sequence[str]) -> list[Action]:
    """What to do with a shard whose frames can be extracted again.

    Args:
        shard: its number.
        conditions: of each layer, geometry first.
        planned: keys of the frames that the plan puts there, in order.
    """
    geometry = conditions[GEOMETRY]
    dropped = sum(row["stage"] == DROPPED for row in geometry.failures)
    actions: list[Action] = []
    for layer, condition in conditions.items():
        other = _other_frames(layer, condition, geometry, planned)
        if dropped:
            reason = f"{dropped} of its frames were dropped by an earlier repair"
            actions.append(Action(layer, shard, "extract", reason))
        elif other or not (condition.whole or condition.values_are_good):
            actions.append(Action(layer, shard, "extract", (condition.reasons or (other,))[0]))
        elif not condition.whole:
            actions.append(Action(layer, shard, "rewrite", condition.reasons[0]))
    return actions


def _other_frames(
    layer: str, condition: Condition, geometry: Condition, planned: Sequence[str]
) -> str:
    """What is wrong with the frames of a shard that can be opened; empty where nothing is."""
    if condition.keys is None:
        return ""
    failed = {row["key"] for row in geometry.failures}
    good = [key for key in planned if key not in failed]
    if layer == GEOMETRY and (list(condition.keys) != good or not failed <= {*planned}):
        return "it holds other frames than the plan puts there"
    if layer != GEOMETRY and list(condition.keys) != good and geometry.values_are_good:
        return "it holds other frames than the geometry"
    return ""


def kept_keys(conditions: Conditions) -> tuple[str, ...]:
    """Keys of the samples that are good in the geometry and in each layer that has a record."""
    there = [condition for condition in conditions.values() if not condition.missing]
    keys = conditions[GEOMETRY].keys or ()
    return tuple(key for key in keys if all(condition.has_good(key) for condition in there))


def actions_without_source(
    shard: int, conditions: Conditions, *, planned: int, drop_missing: bool
) -> list[Action]:
    """What to do with a shard whose frames cannot be extracted again.

    Args:
        shard: its number.
        conditions: of each layer, geometry first.
        planned: number of frames that the plan puts there.
        drop_missing: whether a layer's shard that was never finished counts as lost.
    """
    missing = [layer for layer, condition in conditions.items() if condition.missing]
    if missing and not drop_missing:
        reason = "it was never finished: run the same `p2pkit extract`, or repair with the source"
        left = conditions if GEOMETRY in missing else missing
        actions = [Action(layer, shard, "leave", reason) for layer in left]
        if GEOMETRY in missing:
            return actions
    else:
        actions = []
    kept = () if missing and drop_missing else kept_keys(conditions)
    for layer, condition in conditions.items():
        if condition.missing and not drop_missing:
            continue
        if condition.keys == kept and not condition.missing:
            if not condition.whole:
                actions.append(Action(layer, shard, "rewrite", condition.reasons[0]))
            continue
        lost = _lost(conditions, condition, kept, planned)
        actions.append(Action(layer, shard, "drop", _reason(conditions, layer), lost))
    return actions


def known_keys(conditions: Conditions) -> tuple[str, ...]:
    """Keys of the shard's samples, from the geometry or else any layer that can be opened."""
    return next((x.keys for x in conditions.values() if x.keys is not None), ())


def _lost(
    conditions: Conditions, condition: Condition, kept: tuple[str, ...], planned: int
) -> tuple[str, ...]:
    keys = condition.keys if condition.keys is not None else known_keys(conditions)
    lost = tuple(key for key in keys if key not in kept)
    if condition is conditions[GEOMETRY]:
        unknown = planned - len(kept) - len(lost) - len(conditions[GEOMETRY].failures)
        lost += ("?",) * max(0, unknown)
    return lost


def _reason(conditions: Conditions, layer: str) -> str:
    """The layer's own reason, or that of the layer that loses the samples for all."""
    if conditions[layer].reasons:
        return conditions[layer].reasons[0]
    for other, condition in conditions.items():
        if condition.reasons:
            return f"{other} has lost them: {condition.reasons[0]}"
    return "it holds other frames than the geometry"
