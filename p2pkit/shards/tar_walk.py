"""Walking a tar without its index: where a shard that was cut short ends."""

from collections.abc import Callable
from dataclasses import dataclass

from p2pkit.shards.checks import KEY
from p2pkit.shards.model import JSON_FIELD
from p2pkit.shards.tar_writer import BLOCK, LONGEST_NAME, tar_header

SIZE = slice(124, 136)


@dataclass(frozen=True)
class Cut:
    """The first member that is not whole; key and field where it belongs to a sample."""

    name: str
    key: str | None
    field: str | None


def first_cut(read: Callable[[int, int], bytes | memoryview], size: int) -> Cut | None:
    """The first member of which bytes are missing; None where the headers do not tell.

    Args:
        read: gives bytes from (offset, length), inside the file.
        size: of the file (bytes).
    """
    position = 0
    while position + BLOCK <= size:
        header = bytes(read(position, BLOCK))
        name = header[:LONGEST_NAME].rstrip(b"\0").decode("latin-1")
        digits = header[SIZE].rstrip(b"\0 ")
        length = int(digits, 8) if digits.isdigit() and not digits.strip(b"01234567") else -1
        if length < 0 or not name.isascii() or header != tar_header(name, length):
            return None
        end = position + BLOCK + length
        if end > size:
            return _cut(name)
        position = end + -length % BLOCK
    return None


def _cut(name: str) -> Cut:
    """Key and field out of a member's name, `<key>.<field>.npy` or `<key>.json`."""
    key, _, rest = name.partition(".")
    if not KEY.fullmatch(key):
        return Cut(name, None, None)
    return Cut(name, key, JSON_FIELD if rest == JSON_FIELD else rest.removesuffix(".npy"))
