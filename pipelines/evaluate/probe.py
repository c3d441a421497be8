"""probe: what a linear classifier reads out of frozen point features, and out of two baselines."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from jaxtyping import Float32, Float64, Int64

from p2pkit.errors import ConfigError, StoreError
from p2pkit.evaluation.linear_probe import LinearProbe, fit_linear_probe
from p2pkit.evaluation.segmentation import (
    SegmentationScores,
    confusion_matrix,
    segmentation_scores,
)
from p2pkit.files import write_json
from p2pkit.layers.geometry import PointCloud
from p2pkit.pipelines.evaluate.frames import students_up, turn_to, turned
from p2pkit.pipelines.evaluate.inference import (
    labels_of,
    point_features,
    read_cloud,
    with_batch_statistics,
)
from p2pkit.pipelines.evaluate.settings import ProbeStageConfig
from p2pkit.pipelines.held_out import SceneSplit, all_keys, scene_split
from p2pkit.pipelines.train.checkpoints import chosen_checkpoint
from p2pkit.pipelines.train.model import PretrainingModel, build_model, load_weights
from p2pkit.pipelines.train.run_folder import read_config_here, read_provenance
from p2pkit.pipelines.train.settings import TrainConfig
from p2pkit.store.reading import Store, open_store

PointFeatures = Callable[[PointCloud], Float32[np.ndarray, "points channels"]]


@dataclass(frozen=True)
class _Data:
    """The labelled frames of a probe, how they are cut, and how their points are turned."""

    config: ProbeStageConfig
    store: Store
    split: SceneSplit
    names: list[str]
    ignore: int | None
    turn: Float64[np.ndarray, "3 3"] | None

    def clouds(self, samples: Int64[np.ndarray, " samples"]) -> Iterator[PointCloud]:
        """The frames one after the other; each is read when it is needed, and turned."""
        clouds = (read_cloud(self.store, int(sample)) for sample in samples)
        return (replace(cloud, points=turned(cloud.points, self.turn)) for cloud in clouds)


def run(config: ProbeStageConfig) -> Path:
    """Probe a run on a store with labels and write RUN/probe.json.

    Three kinds of features get the same classifier on the same points: the pretrained student's, a
    student's with random weights, and raw colour and position. Scores are per point, over every
    stored labelled point of the test frames.

    Returns:
        The path of the report.

    Raises:
        StoreError: the store has no labels.
        ConfigError: a part of the split would be empty.
    """
    data = _open(config)
    train_config = read_config_here(config.run, config.device)
    checkpoint = chosen_checkpoint(config.run, config.which)
    channels = read_provenance(config.run).teacher_channels
    pretrained = build_model(train_config, channels, seed=train_config.seed)
    load_weights(pretrained, checkpoint.path)
    scores = {"pretrained": [_probe_network(pretrained, train_config, data)]}
    scores["random"] = [
        _probe_network(build_model(train_config, channels, seed=seed), train_config, data)
        for seed in range(config.seed + 1, config.seed + 1 + config.random_seeds)
    ]
    scores["color+position"] = [_probe_features(_raw_features, data)]
    report = {
        "checkpoint_step": checkpoint.step,
        "protocol": _protocol(data, config.run, train_config),
        "scores": {name: _summary(rows, data) for name, rows in scores.items()},
    }
    path = config.run / "probe.json"
    write_json(path, report)
    return path


def _open(config: ProbeStageConfig) -> _Data:
    store = open_store(config.store)
    dataset = store.manifest.dataset
    if dataset.get("label_names") is None:
        raise StoreError(
            f"{config.store} has no labels, so nothing can be probed; extract a recording with "
            "labels, such as --dataset nyuv2 or demo-scene"
        )
    split = scene_split(store, config.test_fraction, config.test_scenes)
    names, ignore = dataset["label_names"], dataset["ignore_label"]
    return _Data(
        config=config,
        store=store,
        split=split,
        names=names,
        ignore=ignore,
        turn=turn_to(students_up([config.run], store), store),
    )


def _probe_network(model: PretrainingModel, config: TrainConfig, data: _Data) -> SegmentationScores:
    spread = np.linspace(0, len(data.split.train) - 1, data.config.statistics_frames).astype(int)
    frames = data.clouds(data.split.train[np.unique(spread)])
    model = with_batch_statistics(model.to(config.device), frames, config)
    return _probe_features(lambda cloud: point_features(model, cloud, config), data)


def _raw_features(cloud: PointCloud) -> Float32[np.ndarray, "points 6"]:
    return np.hstack([cloud.colors / np.float32(127.5) - 1, cloud.points]).astype(np.float32)


def _probe_features(features: PointFeatures, data: _Data) -> SegmentationScores:
    probe = _fit(features, data)
    classes = len(data.names)
    confusion = np.zeros((classes, classes), dtype=np.int64)
    for cloud in data.clouds(data.split.test):
        truth = labels_of(cloud)
        known = truth != data.ignore
        prediction = probe.predict(features(cloud)[known])
        confusion += confusion_matrix(truth[known], prediction, classes=classes)
    return segmentation_scores(confusion)


def _fit(features: PointFeatures, data: _Data) -> LinearProbe:
    rows: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    for cloud in data.clouds(data.split.train):
        truth = labels_of(cloud)
        known = np.flatnonzero(truth != data.ignore)
        random = np.random.default_rng(
            [data.config.seed, xxhash.xxh3_64_intdigest(cloud.key.encode())]
        )
        size = min(data.config.points_per_frame, len(known))
        chosen = random.choice(known, size=size, replace=False)
        rows.append(features(cloud)[chosen])
        labels.append(truth[chosen])
    if not rows or sum(map(len, labels)) == 0:
        raise ConfigError("no training frame of the probe holds a labelled point")
    return fit_linear_probe(
        np.concatenate(rows),
        np.concatenate(labels),
        classes=len(data.names),
        config=data.config.probe,
    )


def _summary(rows: list[SegmentationScores], data: _Data) -> dict[str, Any]:
    iou = np.mean([row.iou for row in rows], axis=0)
    present = rows[0].support > 0
    return {
        "miou": float(np.mean([row.miou for row in rows])),
        "accuracy": float(np.mean([row.accuracy for row in rows])),
        "class_accuracy": float(np.mean([row.class_accuracy for row in rows])),
        "miou_of_each": [row.miou for row in rows],
        "iou": {data.names[i]: float(iou[i]) for i in np.flatnonzero(present)},
    }


def _protocol(data: _Data, run: Path, config: TrainConfig) -> dict[str, Any]:
    keys, train, test = all_keys(data.store), data.split.train, data.split.test
    seen = read_provenance(run).seen(data.store, [keys[sample] for sample in test])
    sequences, training = (data.split.sequences(part) for part in (test, train))
    return {
        "store": data.config.store,
        "train_frames": len(train),
        "test_frames": len(test),
        "test_first_key": keys[int(test[0])],
        "test_sequences": sorted(sequences),
        "sequences_in_both_parts": sorted((sequences & training) - {""}),
        "test_frames_pretrained_on_without_labels": seen,
        "metric": "per point; mIoU over classes present in the test frames; void not counted",
        "points_turned": data.turn is not None,
        "voxel_size": config.stream.sample.voxel_size,
        "settings": {
            name: value
            for name, value in asdict(data.config).items()
            if name not in ("run", "store", "device")
        },
    }
