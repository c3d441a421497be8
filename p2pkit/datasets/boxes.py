"""What readers of annotated boxes share: from a dataset's own axes to a frame's `Boxes`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float64, Int64

from p2pkit.datasets.frame import UNKNOWN_CLASS, Boxes, Frame
from p2pkit.datasets.listing import frame_list_digest
from p2pkit.geometry.backproject import back_project
from p2pkit.geometry.boxes import Upright, count_in_boxes
from p2pkit.geometry.gravity import rotation_to_z_up

FEWEST_POINTS = 50
"""A box that is known from elsewhere belongs to a frame if so many points of its class are in it:
at 320 x 240 px a ball of 11 cm at 4 m has about 160.
"""
SAME_BOX_M = 0.05
"""Boxes of one class whose centres and sides differ by less are the same object."""

Vector = Sequence[float | int] | Float64[np.ndarray, "3"]


@runtime_checkable
class HasBoxes(Protocol):
    """A source whose frames may have boxes."""

    @property
    def box_names(self) -> Sequence[str] | None:
        """Name of each class of boxes, class 0 first; None where this recording has no boxes."""
        ...

    def box_fingerprint(self) -> dict[str, Any]:
        """JSON of all that determines the boxes beyond what determines the frames."""
        ...


def box_names_of(source: object) -> tuple[str, ...] | None:
    """The classes of a source's boxes; None where it has no boxes."""
    names = source.box_names if isinstance(source, HasBoxes) else None
    return None if names is None else tuple(names)


def box_fingerprint_of(source: object) -> dict[str, Any]:
    """See `HasBoxes.box_fingerprint`; empty for sources without boxes."""
    return source.box_fingerprint() if isinstance(source, HasBoxes) else {}


def files_fingerprint(files: Iterable[tuple[str, Path]]) -> dict[str, Any]:
    """The digest of annotations in files: each frame's key and its file's size in bytes."""
    return {"annotations": frame_list_digest((key, (path,)) for key, path in files)}


@dataclass(frozen=True)
class Annotation:
    """One box in a dataset's own axes (m); numbers may be NaN.

    Args:
        name: of its class.
        center: its middle.
        along: direction of its first side, of any length.
        size: along that direction, across it, and along up.
    """

    name: str
    center: Vector
    along: Vector
    size: Vector


def upright_boxes(
    found: Sequence[Annotation],
    names: Sequence[str],
    *,
    sensor_from_annotation: Float64[np.ndarray, "4 4"],
    up: Vector,
) -> Boxes:
    """The annotations in axes of the sensor's heading with z up.

    Args:
        found: in the annotation's axes.
        names: of the classes; others become `UNKNOWN_CLASS`.
        sensor_from_annotation: rigid (m).
        up: unit vector in the annotation's axes.
    """
    turn = sensor_from_annotation[:3, :3]
    upright = rotation_to_z_up(turn @ np.array(up, np.float64))
    centers = np.array([row.center for row in found], np.float64).reshape(-1, 3)
    along = np.array([row.along for row in found], np.float64).reshape(-1, 3) @ (upright @ turn).T
    class_of = {name: number for number, name in enumerate(names)}
    return Boxes(
        upright_from_sensor=upright,
        center=(centers @ turn.T + sensor_from_annotation[:3, 3]) @ upright.T,
        size=np.array([row.size for row in found], np.float64).reshape(-1, 3),
        yaw=np.arctan2(along[:, 1], along[:, 0]),
        class_id=np.array([class_of.get(row.name, UNKNOWN_CLASS) for row in found], np.int64),
        given=tuple(row.name for row in found),
    )


def with_seen_boxes(frame: Frame, boxes: Boxes, label_names: Sequence[str]) -> Frame:
    """A depth frame with those of a scene's boxes that it shows, by its points' classes.

    Args:
        frame: with depth and labels.
        boxes: of the whole scene, all of known classes.
        label_names: of the labels' values; they contain the names of the boxes' classes.
    """
    assert frame.depth is not None
    assert frame.labels is not None
    depth = frame.depth
    found = back_project(depth.values, depth.camera, units_per_metre=depth.units_per_metre)
    labels = frame.labels.reshape(-1)[found.pixel]
    value_of = {name: value for value, name in enumerate(label_names)}
    points = found.points.astype(np.float64) @ boxes.upright_from_sensor.T
    seen = np.zeros(len(boxes.yaw), bool)
    for name in dict.fromkeys(boxes.given):
        rows = np.flatnonzero([given == name for given in boxes.given])
        own = points[labels == value_of[name]]
        named = Upright(boxes.center[rows], boxes.size[rows], boxes.yaw[rows])
        seen[rows] = count_in_boxes(own, named) >= FEWEST_POINTS
    return replace(frame, boxes=chosen_boxes(boxes, seen))


def chosen_boxes(boxes: Boxes, rows: Bool[np.ndarray, " boxes"] | Int64[np.ndarray, " _"]) -> Boxes:
    """Some of the boxes, by a mask or by their rows."""
    kept = np.arange(len(boxes.yaw))[rows]
    return Boxes(
        boxes.upright_from_sensor,
        boxes.center[kept],
        boxes.size[kept],
        boxes.yaw[kept],
        boxes.class_id[kept],
        tuple(boxes.given[row] for row in kept),
    )


def joined_boxes(
    parts: Sequence[tuple[Boxes, Float64[np.ndarray, "4 4"]]],
    upright_from_sensor: Float64[np.ndarray, "3 3"],
) -> Boxes:
    """The boxes of several frames in the axes of one sensor, each object once.

    Args:
        parts: boxes of a frame, and the transform from its sensor to the one sensor (m).
        upright_from_sensor: of the result; up must be the same direction as in the parts.
    """
    moved: list[Boxes] = []
    for boxes, sensor_from_other in parts:
        turn = upright_from_sensor @ sensor_from_other[:3, :3] @ boxes.upright_from_sensor.T
        heading = np.stack([np.cos(boxes.yaw), np.sin(boxes.yaw), np.zeros(len(boxes.yaw))], axis=1)
        heading = heading @ turn.T
        center = boxes.center @ turn.T + upright_from_sensor @ sensor_from_other[:3, 3]
        yaw = np.arctan2(heading[:, 1], heading[:, 0])
        moved.append(replace(boxes, center=center, yaw=yaw))
    every = Boxes(
        upright_from_sensor,
        np.concatenate([boxes.center for boxes in moved]),
        np.concatenate([boxes.size for boxes in moved]),
        np.concatenate([boxes.yaw for boxes in moved]),
        np.concatenate([boxes.class_id for boxes in moved]),
        tuple(given for boxes in moved for given in boxes.given),
    )
    places = np.concatenate([every.center, every.size], axis=1)
    kept: list[int] = []
    for row, given in enumerate(every.given):
        same = [other for other in kept if every.given[other] == given]
        if not (np.abs(places[same] - places[row]).max(axis=1, initial=0) < SAME_BOX_M).any():
            kept.append(row)
    return chosen_boxes(every, np.array(kept, np.int64))
