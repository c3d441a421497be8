"""NYU Depth V2, labelled frames at 320 x 240 or 640 x 480 with 40 classes and void.

Silberman et al., "Indoor Segmentation and Support Inference from RGBD Images", ECCV 2012. The
folder holds `rgb/ID.jpg`, `depth/ID.png` (mm), `label40/ID.png`, `train.txt`, `test.txt` or both,
`classes40.txt` and `intrinsics.txt`; or the published `.mat` files, see `labeled`. There are
no poses.

The scene of a frame is not given in the folder, but frames of one scene have consecutive numbers
and the official split has no scene on both sides. So a run of consecutive numbers in `train.txt`,
which frames of `test.txt` end, is one or more whole scenes: it is the frame's `sequence`, and
cutting between sequences never cuts a scene. The 795 frames are 123 runs of up to 34.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from p2pkit.datasets.files.images import check_depth, read_color, read_depth_png, read_labels
from p2pkit.datasets.files.text import read_text
from p2pkit.datasets.frame import DepthImage, Frame, FrameSource, SourceOptions, View
from p2pkit.datasets.listing import chosen_frames, existing_root, frame_list_digest
from p2pkit.datasets.rgbd.depth_scale import DepthProbe
from p2pkit.datasets.rgbd.nyu.labeled import LABELED, NyuV2Labeled
from p2pkit.datasets.rgbd.reading import RgbdListed
from p2pkit.errors import FrameError, GeometryError, SourceError
from p2pkit.geometry.camera import Camera, check_size_fits

LISTS = ("train.txt", "test.txt")
SIZES = ((320, 240), (640, 480))
UNITS_PER_METRE = 1000.0
# At half size the colour images have a white frame of 3 to 4 px (undistortion; measured on 100
# frames: the darkest pixel of the outer 3 rows and columns is above 200 in all). No point may learn
# from it.
BORDER = 4


def open_nyuv2(options: SourceOptions) -> FrameSource:
    """The frames of a folder of images, or of the published file where there are no images.

    Raises:
        SourceError: as `NyuV2` or `NyuV2Labeled`.
    """
    root = existing_root(options, NyuV2.name)
    published = (root / LABELED).is_file() and not (root / "rgb").is_dir()
    return NyuV2Labeled(options) if published else NyuV2(options)


class NyuV2:
    """The frames of `train.txt` and `test.txt` whose colour image exists, as a `FrameSource`.

    One of the lists is enough. With both, the sequences of the test part begin with `test-`.

    Raises:
        SourceError: a text file is missing or wrong, no listed frame exists, or the intrinsics are
            for another size than the images'.
    """

    name = "nyuv2"

    def __init__(self, options: SourceOptions) -> None:
        self._root = existing_root(options, self.name)
        has_labels = (self._root / "label40").is_dir()
        names = _class_names(self._root / "classes40.txt") if has_labels else None
        self.label_names: Sequence[str] | None = names
        self.ignore_label: int | None = 0 if has_labels else None
        self._lists, self._sequence, present = _present(self._root)
        self._camera = _read_intrinsics(self._root / "intrinsics.txt", self._color(present[0]))
        self._border = BORDER * self._camera.width // SIZES[0][0]
        listed = [RgbdListed(key=key, sequence=self._sequence[key]) for key in present]
        self._keys = list(chosen_frames(listed, options))
        self._known = frozenset(self._keys)
        self._units = options.depth_units or UNITS_PER_METRE

    def depth_probes(self) -> Sequence[DepthProbe]:
        """Those of all frames."""
        return [
            DepthProbe(key, self._sequence[key], partial(self._depth, key), lambda: None)
            for key in self._keys
        ]

    def keys(self) -> Sequence[str]:
        """The official frame numbers, "0003" and so on, in the dataset's order."""
        return self._keys

    def load(self, key: str) -> Frame:
        """Read one frame; depth in the white border of the colour image is dropped.

        Raises:
            FrameError: a file is missing, damaged, or of another size or mode; no valid depth.
        """
        if key not in self._known:
            raise FrameError(key, f"no such frame; nyuv2 has {self._keys[0]} to {self._keys[-1]}")
        names = self.label_names
        color_path, _, label_path = self._paths(key)
        size = (self._camera.width, self._camera.height)
        view = View(read_color(color_path, key, size), self._camera, np.eye(4))
        return Frame(
            key=key,
            views=(view,),
            depth=self._depth(key),
            labels=None if names is None else read_labels(label_path, key, size, len(names)),
            sequence=self._sequence[key],
        )

    def _depth(self, key: str) -> DepthImage:
        path = self._paths(key)[1]
        size = (self._camera.width, self._camera.height)
        depth = _without_border(read_depth_png(path, key, size), self._border)
        check_depth(depth, key, path.name)
        return DepthImage(depth, self._camera, self._units)

    def fingerprint(self) -> dict[str, Any]:
        """Frame list digest, intrinsics and the width of the dropped border."""
        return {
            "dataset": self.name,
            "frames": len(self._keys),
            "frame_list": frame_list_digest((key, self._paths(key)) for key in self._keys),
            "sequences": f"runs of consecutive numbers in {' and '.join(self._lists)}",
            "calibration": {
                "camera": self._camera.to_json(),
                "depth_units_per_metre": self._units,
                "border_px": self._border,
            },
        }

    def _color(self, key: str) -> Path:
        return self._root / "rgb" / f"{key}.jpg"

    def _paths(self, key: str) -> tuple[Path, Path, Path]:
        return (
            self._color(key),
            self._root / "depth" / f"{key}.png",
            self._root / "label40" / f"{key}.png",
        )


def _present(root: Path) -> tuple[list[str], dict[str, str], list[str]]:
    """The lists that have frames, the sequence of each of their frames, and those with an image."""
    found = [name for name in LISTS if (root / name).is_file()]
    if not found:
        raise SourceError(f"{root / LISTS[0]} does not exist, nor {LISTS[1]}; nyuv2 needs one")
    counts: list[str] = []
    both: dict[str, tuple[list[str], list[str]]] = {}
    for name in found:
        listed = read_text(root / name, "nyuv2").split()
        if wrong := [key for key in listed if not key.isdecimal()]:
            raise SourceError(f"expected frame numbers, found {wrong[0]!r} in {root / name}")
        present = [key for key in listed if (root / "rgb" / f"{key}.jpg").is_file()]
        if present:
            both[name] = (listed, present)
        counts.append(f"none of the {len(listed)} frames of {name}")
    if not both:
        raise SourceError(f"{root}: {' and '.join(counts)} is in rgb/")
    if len(both) == 1:
        (listed, present), *_ = both.values()
        return [*both], _runs(listed), present
    train, test = (set(listed) for listed, _ in both.values())
    if train & test:
        raise SourceError(f"{root}: frame {min(train & test)} is in {' and in '.join(both)}")
    tests = {key: f"test-{run}" for key, run in _runs(sorted(test)).items()}
    every = sorted((key for _, present in both.values() for key in present), key=int)
    return [*both], _runs(sorted(train)) | tests, every


def _runs(keys: Sequence[str]) -> dict[str, str]:
    """The sequence of each frame: `from-0003` for the run of numbers that begins with 0003."""
    sequence: dict[str, str] = {}
    before, first = None, ""
    for key in sorted(keys, key=int):
        if before is None or int(key) != before + 1:
            first = key
        sequence[key], before = f"from-{first}", int(key)
    return sequence


def _without_border(depth: np.ndarray, border: int) -> np.ndarray:
    inside = np.zeros_like(depth)
    inner = (slice(border, -border), slice(border, -border))
    inside[inner] = depth[inner]
    return inside


def _class_names(path: Path) -> tuple[str, ...]:
    """Parse lines of the form `7 table`; line 0, void, loses its comment in brackets."""
    names: list[str] = []
    for line in read_text(path, "nyuv2").splitlines():
        number, _, name = line.strip().partition(" ")
        if number != str(len(names)) or not name:
            raise SourceError(
                f"{path}: line {len(names) + 1} is {line!r}; expected '{len(names)} NAME'"
            )
        names.append(name.partition("(")[0].strip())
    if len(names) != 41 or names[0] != "void":
        raise SourceError(f"{path}: expected void and 40 classes, found {len(names)}")
    return tuple(names)


def _read_intrinsics(path: Path, image: Path) -> Camera:
    """Of images as large as this one."""
    width, height = _size(image)
    try:
        numbers = [float(word) for word in read_text(path, "nyuv2").split()]
    except ValueError as error:
        raise SourceError(f"{path}: {error}; expected a 3 x 3 matrix of numbers") from error
    if len(numbers) != 9 or numbers[1] or numbers[3] or numbers[6:] != [0.0, 0.0, 1.0]:
        raise SourceError(
            f"expected a 3 x 3 pinhole matrix without skew, found {numbers} in {path}"
        )
    try:
        camera = Camera(width, height, fx=numbers[0], fy=numbers[4], cx=numbers[2], cy=numbers[5])
        return check_size_fits(camera, image.name)
    except GeometryError as error:
        raise SourceError(f"{path}: {error}") from error


def _size(image: Path) -> tuple[int, int]:
    """Of an image; half size if it cannot be read, which loading the frame reports."""
    try:
        with Image.open(image) as opened:
            return opened.size if opened.size in SIZES else SIZES[0]
    except (OSError, SyntaxError, ValueError):
        return SIZES[0]
