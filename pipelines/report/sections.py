"""A report's section on the training itself: curves of what each step logged."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from p2pkit.pipelines.report.evaluation import FoundEvaluation
from p2pkit.pipelines.report.frames import FramePictures
from p2pkit.pipelines.report.html import definitions, figures, grid_text, legend, table
from p2pkit.pipelines.report.pictures import PALETTE
from p2pkit.pipelines.report.plots import Series, curve, plot
from p2pkit.pipelines.train.settings import TrainConfig
from p2pkit.settings import config_to_json
from p2pkit.viewer import point_viewer

PAPER_STEPS, PAPER_BATCH = 60_000, 24

OWN_RECORDING = """p2pkit extract my-recording --out my.store
p2pkit train my.store --out my-run --preset paper --set device=cuda --set holdout=25
p2pkit retrieval my-run my.store
p2pkit evaluate my-run --preset probe      # where frames carry labels"""


@dataclass(frozen=True)
class RunFacts:
    """What a report says about a run and its store.

    Args:
        run: its folder.
        store: path or URL of the store.
        config: of the run.
        summary: of the store, see `store_summary`.
        layer: the feature layer that was trained on.
        held_out: frames that were never trained on.
        sequences: recordings or scenes in the store.
        points: mean points per frame.
        student_parameters: weights of the student.
        checkpoint_step: steps that the weights have seen.
        metrics: one row per step.
        probe, retrieval: their reports, or None where they were not run.
        evaluation: that measured the run's weights, or None where none was found.
    """

    run: Path
    store: str
    config: TrainConfig
    summary: dict[str, Any]
    layer: str
    held_out: int
    sequences: int
    points: int
    student_parameters: int
    checkpoint_step: int
    metrics: list[dict[str, Any]]
    probe: dict[str, Any] | None
    retrieval: dict[str, Any] | None
    evaluation: FoundEvaluation | None

    @property
    def label_names(self) -> list[str] | None:
        """Name of each stored label; None in stores without labels."""
        return self.summary["dataset"].get("label_names")

    @property
    def dataset(self) -> str:
        """Name of the recording."""
        return str(self.summary["dataset"]["dataset"])

    @property
    def frames(self) -> int:
        """Frames in the store."""
        return int(self.store_layer("geometry")["samples"])

    def store_layer(self, name: str) -> dict[str, Any]:
        """The store's summary of one layer."""
        return next(layer for layer in self.summary["layers"] if layer["name"] == name)


def summary_section(facts: RunFacts) -> list[str]:
    """The recording, the teacher, the store and the student."""
    geometry, features = facts.store_layer("geometry"), facts.store_layer(facts.layer)
    teacher, config = features["fingerprint"]["teacher"], facts.config
    trained = facts.frames - facts.held_out
    rows = {
        "Recording": f"{facts.dataset}: {facts.frames} frames of {facts.sequences} "
        f"scene{'s' if facts.sequences > 1 else ''}, "
        f"{geometry['failures']} frames left out as bad",
        "Split": f"{trained} frames to pretrain on, {facts.held_out} held out (the last ones)",
        "2D teacher": f"{teacher['name']}, layer {teacher['layer']}, "
        f"{features['details']['channels']} channels, frozen; "
        f"weights sha256 {teacher['weights_sha256'][:16]}…",
        "Measured grid": "; ".join(
            grid_text(*item) for item in features["details"]["grids"].items()
        ),
        "Store": _sizes_text(facts, geometry, features),
        "3D student": f"{config.student}, {facts.student_parameters:,} weights, voxels of "
        f"{100 * config.stream.sample.voxel_size:g} cm",
        "Objective": f"{config.loss.name}, temperature {config.loss.temperature:g}, "
        f"{config.stream.batch_size} frames × {config.stream.sample.pairs_per_frame} pairs a step, "
        f"{config.embedding_channels}-d embeddings",
        "Steps": f"{facts.checkpoint_step} of {config.steps}, seed {config.seed}",
        "Fingerprints": f"geometry {geometry['fingerprint_sha256'][:16]}…, features "
        f"{features['fingerprint_sha256'][:16]}…",
    }
    return [
        f"<h1>{escape(facts.dataset)}: from 2D features to a pretrained 3D network</h1>",
        "<p>A frozen 2D network looked at each image once; its features were stored with the link "
        "from each pixel to its 3D point. A 3D network was then trained, without labels, so that "
        "each point’s feature finds its own pixel among the other pixels of the batch.</p>",
        definitions(rows),
    ]


def _sizes_text(facts: RunFacts, geometry: dict[str, Any], features: dict[str, Any]) -> str:
    channels = int(features["details"]["channels"])
    upsampled = facts.points * channels * 2
    stored = features["bytes"] / facts.frames
    return (
        f"{geometry['bytes'] / facts.frames / 1e3:,.0f} kB of geometry and {stored / 1e3:,.0f} kB "
        f"of features a frame; stored per point in float16, the same features would take "
        f"{upsampled / 1e6:,.0f} MB a frame ({upsampled / stored:,.0f} times as much)"
    )


def picture_section(facts: RunFacts, frames: Sequence[FramePictures]) -> list[str]:
    """The drawn frames, with what their colours mean."""
    held = "held-out " if facts.held_out else ""
    lines = [
        f"<h2>What the networks see: {len(frames)} {held}frames</h2>",
        "<p>Every picture draws values of 3D points at the pixels they are linked to. Features are "
        "shown as their first three principal components in red, green and blue: equal colours "
        "mean similar features, within one column. The colours of two columns do not compare. "
        "White dots are the measured centres of the teacher’s cells.</p>",
    ]
    for frame in frames:
        near, far = frame.depth_range_m
        pictures = {
            "Image (colours of the points)": frame.colors,
            f"Depth, {near:.1f} m dark to {far:.1f} m bright": frame.depth,
        }
        if frame.labels is not None:
            pictures["Labels (not used in pretraining)"] = frame.labels
        pictures |= {
            "2D teacher, upsampled": frame.teacher,
            "3D student, pretrained": frame.pretrained,
            "3D student, random weights": frame.random,
        }
        lines += [f"<p class='soft'><code>{escape(frame.key)}</code></p>"]
        lines.append(figures(pictures))
    lines += _label_legend(facts, frames)
    return [*lines, "<h2>Turn the points</h2>", point_viewer([frame.points for frame in frames])]


def _label_legend(facts: RunFacts, frames: Sequence[FramePictures]) -> list[str]:
    names = facts.label_names
    classes = sorted({value for frame in frames for value in frame.classes})
    if not classes or names is None:
        return []
    return [legend({names[value]: PALETTE[value % len(PALETTE)].tolist() for value in classes})]


def command_section(facts: RunFacts) -> list[str]:
    """The commands that repeat the training, and those for a recording of one's own."""
    return [
        "<h2>Do it again</h2>",
        "<p>This training, on the same store:</p>",
        f"<pre>{escape(train_command(facts.config))}</pre>",
        "<p>The same on your own recording, with the paper’s settings on a GPU:</p>",
        f"<pre>{escape(OWN_RECORDING)}</pre>",
    ]


def train_command(config: TrainConfig) -> str:
    """A `p2pkit train` command that resolves to `config`, in the folder where it was run."""
    default = _flat(config_to_json(TrainConfig(store=config.store)))
    settings = {
        name: value
        for name, value in _flat(config_to_json(config)).items()
        if value != default[name] and name not in ("store", "more_stores")
    }
    stores = shlex.join([config.store, *config.more_stores])
    lines = [f"p2pkit train {stores} --out again"]
    lines += [f"  --set {shlex.quote(f'{name}={value}')}" for name, value in settings.items()]
    return " \\\n".join(lines)


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        flat |= (
            _flat(inner, f"{prefix}{name}.") if isinstance(inner, dict) else {prefix + name: inner}
        )
    return flat


def caveat_section(facts: RunFacts) -> list[str]:
    """What the figures above cannot tell."""
    config = facts.config
    share = facts.checkpoint_step * config.stream.batch_size / (PAPER_STEPS * PAPER_BATCH)
    lines = [
        f"One run with one seed on {facts.sequences} scenes: expect other figures from another "
        "seed, and none of them to carry over to other recordings.",
        f"{facts.checkpoint_step} steps of {config.stream.batch_size} frames are {share:.3%} of "
        "the frames that the paper’s recipe sees.",
        "A linear probe measures what is easy to read out of frozen features. The published gains "
        "come from fine-tuning with few labels; with all labels they vanish.",
    ]
    if facts.dataset == "demo-scene":
        lines.insert(
            0,
            "The rooms are generated and textured with a few photographs, and all are furnished by "
            "one program: this shows that the pipeline works, not how well it does on real rooms.",
        )
    return ["<h2>Read with care</h2>", *(f"<p class='box'>{line}</p>" for line in lines)]


def probe_section(facts: RunFacts) -> list[str]:
    """The linear probe's table, or the command that makes it."""
    title, report = "<h2>Linear probe</h2>", facts.probe
    if report is None:
        where = "" if facts.label_names else " --on LABELLED-STORE"
        return [title, *not_measured(f"p2pkit evaluate {facts.run} --preset probe{where}")]
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
    networks = protocol["settings"]["random_seeds"]
    seen = protocol["test_frames_pretrained_on_without_labels"]
    return [
        title,
        "<p>The same linear classifier is fitted to three kinds of frozen point features and "
        f"tested on other frames. “random” is the same network with random weights ({networks} "
        f"{'network' if networks == 1 else 'networks, mean'}); “color+position” is the raw input "
        "without a network.</p>",
        table(["IoU, %", *kinds], rows, totals=len(totals)),
        f"<p class='soft'>{protocol['train_frames']} training frames with labels, "
        f"{protocol['test_frames']} test frames, "
        f"{'an unknown number' if seen is None else seen} of them pretrained on (without "
        f"labels). {escape(protocol['metric'])}.</p>",
    ]


def retrieval_section(facts: RunFacts) -> list[str]:
    """How often a point finds its own pixel, or the command that measures it."""
    title, report = "<h2>Pixel retrieval</h2>", facts.retrieval
    if report is None and not facts.held_out:
        return [title, "<p>Not measured: it takes frames that the run held out (holdout=25).</p>"]
    if report is None:
        return [title, *not_measured(f"p2pkit retrieval {facts.run} {facts.store}")]
    rows = [
        [name, *(f"{100 * report[name][field]:.2f}" for field in ("top1_pixel", "top1_cell"))]
        for name in ("trained", "untrained")
    ]
    rows.append(["chance", f"{100 * report['chance']:.2f}", ""])
    return [
        title,
        f"<p>On {report['frames']} held-out frames, each of {report['pairs']} points looks for its "
        "own pixel among the pixels of all of them. “Own cell” also counts a pixel of the same "
        "teacher cell, because pixels of one cell are nearly alike.</p>",
        table(["top-1, %", "own pixel", "own cell"], rows),
    ]


def not_measured(command: str) -> list[str]:
    """A sentence in place of figures, and the command that makes them."""
    return ["<p>Not measured yet:</p>", f"<pre>{escape(command)}</pre>"]


def training_section(facts: RunFacts) -> list[str]:
    """The loss of each step, and whether training waited for data."""
    metrics = facts.metrics
    pairs = float(np.mean([row["pairs"] for row in metrics]))
    steady = metrics[1:] or metrics
    total_s = sum(row["step_s"] for row in steady)
    wait = sum(row["wait_s"] for row in steady) / total_s
    false_negatives = float(np.mean([row["suspected_false_negatives"] for row in metrics]))
    rate = sum(row["pairs"] for row in steady) / total_s
    svg = curve(
        [row["loss"] for row in metrics],
        reference=float(np.log(pairs)),
        reference_name=f"all {pairs:,.0f} pixels equally likely: {np.log(pairs):.2f}",
        label="loss",
    )
    return [
        "<h2>Training</h2>",
        svg,
        f"<p>{len(metrics)} steps, {total_s / len(steady):.2f} s each, {rate:,.0f} pairs a second "
        f"on {facts.config.device}. Waiting for data took {wait:.1%} of the time (first step left "
        f"out). {false_negatives:.2%} of the negatives lie in their anchor’s own teacher cell or "
        "voxel, so they may be false.</p>",
        *_logged_curves(facts),
        *_probed(facts),
    ]


def _logged_curves(facts: RunFacts) -> list[str]:
    """The learning rate and the embeddings' effective ranks, of the runs that log them."""
    config, metrics = facts.config, facts.metrics
    peak, width = config.optimizer.learning_rate, config.embedding_channels
    spread = f"spread evenly over {width} channels"
    wanted = {
        "learning_rate": ("learning rate", peak, f"peak {peak:g}"),
        "point_rank": ("effective rank of the point embeddings", float(width), spread),
        "pixel_rank": ("effective rank of the pixel embeddings", float(width), spread),
    }
    return [
        curve([row[field] for row in metrics], reference=height, reference_name=name, label=label)
        for field, (label, height, name) in wanted.items()
        if all(field in row for row in metrics)
    ]


def _probed(facts: RunFacts) -> list[str]:
    """Scores of the probe during training, of the runs that had one."""
    kinds = {"linear": "linear classifier", "knn": "nearest neighbours"}
    rows = {
        told: [row for row in facts.metrics if f"probe_{kind}_miou" in row]
        for kind, told in kinds.items()
    }
    lines = [
        Series(
            name=told,
            x=[row["step"] + 1 for row in rows[told]],
            y=[100 * row[f"probe_{kind}_miou"] for row in rows[told]],
        )
        for kind, told in kinds.items()
        if rows[told]
    ]
    if not lines:
        return []
    probe = facts.config.probe
    return [
        "<h3>Probe during training</h3>",
        plot(lines, x_label="steps", y_label="validation mIoU, %"),
        f"<p class='soft'>Fitted on up to {probe.frames} labelled frames, scored on up to "
        f"{probe.frames} of other scenes, classes: {escape(probe.labels)}. RUN/best keeps the "
        f"weights with the best {probe.best_by} score.</p>",
    ]
