"""probe: a linear classifier on frozen point features, compared with two baselines."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from p2pkit.errors import StoreError
from p2pkit.evaluation.label_sets import STORED
from p2pkit.files import write_json
from p2pkit.pipelines.evaluate.features import (
    Describe,
    FrozenFeatures,
    raw_inputs,
    student_features,
)
from p2pkit.pipelines.evaluate.frames import (
    LabelledFrames,
    PartScores,
    pretraining_up_axis,
    stored_labels,
)
from p2pkit.pipelines.evaluate.settings import FrozenConfig, ProbeStageConfig, SplitConfig
from p2pkit.pipelines.evaluate.weights import INPUTS
from p2pkit.pipelines.held_out import scene_split
from p2pkit.pipelines.train.checkpoints import chosen_checkpoint
from p2pkit.pipelines.train.model import build_model, load_weights
from p2pkit.pipelines.train.run_folder import read_config_here, read_provenance
from p2pkit.pipelines.train.settings import TrainConfig
from p2pkit.store.reading import open_store
from p2pkit.stream.inputs import blanked_inputs, described_inputs, stored_up


def run(config: ProbeStageConfig) -> Path:
    """Probe a run on a store with labels and write RUN/probe.json.

    Three kinds of features get the same classifier on the same points: the pretrained student's, a
    student's with random weights, and its raw inputs with the position. Scores are per point, over
    every stored labelled point of the test frames.

    Returns:
        The path of the report.

    Raises:
        StoreError: the store has no labels.
        ConfigError: a part of the split would be empty.
    """
    train_config = read_config_here(config.run, config.device)
    data = _open(config, train_config)
    checkpoint = chosen_checkpoint(config.run, config.which)
    channels = read_provenance(config.run).teacher_channels
    pretrained = build_model(train_config, channels, seed=train_config.seed)
    load_weights(pretrained, checkpoint.path)
    networks = {"pretrained": [pretrained]}
    networks["random"] = [
        build_model(train_config, channels, seed=seed)
        for seed in range(config.seed + 1, config.seed + 1 + config.random_seeds)
    ]
    frozen = FrozenConfig(
        points_per_frame=config.points_per_frame,
        statistics_frames=config.statistics_frames,
        probe=config.probe,
    )

    def probed(describe: Describe) -> PartScores:
        features = FrozenFeatures(describe, data, frozen)
        return features.scores("linear", data.parts["train"], config.seed)

    scores = {
        name: [
            probed(student_features(model.student, data, frozen, train_config.device))
            for model in models
        ]
        for name, models in networks.items()
    }
    scores[INPUTS] = [probed(raw_inputs(data, frozen))]
    report = {
        "checkpoint_step": checkpoint.step,
        "protocol": _protocol(data, config),
        "scores": {name: _summary(rows, data) for name, rows in scores.items()},
    }
    path = config.run / "probe.json"
    write_json(path, report)
    return path


def _open(config: ProbeStageConfig, train_config: TrainConfig) -> LabelledFrames:
    """All frames, in two parts; those of one recording may share a scene, as the report notes."""
    store = open_store(config.store)
    if store.manifest.dataset.get("label_names") is None:
        raise StoreError(
            f"{config.store} has no labels, so it cannot be probed; extract a recording with "
            "labels, such as --dataset nyuv2 or demo-scene"
        )
    split = scene_split(store, config.test_fraction, config.test_scenes)
    sample = train_config.stream.sample
    data = LabelledFrames(
        store=store,
        labels=stored_labels(store, STORED),
        parts={"train": split.train, "test": split.test},
        scene_of=split.sequence,
        sample=sample,
        split=SplitConfig(unit="time-block"),
        up_axis=stored_up(store),
        blank=blanked_inputs(sample, config.blank),
    )
    return data.turned_to(pretraining_up_axis([config.run], store))


def _summary(parts: list[PartScores], data: LabelledFrames) -> dict[str, Any]:
    rows = [part.scores for part in parts]
    iou = np.mean([row.iou for row in rows], axis=0)
    present = rows[0].support > 0
    return {
        "miou": float(np.mean([row.miou for row in rows])),
        "accuracy": float(np.mean([row.accuracy for row in rows])),
        "class_accuracy": float(np.mean([row.class_accuracy for row in rows])),
        "miou_of_each": [row.miou for row in rows],
        **{
            f"miou_{name}": float(np.mean([part.apart[name].miou for part in parts]))
            for name in parts[0].apart
        },
        "iou": {data.labels.classes[i]: float(iou[i]) for i in np.flatnonzero(present)},
    }


def _protocol(data: LabelledFrames, config: ProbeStageConfig) -> dict[str, Any]:
    keys, train, test = data.test_keys, data.scenes("train"), data.scenes("test")
    return {
        "store": config.store,
        "train_frames": len(data.parts["train"]),
        "test_frames": len(keys),
        "test_first_key": keys[0],
        "test_sequences": sorted(test),
        "sequences_in_both_parts": sorted({*test} & {*train} - {""}),
        "test_frames_pretrained_on_without_labels": read_provenance(config.run).seen(
            data.store, keys
        ),
        "metric": "per point; mIoU over classes present in the test frames; void not counted",
        "points_turned": data.turn is not None,
        **described_inputs(data.sample),
        **({"blank": list(data.blank)} if data.blank else {}),
        "settings": {
            name: value
            for name, value in asdict(config).items()
            if name not in ("run", "store", "device")
        },
    }
