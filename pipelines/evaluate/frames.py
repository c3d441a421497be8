"""The labelled frames of a store: parts by scene, label subsets, voxels, and scores per point."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int32, Int64
from torch import Tensor

from p2pkit.errors import ConfigError, StoreError, counted
from p2pkit.evaluation.label_sets import IGNORE, LabelSet, open_label_set
from p2pkit.evaluation.segmentation import (
    SegmentationScores,
    class_counts,
    confusion_matrix,
    segmentation_scores,
)
from p2pkit.geometry.gravity import turn_between, turned
from p2pkit.layers.boxes import CLASSES, box_layer
from p2pkit.layers.digests import INPUTS
from p2pkit.networks import Student, prepared_for
from p2pkit.pipelines.evaluate.inference import labels_of, read_cloud
from p2pkit.pipelines.evaluate.official import is_official, test_places
from p2pkit.pipelines.evaluate.settings import BY_SCENE, SplitConfig
from p2pkit.pipelines.evaluate.split import (
    OFFICIAL,
    check_disjoint,
    cut_frames,
    drawn_scenes,
    place_of,
    same_place,
)
from p2pkit.pipelines.held_out import all_keys, samples_in_key_order, without_arrays
from p2pkit.pipelines.train.run_folder import read_config_for_use, read_provenance
from p2pkit.settings.stream import Input, SampleConfig
from p2pkit.store.reading import Store
from p2pkit.stream.augmentation import (
    AugmentConfig,
    Axis,
)
from p2pkit.stream.inputs import (
    CAMERA_UP,
    SeenFrame,
    blanked_inputs,
    check_inputs,
    see,
    stored_up,
    unaugmented,
)

Keep = Callable[[int, Int64[np.ndarray, " points"]], None]
"""Takes a frame's sample id and the class that is predicted for each of its stored points."""
BOXES = "boxes"
"""The label set of the mode detect: the classes of the store's boxes."""


def pretraining_up_axis(runs: Sequence[Path], store: Store) -> Axis:
    """The up axis of the runs' pretraining, in which they are compared on a store.

    A sparse network's features depend on the axes, so points of another recording are turned to
    those that the student was trained with. A mixture may have several: the store's own is used
    if it is one of them. A run that was trained on this same store knows it as it is stored.

    Raises:
        ConfigError: the runs have no up axis in common.
        TrainingError: a folder holds no run.
    """
    axes = {str(run): _run_ups(run, store) for run in runs}
    common = [up for up in next(iter(axes.values())) if all(up in ups for ups in axes.values())]
    if not common:
        found = ", ".join(f"{run} {[list(up) for up in ups]}" for run, ups in axes.items())
        raise ConfigError(
            f"these runs were trained with different up axes ({found}); evaluate them one by one, "
            "or leave the points unturned with --set axes=stored"
        )
    return nearest_up(common, store)


def nearest_up(known: Sequence[Axis], store: Store) -> Axis:
    """The store's own up axis if a student was trained with it, else the first of the student's."""
    own = stored_up(store)
    return own if own in known else known[0]


def trained_ups(named: Axis | None, stored: Iterable[Axis]) -> list[Axis]:
    """The up axes of a training: the one named in its settings, else those of its stores."""
    return [named] if named is not None else list(dict.fromkeys(stored))


def _run_ups(run: Path, store: Store) -> list[Axis]:
    provenance = read_provenance(run)
    if provenance.use_of(store) is not None:
        return [stored_up(store)]
    uses = provenance.stores
    named = read_config_for_use(run).stream.sample.augment.up_axis
    return trained_ups(named, (use.up_axis or CAMERA_UP for use in uses))


@dataclass(frozen=True, eq=False)
class LabelledFrame:
    """A frame as a segmentation network sees it.

    Args:
        coordinates: integer voxel positions, unique.
        points: x, y, z (m) of each voxel's first point, augmented.
        inputs: the student's channels of that point.
        voxel_of_point: voxel of each stored point; a point takes its voxel's prediction.
        labels: class of each point, `IGNORE` for void.
        voxel_label: the commonest class of each voxel's points; `IGNORE` where all are void.
        seen: which points a camera sees, or the recording has coloured.
    """

    coordinates: Int32[np.ndarray, "voxels 3"]
    points: Float32[np.ndarray, "voxels 3"]
    inputs: Float32[np.ndarray, "voxels channels"]
    voxel_of_point: Int64[np.ndarray, " points"]
    labels: Int64[np.ndarray, " points"]
    voxel_label: Int64[np.ndarray, " voxels"]
    seen: Bool[np.ndarray, " points"]


@dataclass(frozen=True, eq=False)
class PartScores:
    """Scores of a part, and what they are made of.

    Args:
        scores: over all its labelled points.
        counts: hits, labelled and predicted points of each class, by scene.
        apart: scores over the labelled points that a camera sees, `seen`, and over the others,
            `unseen`; empty where either has none.
    """

    scores: SegmentationScores
    counts: dict[str, Int64[np.ndarray, "3 classes"]]
    apart: dict[str, SegmentationScores] = field(default_factory=dict)

    def miou_apart(self) -> dict[str, float]:
        """The mIoU of `apart`, as entries of a report."""
        return {f"miou_{name}": scores.miou for name, scores in self.apart.items()}

    @property
    def value(self) -> float:
        """mIoU, by which weights are chosen."""
        return self.scores.miou


@runtime_checkable
class Voxels(Protocol):
    """The voxels of a frame, as a student takes them."""

    @property
    def coordinates(self) -> Int32[np.ndarray, "voxels 3"]:
        """Integer positions, unique."""
        ...

    @property
    def points(self) -> Float32[np.ndarray, "voxels 3"]:
        """x, y, z (m) of the point that stands for each."""
        ...

    @property
    def inputs(self) -> Float32[np.ndarray, "voxels channels"]:
        """The student's channels of each."""
        ...


@dataclass(frozen=True, eq=False)
class LabelledFrames:
    """A store's frames with labels, cut into parts by scene.

    Args:
        store: with labels.
        labels: the task's classes.
        parts: sample ids of each of `parts.PARTS`, in key order.
        scene_of: the sequence of each sample id, or its time block if `split` says so.
        sample: how the student sees a frame: its voxels and inputs.
        split: what the parts are made of.
        warning: what the split does not show, to be printed with each figure; None for scenes.
        up_axis: up in the frames that are given out.
        turn: from the stored axes to these; None where they are the same.
        other: frames of another store, used for testing; their sample ids follow those of `store`.
        blank: inputs of the student that are 0 in all frames, so that the stores may lack them.
        unlabelled: training scenes without a labelled frame, which `parts` leaves out.

    Raises:
        ConfigError: a frame is in two parts, or a scene where frames are cut by scene; or the store
            lacks an input of the student.
    """

    store: Store
    labels: LabelSet
    parts: dict[str, Int64[np.ndarray, " samples"]]
    scene_of: dict[int, str]
    sample: SampleConfig
    split: SplitConfig = BY_SCENE
    warning: str | None = None
    up_axis: Axis = CAMERA_UP
    turn: Float64[np.ndarray, "3 3"] | None = None
    other: "LabelledFrames | None" = None
    blank: tuple[Input, ...] = ()
    unlabelled: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_inputs(self.sample, self.store, self.blank)
        check_disjoint({name: part.tolist() for name, part in self.parts.items()}, "frame")
        if self.split.unit == "scene":
            check_disjoint({name: self.scenes(name) for name in self.parts}, "scene")

    def turned_to(self, up_axis: Axis | None) -> "LabelledFrames":
        """The same with points turned so that `up_axis` is up; None leaves them as stored."""
        if up_axis is None:
            return self
        return replace(self, up_axis=up_axis, turn=turn_between(stored_up(self.store), up_axis))

    @property
    def test_keys(self) -> list[str]:
        """Keys of the test part's frames, in the store that they are of."""
        if self.other is not None:
            return self.other.test_keys
        keys = all_keys(self.store)
        return [keys[sample] for sample in self.parts["test"]]

    def scenes(self, part: str) -> list[str]:
        """The part's scenes in order."""
        return list(dict.fromkeys(self.scene_of[int(sample)] for sample in self.parts[part]))

    def scenes_of(self, percent: float) -> int:
        """How many training scenes a percentage of them is: rounded, at least one."""
        return max(1, round(len(self.scenes("train")) * percent / 100))

    def drawn(self, count: int, seed: int) -> list[str]:
        """The training scenes whose labels a draw has; draws are disjoint as long as they fit."""
        scenes = self.scenes("train")
        return [scenes[row] for row in drawn_scenes(len(scenes), count, seed)]

    def subset(self, count: int, seed: int) -> Int64[np.ndarray, " samples"]:
        """Training frames of the scenes of `drawn`, in key order."""
        chosen = {*self.drawn(count, seed)}
        kept = [sample for sample in self.parts["train"] if self.scene_of[int(sample)] in chosen]
        return np.array(kept, np.int64)

    def frame(
        self,
        sample: int,
        random: np.random.Generator | None = None,
        augment: AugmentConfig | None = None,
    ) -> LabelledFrame:
        """Read a frame; with a generator its points are augmented.

        Points are turned about the frame's up axis, unless `augment.up_axis` names another.
        """
        if self.other is not None and sample >= self.store.samples:
            return self.other.frame(sample - self.store.samples, random, augment)
        cloud = read_cloud(self.store, sample)
        labels = self.labels.convert(labels_of(cloud))
        config = unaugmented(self.sample)
        if augment is not None:
            # Heights and cylinders are along the axis that pretraining named, as in the test.
            up = augment.up_axis or config.augment.up_axis
            config = replace(config, augment=replace(augment, up_axis=up))
        random = np.random.default_rng(0) if random is None else random
        cloud = replace(cloud, points=turned(cloud.points, self.turn))
        seen = see(cloud, config, random, up_axis=self.up_axis, blank=self.blank)
        return LabelledFrame(
            seen.coordinates,
            seen.points,
            seen.inputs,
            seen.voxel_of_point,
            labels,
            _commonest(seen, labels, len(self.labels.classes)),
            cloud.seen,
        )

    def score(
        self,
        samples: Int64[np.ndarray, " samples"],
        predict: Callable[[int], tuple[LabelledFrame, Int64[np.ndarray, " voxels"]]],
        keep: Keep | None = None,
    ) -> PartScores:
        """Scores over all labelled points of some frames; each point has its voxel's prediction.

        Args:
            samples: the frames.
            predict: gives a frame by its sample id, and the class of each of its voxels.
            keep: is given the predictions of each frame.
        """
        shape = (len(self.labels.classes),) * 2
        confusions: dict[str, np.ndarray] = {}
        of_seen = np.zeros(shape, np.int64)
        for sample in samples.tolist():
            found = confusions.setdefault(self.scene_of[sample], np.zeros(shape, np.int64))
            frame, classes = predict(sample)
            found += self.confusion(frame, classes)
            labels = np.where(frame.seen, frame.labels, IGNORE)
            of_seen += self.confusion(replace(frame, labels=labels), classes)
            if keep is not None:
                keep(sample, classes[frame.voxel_of_point])
        total = sum(confusions.values(), np.zeros(shape, np.int64))
        counts = {scene: class_counts(confusion) for scene, confusion in confusions.items()}
        apart = {"seen": of_seen, "unseen": total - of_seen}
        if not all(part.any() for part in apart.values()):
            apart = {}
        scores = {name: segmentation_scores(part) for name, part in apart.items()}
        return PartScores(segmentation_scores(total), counts, scores)

    def confusion(
        self, frame: LabelledFrame, prediction: Int64[np.ndarray, " voxels"]
    ) -> Int64[np.ndarray, "classes classes"]:
        """Counts by point: each has the prediction of its voxel."""
        return confusion_matrix(
            frame.labels,
            prediction[frame.voxel_of_point],
            classes=len(self.labels.classes),
            ignore_label=IGNORE,
        )


def network_inputs(
    frames: Sequence[Voxels], student: Student
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """(batch, x, y, z) and inputs of the voxels of several frames, and what the student prepares.

    All on the student's device; it is called as `student(coordinates, inputs, **prepared)`.
    """
    device = str(next(student.parameters()).device)
    rows = [np.insert(frame.coordinates, 0, i, axis=1) for i, frame in enumerate(frames)]
    inputs = np.concatenate([frame.inputs for frame in frames])
    voxels = [(frame.points, frame.coordinates) for frame in frames]
    return (
        torch.from_numpy(np.concatenate(rows)).to(device),
        torch.from_numpy(inputs).to(device),
        prepared_for(student, voxels, device),
    )


def open_labelled(
    store: Store,
    *,
    label_set: str,
    validation: float,
    test: float,
    sample: SampleConfig,
    split: SplitConfig = BY_SCENE,
    blank: Sequence[Input] = (),
) -> LabelledFrames:
    """Cut a store's frames by scene: the last `test` of them, before these `validation`, the rest.

    Args:
        store: with labels, and with sequences (else each frame counts as one scene).
        label_set: a key of `label_sets.LABEL_SETS`.
        validation: share of the frames; cuts move to the nearest change of scene.
        test: the same; 0 leaves the test part empty, for `with_test_store`.
        sample: how the student sees a frame.
        split: named test scenes, or parts of one recording by time.
        blank: inputs that are 0 in all frames; `colored` goes with `color`.

    Raises:
        StoreError: the store has no labels.
        ConfigError: as `split.cut_frames`, the store lacks an input of the student, or the student
            does not have one of `blank`.
    """
    labels, samples = stored_labels(store, label_set), samples_in_key_order(store)
    scenes, dataset = _scene_names(store, samples), store.manifest.dataset
    named = test_places(dataset.get("dataset"), split.test_scenes, scenes)
    # The file that lists an official part may lie anywhere: only the part is kept as its name.
    shown = (OFFICIAL,) if is_official(split.test_scenes) else named
    split = replace(split, test_scenes=named)
    cut = cut_frames(scenes, validation=validation, test=test, split=split)
    return LabelledFrames(
        store=store,
        labels=labels,
        parts={name: samples[rows] for name, rows in cut.rows.items()},
        scene_of=dict(zip(samples.tolist(), cut.units, strict=True)),
        sample=sample,
        split=replace(split, test_scenes=shown),
        warning=same_place(scenes, split),
        up_axis=stored_up(store),
        blank=blanked_inputs(sample, blank),
    )


def with_test_store(
    data: LabelledFrames, store: Store, up_axis: Axis | None = None
) -> LabelledFrames:
    """The training and validation part of `data`, tested on all frames of another store.

    Args:
        data: from `open_labelled` with `test=0`.
        store: with labels of the same classes.
        up_axis: as in `LabelledFrames.turned_to`, for this store.

    Raises:
        StoreError: the store has no labels.
        ConfigError: it holds the same frames, or has other classes.
    """
    if shared := shared_frames(store, data.store):
        raise ConfigError(
            f"test_store {store.root} holds {counted(len(shared), 'frame')} of the training store "
            f"{data.store.root}, such as {shared[0]}; test on other ones"
        )
    labels = stored_labels(store, data.labels.name)
    if labels.classes != data.labels.classes:
        raise ConfigError(
            f"test_store {store.root} has the classes {', '.join(labels.classes)}, "
            f"{data.store.root} has {', '.join(data.labels.classes)}; choose a label set that both "
            "have"
        )
    samples = samples_in_key_order(store)
    scenes = dict(zip(samples.tolist(), _scene_names(store, samples), strict=True))
    other = replace(
        data,
        store=store,
        labels=labels,
        parts={"test": samples},
        scene_of=scenes,
        up_axis=stored_up(store),
        turn=None,
    ).turned_to(up_axis)
    first = data.store.samples
    moved = {first + sample: f"test store, {scene}" for sample, scene in scenes.items()}
    parts = {**data.parts, "test": samples + first}
    scene_of = {**data.scene_of, **moved}
    # What the other store shows is not the place of the training frames.
    return replace(data, parts=parts, scene_of=scene_of, warning=None, other=other)


def shared_frames(one: Store, other: Store) -> list[str]:
    """Keys of the frames that were extracted from the same files in both stores."""
    common = sorted({*all_keys(one)} & {*all_keys(other)})
    if one.manifest.dataset == other.manifest.dataset:
        return common

    def digests(store: Store, key: str) -> Any:
        return store.read("geometry", *store.find(key), fields=()).meta.get(INPUTS)

    return [key for key in common if (known := digests(one, key)) and known == digests(other, key)]


def stored_labels(store: Store, label_set: str) -> LabelSet:
    """The classes of a label set in a store; StoreError if it has no labels, or no boxes."""
    if label_set == BOXES:
        classes = tuple(box_layer(store).details[CLASSES])
        return LabelSet(BOXES, classes, np.arange(len(classes), dtype=np.int64))
    dataset = store.manifest.dataset
    if dataset.get("label_names") is None:
        raise StoreError(
            f"{store.root} has no labels for evaluation; extract a recording with labels, such as "
            "--dataset nyuv2 or demo-scene"
        )
    return open_label_set(label_set, dataset["label_names"], dataset["ignore_label"])


def _scene_names(store: Store, samples: Int64[np.ndarray, " samples"]) -> list[str]:
    """The scene of each sample; a frame without a sequence counts as one scene."""
    dataset = store.manifest.dataset.get("dataset")
    return [
        place_of(dataset, stored.meta["sequence"]) or stored.key
        for stored in without_arrays(store, samples)
    ]


def _commonest(
    voxels: SeenFrame, labels: Int64[np.ndarray, " points"], classes: int
) -> Int64[np.ndarray, " voxels"]:
    counted = (labels != IGNORE) & (voxels.voxel_of_point >= 0)
    key = voxels.voxel_of_point[counted] * classes + labels[counted]
    counts = np.bincount(key, minlength=len(voxels.coordinates) * classes).reshape(-1, classes)
    return np.where(counts.any(axis=1), counts.argmax(axis=1), IGNORE)
