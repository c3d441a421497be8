"""Boxes of SUN RGB-D: of the published table of all frames, or of each frame's own annotation.

`SUNRGBDMeta3DBB_v2.mat` has the corrected boxes that VoteNet (Qi et al. 2019) and its successors
are measured on. Without it, boxes are those of `annotation3Dfinal/index.json` in each frame's
folder.
"""

from collections.abc import Collection, Iterable
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float64

from p2pkit.datasets.boxes import Annotation, files_fingerprint, upright_boxes
from p2pkit.datasets.files.matlab import mat_text, read_mat
from p2pkit.datasets.files.text import json_field, numbers, read_json, read_text, rigid
from p2pkit.datasets.frame import Boxes
from p2pkit.datasets.listing import visible_files
from p2pkit.errors import SourceError
from p2pkit.files import sha256_file, sha256_json

BOX_TABLE = "SUNRGBDMeta3DBB_v2.mat"
BOX_NAMES = (
    "bed",
    "table",
    "sofa",
    "chair",
    "toilet",
    "desk",
    "dresser",
    "night_stand",
    "bookshelf",
    "bathtub",
)
"""The 10 classes that VoteNet is measured on; objects of hundreds of others are not boxes here."""
# The table's axes (x right, y forward, z up) of a camera that is not tilted.
_CAMERA_FROM_FORWARD = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])


class SunRgbdBoxes:
    """Where the boxes of frames come from, by the frames' folders.

    Args:
        table: path of `BOX_TABLE`; None takes each frame's own annotation.
    """

    def __init__(self, table: Path | None) -> None:
        self._table = table

    def are_of(self, folder: Path) -> bool:
        """Whether a frame is annotated."""
        return self._table is not None or _annotation(folder).is_file()

    def of(self, folder: Path) -> Boxes | None:
        """The boxes of a frame in its camera's heading; None without annotation.

        Raises:
            SourceError: the annotation is damaged or has no rotation, or the table lacks the frame.
        """
        if self._table is None:
            return _boxes_of_prisms(folder)
        end = end_among(folder, self._rows)
        if end is None:
            raise SourceError(
                f"{self._table} has no frame {folder.name} among its {len(self._rows)}: folders "
                "below SUNRGBD need their published names. Without the table, boxes are those of "
                "annotation3Dfinal"
            )
        return _boxes_of_row(self._rows[end], self._table)

    def fingerprint(self, frames: Iterable[tuple[str, Path]]) -> dict[str, Any]:
        """Digest of the table, or of the annotations' files and the rotations that level cameras.

        Args:
            frames: key and folder of each.
        """
        if self._table is not None:
            return {"annotations": sha256_file(self._table)}
        listed = list(frames)
        turns = [
            [path.read_text(errors="replace") for path in _extrinsics(folder)]
            for _, folder in listed
        ]
        found = files_fingerprint((key, _annotation(folder)) for key, folder in listed)
        return found | {"extrinsics": sha256_json(turns)}

    @cached_property
    def _rows(self) -> dict[tuple[str, ...], np.void]:
        """The table's rows by the folders of their frames below SUNRGBD/."""
        assert self._table is not None
        rows = read_mat(self._table, ("SUNRGBDMeta",))["SUNRGBDMeta"].ravel()
        needed = {"sequenceName", "groundtruth3DBB", "Rtilt"}
        if not needed <= {*(rows.dtype.names or ())}:
            raise SourceError(
                f"{self._table}: SUNRGBDMeta lacks one of {', '.join(sorted(needed))}"
            )
        return {below_sunrgbd(mat_text(row["sequenceName"])): row for row in rows}


def below_sunrgbd(path: str) -> tuple[str, ...]:
    """The folders below SUNRGBD/ of a published path, /n/fs/sun3d/data/SUNRGBD/kv2/[...]/0002/."""
    return PurePosixPath(path.rpartition("SUNRGBD/")[2]).parts


def end_among(folder: Path, known: Collection[tuple[str, ...]]) -> tuple[str, ...] | None:
    """The end of the path that is one of the known ones."""
    parts = folder.absolute().parts
    return next((parts[-n:] for n in range(1, len(parts)) if parts[-n:] in known), None)


def _boxes_of_row(row: np.void, table: Path) -> Boxes:
    """Of the 10 classes: `coeffs` are half the sides along the rows of `basis`, as in the toolbox.

    The axes are x right, y forward and z up of the camera, turned by `Rtilt`.
    """
    found: list[Annotation] = []
    try:
        for one in row["groundtruth3DBB"].ravel():
            name = mat_text(one["classname"])
            if name in BOX_NAMES:
                center, half = (_array(one[field], 3) for field in ("centroid", "coeffs"))
                along = _array(one["basis"], 9)[:3]
                found.append(Annotation(name, center, along, 2 * np.abs(half)))
        tilt = np.eye(4)
        tilt[:3, :3] = _array(row["Rtilt"], 9).reshape(3, 3)
    except (ValueError, TypeError, IndexError) as error:
        raise SourceError(f"{table}: a box of {mat_text(row['sequenceName'])}: {error}") from error
    camera_from_table = np.eye(4)
    turn = rigid(tilt, f"{table}: Rtilt of {mat_text(row['sequenceName'])}")[:3, :3]
    camera_from_table[:3, :3] = _CAMERA_FROM_FORWARD @ turn.T
    return upright_boxes(
        found, BOX_NAMES, sensor_from_annotation=camera_from_table, up=(0.0, 0.0, 1.0)
    )


def _array(value: Any, count: int) -> Float64[np.ndarray, " count"]:
    """`count` numbers, row after row."""
    return np.asarray(value, np.float64).reshape(count)


def _boxes_of_prisms(folder: Path) -> Boxes | None:
    """Of the annotated prisms of the 10 classes, where there are any.

    A prism has four corners X, Z and the heights Ymin and Ymax, in the axes (x right, y down,
    z forward) of a level camera; like VoteNet, its first and second side are taken as the box's.
    """
    path = _annotation(folder)
    if not path.is_file():
        return None
    found: list[Annotation] = []
    for one in json_field(read_json(path, "sunrgbd"), "objects", path):
        name = str(one.get("name", "")) if isinstance(one, dict) else ""
        if name not in BOX_NAMES or not one.get("polygon"):
            continue
        prism = one["polygon"][0]
        x, z = (numbers(json_field(prism, axis, path), 4, axis, path) for axis in "XZ")
        heights = [json_field(prism, end, path) for end in ("Ymin", "Ymax")]
        low, high = numbers(heights, 2, "Ymin and Ymax", path)
        center = ((x[0] + x[2]) / 2, (low + high) / 2, (z[0] + z[2]) / 2)
        along, across = (x[1] - x[0], 0.0, z[1] - z[0]), (x[2] - x[1], 0.0, z[2] - z[1])
        size = (float(np.linalg.norm(along)), float(np.linalg.norm(across)), abs(high - low))
        found.append(Annotation(name, center, along, size))
    camera_from_level = np.eye(4)
    camera_from_level[:3, :3] = _level_from_camera(folder).T
    return upright_boxes(
        found, BOX_NAMES, sensor_from_annotation=camera_from_level, up=(0.0, -1.0, 0.0)
    )


def _annotation(folder: Path) -> Path:
    return folder / "annotation3Dfinal" / "index.json"


def _extrinsics(folder: Path) -> list[Path]:
    return visible_files(folder / "extrinsics", "*.txt")


def _level_from_camera(folder: Path) -> Float64[np.ndarray, "3 3"]:
    """The rotation in the last file of `extrinsics/`, which the toolbox takes, too."""
    places = _extrinsics(folder)
    if not places:
        raise SourceError(f"no file in {folder / 'extrinsics'}; its boxes need one")
    path, transform = places[-1], np.eye(4)
    words = read_text(path, "sunrgbd").split()
    transform[:3] = np.reshape(numbers(words, 12, "the extrinsics", path), (3, 4))
    return rigid(transform, str(path))[:3, :3]
