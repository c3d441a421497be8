"""Linear probe and nearest neighbours on a student's frozen features of labelled frames."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64

from p2pkit.errors import ConfigError
from p2pkit.evaluation.label_sets import IGNORE
from p2pkit.evaluation.linear_probe import fit_linear_probe
from p2pkit.evaluation.segmentation import SegmentationScores, segmentation_scores
from p2pkit.networks.students import Student
from p2pkit.pipelines.evaluate.frames import LabelledFrame, LabelledFrames, network_inputs
from p2pkit.pipelines.evaluate.inference import take_statistics
from p2pkit.pipelines.evaluate.settings import FrozenConfig
from p2pkit.pipelines.held_out import spread

KEPT_BYTES = 4_000_000_000
"""Of frames and their features: a large test part must not fill the memory."""
Predict = Callable[[Float32[np.ndarray, "voxels channels"]], Int64[np.ndarray, " voxels"]]


class FrozenFeatures:
    """A student's features of the training and test frames.

    Each is computed once, as long as all fit into `KEPT_BYTES`; further ones each time anew.

    Args:
        student: with its weights; its norms' statistics are replaced.
        data: the labelled frames.
        config: of the classifiers.
        device: where the student runs.
    """

    def __init__(
        self, student: Student, data: LabelledFrames, config: FrozenConfig, device: str
    ) -> None:
        self._student, self._data, self._config = student.to(device), data, config
        take_statistics(self._student)
        for sample in spread(data.parts["train"], config.statistics_frames):
            voxel_features(self._student, data.frame(int(sample)))
        self._student.eval()
        self._kept: dict[int, tuple[LabelledFrame, np.ndarray]] = {}
        self._kept_bytes = 0

    def scores(
        self, kind: str, samples: Int64[np.ndarray, " samples"], seed: int
    ) -> SegmentationScores:
        """Fit on the labels of `samples`, test on all labelled points of the test part.

        Args:
            kind: `linear` or `knn`.
            samples: of the training part.
            seed: of the drawn points.
        """
        features, labels = self._drawn(samples, seed)
        predict = KINDS[kind](features, labels, len(self._data.labels.classes), self._config, seed)
        tested = map(self._frame, self._data.parts["test"].tolist())
        return scores_of(predict, tested, self._data)

    def _drawn(
        self, samples: Int64[np.ndarray, " samples"], seed: int
    ) -> tuple[Float32[np.ndarray, "points channels"], Int64[np.ndarray, " points"]]:
        rows: list[np.ndarray] = []
        labels: list[np.ndarray] = []
        for sample in samples.tolist():
            frame, features = self._frame(sample)
            random = np.random.default_rng([seed, sample])
            chosen = draw(labelled_voxels(frame), self._config.points_per_frame, random)
            rows.append(features[chosen[:, 0]])
            labels.append(chosen[:, 1])
        if sum(map(len, labels)) == 0:
            raise ConfigError("no labelled point is in these training frames")
        return np.concatenate(rows), np.concatenate(labels).astype(np.int64)

    def _frame(self, sample: int) -> tuple[LabelledFrame, np.ndarray]:
        """A frame and its voxels' features."""
        if sample in self._kept:
            return self._kept[sample]
        frame = self._data.frame(sample)
        found = (frame, voxel_features(self._student, frame))
        size = found[1].nbytes + sum(part.nbytes for part in vars(frame).values())
        if self._kept_bytes + size <= KEPT_BYTES:
            self._kept[sample] = found
            self._kept_bytes += size
        return found


def voxel_features(
    student: Student, frame: LabelledFrame
) -> Float32[np.ndarray, "voxels channels"]:
    """The student's features of a frame, in the mode that it is in."""
    device = str(next(student.parameters()).device)
    with torch.inference_mode():
        return student(*network_inputs([frame], device)).cpu().numpy()


def draw(
    pairs: Int64[np.ndarray, "points 2"], points: int, random: np.random.Generator
) -> Int64[np.ndarray, "drawn 2"]:
    """Up to `points` of a frame's `labelled_voxels`."""
    return pairs[random.choice(len(pairs), min(points, len(pairs)), replace=False)]


def scores_of(
    predict: Predict, tested: Iterable[tuple[LabelledFrame, np.ndarray]], data: LabelledFrames
) -> SegmentationScores:
    """Scores over all labelled points of frames, given with their voxels' features."""
    classes = len(data.labels.classes)
    confusion = np.zeros((classes, classes), np.int64)
    for frame, rows in tested:
        confusion += data.confusion(frame, predict(rows))
    return segmentation_scores(confusion)


def _linear(
    features: Float32[np.ndarray, "points channels"],
    labels: Int64[np.ndarray, " points"],
    classes: int,
    config: FrozenConfig,
    seed: int,
) -> Predict:
    return fit_linear_probe(features, labels, classes=classes, config=config.probe).predict


def _neighbours(
    features: Float32[np.ndarray, "points channels"],
    labels: Int64[np.ndarray, " points"],
    classes: int,
    config: FrozenConfig,
    seed: int,
) -> Predict:
    # Takes a second to import, which trainings without a probe need not wait for.
    from sklearn.neighbors import KNeighborsClassifier

    random = np.random.default_rng(seed)
    kept = random.permutation(len(features))[: config.most_neighbours]
    count = min(config.neighbours, len(kept))
    weights: Any = _similarity
    found = KNeighborsClassifier(count, weights=weights, algorithm="brute").fit(
        _unit(features[kept]), labels[kept]
    )
    return lambda rows: np.asarray(found.predict(_unit(rows)), np.int64)


KINDS = {"linear": _linear, "knn": _neighbours}


def _similarity(distances: np.ndarray) -> np.ndarray:
    """Cosine of unit vectors from their distance; never quite 0, so that some vote counts."""
    return np.maximum(1 - distances**2 / 2, 1e-6)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def labelled_voxels(frame: LabelledFrame) -> Int64[np.ndarray, "points 2"]:
    """Voxel and class of each labelled point of a frame."""
    counted = frame.labels != IGNORE
    return np.stack([frame.voxel_of_point[counted], frame.labels[counted]], axis=1)
