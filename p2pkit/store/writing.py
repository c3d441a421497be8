"""The writing side of a store: one manifest, and shards that any worker may write in any order."""

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from p2pkit.errors import FingerprintError, StoreError
from p2pkit.files import TEMPORARY, canonical_json, temporary_name, write_atomic, write_json
from p2pkit.store.claims import Claim, locked, sweep, try_claim
from p2pkit.store.comparison import check_same_inputs
from p2pkit.store.location import (
    CLAIMS,
    FAILURES,
    MANIFEST,
    Location,
    claim_path,
    local_folder,
    record_path,
    shard_path,
)
from p2pkit.store.manifest import (
    BOXES,
    FEATURES,
    GEOMETRY,
    LEFT_OUT,
    SUPERPIXELS,
    LayerSpec,
    Manifest,
    Sample,
    manifest_from_json,
)
from p2pkit.store.records import ShardRecord, Written, make_record, read_record
from p2pkit.store.remote.copy import commit_fetched, remove
from p2pkit.store.storages import find_storage
from p2pkit.store.strict_json import MissingFileError, read_sealed, sealed
from p2pkit.store.tar.writer import StoredSample, write_stored_tar

OWN_NAMES = {
    MANIFEST,
    FAILURES,
    CLAIMS,
    *(kind.rstrip("/") for kind in (GEOMETRY, FEATURES, SUPERPIXELS, BOXES)),
}
"""The entries of a store's folder."""


def refuse_foreign_folder(path: Path) -> None:
    """Raise StoreError if a folder that is not a store, nor the beginning of one, is not empty.

    Its files would lie among the store's, and what is called `.tmp-…` there would be swept away.
    """
    with system_refusals_as_store_errors(path):
        if (path / MANIFEST).exists() or not path.exists():
            return
        names = sorted(entry.name for entry in path.iterdir())
    foreign = [name for name in names if name not in OWN_NAMES and not name.startswith(TEMPORARY)]
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise StoreError(
            f"{path} is not a store and not empty: it contains {foreign[0]}{more}. Name a new or "
            "empty folder, or the store to continue"
        )


@contextlib.contextmanager
def system_refusals_as_store_errors(path: Path) -> Generator[None, None, None]:
    """Turn the system's refusal to write (disk full, read-only, ...) into a StoreError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or repr(error)
        raise StoreError(
            f"{path} cannot be written: {reason}. What was complete before is still good; make "
            "room or get write access, then run the same command again"
        ) from error


AnySample = TypeVar("AnySample", Sample, StoredSample)


@dataclass(frozen=True)
class Commit:
    """How a shard gets its name.

    Args:
        expected: xxh3-128 that the shard must have; None where any will do.
        replace: whether a complete shard of that number is replaced; else it stays, and what was
            written is dropped.
        accelerator: what its record says of the accelerator that computed it; None for a CPU.
    """

    expected: str | None = None
    replace: bool = True
    accelerator: dict[str, Any] | None = None


class StoreWriter:
    """Writes shards into a store; made by `create_or_open`."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self.root = root
        self.manifest = manifest
        self._storage = find_storage(manifest.storage)

    def is_done(self, layer: str, shard: int) -> bool:
        """Whether the shard is complete: its record exists and is of the layer's fingerprint.

        Raises:
            FingerprintError: the record was made from other inputs.
            StoreError: the record is damaged.
        """
        path = record_path(self.root, self._layer(layer).name, shard)
        if not path.exists():
            return False
        record, expected = read_record(path), self._layer(layer).fingerprint_sha256
        if record.fingerprint != expected:
            raise FingerprintError(
                f"{path} has the fingerprint {record.fingerprint}; layer {layer} has {expected}: "
                "delete the shard and its record, or use another folder"
            )
        return True

    def record(self, layer: str, shard: int) -> ShardRecord:
        """The record of a complete shard; StoreError where there is none yet."""
        return read_record(record_path(self.root, layer, shard))

    def claim(self, name: str, shard: int) -> Claim | None:
        """Claim a piece of work, a context manager, or None where a living worker has it.

        Args:
            name: a layer's name, or any name for work that fills several layers at once.
            shard: the shard's number.
        """
        with system_refusals_as_store_errors(self.root):
            return try_claim(claim_path(self.root, name, shard))

    def write(
        self,
        layer: str,
        shard: int,
        samples: Iterable[Sample],
        failures: Sequence[dict[str, str]] = (),
        commit: Commit = Commit(),
    ) -> ShardRecord:
        """Write one shard, then its record.

        Args:
            layer: name of a layer of the manifest.
            shard: number in the plan.
            samples: in the plan's order without the failed ones; consumed while writing.
            failures: a row with key, stage and reason for each planned frame that is left out; read
                after `samples` ends, so it may grow while they are made.
            commit: whether a complete shard of that number is replaced, as it is by default, and
                what is demanded and recorded of the new one.

        Returns:
            The shard's record: the earlier one where that shard stays.

        Raises:
            FingerprintError: the shard has another checksum than expected; the existing one is
                unchanged.
            StoreError: a sample does not match the fields table; samples and failures do not add up
                to the planned frames; the keys differ from those of the geometry; or the disk is
                full or does not allow writing.
        """
        return self._commit(self._storage.write, layer, shard, samples, failures, commit)

    def write_stored(
        self,
        layer: str,
        shard: int,
        samples: Iterable[StoredSample],
        failures: Sequence[dict[str, str]] = (),
    ) -> ShardRecord:
        """As `write`, from the payloads of other tar shards with the same fields table.

        Raises:
            StoreError: as `write`, or this store keeps its shards in another form than tar.
        """
        if self.manifest.storage != "tar":
            raise StoreError(
                f"{self.root} is stored as {self.manifest.storage}; payloads of tar shards cannot "
                "be copied into it: write decoded samples"
            )
        return self._commit(write_stored_tar, layer, shard, samples, failures, Commit())

    def _commit(
        self,
        write: Callable[[Path, LayerSpec, Iterable[AnySample]], Written],
        layer: str,
        shard: int,
        samples: Iterable[AnySample],
        failures: Sequence[dict[str, str]],
        commit: Commit,
    ) -> ShardRecord:
        spec = self._layer(layer)
        if not 0 <= shard < self.manifest.plan.shards:
            raise StoreError(
                f"shard {shard} does not exist; the plan has {self.manifest.plan.shards}"
            )
        path = shard_path(self.root, layer, shard, self._storage.suffix)
        checked = self._checked(layer, shard, samples, failures)

        def finish(written: Written) -> ShardRecord:
            fingerprint, storage = spec.fingerprint_sha256, self.manifest.storage
            record = make_record(written, fingerprint, storage, failures, commit.accelerator)
            record.write(record_path(self.root, layer, shard))
            return record

        with system_refusals_as_store_errors(path):
            if commit.replace and commit.expected is None:
                return finish(write(path, spec, checked))
            aside = path.with_name(temporary_name(path.name))
            try:
                written = write(aside, spec, checked)
                _check_expected(path, written, commit.expected)
                # Of two writers at once the second must not come between shard and record.
                with locked(claim_path(self.root, f"commit-{layer}", shard)):
                    if not commit.replace and self.is_done(layer, shard):
                        return self.record(layer, shard)
                    commit_fetched(aside, path)
                    return finish(written)
            finally:
                remove(aside)

    def write_failures(self) -> Path:
        """Gather the failures of the geometry's records, in shard order, into failures.jsonl.

        Parts of the recording that were not read at all, such as damaged sequences, come first.

        Shards that are not written yet are skipped.
        """
        shards = range(self.manifest.plan.shards)
        done = [shard for shard in shards if self.is_done(GEOMETRY, shard)]
        path = self.root / FAILURES
        failed = [row for shard in done for row in self.record(GEOMETRY, shard).failures]
        lines = failure_lines(self._layer(GEOMETRY), failed)
        with system_refusals_as_store_errors(path):
            write_atomic(path, lines)
        return path

    def _layer(self, name: str) -> LayerSpec:
        for layer in self.manifest.layers:
            if layer.name == name:
                return layer
        names = ", ".join(layer.name for layer in self.manifest.layers)
        raise StoreError(f"the store at {self.root} has no layer {name!r}; it has {names}")

    def _checked(
        self,
        layer: str,
        shard: int,
        samples: Iterable[AnySample],
        failures: Sequence[dict[str, str]],
    ) -> Iterator[AnySample]:
        """Pass samples on; raise at the end, before the shard gets its name, if any is missing."""
        keys: list[str] = []
        for sample in samples:
            keys.append(sample.key)
            yield sample
        if layer == GEOMETRY:
            planned = self.manifest.plan.planned(shard)
            if len(keys) + len(failures) != planned:
                raise StoreError(
                    f"shard {shard} of {layer}: {len(keys)} samples and {len(failures)} failures; "
                    f"the plan has {planned} frames there, and each must be one or the other"
                )
        elif self.is_done(GEOMETRY, shard):
            self._check_same_keys(layer, shard, keys)

    def _check_same_keys(self, layer: str, shard: int, keys: list[str]) -> None:
        record = read_record(record_path(self.root, GEOMETRY, shard))
        path = shard_path(self.root, GEOMETRY, shard, self._storage.suffix)
        geometry = self._storage.open(path, self._layer(GEOMETRY), record).keys
        if tuple(keys) != geometry:
            other = sorted({*keys} ^ {*geometry})[:3] or "the order"
            raise StoreError(
                f"shard {shard} of {layer} has other samples than the geometry ({other} differ); "
                "a layer has the geometry's samples in the geometry's order"
            )


def _check_expected(path: Path, written: Written, expected: str | None) -> None:
    if expected is not None and written.xxh3_128 != expected:
        raise FingerprintError(
            f"{path} would get bytes other than its record says: the recording was edited, "
            "or another library version or accelerator computes it differently. The shard "
            "was left as it is; restore the original files, or extract into a new folder"
        )


def create_or_open(path: str | Path, manifest: Manifest) -> StoreWriter:
    """Start a store, continue one, or add layers to one; safe in several processes at once.

    Layers of `manifest` that the store does not have yet are added to its manifest; layers that it
    has and `manifest` does not name stay.

    Raises:
        FingerprintError: the store was made from another dataset, plan, storage, fields table or
            fingerprint; the message names each entry that differs, with both values.
        StoreError: its manifest is damaged, or the folder cannot be written or contains other
            files.
    """
    find_storage(manifest.storage)
    path = local_folder(path, "a store")
    refuse_foreign_folder(path)
    with system_refusals_as_store_errors(path):
        return _create_or_open(path, manifest)


def _create_or_open(path: Path, manifest: Manifest) -> StoreWriter:
    sweep(path, path / CLAIMS)
    file = path / MANIFEST
    if file.exists():
        stored = read_and_compare(path, manifest)
        if {layer.name for layer in manifest.layers} <= {layer.name for layer in stored.layers}:
            return StoreWriter(path, stored)
    with locked(claim_path(path, "manifest")):
        merged = manifest
        if file.exists():
            merged = read_and_compare(path, manifest)
            names = {layer.name for layer in merged.layers}
            for layer in manifest.layers:
                if layer.name not in names:
                    merged = merged.with_layer(layer)
        write_json(file, sealed(merged.to_json()))
    return StoreWriter(path, read_manifest(path))


def failure_lines(geometry: LayerSpec, failures: Iterable[dict[str, str]]) -> bytes:
    """The content of failures.jsonl.

    One JSON row for each part of the recording that was not read, and one per frame left out.

    Args:
        geometry: the layer, whose details name those parts.
        failures: the rows of its records, in shard order.
    """
    rows = [
        {"key": part["name"], "stage": "recording", "reason": part["reason"]}
        for part in geometry.details.get(LEFT_OUT, [])
    ]
    return "".join(canonical_json(row) + "\n" for row in [*rows, *failures]).encode()


def read_manifest(root: Location) -> Manifest:
    """Read and check `p2pkit.json`.

    Raises:
        StoreError: `root` is not a store, or its manifest is damaged or of another version.
    """
    try:
        value = read_sealed(root / MANIFEST)
    except MissingFileError:
        raise StoreError(
            f"{root} is not a store: it has no {MANIFEST}; `p2pkit extract` makes one"
        ) from None
    return manifest_from_json(value, str(root / MANIFEST))


def read_and_compare(root: Path, manifest: Manifest) -> Manifest:
    """The manifest of the store at `root`, if it satisfies `manifest`.

    Raises:
        StoreError: `root` is not a store, or its manifest is damaged.
        FingerprintError: as `create_or_open`.
    """
    stored = read_manifest(root)
    check_same_inputs(stored, manifest, root)
    return stored
