"""`p2pkit evaluate`: runs and a labelled store in; do they beat scratch, and how surely?"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p2pkit.cli.unused import refuse_set_twice
from p2pkit.errors import ConfigError

if TYPE_CHECKING:
    from p2pkit.pipelines.evaluate.run import EvaluateConfig

SETTINGS = {
    "store": "store",
    "test_store": "test_store",
    "out": "out",
    "modes": "modes",
    "fractions": "fractions",
    "seeds": "seeds",
    "labels": "labels",
    "split_unit": "split.unit",
    "test_scenes": "split.test_scenes",
    "checkpoints": "checkpoints",
    "which": "which",
    "workers": "workers",
    "device": "device",
}
"""Which setting of `EvaluateConfig` each option is."""


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--on", "store", required=True, type=click.Path(), help="A store with labels.")
@click.option(
    "--test-store", type=click.Path(), help="Test on all frames of this store of the same classes."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of the report.")
@click.option("--mode", "modes", default="linear", show_default=True, help="linear,knn,finetune")
@click.option("--fractions", default="1,5,10,100", show_default=True, help="% of labelled scenes.")
@click.option(
    "--seeds", default=3, show_default=True, type=click.IntRange(min=1), help="Draws of scenes."
)
@click.option("--labels", default="stored", show_default=True, help="Label set: stored or nyu13.")
@click.option(
    "--split-unit",
    default="scene",
    show_default=True,
    type=click.Choice(["scene", "time-block"]),
    help="time-block cuts a single recording; says nothing about new scenes.",
)
@click.option("--test-scenes", metavar="NAMES|FILE", help="Such as 'Area_5_*'; else the last ones.")
@click.option(
    "--checkpoint", "checkpoints", multiple=True, metavar="NAME=FILE", help="Also these weights."
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any setting.")
@click.option("--which", default="latest", show_default=True, help="Checkpoint: latest or best.")
@click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(min=1), help="Processes."
)
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def evaluate(
    runs: tuple[Path, ...], store: str, out: Path, settings: tuple[str, ...], **asked: Any
) -> None:
    """Compare pretrained weights with scratch on few labels: probe, neighbours or fine-tuning.

    Example: p2pkit evaluate run --on rooms.store --out evaluation --fractions 50,100 --seeds 2
    """
    from p2pkit.pipelines.evaluate import run as stage
    from p2pkit.pipelines.evaluate.split import SplitConfig
    from p2pkit.settings import with_settings

    as_json = asked.pop("as_json")
    refuse_set_twice(settings, SETTINGS)
    config = stage.EvaluateConfig(
        runs=runs,
        store=store,
        out=out,
        modes=tuple(asked.pop("modes").split(",")),
        fractions=_numbers(asked.pop("fractions")),
        split=SplitConfig(asked.pop("split_unit"), scene_names(asked.pop("test_scenes"))),
        checkpoints=dict(_named(text) for text in asked.pop("checkpoints")),
        **asked,
    )
    config = with_settings(config, settings)
    _refuse_unused(settings, config)
    path = stage.run(config, progress=lambda text: click.echo(f"done: {text}", err=True))
    report = json.loads(path.read_text())
    if as_json:
        click.echo(json.dumps(report, indent=1))
        return
    click.echo((out / "report.md").read_text(), nl=False)
    click.echo(path)


def _refuse_unused(settings: Sequence[str], config: "EvaluateConfig") -> None:
    """Raise UsageError where `--set` sets what the modes or the split do not have."""
    by_scene, modes = config.split.unit == "scene", {*config.modes}
    unused = {
        "finetune.": ("finetune" not in modes, "add finetune to --mode"),
        "frozen.": (not modes - {"finetune"}, "add linear or knn to --mode"),
        "frozen.probe.": ("linear" not in modes, "add linear to --mode"),
        "frozen.neighbours=": ("knn" not in modes, "add knn to --mode"),
        "frozen.most_neighbours=": ("knn" not in modes, "add knn to --mode"),
        "split.block_frames=": (by_scene, "add --split-unit time-block"),
        "split.gap_frames=": (by_scene, "add --split-unit time-block"),
        "test=": (
            bool(config.split.test_scenes or config.test_store),
            f"the test part is what --test-{'store' if config.test_store else 'scenes'} names",
        ),
    }
    for setting in settings:
        name, _, value = setting.partition("=")
        for start, (ignored, mend) in unused.items():
            if ignored and f"{name.strip()}={value}".startswith(start):
                raise click.UsageError(f"--set {setting} would be ignored: {mend}, or leave it out")


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError as error:
        raise ConfigError(
            f"--fractions is {text!r}; percents such as 1,5,10,100 are due"
        ) from error


def scene_names(text: str | None) -> tuple[str, ...]:
    """Names of scenes, with commas between them, or one a line in a file."""
    if text is None:
        return ()
    named = Path(text).read_text().splitlines() if Path(text).is_file() else text.split(",")
    return tuple(name.strip() for name in named if name.strip())


def _named(text: str) -> tuple[str, Path]:
    name, separator, file = text.partition("=")
    if not separator:
        raise ConfigError(f"--checkpoint is {text!r}; NAME=FILE is due")
    return name, Path(file)
