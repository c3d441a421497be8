"""Linear probe and nearest neighbours on a student's frozen features of labelled frames."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from p2pkit.errors import ConfigError
from p2pkit.evaluation.label_sets import IGNORE
from p2pkit.evaluation.linear_probe import ProbeConfig, fit_linear_probe
from p2pkit.evaluation.segmentation import SegmentationScores, segmentation_scores
from p2pkit.networks.res16unet import Res16UNet
from p2pkit.pipelines.labelled import LabelledFrame, LabelledFrames

Predict = Callable[[Float32[np.ndarray, "voxels channels"]], Int64[np.ndarray, "voxels"]]


@dataclass(frozen=True)
class FrozenConfig:
    """How frozen features are classified.

    Args:
        points_per_frame: labelled points drawn from each training frame.
        statistics_frames: training frames, spread evenly, that set the batch norms' statistics
            anew, for pretrained and random weights alike; their labels are not used.
        neighbours: of the nearest-neighbour classifier, by cosine, votes weighed by similarity.
        most_neighbours: training points that it keeps, drawn at random.
        probe: of the linear classifier.
    """

    points_per_frame: int = 1000
    statistics_frames: int = 32
    neighbours: int = 20
    most_neighbours: int = 20_000
    probe: ProbeConfig = field(default_factory=ProbeConfig)

    def __post_init__(self) -> None:
        for name in ("points_per_frame", "statistics_frames", "neighbours", "most_neighbours"):
            if getattr(self, name) < 1:
                raise ConfigError(f"frozen.{name} is {getattr(self, name)}; at least 1 is needed")


class FrozenFeatures:
    """A student's features of the training and test frames, each computed once.

    Args:
        student: with its weights; its norms' statistics are replaced.
        data: the labelled frames.
        config: of the classifiers.
        device: where the student runs.
    """

    def __init__(
        self, student: Res16UNet, data: LabelledFrames, config: FrozenConfig, device: str
    ) -> None:
        self._student, self._data, self._config = student.to(device), data, config
        self._device = device
        _take_statistics(self._student)
        for sample in spread(data.parts["train"], config.statistics_frames):
            self._features(data.frame(int(sample)))
        self._student.eval()
        self._train: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._test: list[tuple[LabelledFrame, np.ndarray]] = []

    def scores(
        self, kind: str, samples: Int64[np.ndarray, "samples"], seed: int
    ) -> SegmentationScores:
        """Fit on the labels of `samples`, test on all labelled points of the test part.

        Args:
            kind: `linear` or `knn`.
            samples: of the training part.
            seed: of the drawn points.
        """
        features, labels = self._drawn(samples, seed)
        predict = KINDS[kind](features, labels, len(self._data.labels.classes), self._config, seed)
        classes = len(self._data.labels.classes)
        confusion = np.zeros((classes, classes), np.int64)
        for frame, rows in self._tested():
            confusion += self._data.confusion(frame, predict(rows))
        return segmentation_scores(confusion)

    def _drawn(
        self, samples: Int64[np.ndarray, "samples"], seed: int
    ) -> tuple[Float32[np.ndarray, "points channels"], Int64[np.ndarray, "points"]]:
        rows: list[np.ndarray] = []
        labels: list[np.ndarray] = []
        for sample in samples.tolist():
            if sample not in self._train:
                frame = self._data.frame(sample)
                # Labels by voxel, as often as points have them: less to keep than all points.
                self._train[sample] = (self._features(frame), labelled_voxels(frame))
            features, pairs = self._train[sample]
            random = np.random.default_rng([seed, sample])
            count = min(self._config.points_per_frame, len(pairs))
            chosen = pairs[random.choice(len(pairs), count, replace=False)]
            rows.append(features[chosen[:, 0]])
            labels.append(chosen[:, 1])
        if sum(map(len, labels)) == 0:
            raise ConfigError("no labelled point is in these training frames")
        return np.concatenate(rows), np.concatenate(labels).astype(np.int64)

    def _tested(self) -> list[tuple[LabelledFrame, np.ndarray]]:
        if not self._test:
            frames = self._data.frames(self._data.parts["test"])
            self._test = [(frame, self._features(frame)) for frame in frames]
        return self._test

    def _features(self, frame: LabelledFrame) -> Float32[np.ndarray, "voxels channels"]:
        coordinates = torch.from_numpy(np.insert(frame.coordinates, 0, 0, axis=1))
        inputs = torch.from_numpy(frame.inputs)
        with torch.inference_mode():
            found = self._student(coordinates.to(self._device), inputs.to(self._device))
        return found.cpu().numpy()


def _linear(
    features: Float32[np.ndarray, "points channels"],
    labels: Int64[np.ndarray, "points"],
    classes: int,
    config: FrozenConfig,
    seed: int,
) -> Predict:
    return fit_linear_probe(features, labels, classes=classes, config=config.probe).predict


def _neighbours(
    features: Float32[np.ndarray, "points channels"],
    labels: Int64[np.ndarray, "points"],
    classes: int,
    config: FrozenConfig,
    seed: int,
) -> Predict:
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


def _take_statistics(student: nn.Module) -> None:
    """Let the next frames set the norms' running statistics, all alike."""
    student.train()
    for module in student.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.reset_running_stats()
            module.momentum = None


def spread(samples: Int64[np.ndarray, "samples"], count: int) -> Int64[np.ndarray, "chosen"]:
    """Up to `count` of the samples, evenly spread from the first to the last."""
    rows = np.linspace(0, len(samples) - 1, min(count, len(samples)))
    return samples[np.unique(rows.round().astype(int))]
