"""16-bit grey PNGs against Pillow."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from p2pkit.datasets.files.grey_png import SIGNATURE, decode_plain_grey16
from p2pkit.datasets.files.images import read_depth_png
from p2pkit.errors import FrameError

WIDTH, HEIGHT = 23, 17


def chunk(kind: bytes, content: bytes) -> bytes:
    checked = kind + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))


def written(rows: bytes, parts: int = 1, more: bytes = b"") -> bytes:
    """A PNG of filtered rows, its data in several chunks."""
    header = struct.pack(">II", WIDTH, HEIGHT) + b"\x10\0\0\0\0"
    data = zlib.compress(rows)
    step = -(-len(data) // parts)
    body = b"".join(chunk(b"IDAT", data[at : at + step]) for at in range(0, len(data), step))
    return SIGNATURE + chunk(b"IHDR", header) + more + body + chunk(b"IEND", b"")


def filtered(kind: int, seed: int) -> bytes:
    """Random rows that name one filter, or for 5 each its own."""
    random = np.random.default_rng(seed)
    rows = random.integers(0, 256, (HEIGHT, 1 + 2 * WIDTH)).astype(np.uint8)
    rows[:, 0] = kind if kind < 5 else random.integers(0, 5, HEIGHT)
    return rows.tobytes()


def pillow(path: Path) -> np.ndarray | None:
    """What Pillow decodes; None where it refuses."""
    try:
        with Image.open(path) as opened:
            return np.array(opened)
    except (OSError, SyntaxError, ValueError, struct.error, zlib.error):
        return None


@pytest.mark.parametrize("kind", range(6))
@pytest.mark.parametrize("parts", [1, 3])
def test_every_filter_gives_the_pixels_of_pillow(tmp_path: Path, kind: int, parts: int) -> None:
    path = tmp_path / "depth.png"
    path.write_bytes(written(filtered(kind, seed=kind), parts))
    found = decode_plain_grey16(path.read_bytes(), (WIDTH, HEIGHT))
    assert found is not None
    assert found.dtype == np.uint16
    assert np.array_equal(found, pillow(path))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        SIGNATURE,
        written(filtered(5, 0), more=chunk(b"tEXt", b"key\0value")),
        written(filtered(5, 0)[:-1]),
        written(filtered(5, 0) + b"\0"),
        written(b"\x05" + filtered(0, 0)[1:]),
        written(filtered(5, 0)).replace(b"\x10\0\0\0\0", b"\x10\0\0\0\1"),
    ],
)
def test_what_is_not_whole_and_plain_is_left_to_pillow(data: bytes) -> None:
    assert decode_plain_grey16(data, (WIDTH, HEIGHT)) is None


def test_another_size_is_left_to_pillow(tmp_path: Path) -> None:
    path = tmp_path / "depth.png"
    path.write_bytes(written(filtered(5, 0)))
    assert decode_plain_grey16(path.read_bytes(), (HEIGHT, WIDTH)) is None
    with pytest.raises(FrameError, match="23 x 17 px, but the calibration says 17 x 23"):
        read_depth_png(path, "key", (HEIGHT, WIDTH))


def test_damaged_files_give_what_pillow_gives(tmp_path: Path) -> None:
    """Cut at any place, or with a byte changed: the pixels that Pillow reads, or an error."""
    path, refused = tmp_path / "depth.png", 0
    whole = written(filtered(5, 1), parts=2)
    damaged = [whole[:length] for length in range(9, len(whole), len(whole) // 29)]
    damaged.append(whole + b"more")
    for place in np.random.default_rng(2).integers(9, len(whole), 40):
        damaged.append(whole[:place] + bytes([whole[place] ^ 0x21]) + whole[place + 1 :])
    for data in damaged:
        path.write_bytes(data)
        expected = pillow(path)
        if expected is None or expected.shape != (HEIGHT, WIDTH) or expected.dtype != np.uint16:
            refused += 1
            with pytest.raises(FrameError):
                read_depth_png(path, "key", (WIDTH, HEIGHT))
        else:
            assert np.array_equal(read_depth_png(path, "key", (WIDTH, HEIGHT)), expected)
    assert refused > 15


def test_text_beside_the_pixels_changes_none(tmp_path: Path) -> None:
    depth = np.random.default_rng(0).integers(0, 1 << 16, (HEIGHT, WIDTH)).astype(np.uint16)
    text = PngImagePlugin.PngInfo()
    text.add_text("unit", "mm")
    Image.fromarray(depth).save(tmp_path / "depth.png", pnginfo=text)
    assert np.array_equal(read_depth_png(tmp_path / "depth.png", "key", (WIDTH, HEIGHT)), depth)
