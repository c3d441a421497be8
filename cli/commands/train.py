"""`p2pkit train`: a store, or several to mix, in; a run with checkpoints out."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p2pkit.cli.options import CONFIG_FILE, PRINT_CONFIG, options_of, refuse_set, typed_settings
from p2pkit.cli.progress import is_first, progress_bar
from p2pkit.errors import ConfigError
from p2pkit.pipelines.train.presets import PRESETS
from p2pkit.pipelines.train.settings import TrainConfig

if TYPE_CHECKING:
    from p2pkit.pipelines.train.step import StepReport

PRESET = click.option(
    "--preset",
    type=click.Choice([*PRESETS]),
    help="Settings to start from; train chooses by device and store, init takes paper.",
)


def training_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the STORE arguments and all options of a training."""
    for option in (
        options_of(TrainConfig, without=("probe.split.unit", "probe.split.test_scenes")),
        CONFIG_FILE,
        PRESET,
        click.argument("stores", metavar="[STORE]...", nargs=-1, type=click.Path()),
    ):
        command = option(command)
    return command


@click.command()
@training_options
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The run's folder.")
@click.option("--stop-after", type=click.IntRange(min=1), help="Stop after N steps.")
@click.option("--resume", is_flag=True, help="Continue the run in --out.")
@PRINT_CONFIG
def train(
    stores: tuple[str, ...],
    out: Path,
    resume: bool,
    stop_after: int | None,
    print_config: bool,
    **asked: Any,
) -> None:
    """Pretrain a 3D network on stores, by path or URL; continue an interrupted run with --resume.

    Example: p2pkit train rooms.store --out run --preset cpu-small --steps 20
    """
    from p2pkit.pipelines.train import run as stage
    from p2pkit.pipelines.train.distributed import ranks_from_environment
    from p2pkit.settings import config_to_toml

    wanted = asked_settings(asked)
    begun = resume and (out / "config.json").is_file()
    if resume and (begun or not (stores or wanted.config_file)):
        config = _free_changes(stage.read_config(out), wanted)
    else:
        config = wanted.config(stores)
    if print_config:
        click.echo(config_to_toml(config), nl=False)
        return
    ranks = ranks_from_environment()
    if config.epochs is not None and not begun:
        config = stage.resolved(config, stage.open_sources(config))
    with progress_bar("steps", total=config.steps, hide=not ranks.is_first) as bar:
        rest: dict[str, Any] = {"stop_after": stop_after, "progress": _Shown(bar, config.device)}
        if begun:
            store, *more = stores or (None,)
            path = stage.resume(out, store=store, more_stores=more, settings=config, **rest)
        else:
            if ranks.is_first:
                report_engine(config.engine, config.device, config.precision)
            path = stage.run(config, out, **rest)
    if ranks.is_first:
        _print_remaining(out, config.steps)
        click.echo(path)


def report_engine(engine: str, device: str, precision: str) -> None:
    """Print which engine a new run uses, and why, if its settings leave the choice open."""
    from p2pkit.networks import AUTO, choose_engine

    if engine == AUTO:
        choice = choose_engine(engine, device, precision=precision)
        reason = f" ({choice.reason})" if choice.reason else ""
        click.echo(f"engine: {choice.name}{reason}", err=True)


def _print_remaining(out: Path, steps: int) -> None:
    """Print how to continue a run that was stopped before its last step."""
    from p2pkit.pipelines.train.checkpoints import latest_checkpoint
    from p2pkit.pipelines.train.run_folder import resume_command

    done = latest_checkpoint(out).step
    if done < steps:
        click.echo(
            f"stopped after {done} of {steps} steps; continue with `{resume_command(out)}`",
            err=True,
        )


@dataclass(frozen=True)
class AskedSettings:
    """The settings on the command line: a preset, a file over it, and single settings over both."""

    preset: str | None
    config_file: Path | None
    settings: dict[str, Any]

    def config(self, stores: Sequence[str]) -> TrainConfig:
        """All settings; STOREs on the command line replace those of the file."""
        from p2pkit.pipelines.train.presets import preset as preset_config
        from p2pkit.settings import merged, settings_from_toml

        file = settings_from_toml(self.config_file) if self.config_file is not None else {}
        if not stores and "store" not in file:
            raise click.UsageError(
                "name the STORE to train on, on the command line or in --config; `p2pkit train "
                "--resume` continues the run in --out without one"
            )
        if stores:
            file = {**file, "store": stores[0], "more_stores": list(stores[1:])}
        base = preset_config(self._preset_for(str(file["store"])), str(file["store"]))
        if "steps" in self.settings and "epochs" in self.settings:
            raise click.UsageError("steps would be ignored: epochs decides how many; keep one")
        for given in (file, self.settings):
            if "steps" in given and "epochs" not in given:
                base, file = replace(base, epochs=None), {**file, "epochs": None}
        return self.over(merged(base, file))

    def _preset_for(self, store: str) -> str:
        """The one that is named, else the one for device and store; a file's settings are over
        the paper's.
        """
        from p2pkit.pipelines.train.presets import chosen_preset

        if self.preset is not None or self.config_file is not None:
            return self.preset or "paper"
        name, reason = chosen_preset(str(self.settings.get("device", "cpu")), store)
        if is_first():
            click.echo(f"preset: {name} ({reason}); --preset chooses another", err=True)
        return name

    def over(self, config: TrainConfig) -> TrainConfig:
        """The config with the single settings applied."""
        from p2pkit.settings import merged, nested

        return merged(config, nested(self.settings))


def asked_settings(asked: Mapping[str, Any]) -> AskedSettings:
    """The settings given with the options of `training_options`."""
    refuse_set(["store", "more_stores"])
    return AskedSettings(asked["preset"], asked["config_file"], typed_settings(TrainConfig))


def _free_changes(saved: TrainConfig, asked: AskedSettings) -> TrainConfig:
    """The settings of a resumed run. Only those that do not affect the weights may change;
    repeating the others unchanged is allowed.
    """
    from p2pkit.networks import AUTO
    from p2pkit.pipelines.train.run_folder import with_free_settings
    from p2pkit.pipelines.train.stores import resumed
    from p2pkit.settings import config_to_json

    if asked.preset is not None or asked.config_file is not None:
        again = asked.config((saved.store, *saved.more_stores))
        if again.epochs is not None and again.epochs == saved.epochs:
            again = replace(again, steps=saved.steps)
    else:
        again = asked.over(saved)
    if again.engine == AUTO:
        again = replace(again, engine=saved.engine)
    again = resumed(again, saved)
    kept = with_free_settings(saved, again)
    old, new = config_to_json(kept), config_to_json(again)
    changed = [name for name in old if old[name] != new[name]]
    if changed:
        changes = "; ".join(f"{name} is {old[name]}, requested {new[name]}" for name in changed)
        raise ConfigError(
            f"a resumed run keeps its settings: {changes}. Start a new run with --out"
        )
    return kept


MEASURED_STEPS = 10
"""After so many, the time of a step is known; the first, which compiles, is not counted."""


@dataclass
class _Shown:
    """Shows loss, pairs per second and the share of time spent waiting for data on the bar."""

    bar: Any
    device: str
    steps: int = 0
    first_s: float = 0.0
    step_s: float = 0.0
    wait_s: float = 0.0
    pairs: int = 0

    def __call__(self, report: "StepReport") -> None:
        if self.steps == 0:
            # Steps done before are no measure of the speed.
            self.bar.initial = self.bar.n = self.bar.last_print_n = report.step
            self.first_s = report.step_s
        self.steps += 1
        self.step_s += report.step_s
        self.wait_s += report.wait_s
        self.pairs += report.pairs
        self.bar.set_postfix(
            {
                "loss": f"{report.loss:.3f}",
                "pairs/s": f"{self.pairs / self.step_s:.0f}",
                "wait": f"{self.wait_s / self.step_s:.1%}",
            },
            refresh=False,
        )
        self.bar.update(1)
        if self.steps == MEASURED_STEPS and self.device.startswith("cpu"):
            self._announce(self.bar.total - self.bar.n)

    def _announce(self, left: int) -> None:
        """Say how long a run takes that takes days."""
        step_s = (self.step_s - self.first_s) / (MEASURED_STEPS - 1)
        days = left * step_s / 86_400
        if days > 1:
            self.bar.write(
                f"{left:,} steps of {step_s:.1f} s will take about {days:.1f} days on this CPU; "
                "--preset cpu-small, fewer --steps or a GPU take less",
                file=sys.stderr,
            )
