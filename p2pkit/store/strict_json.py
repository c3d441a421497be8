"""Strict reading of the JSON and the names that a store is made of."""

import json
import os
import re
from collections.abc import Collection
from typing import Any, TypeVar

import xxhash

from p2pkit.errors import StoreError
from p2pkit.files import canonical_json, open_regular
from p2pkit.store.location import Location
from p2pkit.store.remote.client import RemotePath

T = TypeVar("T")

KEY = re.compile(r"[A-Za-z0-9_-]+")
FIELD_NAME = re.compile(r"[a-z][a-z0-9_]*")
LAYER_NAME = re.compile(r"geometry|(?:features|superpixels|boxes)/[A-Za-z0-9_-][A-Za-z0-9._-]*")
LARGEST_JSON = 1 << 24
"""Bytes of a manifest, a record or a shard's description: more is refused before it is parsed."""


class MissingFileError(StoreError):
    """There is no such file."""


class TooLargeError(StoreError):
    """A file is larger than any that a store's writer makes."""


def check_key(key: str) -> str:
    """Return a sample key that can name tar members.

    Raises:
        StoreError: it is empty or holds other characters than letters, digits, `_` and `-`.
    """
    if not KEY.fullmatch(key):
        raise StoreError(
            f"key {key!r} cannot name a sample: only letters, digits, `_` and `-` are allowed"
        )
    return key


def hex64(checksum: int) -> str:
    """A 64-bit checksum as JSON carries it: 16 hex digits."""
    return f"{checksum:016x}"


def sealed(value: dict[str, Any]) -> dict[str, Any]:
    """`value` with `checksum`: xxh3-64 of the canonical JSON of all its other entries."""
    return {**value, "checksum": hex64(xxhash.xxh3_64_intdigest(canonical_json(value).encode()))}


def read_sealed(path: Location) -> dict[str, Any]:
    """Read a JSON object that `sealed` closed, without its checksum.

    Raises:
        MissingFileError: the file does not exist.
        StoreError: it is not a JSON object, or its checksum differs.
    """
    try:
        value = json.loads(read_bounded(path, LARGEST_JSON))
        if not isinstance(value, dict):
            raise StoreError(
                f"expected a JSON object, found a JSON {type(value).__name__} in {path}"
            )
        stored = value.pop("checksum", None)
        intact = isinstance(stored, str) and sealed(value)["checksum"] == stored
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFileError(f"{path} does not exist") from None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path} cannot be read as JSON: {error}") from None
    if not intact:
        raise StoreError(
            f"{path} differs from its own checksum ({stored!r}): it is damaged or was edited by "
            "hand; restore it from a copy, or extract again"
        )
    return value


def read_bounded(path: Location, limit: int) -> bytes:
    """The content of a regular file, or of a remote one.

    Raises:
        OSError: it cannot be opened, or is a folder, pipe or device.
        TooLargeError: it has more than `limit` bytes.
        StoreError: its server cannot be reached, or refuses.
    """
    if isinstance(path, RemotePath):
        data = path.read_bytes()
        if len(data) > limit:
            raise TooLargeError(_too_large(path, len(data), limit))
        return data
    with open(open_regular(path), "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise TooLargeError(_too_large(path, size, limit))
        return file.read(size)


def _too_large(path: Location, size: int, limit: int) -> str:
    return f"{path} has {size} bytes; expected at most {limit}"


def exact_object(value: Any, names: Collection[str], where: str) -> dict[str, Any]:
    """`value` if it is a JSON object with exactly these names; StoreError otherwise."""
    if not isinstance(value, dict) or set(value) != set(names):
        found = sorted(value) if isinstance(value, dict) else type(value).__name__
        raise StoreError(f"{where} needs exactly the entries {sorted(names)}; found {found}")
    return value


def typed(value: Any, kind: type[T], where: str) -> T:
    """`value` if it is of the JSON type `kind` (a bool is not an int); StoreError otherwise."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise StoreError(f"{where} is {value!r}; expected {kind.__name__}")
    return value


def count(value: Any, where: str, *, least: int = 0) -> int:
    """`value` if it is a whole number of at least `least`; StoreError otherwise."""
    if typed(value, int, where) < least:
        raise StoreError(f"{where} is {value}; expected at least {least}")
    return value


def hex_text(value: Any, digits: int, where: str) -> str:
    """`value` if it is a string of this many lower-case hex digits; StoreError otherwise."""
    if not re.fullmatch(rf"[0-9a-f]{{{digits}}}", typed(value, str, where)):
        raise StoreError(f"{where} is {value!r}; expected {digits} hex digits")
    return value


def differences(stored: Any, asked: Any, path: str) -> list[tuple[str, Any, Any]]:
    """Where two JSON values differ: (dotted path, stored, asked).

    It goes down into objects, and into lists of equally many objects or lists.
    """
    if isinstance(stored, dict) and isinstance(asked, dict):
        return [
            row
            for name in sorted({*stored, *asked})
            for row in differences(stored.get(name), asked.get(name), f"{path}.{name}")
        ]
    if _nested(stored) and _nested(asked) and len(stored) == len(asked):
        return [
            row
            for i, pair in enumerate(zip(stored, asked, strict=True))
            for row in differences(*pair, f"{path}[{i}]")
        ]
    return [] if stored == asked else [(path, stored, asked)]


def _nested(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict | list) for item in value)
