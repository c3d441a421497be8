"""repair: make a damaged store whole from its recording, or honest without it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from p2pkit.files import canonical_json
from p2pkit.layers.digests import INPUTS
from p2pkit.pipelines.extract.diagnosis import (
    DROPPED,
    Action,
    Condition,
    actions_from_source,
    actions_without_source,
    examine,
    known_inputs,
)
from p2pkit.pipelines.extract.reextract import Reextraction, SourceConfig, open_reextraction
from p2pkit.pipelines.extract.salvage import salvage
from p2pkit.pipelines.extract.superpixel_stage import LayerStage
from p2pkit.store.location import FAILURES, local_folder, record_path
from p2pkit.store.manifest import GEOMETRY
from p2pkit.store.reading import Store, open_store
from p2pkit.store.verifying import VerifyReport, verify_store
from p2pkit.store.writing import StoreWriter, create_or_open

CLAIM = "extract"
"""The claim that `extract` takes on a shard, so that the two never work on one at the same time."""


@dataclass(frozen=True)
class RepairConfig:
    """Settings of one repair.

    Args:
        store: to be repaired.
        source: the recording. Without a root or a dataset lost frames are dropped.
        drop_missing: without a source, also drop frames of shards that were never finished.
        dry_run: find and tell, and change nothing.
    """

    store: Path
    source: SourceConfig = field(default_factory=SourceConfig)
    drop_missing: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class RepairReport:
    """What a repair did, or would do.

    Args:
        actions: in shard order; empty where no shard is wrong.
        failures_file: whether failures.jsonl was not what the readable records say.
        verified: of the store afterwards, every byte read; None for a dry run.
    """

    actions: tuple[Action, ...]
    failures_file: bool
    verified: VerifyReport | None

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        verified = None if self.verified is None else self.verified.to_json()
        return {
            "actions": [action.to_json() for action in self.actions],
            "failures_file": self.failures_file,
            "verified": verified,
        }


def run(
    config: RepairConfig, *, progress: Callable[[int, int], None] | None = None
) -> RepairReport:
    """Read every byte of a store and mend what is wrong.

    With its recording at hand, broken and missing shards are extracted again, each layer by itself,
    to the bytes of an uninterrupted extraction. Without it, frames that are lost in any layer are
    taken out of all layers and become failures, stage `repair`; a later repair with the recording
    brings them back. A shard whose values are all good is written again from these.

    Args:
        config: of the repair.
        progress: is called with the number of shards looked at and of all.

    Raises:
        StoreError: `config.store` is no store or its manifest is damaged.
        FingerprintError: the recording, the teacher or this p2pkit would give other bytes. Nothing
            was changed.
    """
    config = replace(config, store=local_folder(config.store, "what is repaired"))
    store = open_store(config.store)
    source = config.source
    again = open_reextraction(store, source) if source.root or source.dataset else None
    patients = _examined(store, progress)
    actions: dict[int, list[Action]] = {}
    for shard, conditions in patients.items():
        chosen = _choose(config, store, again, shard, conditions)
        if chosen:
            actions[shard] = chosen
    planned = tuple(action for chosen in actions.values() for action in chosen)
    stale = _failures_are_stale(store, patients)
    layers = _layers_to_extract(planned)
    if again is not None:
        # Before anything is changed; a dry run must not promise what cannot be had here.
        for name in layers:
            again.check_stage(name)
    if config.dry_run:
        return RepairReport(planned, stale, None)
    stages = {} if again is None else {name: again.open_stage(name) for name in layers}
    writer = create_or_open(config.store, store.manifest)
    done: list[Action] = []
    for shard, chosen in actions.items():
        work = _Work(store, writer, again, stages, patients[shard])
        done += _take(work, shard, chosen)
    if done or stale:
        writer.write_failures()
    return RepairReport(tuple(done), stale, verify_store(config.store, deep=True))


def _failures_are_stale(store: Store, patients: dict[int, dict[str, Condition]]) -> bool:
    rows = [row for conditions in patients.values() for row in conditions[GEOMETRY].failures]
    path = store.root / FAILURES
    found = path.read_bytes() if path.is_file() else None
    return found != "".join(canonical_json(row) + "\n" for row in rows).encode()


@dataclass(frozen=True)
class _Work:
    """What is needed to mend one shard."""

    store: Store
    writer: StoreWriter
    again: Reextraction | None
    stages: dict[str, LayerStage]
    conditions: dict[str, Condition]


def _examined(
    store: Store, progress: Callable[[int, int], None] | None
) -> dict[int, dict[str, Condition]]:
    names = [layer.name for layer in store.manifest.layers]
    shards = store.manifest.plan.shards
    found: dict[int, dict[str, Condition]] = {}
    for shard in range(shards):
        found[shard] = {name: examine(store, name, shard) for name in names}
        if progress:
            progress(shard + 1, shards)
    return found


def _choose(
    config: RepairConfig,
    store: Store,
    again: Reextraction | None,
    shard: int,
    conditions: dict[str, Condition],
) -> list[Action]:
    if again is not None:
        actions = actions_from_source(shard, conditions, again.planned[shard])
        return [_told_unknown(store, action, conditions, again) for action in actions]
    return actions_without_source(
        shard,
        conditions,
        planned=store.manifest.plan.planned(shard),
        drop_missing=config.drop_missing,
    )


def _told_unknown(
    store: Store, action: Action, conditions: dict[str, Condition], again: Reextraction
) -> Action:
    """The action, whose reason tells of frames that nothing is left of to compare them with.

    Of a shard that was never finished there was nothing.
    """
    if action.what != "extract" or action.layer != GEOMETRY or conditions[GEOMETRY].missing:
        return action
    failed = {row["key"] for row in conditions[GEOMETRY].failures if row["stage"] != DROPPED}
    known = known_inputs(store, action.shard)
    unknown = [
        key
        for key in again.planned[action.shard]
        if key not in failed and not any(INPUTS in meta for meta in known.get(key, ()))
    ]
    if not unknown:
        return action
    told = (
        f"no digest is left of {len(unknown)} of its frames, such as {unknown[0]}: whether the "
        "recording was edited since cannot be told"
    )
    return replace(action, reason=f"{action.reason}; {told}")


def _layers_to_extract(actions: Sequence[Action]) -> list[str]:
    """Layers of which a shard needs its teacher or superpixels, sorted."""
    return sorted({action.layer for action in actions if action.what == "extract"} - {GEOMETRY})


def _take(work: _Work, shard: int, actions: list[Action]) -> list[Action]:
    """Mend one shard, unless another process works on it or has finished it meanwhile."""
    claim = work.writer.claim(CLAIM, shard)
    if claim is None:
        return [_left(action, "another process works on this shard") for action in actions]
    with claim:
        layers = [name for name, condition in work.conditions.items() if condition.missing]
        if any(record_path(work.store.root, name, shard).exists() for name in layers):
            return [_left(action, "another process finished this shard") for action in actions]
        # Other layers are compared with the geometry as they are written.
        for action in sorted(actions, key=lambda action: action.layer != GEOMETRY):
            if action.what == "extract" and work.again is not None:
                _extract(work, work.again, action)
            elif action.what in ("rewrite", "drop"):
                salvage(work.store, work.writer, work.conditions, action)
    return actions


def _extract(work: _Work, again: Reextraction, action: Action) -> None:
    if action.layer == GEOMETRY:
        again.write_geometry(action.shard)
    else:
        again.write_layer(work.stages[action.layer], action.shard)


def _left(action: Action, reason: str) -> Action:
    return replace(action, what="leave", reason=reason, keys=())
