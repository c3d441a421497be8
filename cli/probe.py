"""`p2pkit probe`: a run and a labelled store in, scores out."""

import json
from pathlib import Path
from typing import Any

import click

from p2pkit.cli.unused import refuse


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("store", type=click.Path())
@click.option("--test-fraction", type=float, default=0.25, show_default=True, help="Of the frames.")
@click.option("--test-scenes", metavar="NAMES|FILE", help="Such as 'Area_5_*'; else the last ones.")
@click.option(
    "--random-seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Networks with random weights to compare with.",
)
@click.option(
    "--seed", default=0, show_default=True, help="Of random weights and the points drawn."
)
@click.option("--which", default="latest", show_default=True, help="Checkpoint: latest or best.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def probe(run: Path, store: str, as_json: bool, **asked: Any) -> None:
    """Fit a linear classifier on frozen point features and print mIoU beside two baselines.

    Example: p2pkit probe run rooms.store
    """
    from p2pkit.cli.evaluate import scene_names
    from p2pkit.pipelines.evaluate import probe as stage

    if asked["test_scenes"] is not None:
        refuse(["test_fraction"], "the test part is what --test-scenes names")
    asked["test_scenes"] = scene_names(asked["test_scenes"])
    text = stage.run(stage.ProbeStageConfig(run=run, store=store, **asked)).read_text()
    click.echo(text if as_json else "\n".join(probe_table(json.loads(text))))


def probe_table(report: dict[str, Any]) -> list[str]:
    """The lines of a table: one row per class, one column per kind of features (IoU in %)."""
    scores, protocol = report["scores"], report["protocol"]
    kinds = ["pretrained", "random", "color+position"]
    lines = [f"{'IoU (%)':<20}" + "".join(f"{kind:>16}" for kind in kinds)]
    for name in scores[kinds[0]]["iou"]:
        lines.append(
            f"{name:<20}" + "".join(f"{100 * scores[k]['iou'][name]:16.1f}" for k in kinds)
        )
    for name in ("miou", "accuracy", "class_accuracy"):
        lines.append(f"{name:<20}" + "".join(f"{100 * scores[k][name]:16.1f}" for k in kinds))
    lines.append(
        f"{protocol['train_frames']} training and {protocol['test_frames']} test frames, "
        f"{seen_text(protocol)}; {protocol['metric']}"
    )
    if protocol.get("points_turned"):
        lines[-1] += "; points turned to the axes of pretraining"
    shared = protocol.get("sequences_in_both_parts", [])
    if shared:
        lines.append(
            f"training and test frames are of the same recording ({', '.join(shared)}): the scores "
            "do not say how anything generalises to new scenes"
        )
    return lines


def seen_text(protocol: dict[str, Any]) -> str:
    """How many test frames pretraining saw; a run knows only the stores that it was trained on."""
    seen = protocol["test_frames_pretrained_on_without_labels"]
    if seen is None:
        return "of a store that the run was not trained on (it may have seen them in another)"
    return f"{seen} of them pretrained on without labels"
