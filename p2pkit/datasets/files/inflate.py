"""Unpacking zlib's format with ISA-L, in half of zlib's time."""

from isal import isal_zlib
from isal.igzip_lib import IsalError


def inflate(data: bytes, limit: int) -> tuple[bytes, bool]:
    """The first bytes that `data` unpacks to, at most `limit`.

    Also returns whether these are all, with the right checksum. A limit of one more than expected
    reveals longer data without unpacking all of it.

    Raises:
        ValueError: the data is damaged.
    """
    stream = isal_zlib.decompressobj()
    try:
        return stream.decompress(data, limit), stream.eof
    except IsalError as error:  # pyright: ignore[reportGeneralTypeIssues]  (its stub lacks `type`)
        raise ValueError(str(error)) from error
