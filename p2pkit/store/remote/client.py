"""Files of an object store or web server, with bounded retries; through obstore."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlsplit

from p2pkit.errors import MissingDependencyError, StoreError, first_line

if TYPE_CHECKING:
    from obstore.store import BackoffConfig, ClientConfig, HTTPStore, ObjectStore, RetryConfig

T = TypeVar("T")

SCHEMES = ("s3", "gs", "http", "https")
TRIES = 6
FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 10.0
REQUEST_TIMEOUT_S = 30.0
"""For http(s); obstore has the same for s3 and gs, where the environment can change it."""
NO_BUCKET = "NoSuchBucket"
"""In the answer of S3 and Google's storage where the bucket does not exist."""
PART_BYTES = 8 << 20
"""Bytes of one request of a long transfer; each must end within the time-out."""


class ShortAnswerError(Exception):
    """A server sends fewer bytes than it announces for an object; the caller names it."""


@dataclass(frozen=True)
class RemotePath:
    """One file or folder behind a URL; the read-only part of `Path`'s interface, and writing.

    Network errors, 5xx answers and answers that are cut short are tried again, `TRIES` times in
    all with growing waits; then StoreError says what the server answered last.

    Args:
        url: without a slash at its end.
    """

    url: str

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(f"{self.url}/{name}")

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The last part."""
        return self.url.rpartition("/")[2]

    def is_file(self) -> bool:
        """Whether there is such a file."""
        return self.size() is not None

    def exists(self) -> bool:
        """Whether there is such a file; folders do not exist in object stores."""
        return self.size() is not None

    def size(self) -> int | None:
        """Bytes of the file, or None where there is none."""
        client, key = self._client, self._key
        try:
            return tried(lambda: client.head(key)["size"], self.url)
        except FileNotFoundError:
            return None

    def read_bytes(self) -> bytes:
        """The whole content of a small file.

        Raises:
            FileNotFoundError: there is none.
            StoreError: the server cannot be reached, or refuses.
        """
        client, key = self._client, self._key
        return tried(lambda: bytes(client.get(key).bytes()), self.url)

    def read_range(self, offset: int, length: int) -> memoryview:
        """Exactly `length` bytes from `offset`.

        Raises:
            FileNotFoundError: the file does not exist.
            ShortAnswerError: the server sends fewer bytes, each time.
            StoreError: the server cannot be reached, or refuses.
        """
        client, key = self._client, self._key

        def read() -> memoryview:
            data = memoryview(client.get_range(key, start=offset, length=length))
            if len(data) != length:
                raise ShortAnswerError(
                    f"expected {length} bytes from byte {offset} on, got {len(data)}"
                )
            return data

        return tried(read, self.url) if length else memoryview(b"")

    def files(self) -> list[tuple[str, int]]:
        """(path relative to this one, bytes) of all files below, sorted.

        Raises:
            StoreError: the server cannot be reached, or cannot list (plain http cannot).
        """
        if urlsplit(self.url).scheme in ("http", "https"):
            raise StoreError(
                f"{self.url} cannot be listed: plain http(s) has no listing. Use a tar store, or "
                "an object store's own URL (s3://, gs://)"
            )

        client, key = self._client, self._key

        def read() -> list[tuple[str, int]]:
            found = [(entry["path"], entry["size"]) for page in client.list(key) for entry in page]
            return sorted((path[len(key) + 1 :], size) for path, size in found)

        return tried(read, self.url)

    def write(self, content: bytes | Path) -> None:
        """Store a file, whole or not at all; an existing one is replaced.

        Raises:
            StoreError: the server cannot be reached, or refuses.
        """
        client, key = self._find_client(TRIES - 1), self._key  # so that a part is sent again alone
        tried(
            lambda: client.put(key, content, chunk_size=PART_BYTES),
            self.url,
            verb="written",
        )

    def delete(self) -> None:
        """Delete the file, if it exists."""
        client, key = self._client, self._key
        tried(lambda: client.delete(key), self.url, verb="deleted")

    @property
    def _client(self) -> "ObjectStore | HTTPStore":
        return self._find_client(0)

    def _find_client(self, retries: int) -> "ObjectStore | HTTPStore":
        parts = urlsplit(self.url)
        return open_client(f"{parts.scheme}://{parts.netloc}", retries)

    @property
    def _key(self) -> str:
        parts = urlsplit(self.url)
        path = self.url[len(f"{parts.scheme}://{parts.netloc}/") :]
        return unquote(path) if parts.scheme in ("http", "https") else path


@lru_cache(maxsize=64)
def open_client(url: str, retries: int) -> "ObjectStore | HTTPStore":
    """The client of a bucket, host or folder; credentials and endpoint come from the environment.

    Args:
        url: of the bucket, host or folder.
        retries: of a request, by the client itself; 0 where `tried` does that.

    Raises:
        MissingDependencyError: obstore is not installed.
        StoreError: the environment does not make a client.
    """
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError:
        raise MissingDependencyError(
            f"{url} needs the package obstore, which is not installed: pip install 'p2pkit[remote]'"
        ) from None
    options: ClientConfig | None = None  # any would displace those of the environment
    if url.startswith("http"):
        options = {"allow_http": True, "timeout": timedelta(seconds=REQUEST_TIMEOUT_S)}
    waits: BackoffConfig = {
        "init_backoff": timedelta(seconds=FIRST_WAIT_S),
        "max_backoff": timedelta(seconds=LONGEST_WAIT_S),
    }
    retry: RetryConfig = {"max_retries": retries, "backoff": waits}
    try:
        return from_url(url, client_options=options, retry_config=retry)
    except (BaseError, ValueError) as error:
        raise StoreError(f"{url} cannot be addressed: {first_line(error)}") from None


def tried(action: Callable[[], T], url: str, *, verb: str = "read") -> T:
    """The result of `action`, which is tried again after faults that may pass.

    Args:
        action: calls an obstore client.
        url: for the message.
        verb: what was to be done, for the message.

    Raises:
        FileNotFoundError: the object does not exist.
        ShortAnswerError: `action` raised it at the last try too.
        StoreError: the bucket does not exist, the server refuses the credentials, or every try
            failed.
    """
    from obstore.exceptions import (
        BaseError,
        NotSupportedError,
        PermissionDeniedError,
        UnauthenticatedError,
    )

    began = time.monotonic()
    last: Exception | None = None
    for wait_s in _waits():
        time.sleep(wait_s)
        try:
            return action()
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise StoreError(
                f"{url} cannot be {verb}: access is denied ({first_line(error)}). Check the "
                "credentials in the environment; docs/sharing.md names the variables"
            ) from None
        except (BaseError, ShortAnswerError, FileNotFoundError) as error:
            if NO_BUCKET in str(error):
                raise StoreError(
                    f"{url} cannot be {verb}: its bucket does not exist. Create it, or check its "
                    "name and AWS_ENDPOINT_URL"
                ) from None
            if isinstance(error, FileNotFoundError):
                raise
            last = error
            if isinstance(error, NotSupportedError) or "non-partial response" in str(error):
                raise StoreError(
                    f"{url} cannot be {verb}: the server ignores byte ranges; use a server that "
                    "supports them, or copy the files"
                ) from None
    if isinstance(last, ShortAnswerError):
        raise last
    raise StoreError(
        f"{url} cannot be {verb}: {last and first_line(last)}; gave up after {TRIES} tries in "
        f"{time.monotonic() - began:.1f} s. Check network, endpoint and credentials, then run the "
        "same command again"
    )


def _waits() -> Iterator[float]:
    """Seconds before each try: none, then doubling, each shortened at random by up to half."""
    yield 0.0
    for number in range(TRIES - 1):
        yield min(FIRST_WAIT_S * 2**number, LONGEST_WAIT_S) * random.uniform(0.5, 1.0)
