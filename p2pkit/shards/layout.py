"""Where the files of a store lie."""

from pathlib import Path
from typing import overload

from p2pkit.shards.location import Location
from p2pkit.shards.remote import RemotePath

MANIFEST = "p2pkit.json"
FAILURES = "failures.jsonl"
CLAIMS = ".claims"
INPUTS_FOLDER = "inputs"


@overload
def record_path(root: Path, layer: str, shard: int) -> Path: ...
@overload
def record_path(root: RemotePath, layer: str, shard: int) -> RemotePath: ...
@overload
def record_path(root: Location, layer: str, shard: int) -> Location: ...
def record_path(root: Location, layer: str, shard: int) -> Location:
    """The record of one shard of one layer."""
    return root / layer / f"{shard:06d}.json"


@overload
def shard_path(root: Path, layer: str, shard: int, suffix: str) -> Path: ...
@overload
def shard_path(root: RemotePath, layer: str, shard: int, suffix: str) -> RemotePath: ...
@overload
def shard_path(root: Location, layer: str, shard: int, suffix: str) -> Location: ...
def shard_path(root: Location, layer: str, shard: int, suffix: str) -> Location:
    """The shard itself; `suffix` is its storage's."""
    return root / layer / f"{shard:06d}{suffix}"


@overload
def inputs_path(root: Path, shard: int) -> Path: ...
@overload
def inputs_path(root: RemotePath, shard: int) -> RemotePath: ...
@overload
def inputs_path(root: Location, shard: int) -> Location: ...
def inputs_path(root: Location, shard: int) -> Location:
    """Digests of what one shard's samples were made from."""
    return root / INPUTS_FOLDER / f"{shard:06d}.json"


def claim_path(root: Path, name: str, shard: int | None = None) -> Path:
    """The claim file of one piece of work; claims lie apart from the data."""
    stem = name.replace("/", "-")
    return root / CLAIMS / (stem if shard is None else f"{stem}-{shard:06d}")
