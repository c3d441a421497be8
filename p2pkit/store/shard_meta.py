"""What a shard says about itself, in whichever storage: its columns and keys; and sample JSON."""

import json
from collections.abc import Iterable
from typing import Any

from p2pkit.errors import StoreError
from p2pkit.files import canonical_json
from p2pkit.store.manifest import FORMAT_VERSION, LayerSpec
from p2pkit.store.records import ShardRecord
from p2pkit.store.strict_json import KEY, LARGEST_JSON

SHARD_FORMAT = "p2pkit-shard"


class ShardMetaError(ValueError):
    """The description of a shard is not what it must be; the caller adds where it stood."""


def shard_meta(layer: LayerSpec, keys: Iterable[str]) -> dict[str, Any]:
    """The JSON description of a shard with these samples."""
    return {
        "format": SHARD_FORMAT,
        "format_version": FORMAT_VERSION,
        "fields": list(layer.columns),
        "keys": list(keys),
    }


def read_keys(meta: dict[str, Any], layer: LayerSpec, record: ShardRecord) -> tuple[str, ...]:
    """The keys in a shard's description, after checking it against the layer and the record.

    Raises:
        ShardMetaError: it is of another format or has other columns or keys.
    """
    keys = meta.get("keys")
    if not isinstance(keys, list) or not all(isinstance(k, str) and KEY.fullmatch(k) for k in keys):
        raise ShardMetaError("has no list of keys, or one with a key that is not allowed")
    expected = shard_meta(layer, keys)
    if meta != expected:
        raise ShardMetaError(
            f"has format, version and fields {[meta.get(name) for name in list(expected)[:3]]}; "
            f"expected {[*expected.values()][:3]}"
        )
    ends = (keys[0], keys[-1]) if keys else (None, None)
    if len(keys) != record.samples or ends != (record.first_key, record.last_key):
        raise ShardMetaError(
            f"has {len(keys)} keys from {ends[0]} to {ends[1]}; the record says {record.samples} "
            f"from {record.first_key} to {record.last_key}"
        )
    if len(set(keys)) != len(keys):
        raise ShardMetaError("has a key twice")
    return tuple(keys)


def object_bytes(value: dict[str, Any], name: str) -> bytes:
    """Canonical JSON that `parse_object` reads back; errors give `name`.

    Raises:
        StoreError: it is too long, or contains NaN or a value that JSON cannot represent.
    """
    try:
        data = canonical_json(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"{name} cannot be stored as JSON: {error}") from None
    if len(data) > LARGEST_JSON:
        raise StoreError(f"{name} has {len(data)} bytes of JSON; at most {LARGEST_JSON} fit")
    return data


def parse_object(data: memoryview) -> dict[str, Any]:
    """The JSON object in `data`.

    Raises:
        ShardMetaError: it is not JSON, not an object, or too long.
    """
    if len(data) > LARGEST_JSON:
        raise ShardMetaError(f"has {len(data)} bytes of JSON; at most {LARGEST_JSON} are allowed")
    try:
        value = json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        raise ShardMetaError(f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ShardMetaError(f"contains a JSON {type(value).__name__}; expected an object")
    return value
