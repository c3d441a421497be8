"""Writing a damaged shard again from what is good in it."""

from collections.abc import Iterable, Iterator

from p2pkit.pipelines.extract.diagnosis import DROPPED, Action, Conditions, open_alone
from p2pkit.store.manifest import GEOMETRY, Sample
from p2pkit.store.reading import Store
from p2pkit.store.shard import Shard
from p2pkit.store.tar.reader import TarShard
from p2pkit.store.tar.writer import StoredSample
from p2pkit.store.writing import StoreWriter


def salvage(store: Store, writer: StoreWriter, conditions: Conditions, action: Action) -> None:
    """Do a `rewrite` or a `drop`; that of the geometry comes before those of other layers.

    A frame that is dropped becomes a failure of the geometry's record, stage `repair`. Should this
    stop between two layers, the next repair takes the frames out of the other layers too.

    Args:
        store: to read from.
        writer: of the same store.
        conditions: of each layer of the shard.
        action: one of the shard's.
    """
    keys = conditions[action.layer].keys or ()
    kept = [row for row, key in enumerate(keys) if key not in action.keys]
    failures = _failures(conditions, action) if action.layer == GEOMETRY else ()
    opened = open_alone(store, action.layer, action.shard) if kept else None
    if isinstance(opened, TarShard):
        writer.write_stored(action.layer, action.shard, _stored(opened, kept), failures)
    else:
        samples = () if opened is None else _samples(opened, kept)
        writer.write(action.layer, action.shard, samples, failures)


def _stored(shard: TarShard, rows: Iterable[int]) -> Iterator[StoredSample]:
    return (shard.stored(row) for row in rows)


def _samples(shard: Shard, rows: Iterable[int]) -> Iterator[Sample]:
    return (shard.read(row) for row in rows)


def _failures(conditions: Conditions, action: Action) -> list[dict[str, str]]:
    """The failures that the record had, and one for each frame that is dropped."""
    reasons = {
        key: f"{layer}: {reason}"
        for layer, condition in conditions.items()
        for key, reason in condition.bad
    }
    rows = [*conditions[GEOMETRY].failures]
    for key in action.keys:
        reason = reasons.get(key, f"{action.layer}: {action.reason}")
        rows.append({"key": key, "stage": DROPPED, "reason": reason})
    return rows
