"""evaluate: do pretrained weights help with few labels? Every figure is paired with scratch."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from p2pkit.errors import FingerprintError
from p2pkit.files import sha256_json, write_json
from p2pkit.layers.boxes import count_boxes
from p2pkit.memory import prefer_huge_pages
from p2pkit.networks.students import Student
from p2pkit.pipelines.evaluate.detect import Detection, DetectionScores
from p2pkit.pipelines.evaluate.features import (
    KINDS,
    FrozenFeatures,
    raw_inputs,
    student_features,
)
from p2pkit.pipelines.evaluate.finetune import Segmentation, finetune
from p2pkit.pipelines.evaluate.frames import (
    BOXES,
    Keep,
    LabelledFrames,
    PartScores,
    open_labelled,
    pretraining_up_axis,
    with_test_store,
)
from p2pkit.pipelines.evaluate.labelled_parts import check_labelled, with_labelled_scenes
from p2pkit.pipelines.evaluate.official import differences_to_published, is_official
from p2pkit.pipelines.evaluate.predictions import kept_predictions
from p2pkit.pipelines.evaluate.report import DETECT, TRAINED, main_metric, write_report
from p2pkit.pipelines.evaluate.settings import BY_SCENE, EvaluateConfig, FinetuneConfig
from p2pkit.pipelines.evaluate.split import UNIT_WORDS
from p2pkit.pipelines.evaluate.weights import (
    BASELINES,
    INPUTS,
    SCRATCH,
    ComparedWeights,
    ReadWeights,
    compared_weights,
)
from p2pkit.pipelines.train.run_folder import student_settings
from p2pkit.settings import config_to_json
from p2pkit.store.reading import open_store
from p2pkit.store.strict_json import differences
from p2pkit.stream.inputs import CAMERA_UP, described_inputs


@dataclass(frozen=True)
class Cell:
    """One figure: a mode, a number of labelled scenes, and which draw of them."""

    mode: str
    scenes: int
    seed: int


@dataclass(frozen=True)
class Job:
    """Cells that are computed with the same weights, one after the other."""

    weights: str
    cells: tuple[Cell, ...]

    def __str__(self) -> str:
        modes, seeds = (
            {getattr(cell, name): None for cell in self.cells} for name in ("mode", "seed")
        )
        drawn = ", ".join(map(str, seeds))
        return f"{', '.join(modes)} of {self.weights}, seed{'s' * (len(seeds) > 1)} {drawn}"


Progress = Callable[[str], None]
METRICS = (
    "mIoU over the classes in the test part, per point; a point takes its voxel's prediction; void "
    "is not counted",
    "mean average precision over the classes in the test part at 3D IoU 0.25 and 0.5 of turned "
    "boxes, per frame, all recalls (VOC 2010, as VoteNet)",
)
"""Of segmentation, and of detection."""


def run(config: EvaluateConfig, *, progress: Progress | None = None) -> Path:
    """Evaluate the missing cells and write report.json, report.md and plots.

    A cell is one mode, set of weights, fraction and seed; finished ones are kept in `out`/cells, so
    an interrupted evaluation, or one with more seeds, continues.

    Returns:
        The path of report.json.

    Raises:
        StoreError: the store has no labels.
        ConfigError: a part of the split is empty or not possible, or the runs' students differ.
        FingerprintError: `out` holds cells of other settings; the message names what differs.
    """
    report_done = progress or (lambda name: None)
    prefer_huge_pages()
    weights = compared_weights(config.runs, config.checkpoints, config.which)
    data = compared_frames(config, weights)
    _check_labelled(config, data)
    card = protocol(config, weights, data)
    _check_same(config, card)
    every = list(_jobs(config, data, weights.names))
    _check_weights(config, weights, data, every)
    jobs = [job for job in every if _missing(config, data, job)]
    if config.workers > 1 and len(jobs) > 1:
        with ProcessPoolExecutor(config.workers, mp_context=get_context("spawn")) as pool:
            for name in pool.map(_work_alone, [(config, job) for job in jobs]):
                report_done(name)
    else:
        for job in jobs:
            report_done(_work(config, weights, data, job))
    cells = _cells(config, weights, data, every)
    return write_report(config.out, card, cells, repeated=weights.repeated)


def protocol(
    config: EvaluateConfig, weights: ComparedWeights, data: LabelledFrames
) -> dict[str, Any]:
    """The protocol card: all that decides the figures but weights, fractions and seeds."""
    settings = {
        "frozen": config_to_json(config.frozen),
        "finetune": config_to_json(config.finetune),
    }
    unit, tested = UNIT_WORDS[data.split.unit], data.other or data
    return {
        "dataset": data.store.manifest.dataset.get("dataset"),
        "geometry": data.store.layer("geometry").fingerprint_sha256,
        "label_set": data.labels.name,
        "classes": list(data.labels.classes),
        "frames": {name: len(part) for name, part in data.parts.items()},
        "scenes": {name: len(data.scenes(name)) for name in data.parts},
        "test_scenes_digest": sha256_json(data.scenes("test")),
        "fraction_unit": f"percent of the training part's {unit}",
        "draws": f"whole {unit}, dealt out: draws are disjoint as long as they fit",
        "metric": METRICS[data.labels.name == BOXES],
        "student": student_settings(weights.train),
        **described_inputs(data.sample),
        "test_time": "one view, no augmentation",
        "settings": settings,
        "pretrained_on_test_frames": weights.seen(tested.store, data.test_keys),
        **_unusual(config, data),
    }


def _unusual(config: EvaluateConfig, data: LabelledFrames) -> dict[str, Any]:
    """Entries that evaluations by scene on depth cameras do not need."""
    entries: dict[str, Any] = {}
    if data.labels.name == BOXES:
        stores = [data.store] if data.other is None else [data.store, data.other.store]
        counts = [count_boxes(store) for store in stores]
        entries["boxes"] = sum(found.stored for found in counts)
        entries["boxes_left_out"] = [found.left_out for found in counts]
        entries["detect"] = config_to_json(config.detect)
    if data.other is not None:
        entries["test_store"] = {
            "dataset": data.other.store.manifest.dataset.get("dataset"),
            "geometry": data.other.store.layer("geometry").fingerprint_sha256,
        }
    if data.blank:
        entries["blank"] = list(data.blank)
    if data.unlabelled:
        entries["training_scenes_without_labels"] = list(data.unlabelled)
    if data.split != BY_SCENE:
        entries["split"] = config_to_json(data.split)
    if is_official(data.split.test_scenes):
        entries["not_as_published"] = differences_to_published(
            data.store, len(data.parts["test"]), config.labels, boxes=DETECT in config.modes
        )
    if data.warning is not None:
        entries["warning"] = data.warning
    if data.up_axis != CAMERA_UP or data.turn is not None:
        entries["up_axis"] = list(data.up_axis)
        entries["points"] = "as they are stored" if data.turn is None else "turned to that axis"
    if data.up_axis != config.finetune.augment.up_axis == CAMERA_UP:
        entries["finetuning_turns_about"] = list(CAMERA_UP)
    return entries


def compared_frames(config: EvaluateConfig, weights: ComparedWeights) -> LabelledFrames:
    """The frames that train, validate and test, all of them with one up axis.

    Raises:
        StoreError: a store has no labels.
        NoLabelsError: no training scene has labels.
        ConfigError: a part of the split is empty or not possible, or the runs' axes differ.
    """
    store = open_store(config.store)
    up = pretraining_up_axis(config.runs, store) if config.axes == "run" else None
    data = open_labelled(
        store,
        label_set=BOXES if DETECT in config.modes else config.labels,
        validation=config.validation,
        test=config.test if config.test_store is None else 0.0,
        sample=weights.train.stream.sample,
        split=config.split,
        blank=config.blank,
    ).turned_to(up)
    if config.test_store is not None:  # with the axis of the training frames
        data = with_test_store(data, open_store(config.test_store), up)
    return with_labelled_scenes(data)


def _check_labelled(config: EvaluateConfig, data: LabelledFrames) -> None:
    """Raise NoLabelsError if a part that is used has no labels."""
    check_labelled(data, "test")
    if {*TRAINED} & {*config.modes} and config.finetune.choose != "last":
        check_labelled(data, "validation")


def _jobs(config: EvaluateConfig, data: LabelledFrames, names: Sequence[str]) -> Iterator[Job]:
    """All requested jobs; the frozen features of one network serve all its cells."""
    scenes = _asked(config, data)
    seeds = range(config.first_seed, config.first_seed + config.seeds)
    modes = list(dict.fromkeys(config.modes))
    frozen = [mode for mode in modes if mode in KINDS]
    for name in (*BASELINES, *names[1:]) if frozen else ():
        for together in [[seed] for seed in seeds] if name == SCRATCH else [seeds]:
            yield Job(name, tuple(Cell(*cell) for cell in product(frozen, scenes, together)))
    for mode in [mode for mode in modes if mode in TRAINED]:
        for seed, name in product(seeds, names):
            yield Job(name, tuple(Cell(mode, count, seed) for count in scenes))


def _asked(config: EvaluateConfig, data: LabelledFrames) -> dict[int, list[float]]:
    """The requested percentages, by the number of scenes that they amount to."""
    asked: dict[int, list[float]] = {}
    for percent in config.fractions:
        asked.setdefault(data.scenes_of(percent), []).append(percent)
    return asked


def _missing(config: EvaluateConfig, data: LabelledFrames, job: Job) -> list[Cell]:
    def is_done(cell: Cell) -> bool:
        predicted = _predictions(config, data, job, cell)
        done = _path(config, data, job, cell).exists()
        return done and (predicted is None or predicted.is_dir())

    return [cell for cell in job.cells if not is_done(cell)]


def _path(config: EvaluateConfig, data: LabelledFrames, job: Job, cell: Cell) -> Path:
    share = f"{cell.scenes}of{len(data.scenes('train'))}"
    return config.out / "cells" / f"{cell.mode}-{job.weights}-{share}-{cell.seed}.json"


def _predictions(config: EvaluateConfig, data: LabelledFrames, job: Job, cell: Cell) -> Path | None:
    """The folder of a cell's predictions, named as the cell's file."""
    if config.predictions is None:
        return None
    return config.predictions / _path(config, data, job, cell).stem


def _work_alone(work: tuple[EvaluateConfig, Job]) -> str:
    """What a worker process does."""
    config, job = work
    weights = compared_weights(config.runs, config.checkpoints, config.which)
    return _work(config, weights, compared_frames(config, weights), job)


def _work(config: EvaluateConfig, weights: ComparedWeights, data: LabelledFrames, job: Job) -> str:
    """Compute the job's missing cells with the weights as they are now."""
    frozen: FrozenFeatures | None = None
    read = weights.read(job.weights)
    for cell in _missing(config, data, job):
        samples = data.subset(cell.scenes, cell.seed)
        extra: dict[str, Any] = {}
        with kept_predictions(_predictions(config, data, job, cell), data) as keep:
            if cell.mode in TRAINED:
                student = weights.student(job.weights, cell.seed, read)
                settings = _finetune_settings(config, job.weights)
                found, extra = _tuned(config, data, student, cell, settings, keep)
            else:
                frozen = frozen or _frozen(config, weights, data, job, read)
                found = frozen.scores(cell.mode, samples, cell.seed, keep=keep)
        row = {
            "frames": len(samples),
            "drawn": data.drawn(cell.scenes, cell.seed),
            "weights": read.identity,
            **extra,
            **_summary(found, data),
        }
        write_json(_path(config, data, job, cell), row)
    return str(job)


def _finetune_settings(config: EvaluateConfig, name: str) -> FinetuneConfig:
    """Those of the named weights."""
    rate = config.finetune.scratch_rate
    if name != SCRATCH or rate is None:
        return config.finetune
    return replace(config.finetune, trunk_rate=rate)


def _tuned(
    config: EvaluateConfig,
    data: LabelledFrames,
    student: Student,
    cell: Cell,
    settings: FinetuneConfig,
    keep: Keep | None,
) -> tuple[PartScores | DetectionScores, dict[str, Any]]:
    """Scores of a student that is trained for a cell, and what was chosen for it."""
    segmentation = Segmentation(data)
    task = Detection(data, config.detect) if cell.mode == DETECT else segmentation
    tuned = finetune(
        student,
        data,
        data.subset(cell.scenes, cell.seed),
        settings,
        seed=cell.seed,
        device=config.device,
        task=task,
        test=replace(segmentation, keep=keep) if task is segmentation else None,
    )
    return tuned.tested, {
        "tested_step": tuned.step,
        "tested_rate": tuned.rate,
        f"validation_{main_metric(cell.mode).key}": tuned.validated,
    }


def _frozen(
    config: EvaluateConfig,
    weights: ComparedWeights,
    data: LabelledFrames,
    job: Job,
    read: ReadWeights,
) -> FrozenFeatures:
    """The features of a job's weights; the seed matters only for random weights."""
    if job.weights == INPUTS:
        return FrozenFeatures(raw_inputs(data, config.frozen), data, config.frozen)
    student = weights.student(job.weights, job.cells[0].seed, read)
    describe = student_features(student, data, config.frozen, config.device)
    return FrozenFeatures(describe, data, config.frozen)


def _summary(found: PartScores | DetectionScores, data: LabelledFrames) -> dict[str, Any]:
    """A cell's scores, and what the bootstrap over test scenes needs."""
    if isinstance(found, DetectionScores):
        return found.row(data.labels.classes)
    scores = found.scores
    iou = [None if value != value else float(value) for value in scores.iou]
    return {
        "miou": scores.miou,
        "accuracy": scores.accuracy,
        "class_accuracy": scores.class_accuracy,
        "iou": dict(zip(data.labels.classes, iou, strict=True)),
        **found.miou_apart(),
        "counts": {scene: counts.tolist() for scene, counts in found.counts.items()},
    }


def _cells(
    config: EvaluateConfig, weights: ComparedWeights, data: LabelledFrames, jobs: Sequence[Job]
) -> list[dict[str, Any]]:
    """All requested cells, each with its place in the table."""
    _check_weights(config, weights, data, jobs)  # a run may have been trained meanwhile
    rows: list[dict[str, Any]] = []
    asked, total = _asked(config, data), len(data.scenes("train"))
    for job in jobs:
        for cell in job.cells:
            found = json.loads(_path(config, data, job, cell).read_text())
            share = {"percent": 100 * cell.scenes / total, "asked": asked[cell.scenes]}
            rows.append({**asdict(cell), "name": job.weights, **share, **found})
    order = {mode: number for number, mode in enumerate(config.modes)}
    return sorted(rows, key=lambda row: (order[row["mode"]], row["scenes"], row["seed"]))


def _check_weights(
    config: EvaluateConfig, weights: ComparedWeights, data: LabelledFrames, jobs: Sequence[Job]
) -> None:
    """Raise FingerprintError if finished cells are of other weights than those of today."""
    identities = {name: weights.identity(name) for name in (*BASELINES, *weights.names)}
    paths = ((job, _path(config, data, job, cell)) for job in jobs for cell in job.cells)
    done = [(job.weights, path) for job, path in paths if path.exists()]
    stale = [
        (name, path)
        for name, path in done
        if json.loads(path.read_text())["weights"] != identities[name]
    ]
    if stale:
        names = ", ".join(dict.fromkeys(name for name, _ in stale))
        raise FingerprintError(
            f"{config.out} has cells that were measured on other weights than {names} has now (was "
            f"the run trained further?): {', '.join(str(path) for _, path in stale)}; delete "
            "them, or use another --out"
        )


def _check_same(config: EvaluateConfig, card: dict[str, Any]) -> None:
    """Compare with the protocol of existing cells; write it if there are none.

    Settings of fine-tuning do not affect other modes; their defaults may change.
    """
    path, comparable = config.out / "protocol.json", {**card}
    del comparable["pretrained_on_test_frames"]
    if path.exists():
        rows = differences(json.loads(path.read_text()), comparable, "protocol")
        if not {*TRAINED} & {*config.modes}:
            rows = [row for row in rows if not row[0].startswith("protocol.settings.finetune.")]
        if rows:
            changes = "; ".join(f"{where} was {old!r}, is now {new!r}" for where, old, new in rows)
            raise FingerprintError(
                f"{config.out} holds cells of another protocol: {changes}. Use another --out, or "
                "delete the folder"
            )
    else:
        write_json(path, comparable)
