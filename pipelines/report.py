"""report: what a pretraining run did and what came of it, as one HTML file."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from p2pkit.errors import TrainingError
from p2pkit.files import write_atomic
from p2pkit.pipelines.checkpoints import latest_checkpoint
from p2pkit.pipelines.inference import read_cloud, with_batch_statistics
from p2pkit.pipelines.metrics import read_metrics
from p2pkit.pipelines.pretraining import TrainConfig, build_model, load_weights
from p2pkit.pipelines.provenance import read_provenance
from p2pkit.pipelines.report_frames import FramePictures, frame_pictures
from p2pkit.pipelines.report_page import page
from p2pkit.pipelines.report_sections import (
    RunFacts,
    caveat_section,
    command_section,
    picture_section,
    probe_section,
    retrieval_section,
    summary_section,
    training_section,
)
from p2pkit.pipelines.runs import read_config_here, run_layer
from p2pkit.pipelines.splits import all_keys, chosen_samples, holdout_split
from p2pkit.shards.store import Store, open_store
from p2pkit.shards.summary import store_summary

STATISTICS_FRAMES = 16


@dataclass(frozen=True)
class ReportConfig:
    """What to report on.

    Args:
        run: a pretraining run; where `p2pkit probe` and `p2pkit retrieval` were run on it, their
            results are shown.
        store: path or URL of the store that it was trained on.
        out: the HTML file to write.
        frames: how many frames to draw; held-out ones where the run held frames out.
        seed: of the student with random weights that is drawn beside the pretrained one.
    """

    run: Path
    store: str
    out: Path
    frames: int = 3
    seed: int = 0


def run(config: ReportConfig) -> Path:
    """Write the report.

    Returns:
        The file's path.

    Raises:
        TrainingError: the run has no checkpoint, or no step was logged.
        StoreError: the store cannot be read.
    """
    facts = _facts(config)
    if not facts.metrics:
        raise TrainingError(f"{config.run / 'metrics.jsonl'} holds no step, so nothing to report")
    sections = [
        *summary_section(facts),
        *picture_section(facts, run_pictures(config, facts.config)),
        *training_section(facts),
        *(probe_section(facts.probe) if facts.probe else []),
        *(retrieval_section(facts.retrieval) if facts.retrieval else []),
        *command_section(facts),
        *caveat_section(facts),
    ]
    write_atomic(config.out, page(f"p2pkit: {facts.dataset}", sections).encode())
    return config.out


def _facts(config: ReportConfig) -> RunFacts:
    train_config = read_config_here(config.run)
    store = open_store(config.store)
    provenance = read_provenance(config.run)
    model = build_model(train_config, provenance.teacher_channels, seed=0)
    return RunFacts(
        config=train_config,
        summary=store_summary(store),
        layer=run_layer(config.run, store),
        held_out=len(provenance.held_out(store)),
        sequences=len(_sequences(store)),
        points=int(np.mean([len(read_cloud(store, sample).points) for sample in _spread(store)])),
        student_parameters=sum(value.numel() for value in model.student.parameters()),
        checkpoint_step=latest_checkpoint(config.run).step,
        metrics=read_metrics(config.run),
        probe=_read_json(config.run / "probe.json"),
        retrieval=_read_json(config.run / "retrieval.json"),
    )


def _sequences(store: Store) -> set[str]:
    places = (store.find(key) for key in all_keys(store))
    return {store.read("geometry", *place, fields=()).meta["sequence"] for place in places}


def _spread(store: Store) -> list[int]:
    return sorted(set(np.linspace(0, store.samples - 1, 8).astype(int).tolist()))


def _read_json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.is_file() else None


def run_pictures(config: ReportConfig, train_config: TrainConfig) -> list[FramePictures]:
    """Draw `config.frames` frames as the teacher and two students of the run's kind see them."""
    store = open_store(config.store)
    kept, held = holdout_split(store, train_config.holdout)
    shown = held if len(held) else kept
    layer = run_layer(config.run, store)
    channels = read_provenance(config.run).teacher_channels
    pretrained = build_model(train_config, channels, seed=train_config.seed)
    load_weights(pretrained, latest_checkpoint(config.run).path)
    random = build_model(train_config, channels, seed=config.seed + 1)
    statistics = [read_cloud(store, sample) for sample in chosen_samples(kept, STATISTICS_FRAMES)]
    return frame_pictures(
        store,
        layer,
        chosen_samples(shown, config.frames),
        pretrained=with_batch_statistics(pretrained, statistics, train_config),
        random=with_batch_statistics(random, statistics, train_config),
        config=train_config,
    )
