"""NYU Depth V2, labelled frames at half resolution: 320 x 240 with 40 classes and void.

Silberman et al., "Indoor Segmentation and Support Inference from RGBD Images", ECCV 2012. The
folder holds `rgb/ID.jpg`, `depth/ID.png` (mm), `label40/ID.png`, `train.txt`, `classes40.txt` and
`intrinsics.txt`. There are no poses.

The scene of a frame is not given either, but frames of one scene have consecutive numbers and the
official split has no scene on both sides. So a run of consecutive numbers in `train.txt`, which
frames of `test.txt` end, is one or more whole scenes: it is the frame's `sequence`, and cutting
between sequences never cuts a scene. The 795 frames are 123 runs of up to 34.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from p2pkit.datasets.frame import DepthImage, Frame, View
from p2pkit.datasets.frame_list import existing_root, frame_list_digest
from p2pkit.datasets.images import check_depth, read_color, read_depth_png, read_labels
from p2pkit.datasets.options import SourceOptions
from p2pkit.errors import FrameError, GeometryError, SourceError
from p2pkit.geometry.camera import Camera

WIDTH, HEIGHT = 320, 240
UNITS_PER_METRE = 1000.0
# The colour images have a white frame of 3 to 4 px (undistortion; measured on 100 frames: the
# darkest pixel of the outer 3 rows and columns is above 200 in all). No point may learn from it.
BORDER = 4


class NyuV2:
    """The frames of `train.txt` whose colour image exists, as a `FrameSource`."""

    name = "nyuv2"
    ignore_label = 0

    def __init__(self, options: SourceOptions) -> None:
        self._root = existing_root(options, self.name)
        self.label_names: Sequence[str] = _class_names(self._root / "classes40.txt")
        self._camera = _read_intrinsics(self._root / "intrinsics.txt")
        listed = _read_text(self._root / "train.txt").split()
        if wrong := [key for key in listed if not key.isdecimal()]:
            path = self._root / "train.txt"
            raise SourceError(f"{path} holds {wrong[0]!r}; frame numbers are due")
        present = [key for key in listed if (self._root / "rgb" / f"{key}.jpg").is_file()]
        if not present:
            raise SourceError(
                f"{self._root}: none of the {len(listed)} frames of train.txt is in rgb/"
            )
        self._keys = present[:: options.every][: options.limit]
        self._sequence = _runs(listed)
        self._known = frozenset(self._keys)

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
        color_path, depth_path, label_path = self._paths(key)
        size = (WIDTH, HEIGHT)
        depth = _without_border(read_depth_png(depth_path, key, size))
        check_depth(depth, key, depth_path.name)
        view = View(read_color(color_path, key, size), self._camera, np.eye(4))
        return Frame(
            key=key,
            views=(view,),
            depth=DepthImage(depth, self._camera, UNITS_PER_METRE),
            labels=read_labels(label_path, key, size, len(self.label_names)),
            sequence=self._sequence[key],
        )

    def fingerprint(self) -> dict[str, Any]:
        """Frame list digest, intrinsics and the width of the dropped border."""
        return {
            "dataset": self.name,
            "frames": len(self._keys),
            "frame_list": frame_list_digest((key, self._paths(key)) for key in self._keys),
            "sequences": "runs of consecutive numbers in train.txt",
            "calibration": {
                "camera": self._camera.to_json(),
                "depth_units_per_metre": UNITS_PER_METRE,
                "border_px": BORDER,
            },
        }

    def _paths(self, key: str) -> tuple[Path, Path, Path]:
        return (
            self._root / "rgb" / f"{key}.jpg",
            self._root / "depth" / f"{key}.png",
            self._root / "label40" / f"{key}.png",
        )


def _runs(keys: Sequence[str]) -> dict[str, str]:
    """The sequence of each frame: `from-0003` for the run of numbers that begins with 0003."""
    sequence: dict[str, str] = {}
    before, first = None, ""
    for key in sorted(keys, key=int):
        if before is None or int(key) != before + 1:
            first = key
        sequence[key], before = f"from-{first}", int(key)
    return sequence


def _without_border(depth: np.ndarray) -> np.ndarray:
    inside = np.zeros_like(depth)
    inner = (slice(BORDER, -BORDER), slice(BORDER, -BORDER))
    inside[inner] = depth[inner]
    return inside


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise SourceError(f"{path} does not exist; the nyuv2 folder needs it")
    return path.read_text()


def _class_names(path: Path) -> tuple[str, ...]:
    """Parse lines of the form `7 table`; line 0, void, loses its remark in brackets."""
    names: list[str] = []
    for line in _read_text(path).splitlines():
        number, _, name = line.strip().partition(" ")
        if number != str(len(names)) or not name:
            raise SourceError(
                f"{path}: line {len(names) + 1} is {line!r}; '{len(names)} NAME' is due"
            )
        names.append(name.partition("(")[0].strip())
    if len(names) != 41 or names[0] != "void":
        raise SourceError(f"{path}: found {len(names)} classes; void and 40 classes are due")
    return tuple(names)


def _read_intrinsics(path: Path) -> Camera:
    try:
        numbers = [float(word) for word in _read_text(path).split()]
    except ValueError as error:
        raise SourceError(f"{path}: {error}; a 3 x 3 matrix of numbers is needed") from error
    if len(numbers) != 9 or numbers[1] or numbers[3] or numbers[6:] != [0.0, 0.0, 1.0]:
        raise SourceError(f"{path} holds {numbers}; a 3 x 3 pinhole matrix without skew is needed")
    try:
        return Camera(WIDTH, HEIGHT, fx=numbers[0], fy=numbers[4], cx=numbers[2], cy=numbers[5])
    except GeometryError as error:
        raise SourceError(f"{path}: {error}") from error
