"""`nyuv2` as published: `nyu_depth_v2_labeled.mat` and `splits.mat`, 1449 frames of 640 x 480.

Silberman et al., "Indoor Segmentation and Support Inference from RGBD Images", ECCV 2012. The
colour camera's intrinsics and the crop are those of the toolbox (`camera_params.m`,
`get_projection_mask.m`); depth is the filled one, which is registered to colour. Outside of the
crop colour or depth is missing, so depth is dropped there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8, UInt16

from p2pkit.datasets.files.images import check_depth
from p2pkit.datasets.files.matlab import cell_texts, hdf5_texts, open_hdf5, read_mat
from p2pkit.datasets.frame import DepthImage, Frame, SourceOptions, View
from p2pkit.datasets.listing import chosen_frames, existing_root, known_frame, safe_key
from p2pkit.datasets.rgbd.depth_scale import DepthProbe, probes_of
from p2pkit.datasets.rgbd.nyu40 import NYU40, classes_by_name
from p2pkit.errors import FrameError, SourceError
from p2pkit.files import sha256_json
from p2pkit.geometry.camera import Camera

LABELED, SPLITS, CLASSES = "nyu_depth_v2_labeled.mat", "splits.mat", "classMapping40.mat"
CAMERA = Camera(
    640,
    480,
    fx=518.85790117450188,
    fy=519.46961112127485,
    cx=325.58244941119034,
    cy=253.73616633400465,
)
CROP = (slice(44, 471), slice(40, 601))
"""Rows and columns, 427 x 561, in which all images have content."""
UNITS_PER_METRE = 1000.0
_SHAPES = {
    "images": (3, 640, 480),
    "depths": (640, 480),
    "labels": (640, 480),
    "instances": (640, 480),
}
"""Of one frame of each array, in HDF5's order, which is the reverse of MATLAB's."""


@dataclass(frozen=True)
class LabeledFrame:
    """A frame of the file that is not yet read; `row` is its place there."""

    key: str
    sequence: str
    row: int


class NyuV2Labeled:
    """The labelled frames of the published file as a `FrameSource`; each is read on its own.

    Classes are the 40 by `classMapping40.mat` of Gupta et al. where that file is beside. Without it
    objects have the class of their name, and others than the 37 named ones are void. A sequence is
    a scene; those of the official test part begin with `test-`.

    Raises:
        SourceError: a file is missing or damaged, or its arrays do not have the published shapes.
        MissingDependencyError: h5py is not installed.
    """

    name = "nyuv2"
    label_names: Sequence[str] | None = NYU40
    ignore_label: int | None = 0

    def __init__(self, options: SourceOptions) -> None:
        root = existing_root(options, self.name)
        self._path = root / LABELED
        with open_hdf5(self._path) as file:
            count = _check_shapes(file, self._path)
            names, scenes = hdf5_texts(file, "names"), hdf5_texts(file, "scenes")
        if len(scenes) != count:
            raise SourceError(f"{self._path} names {len(scenes)} scenes of {count} frames")
        self._class_of = _class_of(root / CLASSES, names)
        listed = [
            LabeledFrame(f"{row + 1:04d}", part + safe_key(scenes[row]), row)
            for row, part in sorted(_parts(root / SPLITS, count).items())
        ]
        self._frames = chosen_frames(listed, options)
        # What is stored are metres.
        self._units = options.depth_units or 1.0

    def depth_probes(self) -> Sequence[DepthProbe]:
        """Those of all frames."""
        return probes_of(self._frames.values(), self._depth)

    def keys(self) -> Sequence[str]:
        """The official frame numbers, "0001" to "1449"."""
        return list(self._frames)

    def load(self, key: str) -> Frame:
        """Read one frame; depth and labels outside of the crop are dropped.

        Raises:
            FrameError: the file is damaged, a label has no name, or no depth is valid.
        """
        frame = known_frame(self._frames, key)
        image = self._read("images", frame).transpose(1, 2, 0)
        raw = _inside(self._read("labels", frame))
        if raw.max(initial=0) >= len(self._class_of):
            raise FrameError(
                key, f"label {raw.max()} is above the {len(self._class_of) - 1} names of the file"
            )
        return Frame(
            key=key,
            views=(View(np.ascontiguousarray(image), CAMERA, np.eye(4)),),
            depth=self._depth(frame),
            labels=self._class_of[raw],
            instances=_objects(raw, _inside(self._read("instances", frame))),
            sequence=frame.sequence,
        )

    def fingerprint(self) -> dict[str, Any]:
        """Digests of frame list and classes, size of the file, calibration and crop."""
        frames = self._frames.values()
        return {
            "dataset": self.name,
            "frames": len(frames),
            "frame_list": sha256_json([[frame.key, frame.sequence] for frame in frames]),
            "file_bytes": self._path.stat().st_size,
            "classes": sha256_json(self._class_of.tolist()),
            "calibration": {
                "camera": CAMERA.to_json(),
                "stored_units_per_metre": self._units,
                "crop": [[part.start, part.stop] for part in CROP],
            },
        }

    def _depth(self, frame: LabeledFrame) -> DepthImage:
        values = _millimetres(self._read("depths", frame) / np.float32(self._units))
        depth = _inside(values)
        check_depth(depth, frame.key, "depths")
        return DepthImage(depth, CAMERA, UNITS_PER_METRE)

    def _read(self, name: str, frame: LabeledFrame) -> np.ndarray:
        """One frame of an array, in the order [... height width]; the rest is not read.

        The file is opened each time, so that threads and processes share nothing.
        """
        with open_hdf5(self._path) as file:
            try:
                return np.swapaxes(file[name][frame.row], -1, -2)
            except (KeyError, OSError, ValueError) as error:
                raise FrameError(frame.key, f"{name} cannot be read: {error}") from error


def _check_shapes(file: Any, path: Path) -> int:
    """The number of frames."""
    count = 0
    for name, shape in _SHAPES.items():
        found = getattr(file.get(name), "shape", None)
        count = count or (found[0] if found else 0)
        if found != (count, *shape):
            published = " x ".join(map(str, (*reversed(shape), "frames")))
            raise SourceError(
                f"{path}: {name} has the shape {found} in HDF5's order; expected MATLAB's "
                f"{published}, as published"
            )
    return count


def _parts(path: Path, count: int) -> dict[int, str]:
    """What the sequence of each listed row of the file begins with."""
    found = read_mat(path, ("trainNdxs", "testNdxs"))
    train, test = (found[name].ravel().astype(np.int64) - 1 for name in ("trainNdxs", "testNdxs"))
    both = np.concatenate([train, test])
    if len(np.unique(both)) < len(both) or both.min(initial=0) < 0 or both.max(initial=-1) >= count:
        raise SourceError(
            f"{path}: expected each frame number once, from 1 to {count}; found {len(both)} from "
            f"{both.min(initial=0) + 1} to {both.max(initial=-1) + 1}"
        )
    return {**dict.fromkeys(train.tolist(), ""), **dict.fromkeys(test.tolist(), "test-")}


def _class_of(path: Path, names: Sequence[str]) -> UInt8[np.ndarray, " labels"]:
    """The class of each raw label; label 0 is void."""
    if not path.is_file():
        return np.concatenate([np.zeros(1, np.uint8), classes_by_name(names)])
    found = read_mat(path, ("mapClass", "className"))
    classes = found["mapClass"].ravel().astype(np.int64)
    found_names = cell_texts(found["className"])
    if len(classes) != len(names) or classes.min() < 0 or classes.max() > len(NYU40) - 1:
        raise SourceError(
            f"{path} maps {len(classes)} labels to classes up to {classes.max()}; expected "
            f"{len(names)} labels, as in {LABELED}, and at most {len(NYU40) - 1}"
        )
    if len(found_names) != len(NYU40) - 1:
        raise SourceError(f"{path} has {len(found_names)} classes; expected {len(NYU40) - 1}")
    return np.concatenate([[0], classes]).astype(np.uint8)


def _inside(values: np.ndarray) -> np.ndarray:
    """The values of a [height width] array in the crop, and 0 around it."""
    cropped = np.zeros_like(values)
    cropped[CROP] = values[CROP]
    return cropped


def _millimetres(metres: Float32[np.ndarray, "height width"]) -> UInt16[np.ndarray, "height width"]:
    """Depth in millimetres; 0 for what is not finite or does not fit into 16 bits."""
    rounded = np.rint(metres.astype(np.float64) * UNITS_PER_METRE)
    valid = np.isfinite(rounded) & (rounded > 0) & (rounded <= np.iinfo(np.uint16).max)
    return np.where(valid, rounded, 0).astype(np.uint16)


def _objects(
    labels: UInt16[np.ndarray, "height width"], instances: UInt8[np.ndarray, "height width"]
) -> UInt16[np.ndarray, "height width"]:
    """Numbers of a frame's objects from 1, 0 without: the file counts instances by label."""
    pairs = labels.astype(np.int64) * 256 + instances
    pairs[(labels == 0) | (instances == 0)] = 0
    known, numbers = np.unique(pairs, return_inverse=True)
    return (numbers.reshape(pairs.shape) + (known[0] != 0)).astype(np.uint16)
