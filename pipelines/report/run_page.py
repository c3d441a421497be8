"""report: what a pretraining run did and what came of it, as one HTML file."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from p2pkit.errors import TrainingError
from p2pkit.files import write_atomic
from p2pkit.pipelines.evaluate.inference import read_cloud
from p2pkit.pipelines.held_out import chosen_samples, holdout_split, without_arrays
from p2pkit.pipelines.report.evaluation import evaluation_section, find_evaluation
from p2pkit.pipelines.report.false_negatives import hard_negatives, negatives_section
from p2pkit.pipelines.report.frames import frame_pictures, open_view
from p2pkit.pipelines.report.html import page
from p2pkit.pipelines.report.neighbours import SEARCHED_FRAMES, nearest_points, neighbours_section
from p2pkit.pipelines.report.networks import run_networks
from p2pkit.pipelines.report.sections import (
    RunFacts,
    caveat_section,
    command_section,
    picture_section,
    probe_section,
    retrieval_section,
    summary_section,
    training_section,
)
from p2pkit.pipelines.settings import ReportConfig
from p2pkit.pipelines.train.checkpoints import latest_checkpoint
from p2pkit.pipelines.train.logs import read_metrics
from p2pkit.pipelines.train.model import build_model
from p2pkit.pipelines.train.run_folder import read_config_here, read_provenance, run_layer
from p2pkit.store.reading import Store, open_store
from p2pkit.store.summary import store_summary


def run(config: ReportConfig) -> Path:
    """Write the report.

    Returns:
        The file's path.

    Raises:
        TrainingError: the run has no checkpoint, or no step was logged.
        StoreError: the store cannot be read.
        ConfigError: `evaluation` holds no evaluation of the run's weights.
    """
    facts = _facts(config)
    if not facts.metrics:
        raise TrainingError(f"{config.run / 'metrics.jsonl'} holds no step, so nothing to report")
    sections = [
        *summary_section(facts),
        *_drawn_sections(config, facts),
        *training_section(facts),
        *evaluation_section(
            facts.evaluation, facts.run, facts.store, has_labels=facts.label_names is not None
        ),
        *probe_section(facts),
        *retrieval_section(facts),
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
        run=config.run,
        store=config.store,
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
        evaluation=find_evaluation(config.run, config.evaluation),
    )


def _sequences(store: Store) -> set[str]:
    return {sample.meta["sequence"] for sample in without_arrays(store, np.arange(store.samples))}


def _spread(store: Store) -> list[int]:
    return sorted(set(np.linspace(0, store.samples - 1, 8).astype(int).tolist()))


def _read_json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.is_file() else None


def _drawn_sections(config: ReportConfig, facts: RunFacts) -> list[str]:
    """What takes the networks: pictures, likely false negatives, nearest points."""
    store = open_store(config.store)
    kept, held = holdout_split(store, facts.config.holdout)
    shown = held if len(held) else kept
    networks = run_networks(config.run, store, kept, seed=config.seed + 1)
    chosen = chosen_samples(shown, config.frames)
    searched = [sample for sample in chosen_samples(shown, SEARCHED_FRAMES) if sample not in chosen]
    views = [open_view(store, facts.layer, sample) for sample in [*chosen, *searched]]
    drawn, names = views[: len(chosen)], facts.label_names
    void = store.manifest.dataset.get("ignore_label")
    return [
        *picture_section(facts, frame_pictures(drawn, networks)),
        *negatives_section(hard_negatives(drawn, networks, void), networks, names),
        *neighbours_section(nearest_points(views, len(drawn), networks, void), names),
    ]
