"""`p2pkit evaluate`: runs and a labelled store in; do they beat scratch, and how certain is it?"""

import json
import os
from pathlib import Path
from typing import Any

import click

from p2pkit.cli.options import (
    AS_JSON,
    config_of,
    option_of,
    options_of,
    parameter,
    refuse,
    setting_of,
    typed_settings,
)
from p2pkit.pipelines.evaluate.settings import EvaluateConfig, ProbeStageConfig
from p2pkit.settings import settings_in

OF_PROBE = ("test_fraction", "random_seeds", "seed")
"""Options that only `--preset probe` takes."""
NOT_OF_BOXES = tuple(
    f"finetune.augment.{name}"
    for name in ("drop_fraction", "drop_cuboids", "elastic", "tilt_deg", "up_axis")
)
"""Settings of fine-tuning that the mode detect has no use for."""


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--preset",
    type=click.Choice(["probe"]),
    help="probe: compare a linear probe of one RUN with random weights and raw inputs.",
)
@options_of(EvaluateConfig, optional=("store", "out"))
@option_of(setting_of(ProbeStageConfig, "test_fraction"))
@option_of(setting_of(ProbeStageConfig, "random_seeds"))
@option_of(setting_of(ProbeStageConfig, "seed"))
@AS_JSON
def evaluate(
    runs: tuple[Path, ...],
    preset: str | None,
    store: str | None,
    out: Path | None,
    as_json: bool,
    **_: Any,
) -> None:
    """Compare pretrained weights with scratch on few labels: probe, neighbours or fine-tuning.

    With --preset probe, labels come from --on, or from the run's own store, and the report is
    RUN/probe.json.

    Example: p2pkit evaluate run --on rooms.store --out evaluation --fractions 50,100 --seeds 2
    """
    if preset == "probe":
        _probe(runs, store, as_json=as_json)
        return
    from p2pkit.pipelines.evaluate import run as stage

    refuse(OF_PROBE, "add --preset probe, or omit this")
    if store is None or out is None:
        missing = "--on" if store is None else "--out"
        raise click.UsageError(f"Missing option '{missing}'; only --preset probe can omit it")
    config = config_of(EvaluateConfig, runs=runs, **_scenes("split.test_scenes"))
    _refuse_unused(config)
    path = stage.run(config, progress=lambda text: click.echo(f"done: {text}", err=True))
    report = json.loads(path.read_text())
    if as_json:
        click.echo(json.dumps(report, indent=1))
        return
    click.echo((config.out / "report.md").read_text(), nl=False)
    click.echo(path)


def _probe(runs: tuple[Path, ...], store: str | None, *, as_json: bool) -> None:
    from p2pkit.pipelines.evaluate import probe as stage
    from p2pkit.pipelines.train.run_folder import read_config, store_of

    run, *more = runs
    if more:
        raise click.UsageError(f"--preset probe takes one RUN, found {len(runs)}")
    known = {parameter(setting.name) for setting in settings_in(ProbeStageConfig)}
    known |= {"runs", "split__test_scenes"}
    others = [parameter(setting.name) for setting in settings_in(EvaluateConfig)]
    refuse([name for name in others if name not in known], "--preset probe has no such setting")
    scenes = _scenes("split.test_scenes").get("split.test_scenes")
    if scenes is not None:
        refuse(["test_fraction"], "--test-scenes already selects the test part")
    config = config_of(
        ProbeStageConfig,
        run=run,
        store=store_of(run, read_config(run).store) if store is None else store,
        **({} if scenes is None else {"test_scenes": scenes}),
    )
    text = stage.run(config).read_text()
    click.echo(text if as_json else "\n".join(probe_table(json.loads(text))))


def _scenes(name: str) -> dict[str, list[str]]:
    """The scenes that an option names; if it names a file, those in the file, one per line."""
    text = click.get_current_context().params[parameter(name)]
    if text is None or not os.path.isfile(text):  # a long list is no valid path
        return {} if text is None else {name: [word.strip() for word in text.split(",")]}
    lines = [line.strip() for line in Path(text).read_text().splitlines() if line.strip()]
    if not lines:
        raise click.UsageError(f"{text} names no scene; expected one in each line")
    return {name: lines}


def _refuse_unused(config: EvaluateConfig) -> None:
    """Raise UsageError if `--set` names a setting that the modes or the split do not use."""
    by_scene, modes = config.split.unit == "scene", {*config.modes}
    unused = {
        "finetune.": (not modes & {"finetune", "detect"}, "add finetune to --mode"),
        "detect.": ("detect" not in modes, "give --mode detect"),
        "frozen.": (not modes - {"finetune", "detect"}, "add linear or knn to --mode"),
        "frozen.probe.": ("linear" not in modes, "add linear to --mode"),
        "frozen.neighbours": ("knn" not in modes, "add knn to --mode"),
        "frozen.most_neighbours": ("knn" not in modes, "add knn to --mode"),
        **dict.fromkeys(NOT_OF_BOXES, ("detect" in modes, "use --mode finetune")),
        "split.block_frames": (by_scene, "add --split-unit time-block"),
        "split.gap_frames": (by_scene, "add --split-unit time-block"),
        "test": (
            bool(config.split.test_scenes or config.test_store),
            f"drop --test-{'store' if config.test_store else 'scenes'}, which names the test part",
        ),
    }
    for name in typed_settings(EvaluateConfig):
        for start, (ignored, mend) in unused.items():
            is_meant = name.startswith(start) if start.endswith(".") else name == start
            if ignored and is_meant:
                raise click.UsageError(f"--set {name} would be ignored: {mend}, or omit it")


def probe_table(report: dict[str, Any]) -> list[str]:
    """The lines of a table: one row per class, one column per kind of features (IoU in %)."""
    scores, protocol = report["scores"], report["protocol"]
    kinds = ["pretrained", "random", "inputs+position"]
    lines = [f"{'IoU (%)':<20}" + "".join(f"{kind:>17}" for kind in kinds)]
    for name in scores[kinds[0]]["iou"]:
        lines.append(
            f"{name:<20}" + "".join(f"{100 * scores[k]['iou'][name]:17.1f}" for k in kinds)
        )
    for name in ("miou", "accuracy", "class_accuracy"):
        lines.append(f"{name:<20}" + "".join(f"{100 * scores[k][name]:17.1f}" for k in kinds))
    lines.append(
        f"{protocol['train_frames']} training and {protocol['test_frames']} test frames, "
        f"{pretrained_frames_text(protocol)}; {protocol['metric']}"
    )
    if protocol.get("points_turned"):
        lines[-1] += "; points turned to the axes of pretraining"
    if "blank" in protocol:
        lines[-1] += f"; {', '.join(protocol['blank'])} blank in all frames"
    shared = protocol.get("sequences_in_both_parts", [])
    if shared:
        lines.append(
            f"training and test frames are of the same recording ({', '.join(shared)}): the scores "
            "do not say how anything generalises to new scenes"
        )
    return lines


def pretrained_frames_text(protocol: dict[str, Any]) -> str:
    """How many test frames pretraining saw; a run knows only the stores that it was trained on."""
    seen = protocol["test_frames_pretrained_on_without_labels"]
    if seen is None:
        return "of a store that the run was not trained on (it may have seen them in another)"
    if not seen:
        return "held out of pretraining"
    return f"{seen} of which were pretrained on without labels"
