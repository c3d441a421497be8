"""A report's section on the training itself: curves of what each step logged."""

from html import escape

import numpy as np

from p2pkit.pipelines.report_plots import Series, curve, plot
from p2pkit.pipelines.report_sections import RunFacts


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
