"""The probe of a run in training: a fixed few labelled frames, read out linearly and by neighbours.

It takes the training and the validation part of `evaluate`'s cut by scene and leaves its test part
alone, so that a checkpoint chosen by it may still be tested there.
"""

import time
from pathlib import Path

import numpy as np

from p2pkit.errors import ConfigError
from p2pkit.networks.students import Student
from p2pkit.pipelines.evaluate.features import (
    KINDS,
    FrozenConfig,
    draw,
    labelled_voxels,
    scores_of,
    voxel_features,
)
from p2pkit.pipelines.evaluate.frames import nearest_up, open_labelled, trained_ups
from p2pkit.pipelines.held_out import spread
from p2pkit.pipelines.train.checkpoints import save_best
from p2pkit.pipelines.train.model import PretrainingModel
from p2pkit.pipelines.train.settings import TrainConfig
from p2pkit.store.reading import Store, open_store
from p2pkit.stream.augmentation import Axis
from p2pkit.stream.samples import stored_up


def _up_axis(config: TrainConfig, store: Store) -> Axis:
    """What the store's points are turned to, so that up is what the student is trained with."""
    trained_on = map(open_store, (config.store, *config.more_stores))
    known = trained_ups(config.stream.sample.augment.up_axis, map(stored_up, trained_on))
    return nearest_up(known, store)


class OnlineProbe:
    """Scores a student as it is, and keeps the best weights; draws nothing from torch's generator.

    Args:
        config: of the run; its `probe.every` is not 0.
        out: the run's folder.

    Raises:
        StoreError: the store has no labels.
        ConfigError: a part of the cut would be empty, or holds no labelled point.
    """

    def __init__(self, config: TrainConfig, out: Path) -> None:
        self._config, self._out = config.probe, out
        settings = config.probe
        store = open_store(settings.store or config.store)
        data = open_labelled(
            store,
            label_set=settings.labels,
            validation=settings.validation,
            test=settings.test,
            voxel_size=config.stream.sample.voxel_size,
            split=settings.split,
            up_axis=_up_axis(config, store) if settings.store else None,
        )
        self._data = data
        fit, validation = (
            [data.frame(int(sample)) for sample in spread(data.parts[part], settings.frames)]
            for part in ("train", "validation")
        )
        self._fit, self._validation = fit, validation
        self._drawn = [
            draw(labelled_voxels(frame), settings.points_per_frame, np.random.default_rng([0, i]))
            for i, frame in enumerate(fit)
        ]
        shown = {"train": self._drawn, "validation": map(labelled_voxels, validation)}
        for part, rows in shown.items():
            if not sum(map(len, rows)):
                raise ConfigError(
                    f"no labelled point is in the {settings.frames} frames of the {part} part that "
                    "the probe takes: raise probe.frames, cut other parts by probe.validation and "
                    "probe.test, or name a labelled store with probe.store"
                )

    @property
    def up_axis(self) -> Axis:
        """Up in the frames as the student gets them."""
        return self._data.up_axis

    def run(self, model: PretrainingModel, step: int) -> dict[str, float]:
        """Score the student, keep the weights if they are the best yet; gives what to log.

        Args:
            model: as it is in training; its running statistics are used, and nothing is changed.
            step: how many steps the weights have seen.
        """
        began = time.perf_counter()
        found = self.scores(model.student)
        save_best(self._out, model, step=step, by=self._config.best_by, scores=found)
        logged = {f"probe_{kind}_miou": value for kind, value in found.items()}
        return {**logged, "probe_s": time.perf_counter() - began}

    def scores(self, student: Student) -> dict[str, float]:
        """Validation mIoU by `linear` and by `knn`."""
        was_training = student.training
        student.eval()
        try:
            rows = [
                voxel_features(student, frame)[drawn[:, 0]]
                for frame, drawn in zip(self._fit, self._drawn, strict=True)
            ]
            tested = [(frame, voxel_features(student, frame)) for frame in self._validation]
        finally:
            student.train(was_training)
        labels = np.concatenate([drawn[:, 1] for drawn in self._drawn])
        features, classes = np.concatenate(rows), len(self._data.labels.classes)
        settings = FrozenConfig(neighbours=self._config.neighbours)
        return {
            kind: scores_of(fit(features, labels, classes, settings, 0), tested, self._data).miou
            for kind, fit in KINDS.items()
        }
