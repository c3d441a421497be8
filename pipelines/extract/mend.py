"""mend: extract the damaged shards of a store again, or remove the frames that are lost.

With the recording, a damaged shard is extracted again from the settings that the store keeps, to
the same bytes. Without it, samples that can be read are kept, and the frames that are lost in any
layer are removed from all of them, if requested.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from p2pkit.datasets.boxes import box_fingerprint_of, box_names_of
from p2pkit.errors import (
    ConfigError,
    CorruptShardError,
    FingerprintError,
    StoreError,
    TeacherError,
)
from p2pkit.geometry.maps.superpixels import SuperpixelConfig
from p2pkit.layers.boxes import BoxLayer, box_spec
from p2pkit.layers.features import FeatureConfig, FeatureLayer, feature_fingerprint
from p2pkit.layers.layer import Layer
from p2pkit.layers.superpixels import SuperpixelLayer, superpixel_spec
from p2pkit.pipelines.extract.job import CLAIM
from p2pkit.pipelines.extract.settings import ExtractConfig
from p2pkit.pipelines.extract.start import (
    Recording,
    layers_manifest,
    open_geometry,
    open_recording,
)
from p2pkit.pipelines.extract.worker import ShardTask, Worker
from p2pkit.settings import config_from_json
from p2pkit.store.location import FAILURES, local_folder, record_path
from p2pkit.store.manifest import GEOMETRY, LayerSpec, Sample, plan_shards
from p2pkit.store.reading import Store, open_store
from p2pkit.store.records import ShardRecord
from p2pkit.store.strict_json import differences
from p2pkit.store.verifying import VerifyReport, verify_store
from p2pkit.store.writing import (
    Commit,
    StoreWriter,
    create_or_open,
    failure_lines,
    read_and_compare,
)
from p2pkit.teachers import kind_and_name, open_teacher

DROPPED = "repair"
"""Stage of the failure rows of frames that a repair left out."""
What = Literal["extract", "rewrite", "drop", "leave"]


@dataclass(frozen=True)
class SourceConfig:
    """Where to find a store's recording and its teacher's weights.

    Args:
        dataset: a name in `p2pkit.datasets.registry.DATASETS`; None uses the store's.
        root: the recording's folder; None for generated scenes.
        camera: separate calibration file, if the store was made with one.
        weights: files of teachers' weights, if the store was made with such. A layer takes the file
            of the last name that the store keeps; a single file may have another name if only one
            layer can take it.
        teachers: paths of teachers in files or folders, as for `extract`; a store keeps only
            their last path component.
        device: where the teacher runs. A different device than before may give different bytes.
        threads: frames worked on at the same time.
    """

    dataset: str | None = None
    root: Path | None = None
    camera: Path | None = None
    weights: tuple[str, ...] = ()
    teachers: tuple[str, ...] = ()
    device: str = "cpu"
    threads: int = 4


@dataclass(frozen=True)
class RepairConfig:
    """Settings of one repair.

    Args:
        store: the store to repair.
        source: the recording; without a root or a dataset nothing is extracted.
        drop: without a source, remove the frames that are lost.
        dry_run: find and report, and change nothing.
    """

    store: Path
    source: SourceConfig = field(default_factory=SourceConfig)
    drop: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class Action:
    """What a repair does to one shard of one layer.

    Args:
        layer: its name.
        shard: its number.
        what: `extract` it again, `rewrite` it from its own samples, all of which are good, `drop`
            the frames that are lost, or `leave` it as it is.
        reason: why.
        keys: of the frames that are lost without the recording; `?` where a key cannot be known.
    """

    layer: str
    shard: int
    what: What
    reason: str
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class RepairReport:
    """What a repair did, or would do.

    Args:
        actions: in shard order; empty if no shard is damaged.
        failures_file: whether failures.jsonl differed from the readable records.
        verified: report on the repaired store, every byte read; None for a dry run.
    """

    actions: tuple[Action, ...]
    failures_file: bool
    verified: VerifyReport | None

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        verified = None if self.verified is None else self.verified.to_json()
        actions = [asdict(action) for action in self.actions]
        return {"actions": actions, "failures_file": self.failures_file, "verified": verified}


@dataclass(frozen=True)
class Condition:
    """The state of one shard of one layer.

    Args:
        reason: what is wrong; empty if intact.
        record: None if it cannot be read.
        missing: whether there is no record, so that the shard was never finished.
        keys: of its samples, None if it cannot be opened.
        bad: why samples cannot be read, by key.
    """

    reason: str = ""
    record: ShardRecord | None = None
    missing: bool = False
    keys: tuple[str, ...] | None = None
    bad: Mapping[str, str] = field(default_factory=dict)

    @property
    def good(self) -> tuple[str, ...]:
        """Keys of the samples that can be read."""
        return tuple(key for key in self.keys or () if key not in self.bad)

    @property
    def failures(self) -> tuple[dict[str, str], ...]:
        """Reasons of its failed frames, if the record can be read."""
        return () if self.record is None else self.record.failures


Conditions = dict[str, Condition]
"""States of one shard, by layer, geometry first."""


def run(
    config: RepairConfig, *, progress: Callable[[int, int], None] | None = None
) -> RepairReport:
    """Read every byte of a store and repair what is damaged.

    Args:
        config: settings of the repair.
        progress: called with the number of shards checked and the total.

    Raises:
        StoreError: `config.store` is not a store or its manifest is damaged.
        SourceError: the recording cannot be read, or has been edited.
        FingerprintError: the recording, the teacher or this p2pkit would give different bytes.
            Damaged files are left unchanged.
    """
    root = local_folder(config.store, "what is repaired")
    store = open_store(root)
    source = config.source
    again = Reextraction.open(store, source) if source.root or source.dataset else None
    shards, actions = store.manifest.plan.shards, dict[int, list[Action]]()
    patients: dict[int, Conditions] = {}
    for shard in range(shards):
        patients[shard] = {x.name: examine(store, x.name, shard) for x in store.manifest.layers}
        if again is None:
            chosen = actions_without_source(store, shard, patients[shard], drop=config.drop)
        else:
            chosen = actions_from_source(shard, patients[shard], again.planned[shard])
        if chosen:
            actions[shard] = chosen
        if progress:
            progress(shard + 1, shards)
    if again is not None:
        # Before anything is changed; a dry run must not promise what cannot be done here.
        damaged = {a.layer for row in actions.values() for a in row} - {GEOMETRY}
        again.open_layers(damaged, patients.values())
    stale = _failures_are_stale(store, patients)
    planned = tuple(action for row in actions.values() for action in row)
    if config.dry_run:
        return RepairReport(planned, stale, None)
    done: list[Action] = []
    if actions or stale:
        writer = create_or_open(root, store.manifest)
        for shard, chosen in actions.items():
            mend = partial(_rewrite, store, writer, patients[shard])
            if again is not None:
                mend = partial(again.extract, writer, patients[shard])
            done += _claimed(writer, shard, chosen, patients[shard], mend)
        if not any(_unreadable(patients[a.shard]) for a in done if a.what == "leave"):
            writer.write_failures()
    return RepairReport(tuple(done), stale, verify_store(root, deep=True))


def _unreadable(conditions: Conditions) -> bool:
    """Whether there is no record of which frames of a shard failed."""
    geometry = conditions[GEOMETRY]
    return geometry.record is None and not geometry.missing


def examine(store: Store, layer: str, shard: int) -> Condition:
    """Read every byte of one shard, regardless of the other layers."""
    if not record_path(store.root, layer, shard).exists():
        return Condition("it has no record, so it was never finished", missing=True)
    record = None
    try:
        record = store.record(layer, shard)
        opened = store.alone(layer, shard)
        found = list(opened.problems())
        planned = store.manifest.plan.planned(shard)
        if layer == GEOMETRY and record.samples + len(record.failures) != planned:
            counted = f"{record.samples} samples and {len(record.failures)} failures"
            raise StoreError(f"{counted}; expected {planned} frames")
    except StoreError as error:
        return Condition(_plain(store, error), record)
    bad: dict[str, str] = {}
    for row, key in enumerate(opened.keys):
        if any(error.key == key for error in found):
            # A damaged header or padding leaves the values intact.
            try:
                opened.read(row)
            except StoreError as error:
                bad[key] = _plain(store, error)
    reason = _plain(store, found[0]) if found else ""
    return Condition(reason, record, keys=opened.keys, bad=bad)


def _plain(store: Store, error: StoreError) -> str:
    """The text of an error about a shard, without the store's path."""
    if not isinstance(error, CorruptShardError):
        return str(error).replace(f"{store.root}/", "")
    where = ", ".join(part for part in (error.key, error.field) if part)
    return f"{where}: {error.reason}" if where else error.reason


def actions_from_source(shard: int, conditions: Conditions, planned: Sequence[str]) -> list[Action]:
    """The layers of a shard that must be extracted again.

    Args:
        shard: its number.
        conditions: of each layer.
        planned: keys of the planned frames, in order.
    """
    geometry = conditions[GEOMETRY]
    dropped = [row["key"] for row in geometry.failures if row["stage"] == DROPPED]
    failed = {row["key"] for row in geometry.failures}
    wanted = tuple(key for key in planned if key not in failed)
    known = geometry.record is not None and failed <= {*planned}
    actions: list[Action] = []
    for layer, condition in conditions.items():
        reason = condition.reason
        if dropped:
            reason = f"{len(dropped)} of its frames were left out by an earlier repair"
        elif not reason and condition.keys != wanted and (known or layer == GEOMETRY):
            reason = "it holds other frames than planned"
        if reason:
            actions.append(Action(layer, shard, "extract", reason))
    return actions


def actions_without_source(
    store: Store, shard: int, conditions: Conditions, *, drop: bool
) -> list[Action]:
    """What to do with a shard whose frames cannot be extracted again."""
    unfinished = [x for x, condition in conditions.items() if condition.missing]
    if unfinished and (not drop or any(_never_begun(store, name) for name in unfinished)):
        reason = "it was never finished: run the same `p2pkit extract`, or repair with --source"
        return [Action(name, shard, "leave", reason) for name in unfinished]
    keys = conditions[GEOMETRY].keys or ()
    kept = tuple(key for key in keys if all(key in x.good for x in conditions.values()))
    named = next((x.keys for x in conditions.values() if x.keys is not None), ())
    planned = store.manifest.plan.planned(shard)
    actions: list[Action] = []
    for layer, condition in conditions.items():
        if condition.keys == kept:
            if condition.reason:
                actions.append(Action(layer, shard, "rewrite", condition.reason))
            continue
        keys = named if condition.keys is None else condition.keys
        lost = tuple(key for key in keys if key not in kept)
        if layer == GEOMETRY:
            unnamed = planned - len(kept) - len(lost) - len(condition.failures)
            lost += ("?",) * max(0, unnamed)
        reason = condition.reason or next(
            (f"{x} has lost them: {y.reason}" for x, y in conditions.items() if y.reason),
            "it holds other frames than the geometry",
        )
        actions.append(Action(layer, shard, "drop", reason, lost))
    if drop or all(action.what == "rewrite" for action in actions):
        return actions
    return [
        replace(
            action,
            what="leave",
            reason=f"{action.reason}; --source restores them, --drop removes them",
        )
        if action.what == "drop"
        else action
        for action in actions
    ]


def _never_begun(store: Store, layer: str) -> bool:
    """Whether no shard of a layer is finished: its frames are not lost, but not extracted yet."""
    shards = range(store.manifest.plan.shards)
    return not any(record_path(store.root, layer, shard).exists() for shard in shards)


def _failures_are_stale(store: Store, patients: Mapping[int, Conditions]) -> bool:
    rows = [row for conditions in patients.values() for row in conditions[GEOMETRY].failures]
    path = store.root / FAILURES
    found = path.read_bytes() if path.is_file() else None
    return found != failure_lines(store.layer(GEOMETRY), rows)


def _claimed(
    writer: StoreWriter,
    shard: int,
    actions: list[Action],
    conditions: Conditions,
    mend: Callable[[int, list[Action]], None],
) -> list[Action]:
    """Repair one shard, unless another process is working on it or has finished it meanwhile."""
    claim = writer.claim(CLAIM, shard)
    if claim is None:
        return [_left(action, "another process is working on this shard") for action in actions]
    with claim:
        missing = [name for name, condition in conditions.items() if condition.missing]
        if any(record_path(writer.root, name, shard).exists() for name in missing):
            return [_left(action, "another process finished this shard") for action in actions]
        mend(shard, [action for action in actions if action.what != "leave"])
    return actions


def _left(action: Action, reason: str) -> Action:
    return replace(action, what="leave", reason=reason, keys=())


def _rewrite(
    store: Store,
    writer: StoreWriter,
    conditions: Conditions,
    shard: int,
    actions: list[Action],
) -> None:
    """Rewrite layers of a shard from their intact samples, without those that are dropped.

    A frame that is dropped becomes a failure of the geometry's record, stage `repair`. If this is
    interrupted between two layers, the next repair removes the frames from the other layers too.
    """
    for action in actions:
        keys = conditions[action.layer].keys or ()
        rows = [row for row, key in enumerate(keys) if key not in action.keys]
        failures: list[dict[str, str]] = []
        if action.layer == GEOMETRY:
            why = {x: f"{y}: {r}" for y, c in conditions.items() for x, r in c.bad.items()}
            default = f"{action.layer}: {action.reason}"
            failures = [*conditions[GEOMETRY].failures] + [
                {"key": key, "stage": DROPPED, "reason": why.get(key, default)}
                for key in action.keys
            ]
        samples = _samples(store, action.layer, shard, rows) if rows else ()
        record = conditions[action.layer].record
        commit = Commit(accelerator=record.accelerator if record is not None else None)
        writer.write(action.layer, shard, samples, failures, commit)


def _samples(store: Store, layer: str, shard: int, rows: Sequence[int]) -> Iterator[Sample]:
    opened = store.alone(layer, shard)
    return (opened.read(row) for row in rows)


@dataclass(frozen=True)
class Reextraction:
    """The recording of a store, and the layers that can be extracted again; made by `open`."""

    config: SourceConfig
    store: Store
    recording: Recording
    planned: list[list[str]]
    layers: list[Layer]

    @staticmethod
    def open(store: Store, config: SourceConfig) -> "Reextraction":
        """Open the recording with the settings kept in the store, and compare it with the store.

        Raises:
            SourceError: the recording cannot be read.
            FingerprintError: the recording is not the store's; the message names what differs.
            StoreError: the store was made from other stores, not from a recording.
        """
        kept = store.layer(GEOMETRY).settings
        if not kept:
            raise StoreError(
                f"{store.root} was not extracted from a recording but made from other stores: "
                "repair those, then create it again"
            )
        here: dict[str, Any] = {
            "dataset": config.dataset or kept["dataset"],
            "root": config.root,
            "camera": config.camera,
            "out": store.root,
            "format": store.manifest.storage,
            "threads": config.threads,
            "features": None,
        }
        extraction = config_from_json(ExtractConfig, kept | here)
        recording = open_recording(extraction)
        geometry = open_geometry(extraction, recording, store.manifest)
        read_and_compare(extraction.out, layers_manifest(extraction, [geometry]))
        planned = plan_shards(recording.keys, store.manifest.plan)
        return Reextraction(config, store, recording, planned, [geometry])

    def open_layers(self, names: set[str], shards: Iterable[Conditions]) -> None:
        """Open the teachers, superpixel methods and annotations of layers of the store.

        Args:
            names: of the layers.
            shards: the conditions of all shards of the store.

        Raises:
            FingerprintError: they would give different bytes here; the message names what differs.
        """
        batches = [_batch_sizes(conditions) for conditions in shards]
        weights = weights_by_layer(self.store, names, self.config.weights)
        for name in sorted(names):
            spec = self.store.layer(name)
            kinds: dict[str, Callable[[LayerSpec], Layer]] = {
                "superpixels": self._superpixels,
                "boxes": self._boxes,
            }
            # As many as the network was given: it cuts larger batches.
            batch = max((sizes[name] for sizes in batches if name in sizes), default=None)
            features = partial(self._features, weights=weights.get(name), batch_size=batch)
            self.layers.append(kinds.get(spec.kind, features)(spec))

    def extract(
        self, writer: StoreWriter, conditions: Conditions, shard: int, actions: list[Action]
    ) -> None:
        """Extract layers of one shard again, to the bytes that their records say."""
        names = [action.layer for action in actions]
        task = ShardTask(
            shard,
            self.planned[shard],
            names,
            expected=self._expected(shard, conditions),
            replace=True,
            batch_sizes=_batch_sizes(conditions),
        )
        layers = [layer for layer in self.layers if layer.spec.name in names]
        Worker(self.recording, layers, self.config.threads).write_shard(task, writer)

    def _expected(self, shard: int, conditions: Conditions) -> dict[str, str]:
        """Checksums of this shard in each layer whose record is valid and belongs to it."""
        planned = {*self.planned[shard]}
        found: dict[str, str] = {}
        if any(row["stage"] == DROPPED for row in conditions[GEOMETRY].failures):
            return found
        whole = len(planned) - len(conditions[GEOMETRY].failures)
        for layer, condition in conditions.items():
            record = condition.record
            # A record of fewer samples is of before frames came back, by a repair that was cut off.
            if record is None or (conditions[GEOMETRY].record and record.samples != whole):
                continue
            if {record.first_key, record.last_key} <= planned:
                found[layer] = record.xxh3_128
        return found

    def _superpixels(self, spec: LayerSpec) -> SuperpixelLayer:
        config = config_from_json(SuperpixelConfig, spec.settings)
        now = superpixel_spec(config, self.store.layer(GEOMETRY)).fingerprint
        advice = "Install the versions that the store names, or drop the layer and extract it again"
        _refuse_other(self.store, spec, now, advice)
        return SuperpixelLayer(spec, config)

    def _boxes(self, spec: LayerSpec) -> BoxLayer:
        source = self.recording.source
        found = box_spec(
            box_names_of(source) or (), box_fingerprint_of(source), self.store.layer(GEOMETRY)
        )
        _refuse_other(self.store, spec, found.fingerprint, "Restore the original annotations")
        return BoxLayer(spec)

    def _features(
        self, spec: LayerSpec, *, weights: str | None, batch_size: int | None
    ) -> FeatureLayer:
        kept = config_from_json(FeatureConfig, spec.settings)
        changes: dict[str, Any] = {"device": self.config.device, "batch_size": batch_size}
        kind, colon, name = kept.teacher.name.partition(":")
        means = "its weights with --weights"
        if colon:
            means = f"the path of {name} with --teacher {kind}:PATH"
            changes["name"] = _named(kept.teacher.name, self.config.teachers)
        if kept.teacher.has_weights_file:
            means = f"the path of {kept.teacher.weights} with --weights"
        if weights is not None:
            changes["weights"] = weights
        config = replace(kept, teacher=replace(kept.teacher, **changes))
        try:
            teacher = open_teacher(config.teacher)
        except TeacherError as error:
            raise FingerprintError(
                f"{spec.name} of {self.store.root} cannot be extracted again: {error}. Name {means}"
            ) from None
        now = feature_fingerprint(config, teacher, self.store.layer(GEOMETRY))
        wanted = {x: y for x, y in spec.fingerprint.items() if x != "basis_sha256"}
        _refuse_other(self.store, replace(spec, fingerprint=wanted), now, f"Name {means}")
        return FeatureLayer(spec, config, teacher)


def _batch_sizes(conditions: Conditions) -> dict[str, int]:
    """What an accelerator took at once for this shard, by layer; its bytes depend on it."""
    records = {name: condition.record for name, condition in conditions.items()}
    return {
        name: record.accelerator["batch_size"]
        for name, record in records.items()
        if record is not None and record.accelerator is not None
    }


def weights_by_layer(store: Store, damaged: set[str], given: Sequence[str]) -> dict[str, str]:
    """Which weights each layer takes; the layers that are not named keep what they have.

    Args:
        store: to be repaired.
        damaged: names of its damaged layers.
        given: paths of weights. The first of a last name goes to the layers that keep it. A single
            one of another name goes to the only damaged layer that has its weights from a file and
            got none, or, where there is none such, to the only damaged one of a timm model, which a
            machine without a network may need.

    Raises:
        ConfigError: no layer takes one of the files.
    """
    teachers = {
        name: config_from_json(FeatureConfig, store.layer(name).settings).teacher
        for name in store.feature_layers
    }
    files = {name: x.weights for name, x in teachers.items() if x.has_weights_file}
    called = {Path(path).name: path for path in reversed(given)}
    found = {name: called[file] for name, file in files.items() if file in called}
    waiting = [name for name in teachers if name in damaged and name not in found]
    timm = [name for name in waiting if kind_and_name(teachers[name].name)[0] == "timm"]
    left = [name for name in waiting if name in files] or timm
    unused = [path for path in given if path not in found.values()]
    if len(unused) == len(left) == 1:
        return found | {left[0]: unused[0]}
    if unused:
        known = ", ".join(f"{name} from {file}" for name, file in files.items()) or "none"
        raise ConfigError(
            f"no layer of {store.root} takes the weights {', '.join(unused)}: layers with weights "
            f"from a file, which are known by its name, are {known}"
        )
    return found


def _refuse_other(store: Store, spec: LayerSpec, now: dict[str, Any], advice: str) -> None:
    rows = differences(spec.fingerprint, now, "")
    if rows:
        changes = [f"{path.strip('.')} is {a!r} in the store, {b!r} now" for path, a, b in rows]
        raise FingerprintError(
            f"{spec.name} of {store.root} cannot be extracted again to the same bytes: "
            f"{'; '.join(changes)}. {advice}"
        )


def _named(stored: str, teachers: Sequence[str]) -> str:
    """The first of `teachers` that a store would record as `stored`, else `stored`."""
    for teacher in teachers:
        kind, _, path = teacher.partition(":")
        if f"{kind}:{Path(path).name}" == stored:
            return teacher
    return stored
