"""Average precision of detected boxes, as VoteNet's evaluation computes it.

Qi et al., "Deep Hough Voting for 3D Object Detection in Point Clouds", ICCV 2019, whose rule is
that of PASCAL VOC from 2010 on (Everingham et al., IJCV 2010): all detections of a class are
sorted by score; each takes the box of its frame that it overlaps most, and is right if that
overlap is above a threshold and no better detection has taken the box; precision is made
monotonic and integrated over all recalls. Boxes are turned: see `geometry.boxes.box_iou`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64

from p2pkit.geometry.boxes import Upright, box_iou

THRESHOLDS = (0.25, 0.5)
"""The 3D IoU that a right detection exceeds."""


@dataclass(frozen=True, eq=False)
class ClassBoxes:
    """Boxes of one frame in axes with z up; detections have scores.

    Args:
        center, size, yaw: of each box (m, m, rad).
        class_id: of each box.
        score: of each detection, larger is surer; None for annotated boxes.
    """

    center: Float[np.ndarray, "boxes 3"]
    size: Float[np.ndarray, "boxes 3"]
    yaw: Float[np.ndarray, " boxes"]
    class_id: Int64[np.ndarray, " boxes"]
    score: Float32[np.ndarray, " boxes"] | None = None

    def rows(self, chosen: Bool[np.ndarray, " boxes"] | Int64[np.ndarray, " _"]) -> "ClassBoxes":
        """Some of the boxes, by a mask or by their rows."""
        score = None if self.score is None else self.score[chosen]
        return ClassBoxes(
            self.center[chosen], self.size[chosen], self.yaw[chosen], self.class_id[chosen], score
        )

    def overlap(self, other: "ClassBoxes") -> Float64[np.ndarray, "boxes others"]:
        """3D IoU of each box with each of the other's."""
        ours, theirs = (Upright(x.center, x.size, x.yaw) for x in (self, other))
        return box_iou(ours, theirs)


@dataclass(frozen=True, eq=False)
class Matches:
    """What the average precisions of some frames, or of groups of frames, depend on.

    Args:
        group: number of the frame or group of each detection.
        class_id, score: of each detection.
        hit: whether it is right, at each of `THRESHOLDS`.
        boxes: number of annotated boxes of each group and class.
    """

    group: Int64[np.ndarray, " detections"]
    class_id: Int64[np.ndarray, " detections"]
    score: Float32[np.ndarray, " detections"]
    hit: Bool[np.ndarray, "detections thresholds"]
    boxes: Int64[np.ndarray, "groups classes"]


def match(
    detected: Sequence[ClassBoxes], annotated: Sequence[ClassBoxes], *, classes: int
) -> Matches:
    """Which detections are right.

    Args:
        detected: of each frame, with scores.
        annotated: of each frame.
        classes: their number.
    """
    rows = [_match_frame(found, truth) for found, truth in zip(detected, annotated, strict=True)]
    counts = [np.bincount(truth.class_id, minlength=classes) for truth in annotated]
    scores = [found.score for found in detected if found.score is not None]
    return Matches(
        group=np.repeat(np.arange(len(detected)), [len(found.yaw) for found in detected]),
        class_id=np.concatenate([np.zeros(0, np.int64), *(x.class_id for x in detected)]),
        score=np.concatenate([np.zeros(0, np.float32), *scores]),
        hit=np.concatenate([np.zeros((0, len(THRESHOLDS)), bool), *rows]),
        boxes=np.array(counts, np.int64).reshape(len(annotated), classes),
    )


def _match_frame(found: ClassBoxes, truth: ClassBoxes) -> Bool[np.ndarray, "detections thresholds"]:
    assert found.score is not None
    hit = np.zeros((len(found.yaw), len(THRESHOLDS)), bool)
    if not len(truth.yaw):
        return hit
    overlap = found.overlap(truth) * (found.class_id[:, None] == truth.class_id)
    taken = np.zeros((len(truth.yaw), len(THRESHOLDS)), bool)
    for row in np.argsort(-found.score, kind="stable"):
        best = int(overlap[row].argmax())
        hit[row] = (overlap[row, best] > np.array(THRESHOLDS)) & ~taken[best]
        taken[best] |= hit[row]
    return hit


def grouped(matches: Matches, groups: Int64[np.ndarray, " frames"]) -> Matches:
    """The matches of frames as those of groups of frames, such as scenes.

    Args:
        matches: by frame.
        groups: number of the group of each frame, from 0 without gaps.
    """
    boxes = np.zeros((int(groups.max(initial=-1)) + 1, matches.boxes.shape[1]), np.int64)
    np.add.at(boxes, groups, matches.boxes)
    return replace(matches, group=groups[matches.group], boxes=boxes)


def average_precisions(
    matches: Matches, times: Float64[np.ndarray, "resamples groups"] | None = None
) -> Float64[np.ndarray, "thresholds resamples classes"]:
    """Average precision of each class; NaN for classes without an annotated box.

    Args:
        matches: of frames or groups.
        times: how often each group counts, in each of several resamples; None counts each once.
    """
    groups, classes = matches.boxes.shape
    times = np.ones((1, groups)) if times is None else times
    found = np.full((len(THRESHOLDS), len(times), classes), np.nan)
    totals = times @ matches.boxes
    for number in range(classes):
        rows = np.flatnonzero(matches.class_id == number)
        rows = rows[np.argsort(-matches.score[rows], kind="stable")]
        weights = times[:, matches.group[rows]]
        present = totals[:, number] > 0
        for at in range(len(THRESHOLDS)):
            right = np.cumsum(weights * matches.hit[rows, at], axis=1)
            counted = np.cumsum(weights, axis=1)
            recall = right / np.maximum(totals[:, number, None], 1)
            precision = right / np.maximum(counted, 1e-12)
            found[at, present, number] = _area(recall, precision)[present]
    return found


def mean_average_precision(
    matches: Matches, times: Float64[np.ndarray, "resamples groups"] | None = None
) -> Float64[np.ndarray, "thresholds resamples"]:
    """The mean over the classes that have annotated boxes; 0 where none has."""
    found = average_precisions(matches, times)
    present = np.isfinite(found)
    return np.where(present, found, 0.0).sum(axis=2) / np.maximum(present.sum(axis=2), 1)


def _area(
    recall: Float64[np.ndarray, "resamples detections"],
    precision: Float64[np.ndarray, "resamples detections"],
) -> Float64[np.ndarray, " resamples"]:
    """Under precision as a function of recall, where each recall has the best later precision."""
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    steps = np.diff(recall, axis=1, prepend=0.0)
    return (best * steps).sum(axis=1)


def suppressed(found: ClassBoxes, *, overlap: float, most: int) -> ClassBoxes:
    """The detections without those that a surer one of their class overlaps by more, best first.

    Args:
        found: with scores.
        overlap: 3D IoU above which the less sure of two goes.
        most: how many are kept.
    """
    assert found.score is not None
    found = found.rows(np.argsort(-found.score, kind="stable"))
    alike = found.overlap(found) * (found.class_id[:, None] == found.class_id) > overlap
    gone = np.zeros(len(found.yaw), bool)
    for row in range(len(found.yaw)):
        if not gone[row]:
            gone[row + 1 :] |= alike[row, row + 1 :]
    return found.rows(np.flatnonzero(~gone)[:most])
