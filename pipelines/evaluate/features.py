"""Linear probe and nearest neighbours on a student's frozen features of labelled frames."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64

from p2pkit.errors import NoLabelsError
from p2pkit.evaluation.label_sets import IGNORE
from p2pkit.evaluation.linear_probe import fit_linear_probe
from p2pkit.networks.students import Student
from p2pkit.pipelines.evaluate.frames import (
    Keep,
    LabelledFrame,
    LabelledFrames,
    PartScores,
    network_inputs,
)
from p2pkit.pipelines.evaluate.inference import take_statistics
from p2pkit.pipelines.evaluate.settings import FrozenConfig
from p2pkit.pipelines.held_out import spread
from p2pkit.stream.inputs import voxel_centres

KEPT_BYTES = 4_000_000_000
"""Limit on cached frames and features: a large test part must not fill the memory."""
Describe = Callable[[LabelledFrame], Float32[np.ndarray, "voxels channels"]]
Predict = Callable[[Float32[np.ndarray, "voxels channels"]], Int64[np.ndarray, " voxels"]]


class FrozenFeatures:
    """Features of labelled frames, and classifiers that are fitted to them.

    Features are computed once as long as they fit into `KEPT_BYTES`, else again at each use.

    Args:
        describe: gives the features of a frame's voxels.
        data: the labelled frames.
        config: of the classifiers.
        read: gives a frame by its sample id; None reads it from the store.
    """

    def __init__(
        self,
        describe: Describe,
        data: LabelledFrames,
        config: FrozenConfig,
        read: Callable[[int], LabelledFrame] | None = None,
    ) -> None:
        self._describe, self._data, self._config = describe, data, config
        self._read = data.frame if read is None else read
        self._kept: dict[int, tuple[LabelledFrame, np.ndarray]] = {}
        self._kept_bytes = 0

    def scores(
        self,
        kind: str,
        samples: Int64[np.ndarray, " samples"],
        seed: int,
        *,
        part: str = "test",
        keep: Keep | None = None,
    ) -> PartScores:
        """Fit on the labels of `samples`, score on all labelled points of a part.

        Args:
            kind: `linear` or `knn`.
            samples: of the training part.
            seed: of the drawn points.
            part: that is scored.
            keep: as in `LabelledFrames.score`.
        """
        features, labels = self._drawn(samples, seed)
        classify = KINDS[kind](features, labels, len(self._data.labels.classes), self._config, seed)

        def predict(sample: int) -> tuple[LabelledFrame, Int64[np.ndarray, " voxels"]]:
            frame, rows = self._frame(sample)
            return frame, classify(rows)

        return self._data.score(self._data.parts[part], predict, keep)

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
            raise NoLabelsError("these training frames have no labelled point")
        return np.concatenate(rows), np.concatenate(labels).astype(np.int64)

    def _frame(self, sample: int) -> tuple[LabelledFrame, np.ndarray]:
        """A frame and its voxels' features."""
        if sample in self._kept:
            return self._kept[sample]
        frame = self._read(sample)
        found = (frame, self._describe(frame))
        size = found[1].nbytes + sum(part.nbytes for part in vars(frame).values())
        if self._kept_bytes + size <= KEPT_BYTES:
            self._kept[sample] = found
            self._kept_bytes += size
        return found


def student_features(
    student: Student, data: LabelledFrames, config: FrozenConfig, device: str = "cpu"
) -> Describe:
    """The student's features, with norm statistics recomputed on training frames.

    Args:
        student: with its weights; its norms' statistics are replaced.
        data: the labelled frames; `config.statistics_frames` of the training part are read.
        config: of the classifiers.
        device: where the student runs.
    """
    student = student.to(device)
    take_statistics(student)
    for sample in spread(data.parts["train"], config.statistics_frames):
        voxel_features(student, data.frame(int(sample)))
    student.eval()
    return lambda frame: voxel_features(student, frame)


def raw_inputs(data: LabelledFrames, config: FrozenConfig) -> Describe:
    """The student's inputs and each voxel's centre, standardised over training frames.

    The baseline that a network must beat: these need no network. Positions are in the frame's axes.
    """
    up = data.sample.augment.up_axis or data.up_axis

    def describe(frame: LabelledFrame) -> Float32[np.ndarray, "voxels channels"]:
        centre = voxel_centres(frame.coordinates, data.sample, up)
        return np.hstack([frame.inputs, centre])

    shown = spread(data.parts["train"], config.statistics_frames)
    rows = np.concatenate([describe(data.frame(int(sample))) for sample in shown])
    mean, scale = rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-6)
    return lambda frame: (describe(frame) - mean) / scale


def voxel_features(
    student: Student, frame: LabelledFrame
) -> Float32[np.ndarray, "voxels channels"]:
    """The student's features of a frame, in the mode that it is in."""
    coordinates, inputs, prepared = network_inputs([frame], student)
    with torch.inference_mode():
        return student(coordinates, inputs, **prepared).cpu().numpy()


def draw(
    pairs: Int64[np.ndarray, "points 2"], points: int, random: np.random.Generator
) -> Int64[np.ndarray, "drawn 2"]:
    """Up to `points` of a frame's `labelled_voxels`."""
    return pairs[random.choice(len(pairs), min(points, len(pairs)), replace=False)]


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
    # Takes a second to import, which training without a probe should not pay.
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
