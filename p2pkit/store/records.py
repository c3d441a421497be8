"""The record beside each shard: proof that the shard is complete, and where to start reading it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from p2pkit.errors import StoreError
from p2pkit.files import write_json
from p2pkit.store.location import Location
from p2pkit.store.manifest import FORMAT_VERSION
from p2pkit.store.strict_json import count, exact_object, hex_text, read_sealed, sealed, typed

FAILURE = ("key", "stage", "reason")


@dataclass(frozen=True)
class Member:
    """A named range of bytes in a shard.

    Args:
        offset: from the start of the file that holds it (bytes).
        length: of the range (bytes).
        xxh3_64: checksum of the range, 16 hex digits.
    """

    offset: int
    length: int
    xxh3_64: str


@dataclass(frozen=True)
class Written:
    """What a storage reports of a shard that it wrote.

    Args:
        keys: of the samples, in order.
        bytes: size of the shard.
        xxh3_128: checksum of the whole shard, 32 hex digits.
        members: where the shard's own tables lie: `index` and `meta`.
    """

    keys: tuple[str, ...]
    bytes: int
    xxh3_128: str
    members: dict[str, Member]


@dataclass(frozen=True)
class ShardRecord:
    """The content of `<shard>.json`; its presence is the only sign that a shard is complete.

    Args:
        samples: number of samples; 0 where every planned frame failed.
        bytes: size of the shard.
        xxh3_128: checksum of the whole shard, 32 hex digits.
        first_key, last_key: of the samples in file order; None in a shard without samples.
        fingerprint: sha256 of the layer's fingerprint.
        failures: a row with key, stage and reason for each planned frame that was left out.
        format: the storage, `tar` or `zarr`.
        members: where the shard's own tables lie.
        accelerator: JSON of what else decides the bytes where an accelerator computed them:
            `batch_size`, `precision`, `device`, `libraries`; None for a CPU.
    """

    samples: int
    bytes: int
    xxh3_128: str
    first_key: str | None
    last_key: str | None
    fingerprint: str
    failures: tuple[dict[str, str], ...]
    format: str
    members: dict[str, Member]
    accelerator: dict[str, Any] | None = None

    def write(self, path: Path) -> None:
        """Write the record atomically, closed by its own checksum."""
        value = {**asdict(self), "failures": list(self.failures), "format_version": FORMAT_VERSION}
        if self.accelerator is None:
            del value["accelerator"]
        write_json(path, sealed(value))


def make_record(
    written: Written,
    fingerprint: str,
    storage: str,
    failures: Sequence[dict[str, str]],
    accelerator: dict[str, Any] | None = None,
) -> ShardRecord:
    """The record of a shard that was just written.

    Raises:
        StoreError: a failure is not a row of key, stage and reason.
    """
    return ShardRecord(
        samples=len(written.keys),
        bytes=written.bytes,
        xxh3_128=written.xxh3_128,
        first_key=written.keys[0] if written.keys else None,
        last_key=written.keys[-1] if written.keys else None,
        fingerprint=fingerprint,
        failures=_failures(list(failures), "failures"),
        format=storage,
        members=written.members,
        accelerator=accelerator,
    )


def read_record(path: Location) -> ShardRecord:
    """Read and check `<shard>.json`.

    Raises:
        MissingFileError: it does not exist.
        StoreError: it is damaged, or not what format 1 allows.
    """
    names = (*ShardRecord.__dataclass_fields__, "format_version")
    value = exact_object({"accelerator": None, **read_sealed(path)}, names, str(path))
    if value.pop("format_version") != FORMAT_VERSION:
        raise StoreError(f"{path} has another format version; this p2pkit reads {FORMAT_VERSION}")
    for name in ("first_key", "last_key"):
        if (value[name] is None) != (value["samples"] == 0):
            raise StoreError(f"{path}: {name} is {value[name]!r} with {value['samples']!r} samples")
        if value[name] is not None:
            typed(value[name], str, f"{path}: {name}")
    members = typed(value["members"], dict, f"{path}: members")
    return ShardRecord(
        samples=count(value["samples"], f"{path}: samples"),
        bytes=count(value["bytes"], f"{path}: bytes"),
        xxh3_128=hex_text(value["xxh3_128"], 32, f"{path}: xxh3_128"),
        first_key=value["first_key"],
        last_key=value["last_key"],
        fingerprint=hex_text(value["fingerprint"], 64, f"{path}: fingerprint"),
        failures=_failures(value["failures"], f"{path}: failures"),
        format=typed(value["format"], str, f"{path}: format"),
        members={name: _member(row, f"{path}: members.{name}") for name, row in members.items()},
        accelerator=_accelerator(value["accelerator"], f"{path}: accelerator"),
    )


def _accelerator(value: Any, where: str) -> dict[str, Any] | None:
    if value is None:
        return None
    value = exact_object(value, ("batch_size", "device", "libraries", "precision"), where)
    for name in ("device", "libraries", "precision"):
        typed(value[name], str, f"{where}.{name}")
    count(value["batch_size"], f"{where}.batch_size")
    return value


def _member(value: Any, where: str) -> Member:
    value = exact_object(value, ("offset", "length", "xxh3_64"), where)
    return Member(
        offset=count(value["offset"], f"{where}.offset"),
        length=count(value["length"], f"{where}.length"),
        xxh3_64=hex_text(value["xxh3_64"], 16, f"{where}.xxh3_64"),
    )


def _failures(value: Any, where: str) -> tuple[dict[str, str], ...]:
    rows: list[Any] = typed(value, list, where)
    for row in rows:
        exact_object(row, FAILURE, where)
        for name in FAILURE:
            typed(row[name], str, f"{where}: {name}")
    return tuple(rows)
