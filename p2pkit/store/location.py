"""Where the files of a store lie."""

import re
from pathlib import Path
from typing import overload
from urllib.parse import unquote, urlsplit

from p2pkit.errors import StoreError
from p2pkit.store.remote.client import SCHEMES, RemotePath

Location = Path | RemotePath

URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(/+)(.*)", re.DOTALL)
"""A scheme of two letters or more: `C:/` is not a URL."""


def as_location(address: str | Location) -> Location:
    """The location that a path or URL names.

    Args:
        address: a path, `file:///…`, `s3://bucket/prefix`, `gs://bucket/prefix` or
            `http(s)://host/folder`.

    Raises:
        StoreError: the URL is of another kind, names no bucket or host, has `//`, `.` or `..` in
            its path, or carries a query, a fragment or a password; or a URL was turned into a
            `Path`, which loses a slash.
    """
    if isinstance(address, RemotePath):
        return address
    match = URL.fullmatch(str(address))
    if match is None:
        return Path(address)
    scheme = match[1].lower()
    if scheme == "file":
        return _local_path(f"file:{match[2]}{match[3]}")
    if scheme not in SCHEMES:
        raise StoreError(
            f"{address} has the unknown scheme {scheme}://; expected a path or a URL of "
            f"{', '.join(f'{name}://' for name in ('file', *SCHEMES))}"
        )
    if isinstance(address, Path):
        raise StoreError(
            f"{address} is a URL that was turned into a Path, which loses a slash: pass it as text"
        )
    _check_url(address, match[2])
    return RemotePath(f"{scheme}://{match[3].rstrip('/')}")


def local_folder(address: str | Path, what: str) -> Path:
    """The local path that `address` names.

    Args:
        address: a path or `file://` URL.
        what: what is written there, for the message.

    Raises:
        StoreError: it is a URL of another kind.
    """
    match = URL.fullmatch(str(address))
    if match is not None and match[1].lower() != "file":
        raise StoreError(
            f"{address} is a URL; {what} is written to a local folder. Name one, then copy the "
            "store with `p2pkit shards push FOLDER URL`"
        )
    if match is not None:
        return _local_path(f"file:{match[2]}{match[3]}")
    return Path(address)


def _local_path(url: str) -> Path:
    host = urlsplit(url).netloc
    if host not in ("", "localhost"):
        raise StoreError(f"{url} names the host {host}; file:// URLs have three slashes: file:///…")
    return Path(unquote(urlsplit(url).path))


def _check_url(url: str, slashes: str) -> None:
    """Refuse what cannot address a folder, and passwords: runs record the URL of their store."""
    parts = urlsplit(url)
    if slashes != "//" or not parts.netloc:
        raise StoreError(f"{url} names no bucket or host; write {parts.scheme}://NAME/PREFIX")
    if "@" in parts.netloc:
        raise StoreError(
            f"{parts.scheme}://…@{parts.netloc.rpartition('@')[2]} carries a user or password, and "
            "runs record the URL of their store: give credentials through the environment"
        )
    if parts.query or parts.fragment:
        raise StoreError(f"{url} has a query or fragment; a store is a folder of many files")
    path = unquote(parts.path) if parts.scheme in ("http", "https") else parts.path
    if {"", ".", ".."} & {*path.rstrip("/").split("/")[1:]}:
        raise StoreError(
            f"{url} has an empty part, `.` or `..` in its path; write "
            f"{parts.scheme}://{parts.netloc}/PREFIX with single slashes"
        )


MANIFEST = "p2pkit.json"

FAILURES = "failures.jsonl"

CLAIMS = ".claims"


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


def claim_path(root: Path, name: str, shard: int | None = None) -> Path:
    """The claim file of one piece of work; claims lie apart from the data."""
    stem = name.replace("/", "-")
    return root / CLAIMS / (stem if shard is None else f"{stem}-{shard:06d}")
