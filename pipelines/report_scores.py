"""A report's sections on the linear probe and on pixel retrieval."""

from html import escape

from p2pkit.pipelines.report_page import table
from p2pkit.pipelines.report_sections import RunFacts


def probe_section(facts: RunFacts) -> list[str]:
    """The linear probe's table, or the command that makes it."""
    title, report = "<h2>Linear probe</h2>", facts.probe
    if report is None:
        where = facts.store if facts.label_names else "LABELLED-STORE"
        return [title, *not_measured(f"p2pkit probe {facts.run} {where}")]
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
