"""A layer of annotated boxes: those of each frame that are usable, and why others are not."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64

from p2pkit.datasets.frame import UNKNOWN_CLASS, Boxes, Frame
from p2pkit.errors import StoreError
from p2pkit.files import sha256_json
from p2pkit.geometry.boxes import Upright, count_in_boxes
from p2pkit.layers.geometry import decode_geometry
from p2pkit.store.manifest import BOXES, GEOMETRY, FieldSpec, LayerSpec, Sample
from p2pkit.store.reading import Store

FIELDS = (
    FieldSpec("box_center", "<f4", ("boxes", "xyz"), "m", "none", "middle, in upright axes"),
    FieldSpec("box_class", "<u2", ("boxes",), "class", "none", "class of each box"),
    FieldSpec("box_points", "<u4", ("boxes",), "", "none", "stored points in each box"),
    FieldSpec("box_size", "<f4", ("boxes", "xyz"), "m", "none", "sides along x, y and up"),
    FieldSpec("box_yaw", "<f4", ("boxes",), "rad", "none", "from the upright axes' x, about up"),
)
CLASSES = "classes"
LEFT_OUT_BOXES = "left_out"


@dataclass(frozen=True, eq=False)
class StoredBoxes:
    """The usable boxes of a frame, as read from a shard; see `datasets.frame.Boxes`.

    Args:
        upright_from_sensor: the rotation from the points' axes to those of the boxes.
        center, size, yaw: of each box, in axes with z up (m, m, rad).
        class_id: row in the layer's classes.
        points: how many of the frame's stored points are in each box.
        annotated: False for frames that nobody annotated; the others may have no box, too.
    """

    upright_from_sensor: Float64[np.ndarray, "3 3"]
    center: Float32[np.ndarray, "boxes 3"]
    size: Float32[np.ndarray, "boxes 3"]
    yaw: Float32[np.ndarray, " boxes"]
    class_id: Int64[np.ndarray, " boxes"]
    points: Int64[np.ndarray, " boxes"]
    annotated: bool


@dataclass(frozen=True, eq=False)
class BoxLayer:
    """The boxes of a recording, bound to the layer that they fill.

    Args:
        spec: see `box_spec`.
    """

    spec: LayerSpec

    def encode(self, frame: Frame, done: Mapping[str, Sample]) -> Sample:
        """The frame's boxes that hold a stored point; none where nobody annotated it."""
        return encode_boxes(frame.key, frame.boxes, decode_geometry(done[GEOMETRY]).points)


def box_spec(
    names: Sequence[str], annotations: Mapping[str, Any], geometry: LayerSpec
) -> LayerSpec:
    """The layer that a recording's boxes make for a geometry layer: `boxes/annotated-<...8>`.

    Args:
        names: of the classes, class 0 first.
        annotations: the source's `box_fingerprint`.
        geometry: the layer whose points they hold.
    """
    fingerprint: dict[str, Any] = {
        "geometry": geometry.fingerprint_sha256,
        "dataset": dict(annotations),
        CLASSES: list(names),
    }
    return LayerSpec(
        name=f"{BOXES}annotated-{sha256_json(fingerprint)[:8]}",
        fields=FIELDS,
        fingerprint=fingerprint,
        details={CLASSES: list(names)},
    )


def encode_boxes(
    key: str, annotated: Boxes | None, points: Float32[np.ndarray, "points 3"]
) -> Sample:
    """A sample of the usable boxes; its JSON has the class and fault of each other one.

    Args:
        key: of the frame.
        annotated: its boxes; None where nobody annotated it.
        points: stored ones, in the sensor's axes (m).
    """
    boxes = _no_boxes() if annotated is None else annotated
    upright = points.astype(np.float64) @ boxes.upright_from_sensor.T
    inside = count_in_boxes(upright, Upright(boxes.center, boxes.size, boxes.yaw))
    faults = [_fault(boxes, row, int(inside[row])) for row in range(len(boxes.yaw))]
    kept = np.flatnonzero([not fault for fault in faults])
    arrays = {
        "box_center": boxes.center[kept].astype(np.float32),
        "box_class": boxes.class_id[kept].astype(np.uint16),
        "box_points": inside[kept].astype(np.uint32),
        "box_size": boxes.size[kept].astype(np.float32),
        "box_yaw": boxes.yaw[kept].astype(np.float32),
    }
    left_out = [
        {"class": boxes.given[row], "reason": fault} for row, fault in enumerate(faults) if fault
    ]
    upright_from_sensor = boxes.upright_from_sensor.tolist()
    meta = {
        "annotated": annotated is not None,
        "upright_from_sensor": upright_from_sensor,
        LEFT_OUT_BOXES: left_out,
    }
    return Sample(key=key, arrays=arrays, meta=meta)


def _no_boxes() -> Boxes:
    rows, none = np.zeros((0, 3)), np.zeros(0)
    return Boxes(np.eye(3), rows, rows, none, none.astype(np.int64), ())


def _fault(boxes: Boxes, row: int, points: int) -> str:
    """Why a box is not usable; empty if it is."""
    numbers = [*boxes.center[row], *boxes.size[row], boxes.yaw[row]]
    if boxes.class_id[row] == UNKNOWN_CLASS:
        return "an unknown class"
    if not np.isfinite(numbers).all():
        return "NaN or infinite"
    if not (boxes.size[row] > 0).all():
        return "zero or negative size"
    return "" if points else "no stored point"


def decode_boxes(sample: Sample) -> StoredBoxes:
    """The usable boxes of a frame, from its sample."""
    arrays = sample.arrays
    return StoredBoxes(
        np.array(sample.meta["upright_from_sensor"], np.float64),
        arrays["box_center"],
        arrays["box_size"],
        arrays["box_yaw"],
        arrays["box_class"].astype(np.int64),
        arrays["box_points"].astype(np.int64),
        bool(sample.meta["annotated"]),
    )


def box_layer(store: Store) -> LayerSpec:
    """The store's layer of boxes.

    Raises:
        StoreError: it has none, or several.
    """
    found = [layer for layer in store.manifest.layers if layer.name.startswith(BOXES)]
    if len(found) > 1:
        raise StoreError(
            f"{store.root} has {len(found)} layers of boxes, of annotations that changed: "
            f"{', '.join(layer.name for layer in found)}; keep one: `p2pkit shards drop-layer "
            f"{store.root} {found[0].name} --yes` deletes the first"
        )
    if not found:
        names = ", ".join(layer.name for layer in store.manifest.layers)
        raise StoreError(
            f"{store.root} has no layer of boxes among {names}: extract a "
            "recording with boxes, such as --dataset demo-scene or kitti-object; running the same "
            "`p2pkit extract` again adds them to a store that was made without"
        )
    return found[0]


class BoxCounts(NamedTuple):
    """The boxes of a store.

    Fields:
        stored: usable ones.
        left_out: others by their fault.
        first: frame, class and fault of the first of these; empty without any.
    """

    stored: int
    left_out: dict[str, int]
    first: str


def count_boxes(store: Store) -> BoxCounts:
    """Count a store's boxes, and those that its extraction left out."""
    layer, stored, faults, first = box_layer(store).name, 0, Counter[str](), ""
    for shard in range(store.manifest.plan.shards):
        for row in range(len(store.keys(shard))):
            sample = store.read(layer, shard, row, fields=("box_points",))
            stored += len(sample.arrays["box_points"])
            for one in sample.meta[LEFT_OUT_BOXES]:
                faults[one["reason"]] += 1
                first = first or f"frame {sample.key}, {one['class']}: {one['reason']}"
    return BoxCounts(stored, dict(faults), first)
