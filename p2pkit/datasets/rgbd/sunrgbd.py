"""`sunrgbd`: SUN RGB-D in its published layout.

Song et al., "SUN RGB-D: A RGB-D Scene Understanding Benchmark Suite", CVPR 2015, and the toolbox's
readme. Anywhere below the folder, a frame's folder holds `image/*.jpg`, `depth_bfx/*.png` (filled)
or `depth/*.png`, and `intrinsics.txt` (3 x 3). Depth is millimetres whose 16 bits are rotated left
by three. Its poses are tilts only and are not read. Labels are `seg.mat` in the frame's folder: the
objects' numbers (`seglabel`) and `names`, of which 37 are classes. The official split is
`SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat` in the folder or beside it. Where boxes come from:
`sunrgbd_boxes`.
"""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from p2pkit.datasets.files.matlab import cell_texts, read_mat
from p2pkit.datasets.files.text import TEXT_ENCODING
from p2pkit.datasets.frame import Frame
from p2pkit.datasets.left_out import LeftOut
from p2pkit.datasets.listing import (
    folders_with,
    frame_list_digest,
    known_frame,
    safe_key,
    visible_files,
)
from p2pkit.datasets.rgbd.calibration import RgbdCalibration, registered
from p2pkit.datasets.rgbd.nyu40 import SUN37, classes_by_name
from p2pkit.datasets.rgbd.reading import RgbdFiles, SeparateImages, rgbd_fingerprint
from p2pkit.datasets.rgbd.sunrgbd_boxes import (
    BOX_NAMES,
    BOX_TABLE,
    SunRgbdBoxes,
    below_sunrgbd,
    end_among,
)
from p2pkit.errors import FrameError, GeometryError, SourceError
from p2pkit.files import sha256_json
from p2pkit.geometry.camera import Camera, camera_from_matrix, check_size_fits

DEPTH_FOLDERS = ("depth_bfx", "depth")
SPLIT = "SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat"
UNITS_PER_METRE = 1000.0
# What tar stores take; sun3ddata has folders such as
# mit_lab_16/lab_16_nov_2_2012_scan1_erika/0000001-000000020431.
LONGEST_KEY = 80


class SunRgbd(SeparateImages):
    """SUN RGB-D frames as a `FrameSource`; a sequence is the folder that holds the frames' folders.

    Keys are the paths of the frames' folders below the given one, with `_` for `/`, at most 80
    characters long. Where the official split is, sequences of its test part begin with `test-`.
    Frames without `seg.mat` are void throughout, if others have one.

    Raises:
        SourceError: no frame's folder is below the given one, or the split cannot be read.
    """

    name = "sunrgbd"

    def _list(self, root: Path) -> list[RgbdFiles]:
        folders = folders_with(root, "intrinsics.txt")
        self._split, tests = _official_split(root)
        found = [_files(folder, root, self.left_out, tests) for folder in folders]
        listed = [files for files in found if files is not None]
        if not listed:
            raise SourceError(
                f"{root}: no folder below contains intrinsics.txt, image/*.jpg and one of "
                f"{', '.join(DEPTH_FOLDERS)}; {len(folders)} contain intrinsics.txt"
            )
        if any(_segmentation(files).is_file() for files in listed):
            self.label_names, self.ignore_label = SUN37, 0
        self._boxes = SunRgbdBoxes(_beside(root, BOX_TABLE))
        has_boxes = any(self._boxes.are_of(_folder(files)) for files in listed)
        self.box_names: Sequence[str] | None = BOX_NAMES if has_boxes else None
        return listed

    def load(self, key: str) -> Frame:
        """Read one frame.

        Raises:
            FrameError: a file is missing or damaged, or no depth is valid.
        """
        frame, files = super().load(key), known_frame(self._frames, key)
        try:
            frame = replace(frame, boxes=self._boxes.of(_folder(files)))
        except SourceError as error:
            raise FrameError(key, str(error)) from error
        if self.label_names is None or frame.depth is None:
            return frame
        return replace(frame, labels=_labels(files, frame.depth.values.shape))

    def _decoded(self, depth: np.ndarray, files: RgbdFiles) -> np.ndarray:
        """Millimetres, by rotating the 16 bits right by three, as the toolbox's read3dPoints.m."""
        return (depth >> 3) | (depth << 13)

    def _calibration(self, files: RgbdFiles) -> RgbdCalibration:
        return registered(_camera(files), UNITS_PER_METRE)

    def fingerprint(self) -> dict[str, Any]:
        """Frame list digest, a digest of all intrinsics, of the split and of the labels' sizes."""
        frames = self._frames.values()
        texts = [_intrinsics(files).read_text(errors="replace") for files in frames]
        found = rgbd_fingerprint(self.name, frames, {})
        if self.label_names is not None:
            found["labels"] = frame_list_digest((one.key, [_segmentation(one)]) for one in frames)
        if self._split:
            found["test_sequences"] = sha256_json([files.sequence for files in frames])
        return found | {"calibration": sha256_json(texts)} | self._units_json()

    def box_fingerprint(self) -> dict[str, Any]:
        """As `SunRgbdBoxes.fingerprint`."""
        return self._boxes.fingerprint(
            (files.key, _folder(files)) for files in self._frames.values()
        )


def _folder(files: RgbdFiles) -> Path:
    return files.depth.parents[1]


def _beside(root: Path, name: str) -> Path | None:
    """The file of this name in the folder or beside it, where there is one."""
    places = (root / name, root.resolve().parent / name)
    return next((path for path in places if path.is_file()), None)


def _official_split(root: Path) -> tuple[bool, set[tuple[str, ...]]]:
    """Whether the toolbox's split is there, and the folders of its test part below SUNRGBD/."""
    path = _beside(root, SPLIT)
    if path is None:
        return False, set()
    listed = cell_texts(read_mat(path, ("alltest",))["alltest"])
    return True, {below_sunrgbd(text) for text in listed}


def _labels(files: RgbdFiles, shape: tuple[int, ...]) -> UInt8[np.ndarray, "height width"]:
    """The class of each depth pixel; void where an object's name is none of the 37."""
    path = _segmentation(files)
    if not path.is_file():
        return np.zeros(shape, np.uint8)
    try:
        found = read_mat(path, ("seglabel", "names"))
    except SourceError as error:
        raise FrameError(files.key, str(error)) from error
    numbers, names = found["seglabel"].astype(np.int64), cell_texts(found["names"])
    low, high = numbers.min(initial=0), numbers.max(initial=0)
    if numbers.shape != shape or low < 0 or high > len(names):
        raise FrameError(
            files.key,
            f"{path.name} has the shape {numbers.shape} and labels {low} to {high} of {len(names)} "
            f"names; expected {shape}, as the depth image, and 0 to {len(names)}",
        )
    return np.concatenate([np.zeros(1, np.uint8), classes_by_name(names)])[numbers]


def _segmentation(files: RgbdFiles) -> Path:
    return _folder(files) / "seg.mat"


def _files(
    folder: Path, root: Path, left_out: list[LeftOut], tests: set[tuple[str, ...]]
) -> RgbdFiles | None:
    color = visible_files(folder / "image", "*.jpg")
    found = (visible_files(folder / name, "*.png") for name in DEPTH_FOLDERS)
    depth = next(filter(None, found), [])
    if not color and not depth:
        return None
    if len(color) != 1 or len(depth) != 1:
        reason = f"{len(color)} colour and {len(depth)} depth images; expected one of each"
        left_out.append(LeftOut(str(folder.relative_to(root)), reason))
        return None
    parts = folder.relative_to(root).parts or (folder.name,)
    sequence = ("test-" if end_among(folder, tests) is not None else "") + "_".join(parts[:-1])
    return RgbdFiles(key=_key(parts), sequence=sequence, color=color[0], depth=depth[0])


def _key(parts: tuple[str, ...]) -> str:
    """The path as a key; of a long one both ends, and a digest of all of it between them."""
    key = safe_key(*parts)
    if len(key) <= LONGEST_KEY:
        return key
    digest = sha256("/".join(parts).encode()).hexdigest()[:8]
    return f"{key[:24]}-{digest}-{key[-46:]}"


def _intrinsics(files: RgbdFiles) -> Path:
    return _folder(files) / "intrinsics.txt"


def _camera(files: RgbdFiles) -> Camera:
    """The frame's own intrinsics, at the size of its depth image."""
    path = _intrinsics(files)
    try:
        numbers = np.array([float(word) for word in path.read_text(TEXT_ENCODING).split()])
        with Image.open(files.depth) as image:
            size = image.size
        camera = camera_from_matrix(numbers.reshape(3, 3), size, path.name)
        return check_size_fits(camera, files.depth.name)
    except (OSError, SyntaxError, ValueError, GeometryError) as error:
        raise FrameError(files.key, f"intrinsics.txt or the depth's size: {error}") from error
