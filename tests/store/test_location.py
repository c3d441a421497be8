import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pkit.errors import MissingDependencyError, StoreError
from p2pkit.store.location import as_location, local_folder
from p2pkit.store.reading import open_store
from p2pkit.store.remote.client import RemotePath, open_client


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("rooms.store", Path("rooms.store")),
        ("/data/rooms.store/", Path("/data/rooms.store")),
        (Path("data/rooms"), Path("data/rooms")),
        ("C:/data", Path("C:/data")),
        ("file:///data/my%20rooms", Path("/data/my rooms")),
        ("file://localhost/data", Path("/data")),
        ("s3://bucket/a/b/", RemotePath("s3://bucket/a/b")),
        ("s3://bucket", RemotePath("s3://bucket")),
        ("s3://bucket//", RemotePath("s3://bucket")),
        ("s3://bucket/.a/b..//", RemotePath("s3://bucket/.a/b..")),
        ("S3://bucket/a", RemotePath("s3://bucket/a")),
        ("gs://bucket/a", RemotePath("gs://bucket/a")),
        ("http://host:80/a", RemotePath("http://host:80/a")),
        ("https://host/a%20b", RemotePath("https://host/a%20b")),
    ],
)
def test_addresses(address: str | Path, expected: Path | RemotePath) -> None:
    assert as_location(address) == expected


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ftp://host/a", "unknown scheme ftp://; expected a path or a URL of file://, s3://"),
        ("s3:///a", "names no bucket or host"),
        ("s3:/bucket/a", "names no bucket or host"),
        (Path("s3://bucket/a"), "loses a slash: pass it as text"),
        ("file://server/a", "file:///"),
        ("https://host/a?key=1", "query or fragment"),
        ("https://host/a#b", "query or fragment"),
        ("s3://bucket//a", "an empty part, `.` or `..` in its path; write s3://bucket/PREFIX with"),
        ("gs://bucket/a//b", "write gs://bucket/PREFIX with single slashes"),
        ("s3://bucket/./a", "write s3://bucket/PREFIX with single slashes"),
        ("s3://bucket/a/..", "write s3://bucket/PREFIX with single slashes"),
        ("http://host:80/a/%2e%2E/b", "write http://host:80/PREFIX with single slashes"),
    ],
)
def test_what_addresses_no_store_is_refused(address: str | Path, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        as_location(address)


def test_passwords_are_refused_and_not_repeated() -> None:
    with pytest.raises(StoreError, match="credentials through the environment") as error:
        as_location("https://me:secret@host/rooms")
    assert "secret" not in str(error.value)


@given(name=st.text("abcXYZ0189._-", min_size=1, max_size=9), parts=st.integers(1, 4))
def test_joining_keeps_the_url(name: str, parts: int) -> None:
    place = as_location("s3://bucket/prefix")
    for _ in range(parts):
        place = place / name
    assert str(place) == "s3://bucket/prefix" + f"/{name}" * parts
    assert place.name == name


@pytest.mark.parametrize("address", ["s3://bucket/a", Path("s3://bucket/a"), "https://host/a"])
def test_only_local_folders_are_written(address: str | Path) -> None:
    with pytest.raises(StoreError, match="p2pkit shards push FOLDER URL"):
        local_folder(address, "what is extracted")
    assert local_folder("file:///data/a", "x") == Path("/data/a")
    assert local_folder("data/a", "x") == Path("data/a")


def test_without_obstore_the_command_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] == "obstore":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "obstore", None)
    open_client.cache_clear()
    with pytest.raises(MissingDependencyError, match=r"pip install 'p2pkit\[remote\]'"):
        open_store("s3://bucket/rooms.store")
