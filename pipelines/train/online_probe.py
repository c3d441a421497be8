"""The probe during training: linear and nearest-neighbour scores on a few fixed labelled frames.

It takes the training and the validation part of `evaluate`'s cut by scene and leaves its test part
alone, so that a checkpoint chosen by it may still be tested there.
"""

import time
from dataclasses import replace
from pathlib import Path

from p2pkit.errors import ConfigError
from p2pkit.networks.students import Student
from p2pkit.pipelines.evaluate.features import (
    KINDS,
    FrozenConfig,
    FrozenFeatures,
    labelled_voxels,
    voxel_features,
)
from p2pkit.pipelines.evaluate.frames import nearest_up, open_labelled, trained_ups
from p2pkit.pipelines.held_out import spread
from p2pkit.pipelines.train.checkpoints import save_best
from p2pkit.pipelines.train.model import PretrainingModel
from p2pkit.pipelines.train.settings import TrainConfig
from p2pkit.store.reading import Store, open_store
from p2pkit.stream.augmentation import Axis
from p2pkit.stream.inputs import stored_up


def _up_axis(config: TrainConfig, store: Store) -> Axis:
    """The axis that the store's points are turned to, so that up is as in training."""
    trained_on = map(open_store, (config.store, *config.more_stores))
    known = trained_ups(config.stream.sample.augment.up_axis, map(stored_up, trained_on))
    return nearest_up(known, store)


class OnlineProbe:
    """Scores a student in training, and keeps the best weights; does not use torch's generator.

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
            sample=config.stream.sample,
            split=settings.split,
        ).turned_to(_up_axis(config, store) if settings.store else None)
        shown = {
            part: spread(data.parts[part], settings.frames) for part in ("train", "validation")
        }
        self._data = replace(data, parts=shown)
        self._frames = {
            sample: data.frame(sample) for part in shown.values() for sample in part.tolist()
        }
        for part, samples in shown.items():
            if not any(len(labelled_voxels(self._frames[sample])) for sample in samples.tolist()):
                raise ConfigError(
                    f"the {settings.frames} frames of the {part} part that the probe takes have no "
                    "labelled point; raise probe.frames, cut other parts by probe.validation and "
                    "probe.test, or name a labelled store with probe.store"
                )

    @property
    def up_axis(self) -> Axis:
        """The up axis of the frames as the student gets them."""
        return self._data.up_axis

    def run(self, model: PretrainingModel, step: int) -> dict[str, float]:
        """Score the student, keep the weights if they are the best so far, and return what to log.

        Args:
            model: in training mode; its running statistics are used, and it is not changed.
            step: how many steps the weights have seen.
        """
        began = time.perf_counter()
        found = self.scores(model.student)
        save_best(self._out, model, step=step, by=self._config.best_by, scores=found)
        logged = {f"probe_{kind}_miou": value for kind, value in found.items()}
        return {**logged, "probe_s": time.perf_counter() - began}

    def scores(self, student: Student) -> dict[str, float]:
        """Validation mIoU by `linear` and by `knn`."""
        settings = FrozenConfig(
            points_per_frame=self._config.points_per_frame, neighbours=self._config.neighbours
        )
        frozen = FrozenFeatures(
            lambda frame: voxel_features(student, frame),
            self._data,
            settings,
            read=self._frames.__getitem__,
        )
        fit, was_training = self._data.parts["train"], student.training
        student.eval()
        try:
            found = {kind: frozen.scores(kind, fit, 0, part="validation") for kind in KINDS}
        finally:
            student.train(was_training)
        return {kind: part.scores.miou for kind, part in found.items()}
