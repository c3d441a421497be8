"""Plain PNGs against Pillow: 16-bit grey and 8-bit RGB."""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from p2pkit.datasets.files.images import read_color, read_depth_png
from p2pkit.datasets.files.plain_png import SIGNATURE, decode_plain_grey16, decode_plain_rgb
from p2pkit.errors import FrameError

WIDTH, HEIGHT = 23, 17


def chunk(kind: bytes, content: bytes) -> bytes:
    checked = kind + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))


@dataclass(frozen=True)
class Kind:
    """A kind of PNG: its header's last bytes, its bytes a pixel, and what reads it."""

    header: bytes
    bytes_per_pixel: int
    decode: Callable[[bytes, tuple[int, int] | None], np.ndarray | None]
    read: Callable[[Path, str, tuple[int, int]], np.ndarray]


GREY = Kind(b"\x10\0\0\0\0", 2, decode_plain_grey16, read_depth_png)
RGB = Kind(b"\x08\x02\0\0\0", 3, decode_plain_rgb, read_color)
both_kinds = pytest.mark.parametrize("kind", [GREY, RGB], ids=["grey", "rgb"])


def written(
    kind: Kind, rows: bytes, parts: int = 1, before: bytes = b"", after: bytes = b""
) -> bytes:
    """A PNG of filtered rows, its data in several chunks, with others before and after them."""
    header = struct.pack(">II", WIDTH, HEIGHT) + kind.header
    data = zlib.compress(rows)
    step = -(-len(data) // parts)
    pieces = [chunk(b"IDAT", data[at : at + step]) for at in range(0, len(data), step)]
    ends = before + pieces[0] + after + b"".join(pieces[1:]) + chunk(b"IEND", b"")
    return SIGNATURE + chunk(b"IHDR", header) + ends


def filtered(kind: Kind, filter_number: int, seed: int = 0) -> bytes:
    """Random rows that name one filter, or for 5 each its own."""
    random = np.random.default_rng(seed)
    rows = random.integers(0, 256, (HEIGHT, 1 + kind.bytes_per_pixel * WIDTH)).astype(np.uint8)
    rows[:, 0] = filter_number if filter_number < 5 else random.integers(0, 5, HEIGHT)
    return rows.tobytes()


def pillow(path: Path) -> np.ndarray | None:
    """What Pillow decodes; None where it refuses."""
    try:
        with Image.open(path) as opened:
            return np.array(opened)
    except (OSError, SyntaxError, ValueError, struct.error, zlib.error):
        return None


COLOR_SPACE = b"".join(
    chunk(name, content)
    for name, content in (
        (b"sRGB", b"\0"),
        (b"gAMA", struct.pack(">I", 45455)),
        (b"pHYs", struct.pack(">IIB", 3779, 3779, 1)),
    )
)


@both_kinds
@pytest.mark.parametrize("filter_number", range(6))
@pytest.mark.parametrize("parts", [1, 3])
def test_every_filter_gives_the_pixels_of_pillow(
    tmp_path: Path, kind: Kind, filter_number: int, parts: int
) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(written(kind, filtered(kind, filter_number), parts, before=COLOR_SPACE))
    expected = pillow(path)
    assert expected is not None
    for size in ((WIDTH, HEIGHT), None):
        found = kind.decode(path.read_bytes(), size)
        assert found is not None
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected)


def odd_files(kind: Kind) -> dict[str, bytes]:
    """What is not whole and plain."""
    rows = filtered(kind, 5)
    return {
        "empty": b"",
        "signature alone": SIGNATURE,
        "text": written(kind, rows, before=chunk(b"tEXt", b"key\0value")),
        "transparent colour": written(kind, rows, before=chunk(b"tRNS", b"\0" * 6)),
        "interrupted": written(kind, rows, parts=2, after=COLOR_SPACE),
        "a byte short": written(kind, rows[:-1]),
        "a byte more": written(kind, rows + b"\0"),
        "unknown filter": written(kind, b"\x05" + rows[1:]),
        "interlaced": written(replace(kind, header=kind.header[:-1] + b"\1"), rows),
        "palette": written(replace(kind, header=b"\x08\x03\0\0\0"), rows),
    }


@both_kinds
@pytest.mark.parametrize("name", odd_files(GREY))
def test_what_is_not_whole_and_plain_is_left_to_pillow(kind: Kind, name: str) -> None:
    assert kind.decode(odd_files(kind)[name], (WIDTH, HEIGHT)) is None


def test_an_image_too_large_for_pillow_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    data = written(RGB, filtered(RGB, 0))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", WIDTH * HEIGHT - 1)
    assert decode_plain_rgb(data, None) is None


@both_kinds
def test_another_size_is_left_to_pillow(tmp_path: Path, kind: Kind) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(written(kind, filtered(kind, 5)))
    assert kind.decode(path.read_bytes(), (HEIGHT, WIDTH)) is None
    with pytest.raises(FrameError, match="23 x 17 px, but the calibration says 17 x 23"):
        kind.read(path, "key", (HEIGHT, WIDTH))


@both_kinds
def test_damaged_files_give_what_pillow_gives(tmp_path: Path, kind: Kind) -> None:
    """Cut at any place, or with a byte changed: the pixels that Pillow reads, or an error."""
    path, refused = tmp_path / "image.png", 0
    whole = written(kind, filtered(kind, 5, seed=1), parts=2)
    path.write_bytes(whole)
    undamaged = pillow(path)
    assert undamaged is not None
    damaged = [whole[:length] for length in range(9, len(whole), len(whole) // 29)]
    damaged.append(whole + b"more")
    for place in np.random.default_rng(2).integers(9, len(whole), 40):
        damaged.append(whole[:place] + bytes([whole[place] ^ 0x21]) + whole[place + 1 :])
    for data in damaged:
        path.write_bytes(data)
        expected = pillow(path)
        if expected is None or (expected.shape, expected.dtype) != (
            undamaged.shape,
            undamaged.dtype,
        ):
            refused += 1
            with pytest.raises(FrameError):
                kind.read(path, "key", (WIDTH, HEIGHT))
        else:
            assert np.array_equal(kind.read(path, "key", (WIDTH, HEIGHT)), expected)
    assert refused > 15


def test_text_beside_the_pixels_changes_none(tmp_path: Path) -> None:
    depth = np.random.default_rng(0).integers(0, 1 << 16, (HEIGHT, WIDTH)).astype(np.uint16)
    text = PngImagePlugin.PngInfo()
    text.add_text("unit", "mm")
    Image.fromarray(depth).save(tmp_path / "depth.png", pnginfo=text)
    assert np.array_equal(read_depth_png(tmp_path / "depth.png", "key", (WIDTH, HEIGHT)), depth)
