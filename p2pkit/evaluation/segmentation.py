"""Scores of a per-point classification."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64, Integer

from p2pkit.errors import ConfigError, NoLabelsError

Labels = Integer[np.ndarray, " points"]


@dataclass(frozen=True, eq=False)
class SegmentationScores:
    """Scores over all points that were counted, each in [0, 1].

    Args:
        iou: intersection over union of each class; NaN for classes absent from the ground truth.
        miou: mean of `iou` over the classes present in the ground truth. A class that is only
            predicted has no `iou` itself, but its points lower the classes they were taken
            from.
        accuracy: fraction of points with the right class.
        class_accuracy: mean recall over the classes present in the ground truth.
        support: points of each class in the ground truth.
    """

    iou: Float64[np.ndarray, " classes"]
    miou: float
    accuracy: float
    class_accuracy: float
    support: Int64[np.ndarray, " classes"]


def confusion_matrix(
    truth: Labels, prediction: Labels, *, classes: int, ignore_label: int | None = None
) -> Int64[np.ndarray, "classes classes"]:
    """Counts of points by true class (row) and predicted class (column).

    Matrices of several frames may be added. Points whose truth is `ignore_label` are not counted,
    whatever was predicted for them.

    Raises:
        ConfigError: a label or prediction that is counted lies outside 0 .. classes - 1.
    """
    counted = np.ones(len(truth), bool) if ignore_label is None else truth != ignore_label
    rows, columns = truth[counted].astype(np.int64), prediction[counted].astype(np.int64)
    for name, values in (("label", rows), ("prediction", columns)):
        outside = values[(values < 0) | (values >= classes)]
        if len(outside):
            raise ConfigError(
                f"{name} {outside[0]} is outside 0..{classes - 1} ({len(outside)} points): raise "
                "`classes`, or name it as `ignore_label` if it means void"
            )
    counts = np.bincount(rows * classes + columns, minlength=classes * classes)
    return counts.astype(np.int64).reshape(classes, classes)


def segmentation_scores(
    confusion: Int64[np.ndarray, "classes classes"],
) -> SegmentationScores:
    """Scores from a confusion matrix (rows are the truth).

    Raises:
        NoLabelsError: the matrix counts no point.
    """
    total = int(confusion.sum())
    if total == 0:
        raise NoLabelsError(
            "no labelled point was counted: every label is void, or no point has one"
        )
    hits = np.diagonal(confusion)
    support = confusion.sum(axis=1)
    present = support > 0
    union = support + confusion.sum(axis=0) - hits
    iou = np.full(len(confusion), np.nan)
    np.divide(hits, union, out=iou, where=present)
    return SegmentationScores(
        iou=iou,
        miou=float(iou[present].mean()),
        accuracy=int(hits.sum()) / total,
        class_accuracy=float((hits[present] / support[present]).mean()),
        support=support,
    )


def class_counts(
    confusion: Int64[np.ndarray, "classes classes"],
) -> Int64[np.ndarray, "3 classes"]:
    """Hits, labelled and predicted points of each class: all that its IoU depends on."""
    return np.stack([np.diagonal(confusion), confusion.sum(axis=1), confusion.sum(axis=0)])
