"""`s3dis`: rooms of S3DIS as labelled points without images, for evaluation.

Armeni et al., "3D Semantic Parsing of Large-Scale Indoor Spaces", CVPR 2016; the files are those of
`Stanford3dDataset_v1.2_Aligned_Version`: `Area_N/ROOM/Annotations/CLASS_k.txt`, one file for each
object, rows `x y z r g b` (m, z up; 0 to 255).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from p2pkit.datasets.frame import Frame, SourceOptions
from p2pkit.datasets.left_out import LeftOut, read_sequences
from p2pkit.datasets.listing import (
    chosen_frames,
    existing_root,
    frame_list_digest,
    known_frame,
    safe_key,
)
from p2pkit.datasets.points.point_text import place_of, read_rows
from p2pkit.datasets.world import FAR_M
from p2pkit.errors import FrameError, SourceError

CLASSES = (
    "void",
    "ceiling",
    "floor",
    "wall",
    "beam",
    "column",
    "window",
    "door",
    "table",
    "chair",
    "sofa",
    "bookcase",
    "board",
    "clutter",
)
"""The 13 classes, and 0 for files of any other name."""

_CLASS_OF = {name: number for number, name in enumerate(CLASSES) if number}
# Some rooms have stairs, which are not a class: PointNet's preparation, and what follows it, counts
# them as clutter.
_CLASS_OF["stairs"] = _CLASS_OF["clutter"]
# Other files in the folder are not objects: `wall_3 (1).txt`, a copy, and what macOS leaves behind.
_OBJECT = re.compile(r"([A-Za-z]+)_\d+\.txt")
_AREA = re.compile(r"Area_\w+")


@dataclass(frozen=True)
class Room:
    """A room, not yet read; `objects` are its annotation files in order."""

    key: str
    sequence: str
    folder: Path
    objects: tuple[Path, ...]


class S3dis:
    """S3DIS rooms as a `FrameSource` of frames without views.

    A frame is a whole room: z up, the origin on its lowest point's level under the middle of its
    bounding box; `world_from_sensor` leads back to the area's coordinates. Its sequence is area and
    room, so that parts can be cut by area.

    Raises:
        SourceError: the folder contains no room with annotations.
    """

    name = "s3dis"
    label_names: Sequence[str] | None = CLASSES
    ignore_label: int | None = 0

    def __init__(self, options: SourceOptions) -> None:
        root = existing_root(options, self.name)
        self.left_out: list[LeftOut] = []

        def read(folder: Path) -> list[Room]:
            return [_listed(folder)]

        listed = read_sequences(_room_folders(root), read, self.left_out, root)
        self._rooms = chosen_frames(listed, options)

    def keys(self) -> Sequence[str]:
        """`Area_5_office_1`: area and room."""
        return list(self._rooms)

    def load(self, key: str) -> Frame:
        """Read one room.

        Raises:
            FrameError: a file is missing or damaged; the reason names it and the line.
        """
        room = known_frame(self._rooms, key)
        points, colors, labels = _read_room(room)
        low, high = points.min(axis=0).astype(np.float64), points.max(axis=0).astype(np.float64)
        area_from_room = np.eye(4)
        area_from_room[:3, 3] = (*(low[:2] + high[:2]) / 2, low[2])
        return Frame(
            key=key,
            views=(),
            points=(points - area_from_room[:3, 3]).astype(np.float32),
            world_from_sensor=area_from_room,
            labels=labels,
            sequence=room.sequence,
            colors=colors,
        )

    def fingerprint(self) -> dict[str, Any]:
        """Frame list digest with the size of each object's file, and the class names."""
        rooms = self._rooms.values()
        return {
            "dataset": self.name,
            "frames": len(rooms),
            "frame_list": frame_list_digest((room.key, room.objects) for room in rooms),
            "labels": list(CLASSES),
        }


def _room_folders(root: Path) -> list[Path]:
    """Rooms of a data set, of an area, or the one room that `root` is."""
    for pattern in ("Annotations", "*/Annotations", "Area_*/*/Annotations"):
        folders = sorted(path.parent for path in root.glob(pattern) if path.is_dir())
        if folders:
            return folders
    raise SourceError(
        f"{root} contains no Area_N/ROOM/Annotations; give the folder of S3DIS's aligned version "
        "1.2 (Stanford3dDataset_v1.2_Aligned_Version), of one area, or of one room"
    )


def _listed(folder: Path) -> Room:
    annotations = folder / "Annotations"
    objects = sorted(path for path in annotations.iterdir() if _OBJECT.fullmatch(path.name))
    if not objects:
        raise SourceError(f"{annotations} contains no file such as chair_1.txt; rooms need labels")
    area = folder.absolute().parent.name
    name = safe_key(area, folder.absolute().name)
    if not _AREA.fullmatch(area):
        raise SourceError(
            f"{folder} is not in a folder Area_N; expected AREA/ROOM, since the parts are areas"
        )
    return Room(name, name, folder, tuple(objects))


def _read_room(
    room: Room,
) -> tuple[
    Float[np.ndarray, "points 3"], UInt8[np.ndarray, "points 3"], UInt8[np.ndarray, " points"]
]:
    """Positions in the area's coordinates (m), colours and classes of all objects.

    Positions are float32, or float64 where that would be too coarse.
    """
    points: list[np.ndarray] = []
    colors: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for path in room.objects:
        rows = read_rows(path, room.key, columns=6)
        wrong = ~((rows[:, 3:] >= 0) & (rows[:, 3:] <= 255)).all(axis=1)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise FrameError(
                room.key,
                f"{place_of(path)}: row {row + 1} has the colour {rows[row, 3:].tolist()}; "
                "expected 0 to 255",
            )
        name = path.name.partition("_")[0]
        points.append(np.ascontiguousarray(rows[:, :3]))
        colors.append(np.rint(rows[:, 3:]).astype(np.uint8))
        labels.append(np.full(len(rows), _CLASS_OF.get(name, 0), np.uint8))
    cloud = np.concatenate(points)
    if np.abs(cloud).max() <= FAR_M:
        cloud = cloud.astype(np.float32)
    return cloud, np.concatenate(colors), np.concatenate(labels)
