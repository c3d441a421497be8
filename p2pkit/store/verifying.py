"""Checking a whole store: is every planned shard there, and is every byte what was written?"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from p2pkit.errors import CorruptShardError, DevelopmentStoreError, StoreError
from p2pkit.store.location import FAILURES, MANIFEST, as_location
from p2pkit.store.manifest import GEOMETRY
from p2pkit.store.reading import Store, open_store
from p2pkit.store.shard import Shard
from p2pkit.store.writing import failure_lines


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong; None where it concerns no single layer, shard, key or field."""

    reason: str
    layer: str | None = None
    shard: int | None = None
    key: str | None = None
    field: str | None = None


@dataclass(frozen=True)
class VerifyReport:
    """What `verify_store` found.

    Args:
        problems: empty where the store is whole.
        shards: number of shards that could be opened, over all layers.
        samples: number of samples in them.
        deep: whether every byte was read.
    """

    problems: tuple[Problem, ...]
    shards: int
    samples: int
    deep: bool

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return {**asdict(self), "problems": [asdict(row) for row in self.problems], "ok": self.ok}


def verify_store(path: str | Path, *, deep: bool) -> VerifyReport:
    """Check the manifest, and of every layer and planned shard the record, size, index and keys.

    Args:
        path: of the store.
        deep: also read every byte: whole-shard checksums, member headers, the checksum of each
            payload, and that each array decodes to what the fields table says.

    Raises:
        DevelopmentStoreError: a version before the first release wrote it; it is not damaged.
        StoreError: `path` has no p2pkit.json at all; anything else is a row of the report.
    """
    root = as_location(path)
    try:
        store = open_store(root)
    except DevelopmentStoreError:
        raise
    except StoreError as error:
        if not (root / MANIFEST).is_file():
            raise
        return VerifyReport((Problem(str(error)),), 0, 0, deep)
    problems: list[Problem] = []
    shards = samples = 0
    reported: set[tuple[int, str]] = set()
    for layer in store.manifest.layers:
        for shard in range(store.manifest.plan.shards):
            try:
                opened = store.shard(layer.name, shard)
            except StoreError as error:
                # A layer is compared with the geometry, whose own fault is already reported.
                if (shard, str(error)) not in reported:
                    problems.append(_problem(error, layer.name, shard))
                if layer.name == GEOMETRY:
                    reported.add((shard, str(error)))
                continue
            shards, samples = shards + 1, samples + len(opened.keys)
            if deep:
                problems += _deep_problems(opened, layer.name, shard)
    problems += _list_problems(store)
    return VerifyReport(tuple(problems), shards, samples, deep)


def _problem(error: StoreError, layer: str, shard: int) -> Problem:
    if isinstance(error, CorruptShardError):
        return Problem(f"{error.shard}: {error.reason}", layer, shard, error.key, error.field)
    return Problem(str(error), layer, shard)


def _deep_problems(opened: Shard, layer: str, shard: int) -> Iterator[Problem]:
    try:
        for error in opened.problems():
            yield _problem(error, layer, shard)
    except StoreError as error:
        yield _problem(error, layer, shard)


def _list_problems(store: Store) -> Iterator[Problem]:
    """Frames that are neither sample nor failure, keys that occur twice, and failures.jsonl."""
    seen: dict[str, int] = {}
    for shard in range(store.manifest.plan.shards):
        try:
            record, keys = store.record(GEOMETRY, shard), store.keys(shard)
        except StoreError:
            return  # already reported by the check of that shard
        planned = store.manifest.plan.planned(shard)
        if len(keys) + len(record.failures) != planned:
            counted = f"{len(keys)} samples and {len(record.failures)} failures"
            yield Problem(f"{counted}; expected {planned} frames", GEOMETRY, shard)
        for key in keys:
            if key in seen:
                yield Problem(f"shard {seen[key]} has this key too", GEOMETRY, shard, key)
            seen[key] = shard
    failed = [row for record in store.records(GEOMETRY) for row in record.failures]
    expected = failure_lines(store.layer(GEOMETRY), failed)
    path = store.root / FAILURES
    found = path.read_bytes() if path.is_file() else b""
    if found != expected:
        yield Problem(
            f"{path} does not list the {len(expected.splitlines())} failures of the records; "
            "run the same `p2pkit extract` again"
        )
