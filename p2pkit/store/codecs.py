"""How a field's bytes are stored. A payload is a valid .npy under every codec.

`none` stores the array itself. Any other codec stores a one-dimensional uint8 array whose bytes are
the .npy header of the decoded array followed by the compressed data.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np

from p2pkit.store.npy import NpyError, npy_header, parse_header, parse_npy

Buffer = bytes | memoryview
PROBED_MAPS = 32
WORTH_COMPRESSING = 0.8
LZ4_RATIO = 256
"""No byte of an LZ4 block stands for more than 255 decoded ones."""


@dataclass(frozen=True)
class Codec:
    """One way to store the data of an array.

    Args:
        encode: compressed bytes of a C-ordered, not empty array.
        decode: fills the flat array (second argument) from the compressed bytes; NpyError where
            they do not decode to exactly its size. None where arrays are stored as they are.
        integers_only: whether the codec refuses floats.
    """

    encode: Callable[[np.ndarray], Buffer]
    decode: Callable[[memoryview, np.ndarray], None] | None
    integers_only: bool = False


def _bytes_of(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _steps(array: np.ndarray) -> np.ndarray:
    """Each value minus the one before it; the first as it is."""
    flat = array.reshape(-1)
    steps = flat.copy()
    steps[1:] -= flat[:-1]
    return steps


def _shuffled(array: np.ndarray) -> np.ndarray:
    """The first bytes of all values, then the second bytes, and so on."""
    from numcodecs.shuffle import Shuffle

    return Shuffle(array.itemsize).encode(array.reshape(-1))


def _lz4(data: Buffer | np.ndarray) -> bytes:
    from numcodecs.lz4 import LZ4

    return bytes(LZ4(acceleration=1).encode(data))


def _zstd(data: Buffer | np.ndarray) -> bytes:
    from numcodecs.zstd import Zstd

    return bytes(Zstd(level=1).encode(data))


def _undo_lz4(data: memoryview, out: np.ndarray) -> None:
    from numcodecs.lz4 import LZ4

    if int.from_bytes(data[:4], "little") != out.nbytes:
        raise NpyError("the lz4 block declares another size than the header of its array")
    if out.nbytes > LZ4_RATIO * len(data):
        raise NpyError(f"{len(data)} bytes of lz4 cannot hold {out.nbytes} bytes")
    LZ4().decode(data, out=out.view(np.uint8).reshape(-1))


def decode_zstd(data: memoryview, out: np.ndarray) -> None:
    """Fill an array from one zstd frame; NpyError where the frame is of another size."""
    from numcodecs.zstd import Zstd

    if _zstd_content_size(data) != out.nbytes:
        raise NpyError("the zstd frame declares another size than the header of its array")
    Zstd().decode(data, out=out.view(np.uint8).reshape(-1))


def _through_shuffle(
    undo: Callable[[memoryview, np.ndarray], None], *, sum_up: bool = False
) -> Callable[[memoryview, np.ndarray], None]:
    """A decoder that decompresses, puts the bytes together again, and may sum the steps up."""

    def fill(data: memoryview, out: np.ndarray) -> None:
        from p2pkit.store.codec_kernels import running_sum, undo_shuffle

        shuffled = np.empty((out.itemsize, out.size), np.uint8)
        undo(data, shuffled)
        undo_shuffle(shuffled, out.view(np.uint8).reshape(out.size, out.itemsize))
        if sum_up:
            running_sum(out)

    return fill


def _zstd_content_size(data: memoryview) -> int | None:
    """Decoded size that a zstd frame declares (RFC 8878, 3.1.1.1), None where it declares none."""
    if len(data) < 6 or bytes(data[:4]) != b"\x28\xb5\x2f\xfd":
        return None
    descriptor = data[4]
    single_segment = bool(descriptor & 0x20)
    flag = descriptor >> 6
    size = (1 if single_segment else 0, 2, 4, 8)[flag]
    first = 5 + (not single_segment) + (0, 1, 2, 4)[descriptor & 3]
    if size == 0 or len(data) < first + size:
        return None
    return int.from_bytes(data[first : first + size], "little") + (256 if size == 2 else 0)


CODECS: dict[str, Codec] = {
    "none": Codec(_bytes_of, None),
    "lz4": Codec(lambda array: _lz4(_bytes_of(array)), _undo_lz4),
    "zstd": Codec(lambda array: _zstd(_bytes_of(array)), decode_zstd),
    "shuffle-lz4": Codec(lambda array: _lz4(_shuffled(array)), _through_shuffle(_undo_lz4)),
    "shuffle-zstd": Codec(lambda array: _zstd(_shuffled(array)), _through_shuffle(decode_zstd)),
    "delta-shuffle-lz4": Codec(
        lambda array: _lz4(_shuffled(_steps(array))),
        _through_shuffle(_undo_lz4, sum_up=True),
        integers_only=True,
    ),
}


def encode(array: np.ndarray, codec: str) -> list[Buffer]:
    """The payload of one field as buffers to be written one after the other.

    The array itself is not copied where it is C-ordered and the codec is `none`.
    """
    array = np.asarray(array, order="C")
    header = npy_header(array.dtype.str, array.shape)
    data = CODECS[codec].encode(array) if array.size else b""
    if codec == "none":
        return [header, data]
    return [npy_header("|u1", (len(header) + len(data),)), header, data]


def decode(payload: memoryview, codec: str) -> np.ndarray:
    """The array of a payload; for `none` a view on the payload's memory.

    Raises:
        NpyError: the payload is not what `encode` makes. Nothing larger than
            `npy.LARGEST_ARRAY` is ever allocated.
    """
    stored = parse_npy(payload)
    fill = CODECS[codec].decode
    if fill is None:
        return stored
    if stored.dtype != np.uint8 or stored.ndim != 1:
        raise NpyError(
            f"expected bytes in a {codec} payload, found {stored.dtype.str} {stored.shape}"
        )
    data = stored.data
    dtype, shape, nbytes, length = parse_header(data)
    array = np.empty(shape, dtype)
    if nbytes == 0:
        if len(data) != length:
            raise NpyError(f"an empty array is followed by {len(data) - length} bytes")
        return array
    try:
        fill(data[length:], array.reshape(-1))
    except (RuntimeError, ValueError) as error:
        raise NpyError(f"the {codec} data does not decode: {error}") from None
    return array


def choose_map_codec(maps: Iterable[np.ndarray]) -> str:
    """`zstd` if the first 32 maps compress below 0.8 of their size together, else `none`.

    Maps behind a ReLU hold many zeros and gain; dense ones do not and are faster as they are.
    """
    before = after = 0
    for feature_map in islice(maps, PROBED_MAPS):
        if feature_map.size:
            before += feature_map.nbytes
            after += len(_zstd(_bytes_of(np.asarray(feature_map, order="C"))))
    return "zstd" if after < WORTH_COMPRESSING * before else "none"
