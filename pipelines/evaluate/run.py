"""evaluate: do pretrained weights help where labels are few? Every figure paired with scratch."""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from p2pkit.errors import FingerprintError
from p2pkit.evaluation.segmentation import SegmentationScores
from p2pkit.files import sha256_json, write_json
from p2pkit.pipelines.evaluate.features import FrozenFeatures
from p2pkit.pipelines.evaluate.finetune import finetune
from p2pkit.pipelines.evaluate.frames import LabelledFrames, open_labelled, students_up
from p2pkit.pipelines.evaluate.report import write_report
from p2pkit.pipelines.evaluate.settings import BY_SCENE, EvaluateConfig
from p2pkit.pipelines.evaluate.split import UNIT_WORDS
from p2pkit.pipelines.evaluate.weights import STUDENT_SETTINGS, ComparedWeights, compared_weights
from p2pkit.pipelines.held_out import all_keys
from p2pkit.settings import config_to_json
from p2pkit.store.reading import open_store
from p2pkit.store.strict_json import differences
from p2pkit.stream.samples import CAMERA_UP


@dataclass(frozen=True)
class Job:
    """Cells that share a network's features: all fractions of one mode, weights and seed."""

    mode: str
    weights: str
    seed: int


Progress = Callable[[str], None]


def run(config: EvaluateConfig, *, progress: Progress | None = None) -> Path:
    """Evaluate the cells that are not there yet and write report.json, report.md and plots.

    A cell is one mode, set of weights, fraction and seed; finished ones are kept in `out`/cells, so
    an evaluation that was interrupted, or is asked for more seeds, goes on.

    Returns:
        The path of report.json.

    Raises:
        StoreError: the store has no labels.
        ConfigError: a part of the split is empty or not possible, or the runs' students differ.
        FingerprintError: `out` holds cells of other settings; the message names what differs.
    """
    tell = progress or (lambda name: None)
    weights = compared_weights(config.runs, config.checkpoints, config.which)
    data = _data(config, weights)
    card = protocol(config, weights, data)
    _check_same(config, card)
    every = list(_jobs(config, weights.names))
    jobs = [job for job in every if any(not path.exists() for path in _paths(config, job))]
    if config.workers > 1 and len(jobs) > 1:
        with ProcessPoolExecutor(config.workers, mp_context=get_context("spawn")) as pool:
            for name in pool.map(_work_alone, [(config, job) for job in jobs]):
                tell(name)
    else:
        for job in jobs:
            tell(_work(config, weights, data, job))
    return write_report(config.out, card, _cells(config, weights, every))


def protocol(
    config: EvaluateConfig, weights: ComparedWeights, data: LabelledFrames
) -> dict[str, Any]:
    """The protocol card: all that decides the figures but weights, fractions and seeds."""
    settings = {
        "frozen": config_to_json(config.frozen),
        "finetune": config_to_json(config.finetune),
    }
    keys = all_keys(data.store)
    test = [keys[sample] for sample in data.parts["test"]]
    unit = UNIT_WORDS[data.split.unit]
    return {
        "dataset": data.store.manifest.dataset.get("dataset"),
        "geometry": data.store.layer("geometry").fingerprint_sha256,
        "label_set": config.labels,
        "classes": list(data.labels.classes),
        "frames": {name: len(part) for name, part in data.parts.items()},
        "scenes": {name: len(data.scenes(name)) for name in data.parts},
        "test_scenes_digest": sha256_json(data.scenes("test")),
        "fraction_unit": f"percent of the training part's {unit}",
        "metric": "mIoU over the classes in the test part, per point; a point takes its voxel's "
        "prediction; void is not counted",
        "student": {name: getattr(weights.train, name) for name in STUDENT_SETTINGS},
        "voxel_size_m": data.voxel_size,
        "test_time": "one view, no augmentation",
        "settings": settings,
        "pretrained_on_test_frames": weights.seen(data.store, test),
        **_unusual(config, data),
    }


def _unusual(config: EvaluateConfig, data: LabelledFrames) -> dict[str, Any]:
    """Entries that evaluations by scene on depth cameras do without."""
    entries: dict[str, Any] = {}
    if data.split != BY_SCENE:
        entries["split"] = config_to_json(data.split)
    if data.warning is not None:
        entries["warning"] = data.warning
    if data.up_axis != CAMERA_UP or data.turn is not None:
        entries["up_axis"] = list(data.up_axis)
        entries["points"] = "as they are stored" if data.turn is None else "turned to that axis"
    if data.up_axis != config.finetune.augment.up_axis == CAMERA_UP:
        entries["finetuning_turns_about"] = list(CAMERA_UP)
    return entries


def _data(config: EvaluateConfig, weights: ComparedWeights) -> LabelledFrames:
    store = open_store(config.store)
    return open_labelled(
        store,
        label_set=config.labels,
        validation=config.validation,
        test=config.test,
        voxel_size=weights.train.stream.sample.voxel_size,
        split=config.split,
        up_axis=students_up(config.runs, store) if config.axes == "run" else None,
    )


def _jobs(config: EvaluateConfig, names: Sequence[str]) -> Iterator[Job]:
    """Those of the first seed come first, so that a broken-off evaluation has whole rows."""
    for seed in range(config.seeds):
        for mode in config.modes:
            for name in names:
                yield Job(mode, name, seed)


def _paths(config: EvaluateConfig, job: Job) -> list[Path]:
    return [_path(config, job, percent) for percent in config.fractions]


def _path(config: EvaluateConfig, job: Job, percent: float) -> Path:
    return config.out / "cells" / f"{job.mode}-{job.weights}-{percent:g}-{job.seed}.json"


def _work_alone(work: tuple[EvaluateConfig, Job]) -> str:
    """What a process of its own does."""
    config, job = work
    weights = compared_weights(config.runs, config.checkpoints, config.which)
    return _work(config, weights, _data(config, weights), job)


def _work(config: EvaluateConfig, weights: ComparedWeights, data: LabelledFrames, job: Job) -> str:
    """Compute the job's missing cells, all of the weights as they are now."""
    frozen: FrozenFeatures | None = None
    read = weights.read(job.weights)
    for percent in config.fractions:
        path = _path(config, job, percent)
        if path.exists():
            continue
        samples = data.subset(percent, job.seed)
        extra: dict[str, Any] = {}
        if job.mode == "finetune":
            tuned = finetune(
                weights.student(job.weights, job.seed, read),
                data,
                samples,
                config.finetune,
                seed=job.seed,
                device=config.device,
            )
            scores = tuned.scores
            extra = {"tested_step": tuned.step, "validation_miou": tuned.validation_miou}
        else:
            if frozen is None:
                student = weights.student(job.weights, job.seed, read)
                frozen = FrozenFeatures(student, data, config.frozen, config.device)
            scores = frozen.scores(job.mode, samples, job.seed)
        cell = {"frames": len(samples), "weights": read.identity, **extra}
        write_json(path, {**cell, **_summary(scores, data)})
    return f"{job.mode} {job.weights} seed {job.seed}"


def _summary(scores: SegmentationScores, data: LabelledFrames) -> dict[str, Any]:
    iou = [None if value != value else float(value) for value in scores.iou]
    return {
        "miou": scores.miou,
        "accuracy": scores.accuracy,
        "class_accuracy": scores.class_accuracy,
        "iou": dict(zip(data.labels.classes, iou, strict=True)),
    }


def _cells(
    config: EvaluateConfig, weights: ComparedWeights, jobs: Sequence[Job]
) -> list[dict[str, Any]]:
    """All cells asked for, each with its place in the table."""
    rows: list[dict[str, Any]] = []
    identities = {name: weights.identity(name) for name in weights.names}
    for job in jobs:
        for percent in config.fractions:
            path = _path(config, job, percent)
            cell = json.loads(path.read_text())
            if cell["weights"] != identities[job.weights]:
                raise FingerprintError(
                    f"{path} was measured on other weights than {job.weights} has now (the run was "
                    "trained on?); delete it, or use another --out"
                )
            place = {"mode": job.mode, "name": job.weights, "percent": percent, "seed": job.seed}
            rows.append({**place, **cell})
    return rows


def _check_same(config: EvaluateConfig, card: dict[str, Any]) -> None:
    """Compare with the protocol of the cells that are there; writes it first.

    Settings of fine-tuning decide nothing in other modes; their defaults may change.
    """
    path, comparable = config.out / "protocol.json", {**card}
    del comparable["pretrained_on_test_frames"]
    if path.exists():
        rows = differences(json.loads(path.read_text()), comparable, "protocol")
        if "finetune" not in config.modes:
            rows = [row for row in rows if not row[0].startswith("protocol.settings.finetune.")]
        if rows:
            told = "; ".join(f"{where} is {old!r} there, {new!r} now" for where, old, new in rows)
            raise FingerprintError(f"{config.out} holds cells of another protocol: {told}")
    else:
        write_json(path, comparable)
