"""report: a pretraining run and its results, as one HTML file."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from p2pkit.errors import TrainingError
from p2pkit.files import write_text
from p2pkit.losses import REGRESSIONS, SUPERPIXEL
from p2pkit.pipelines.evaluate.inference import read_cloud
from p2pkit.pipelines.held_out import chosen_samples, without_arrays
from p2pkit.pipelines.report.evaluation import (
    EvaluationSection,
    evaluation_section,
    find_evaluation,
)
from p2pkit.pipelines.report.false_negatives import hard_negatives, negatives_section
from p2pkit.pipelines.report.figures import Series, curve, plot
from p2pkit.pipelines.report.frames import STUDENT, TEACHER, drawn_frames, open_view
from p2pkit.pipelines.report.neighbours import SEARCHED_FRAMES, nearest_points, neighbours_section
from p2pkit.pipelines.report.networks import run_networks
from p2pkit.pipelines.report.page import Tile, captioned, grid_text, render
from p2pkit.pipelines.report.pictures import PALETTE
from p2pkit.pipelines.report.store_page import recording_name
from p2pkit.pipelines.settings import ReportConfig
from p2pkit.pipelines.train.checkpoints import latest_checkpoint
from p2pkit.pipelines.train.logs import read_metrics
from p2pkit.pipelines.train.model import build_model, embedding_width
from p2pkit.pipelines.train.presets import preset
from p2pkit.pipelines.train.run_folder import (
    initial_weights,
    kept_and_held,
    read_config,
    read_config_here,
    read_provenance,
    run_layer,
)
from p2pkit.pipelines.train.settings import TrainConfig
from p2pkit.pipelines.train.step import MOST_DIRECTIONS
from p2pkit.sampling import evenly_spread
from p2pkit.settings import config_to_json, flat
from p2pkit.store.reading import Store, open_store
from p2pkit.store.summary import store_summary
from p2pkit.stream.inputs import described_inputs, voxels_text
from p2pkit.viewer import point_viewer

PAPER_STEPS, PAPER_BATCH = 60_000, 24


def run(config: ReportConfig) -> Path:
    """Write the report.

    Returns:
        The file's path.

    Raises:
        TrainingError: the run has no checkpoint, or no step was logged.
        StoreError: the store cannot be read.
        ConfigError: `evaluation` holds no evaluation of the run's weights.
    """
    metrics = read_metrics(config.run)
    if not metrics:
        raise TrainingError(
            f"{config.run / 'metrics.jsonl'} holds no step, so there is nothing to report"
        )
    store = open_store(config.store)
    summary, train_config = store_summary(store), read_config(config.run)
    step = latest_checkpoint(config.run).step
    found = find_evaluation(config.run, config.evaluation)
    evaluation = None if found is None else evaluation_section(found)
    probe = _read_json(config.run / "probe.json")
    probed = None if probe is None else _other_store(config.run, probe)
    retrieval = _read_json(config.run / "retrieval.json")
    name, recording = config.run.absolute().name, recording_name(config.store, summary)
    text = render(
        "run.html",
        title=f"{name}: pretrained on {recording}",
        config=train_config,
        dataset=summary["dataset"],
        sequences=len(_sequences(store)),
        step=step,
        paper_frames=PAPER_STEPS * PAPER_BATCH,
        tiles=_tiles(metrics, probe, retrieval, evaluation, step),
        facts=_facts(config.run, store, summary),
        training=_training(metrics, train_config, _width(config.run)),
        evaluation=evaluation,
        probe=None if probe is None else _probe(probe, probed),
        retrieval=retrieval,
        commands=_commands(config, summary["dataset"], probed),
        again=train_command(train_config),
        **_drawn(config, store),
    )
    write_text(config.out, text)
    return config.out


def _commands(
    config: ReportConfig, dataset: Mapping[str, Any], probed: str | None
) -> dict[str, str]:
    """How to measure, as typed in a shell: the evaluation, the probe, and retrieval.

    Args:
        config: of the page.
        dataset: of the store.
        probed: the store to probe; None takes the page's, if it has labels.
    """
    run = str(config.run)
    labelled = config.store if dataset.get("label_names") else "LABELLED-STORE"
    words = {
        "evaluation": ["evaluate", run, "--on", labelled, "--out", f"{run}-evaluation"],
        "probe": ["evaluate", run, "--preset", "probe", "--on", probed or labelled],
        "retrieval": ["retrieval", run, config.store],
    }
    return {name: shlex.join(["p2pkit", *rest]) for name, rest in words.items()}


def _drawn(config: ReportConfig, store: Store) -> dict[str, Any]:
    """Sections that need the networks: pictures, likely false negatives, nearest points."""
    kept, held = kept_and_held(config.run, store)
    shown = held if len(held) else kept
    networks = run_networks(config.run, store, kept, seed=config.seed + 1)
    chosen = chosen_samples(shown, config.frames)
    searched = [sample for sample in chosen_samples(shown, SEARCHED_FRAMES) if sample not in chosen]
    views = [open_view(store, networks.layer, sample) for sample in [*chosen, *searched]]
    drawn_views = views[: len(chosen)]
    names: list[str] | None = store.manifest.dataset.get("label_names")
    void = store.manifest.dataset.get("ignore_label")
    frames = drawn_frames(drawn_views, networks)
    classes = sorted({value for frame in frames for value in frame.classes})
    negatives = hard_negatives(drawn_views, networks, void)
    nearest = nearest_points(views, len(chosen), networks, void)
    similarity = networks.config.loss.similarity
    return {
        "held_out": len(held),
        "frames": [{"key": frame.key, "pictures": captioned(frame.pictures)} for frame in frames],
        "legend": {names[value]: PALETTE[value % len(PALETTE)].tolist() for value in classes}
        if names
        else {},
        "viewer": point_viewer([frame.points for frame in frames], first=[TEACHER, STUDENT]),
        "negatives": negatives and negatives_section(negatives, similarity, names),
        "neighbours": nearest and neighbours_section(nearest, names),
    }


def _sequences(store: Store) -> set[str]:
    return {sample.meta["sequence"] for sample in without_arrays(store, np.arange(store.samples))}


def _read_json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.is_file() else None


def _tiles(
    metrics: list[dict[str, Any]],
    probe: Mapping[str, Any] | None,
    retrieval: Mapping[str, Any] | None,
    evaluation: EvaluationSection | None,
    step: int,
) -> list[Tile]:
    """The answer in a few figures: each measurement against what it has to beat, and its step
    where that is not the newest checkpoint's.
    """
    tiles: list[Tile] = []
    if retrieval is not None:
        before, chance = retrieval["untrained"]["top1_pixel"], retrieval["chance"]
        tiles.append(
            Tile(
                "Points that find their own pixel",
                f"{100 * retrieval['trained']['top1_pixel']:.2f} %",
                f"before training {100 * before:.2f} %, chance {100 * chance:.2f} %"
                f"{_step_text(retrieval, step)}",
            )
        )
    if probe is not None:
        miou = {kind: f"{100 * score['miou']:.1f} %" for kind, score in probe["scores"].items()}
        others = [f"{kind} {value}" for kind, value in miou.items() if kind != "pretrained"]
        against = f"against {', '.join(others)}{_step_text(probe, step)}"
        tiles.append(Tile("mIoU of a linear probe", miou["pretrained"], against))
    tiles += [] if evaluation is None else [mode.gain for mode in evaluation.modes]
    first, last = metrics[0]["loss"], metrics[-1]["loss"]
    tiles.append(Tile("Loss", f"{first:.2f} → {last:.2f}", f"in {len(metrics):,} steps"))
    return tiles


def _step_text(measured: Mapping[str, Any], step: int) -> str:
    """Which weights were measured; empty for those of the newest checkpoint."""
    of = measured["checkpoint_step"]
    return "" if of == step else f"; measured at step {of} of {step}"


def _facts(run: Path, store: Store, summary: Mapping[str, Any]) -> dict[str, str]:
    """The recording, the teacher, the store and the student."""
    config, provenance = read_config(run), read_provenance(run)
    layers = {layer["name"]: layer for layer in summary["layers"]}
    geometry, features = layers["geometry"], layers[run_layer(run, store)]
    teacher, frames = features["fingerprint"]["teacher"], int(geometry["samples"])
    held, scenes = len(provenance.held_out(store)), len(_sequences(store))
    built = build_model(read_config_here(run), provenance.teacher_channels, seed=0)
    described = described_inputs(config.stream.sample)
    return {
        "Recording": f"{summary['dataset']['dataset']}: {frames} frames of {scenes} "
        f"scene{'s' if scenes > 1 else ''}, {geometry['failures']} frames left out as bad",
        "Split": f"{frames - held} frames to pretrain on, {held} held out{held_text(config, held)}",
        "2D teacher": f"{teacher['name']}, layer {teacher['layer']}, "
        f"{features['details']['channels']} channels, frozen; weights sha256 "
        f"{teacher['weights_sha256'][:16]}…",
        "Measured grid": "; ".join(
            grid_text(*item) for item in features["details"]["grids"].items()
        ),
        "Store": _sizes_text(store, geometry, features),
        "3D student": f"{config.student}, "
        f"{sum(value.numel() for value in built.student.parameters()):,} "
        f"weights; {', '.join(described['inputs'])} in {voxels_text(described)}",
        "Initial weights": initial_weights(run),
        "Objective": f"{config.loss.name}, temperature {config.loss.temperature:g}, "
        f"{config.stream.batch_size} frames × {config.stream.sample.pairs_per_frame} pairs a step, "
        f"{_width(run)} embedding channels",
        "Steps": f"{latest_checkpoint(run).step} of {config.steps}, seed {config.seed}",
        "Fingerprints": f"geometry {geometry['fingerprint_sha256'][:16]}…, features "
        f"{features['fingerprint_sha256'][:16]}…",
    }


def held_text(config: TrainConfig, held: int) -> str:
    """Which frames a run of `config` held out, in brackets; empty where `held`, their number, is
    0.
    """
    scenes = ", ".join(config.holdout_scenes)
    last = f"the last {config.holdout} of the others" if scenes else "the last ones"
    parts = [f"scenes {scenes}"] if scenes else []
    parts += [last] if config.holdout else []
    return f" ({' and '.join(parts)})" if held else ""


def _sizes_text(store: Store, geometry: dict[str, Any], features: dict[str, Any]) -> str:
    samples = evenly_spread(store.samples, 8).tolist()
    points = float(np.mean([len(read_cloud(store, sample).points) for sample in samples]))
    upsampled = points * int(features["details"]["channels"]) * 2
    stored = features["bytes"] / geometry["samples"]
    return (
        f"{geometry['bytes'] / geometry['samples'] / 1e3:,.0f} kB of geometry and "
        f"{stored / 1e3:,.0f} kB of features a frame; stored per point in float16, the same "
        f"features would take {upsampled / 1e6:,.0f} MB a frame ({upsampled / stored:,.0f} times "
        "as much)"
    )


def _probe(report: Mapping[str, Any], store: str | None) -> dict[str, Any]:
    """Table of the linear probe, classes first, and what its caption says.

    Args:
        report: of the probe.
        store: to name; None for the run's own.
    """
    scores, protocol = report["scores"], report["protocol"]
    kinds = list(scores)
    rows = [
        [name, *(f"{100 * scores[kind]['iou'][name]:.1f}" for kind in kinds)]
        for name in scores[kinds[0]]["iou"]
    ]
    totals = {"mIoU": "miou", "accuracy": "accuracy", "class accuracy": "class_accuracy"}
    rows += [
        [name, *(f"{100 * scores[kind][field]:.1f}" for kind in kinds)]
        for name, field in totals.items()
    ]
    return {
        "header": ["IoU, %", *kinds],
        "rows": rows,
        "totals": len(totals),
        "networks": protocol["settings"]["random_seeds"],
        "protocol": protocol,
        "step": report["checkpoint_step"],
        "store": store,
    }


def _other_store(run: Path, probe: Mapping[str, Any]) -> str | None:
    """The store that was probed; None where it is the only one that the run was trained on."""
    protocol = probe["protocol"]
    is_own = protocol["test_frames_pretrained_on_without_labels"] is not None
    return None if is_own and len(read_provenance(run).stores) == 1 else protocol["store"]


def _width(run: Path) -> int:
    return embedding_width(read_config(run), read_provenance(run).teacher_channels)


def _training(metrics: list[dict[str, Any]], config: TrainConfig, width: int) -> dict[str, Any]:
    """Curves of the logged values, and whether training waited for data."""
    steady = metrics[1:] or metrics
    total_s = sum(row["step_s"] for row in steady)
    return {
        "steps": len(metrics),
        "step_s": total_s / len(steady),
        "rate": sum(row["pairs"] for row in steady) / total_s,
        "wait": sum(row["wait_s"] for row in steady) / total_s,
        "false_negatives": float(np.mean([row["suspected_false_negatives"] for row in metrics])),
        "curves": _curves(metrics, config, width),
        "probes": _online_probes(metrics),
    }


def _curves(metrics: list[dict[str, Any]], config: TrainConfig, width: int) -> list[Markup]:
    """The loss, and the learning rate and effective ranks for runs that log them."""
    peak = config.optimizer.learning_rate
    spread = _even_spread(width)
    wanted = {
        "loss": ("loss", *chance_loss(metrics, config)),
        "learning_rate": ("learning rate", peak, f"peak {peak:g}"),
        "point_rank": ("effective rank, point embeddings", *spread),
        "pixel_rank": ("effective rank, pixel embeddings", *spread),
    }
    return [
        curve([row[field] for row in metrics], reference=height, reference_name=name, label=label)
        for field, (label, height, name) in wanted.items()
        if all(field in row for row in metrics)
    ]


def chance_loss(metrics: list[dict[str, Any]], config: TrainConfig) -> tuple[float | None, str]:
    """The loss of a contrast whose candidates are all equally likely, with its name.

    Candidates are those of a micro-batch. None where the loss has none, or masks leave an unknown
    number.
    """
    if config.loss.name in REGRESSIONS or config.loss.negatives != "paper":
        return None, ""
    of_superpixels = config.loss.name == SUPERPIXEL
    counted = [row["superpixels" if of_superpixels else "pairs"] for row in metrics]
    candidates = float(np.mean(counted)) / config.accumulate
    kind = "superpixels" if of_superpixels else "pixels"
    return float(np.log(candidates)), f"{candidates:,.0f} {kind} equally likely"


def _even_spread(width: int) -> tuple[float, str]:
    """The effective rank of embeddings that use all channels alike, and its name."""
    if width > MOST_DIRECTIONS:
        return MOST_DIRECTIONS - 1.0, f"most that {MOST_DIRECTIONS} pairs can show"
    return float(width), f"spread evenly over {width} channels"


def _online_probes(metrics: list[dict[str, Any]]) -> Markup | None:
    """Scores of the probe during training, for runs that had one."""
    kinds = {"linear": "linear classifier", "knn": "nearest neighbours"}
    lines: list[Series] = []
    for kind, name in kinds.items():
        rows = [row for row in metrics if f"probe_{kind}_miou" in row]
        if rows:
            scores = [100 * row[f"probe_{kind}_miou"] for row in rows]
            lines.append(Series(name, [row["step"] + 1 for row in rows], scores))
    return plot(lines, x_label="steps", y_label="validation mIoU, %") if lines else None


def train_command(config: TrainConfig) -> str:
    """A `p2pkit train` command that resolves to `config`, to be run in the same folder."""
    default = flat(config_to_json(preset("paper", config.store)))
    settings = {
        name: value
        for name, value in flat(config_to_json(config)).items()
        if value != default[name] and name not in ("store", "more_stores")
    }
    if "epochs" in settings:
        settings.pop("steps", None)
    stores = shlex.join([config.store, *config.more_stores])
    lines = [f"p2pkit train {stores} --out again --preset paper"]
    for name, value in settings.items():
        text = value if isinstance(value, str) else json.dumps(value)
        lines.append(f"  --set {shlex.quote(f'{name}={text}')}")
    return " \\\n".join(lines)
