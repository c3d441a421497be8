"""Images and texts as other programs write them."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from written_recording import CALIBRATION, HEIGHT, WIDTH

from p2pkit.datasets.files.images import read_color
from p2pkit.datasets.frame import SourceOptions
from p2pkit.datasets.registry import open_source
from p2pkit.errors import FrameError

MakeRecording = Callable[..., Path]
GRADIENT = np.tile(np.arange(WIDTH, dtype=np.uint8) * 4, (HEIGHT, 3, 1)).transpose(0, 2, 1)


def save_turned(path: Path, image: np.ndarray, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(image).save(path, exif=exif, quality=95)


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_an_exif_orientation_that_keeps_the_size_is_refused(
    tmp_path: Path, orientation: int
) -> None:
    path = tmp_path / "frame.jpg"
    save_turned(path, GRADIENT, orientation)
    for size in (None, (WIDTH, HEIGHT)):
        with pytest.raises(FrameError, match=f"EXIF orientation {orientation}, .*without the tag"):
            read_color(path, "key", size)


def test_the_size_tells_which_pixels_a_calibration_means(tmp_path: Path) -> None:
    path = tmp_path / "frame.jpg"
    save_turned(path, GRADIENT, 6)
    as_they_lie = read_color(path, "key", (WIDTH, HEIGHT))
    assert np.abs(as_they_lie.astype(int) - GRADIENT).mean() < 4
    with pytest.raises(FrameError, match="64 x 48 px, but the calibration says 48 x 64"):
        read_color(path, "key", (HEIGHT, WIDTH))
    with pytest.raises(FrameError, match="EXIF orientation 6"):
        read_color(path, "key")
    save_turned(path, GRADIENT[:, :HEIGHT], 8)
    with pytest.raises(FrameError, match="EXIF orientation 8"):
        read_color(path, "key", (HEIGHT, HEIGHT))
    save_turned(path, GRADIENT, 1)
    assert read_color(path, "key").shape == GRADIENT.shape


def test_a_damaged_exif_block_is_no_reason_to_leave_out_an_image(tmp_path: Path) -> None:
    path = tmp_path / "frame.png"
    save_turned(path, GRADIENT, 3)
    data = path.read_bytes()
    start = data.index(b"eXIf")
    length = int.from_bytes(data[start - 4 : start], "big")
    chunk = b"eXIf" + b"no TIFF".ljust(length)
    checksum = zlib.crc32(chunk).to_bytes(4, "big")
    path.write_bytes(data[:start] + chunk + checksum + data[start + length + 8 :])
    np.testing.assert_array_equal(read_color(path, "key"), GRADIENT)


def test_an_alpha_channel_that_says_nothing_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "frame.png"
    rgba = np.dstack([GRADIENT, np.full((HEIGHT, WIDTH), 255, np.uint8)])
    Image.fromarray(rgba).save(path)
    np.testing.assert_array_equal(read_color(path, "key", (WIDTH, HEIGHT)), GRADIENT)
    rgba[3, 4, 3] = 17
    Image.fromarray(rgba).save(path)
    with pytest.raises(FrameError, match=r"transparent somewhere \(alpha 17\)"):
        read_color(path, "key")


def test_names_and_texts_of_windows(make_recording: MakeRecording) -> None:
    """Upper-case endings, .jpeg, CR LF and the mark in front of UTF-8."""
    folder = make_recording("mit Leerzeichen ä")
    with Image.open(folder / "frame-000001.color.png") as image:
        image.save(folder / "frame-000001.color.jpeg")
    (folder / "frame-000001.color.png").unlink()
    before = open_source("posed-rgbd", SourceOptions(folder))
    plain = [before.load(key) for key in list(before.keys())]
    for path in list(folder.glob("frame-*.png")):
        path.rename(path.with_name(path.name.replace("color.png", "COLOR.PNG")))
    for path in folder.glob("*.pose.txt"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b" \r\n") + b"\r\n")
    text = json.dumps(CALIBRATION, indent=1).replace("\n", "\r\n")
    (folder / "camera.json").write_bytes(b"\xef\xbb\xbf" + text.encode())
    source = open_source("posed-rgbd", SourceOptions(folder))
    assert len(source.keys()) == 3
    for key, frame in zip(source.keys(), plain, strict=True):
        found = source.load(key)
        np.testing.assert_array_equal(found.views[0].image, frame.views[0].image)
        np.testing.assert_array_equal(found.world_from_sensor, frame.world_from_sensor)


def pillow(path: Path) -> np.ndarray | None:
    """What Pillow decodes; None where it refuses."""
    try:
        with Image.open(path) as opened:
            return np.array(opened)
    except (OSError, SyntaxError, ValueError):
        return None


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 75},
        {"quality": 95, "subsampling": 0},
        {"quality": 50, "subsampling": 1},
        {"quality": 80, "progressive": True},
        {"quality": 90, "optimize": True, "restart_marker_rows": 1},
        {"quality": 90, "keep_rgb": True},
    ],
)
def test_jpegs_have_the_pixels_that_pillow_gives(tmp_path: Path, options: dict[str, int]) -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (37, 53, 3)).astype(np.uint8)
    image[5:30, 10:40] = (200, 30, 60)
    path = tmp_path / "frame.jpg"
    Image.fromarray(image).save(path, **options)
    pixels = read_color(path, "key", (53, 37))
    assert np.array_equal(pixels, pillow(path))
    assert pixels.flags.writeable


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_jpegs_are_refused(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "frame.jpg"
    Image.fromarray(GRADIENT).convert(mode).save(path)
    with pytest.raises(FrameError, match=f"mode '{mode}'; expected 8-bit RGB"):
        read_color(path, "key")


@pytest.mark.parametrize("progressive", [False, True])
def test_damaged_jpegs_give_what_pillow_gives(tmp_path: Path, progressive: bool) -> None:
    """Cut at any place, or with a byte changed: the pixels that Pillow reads, or an error."""
    random = np.random.default_rng(1)
    path = tmp_path / "frame.jpg"
    image = random.integers(0, 256, (40, 56, 3)).astype(np.uint8)
    Image.fromarray(image).save(path, progressive=progressive)
    whole, refused = path.read_bytes(), 0
    damaged = [whole[:length] for length in range(2, len(whole), len(whole) // 23)]
    damaged += [whole[:-1], whole + b"more"]
    for place in random.integers(len(whole) // 2, len(whole) - 2, 20):
        damaged.append(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
    for data in damaged:
        path.write_bytes(data)
        expected = pillow(path)
        if expected is None or expected.ndim != 3:
            refused += 1
            with pytest.raises(FrameError):
                read_color(path, "key")
        else:
            assert np.array_equal(read_color(path, "key"), expected)
    assert refused > 15
