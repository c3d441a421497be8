"""`p2pkit train`: a store, or several to mix, in; a run with checkpoints out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p2pkit.cli.bars import progress_bar
from p2pkit.errors import ConfigError

if TYPE_CHECKING:
    from p2pkit.pipelines.pretraining import TrainConfig
    from p2pkit.pipelines.training_step import StepReport


@click.command()
@click.argument("stores", metavar="[STORE]...", nargs=-1, type=click.Path())
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The run's folder.")
@click.option("--preset", help="paper (default) or cpu-small.")
@click.option("--steps", type=click.IntRange(min=1), help="Length of the schedule.")
@click.option("--stop-after", type=click.IntRange(min=1), help="End this process after N steps.")
@click.option("--weights", metavar="W,W", help="Share of each STORE; by their frames if not given.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any setting.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@click.option("--print-config", is_flag=True, help="Print the resolved settings as JSON and stop.")
def train(
    stores: tuple[str, ...],
    out: Path,
    weights: str | None,
    settings: tuple[str, ...],
    resume: bool,
    print_config: bool,
    **options: Any,
) -> None:
    """Pretrain a 3D network on stores, paths or URLs; interrupted runs go on with --resume.

    Example: p2pkit train rooms.store --out run --preset cpu-small --steps 20
    """
    import json

    from p2pkit.config import config_to_json
    from p2pkit.pipelines import train as stage
    from p2pkit.pipelines.distributed import ranks_from_environment

    preset, steps, stop_after = (options[name] for name in ("preset", "steps", "stop_after"))
    settings = (*settings, f"weights=[{weights}]") if weights else settings
    begun = resume and (out / "config.json").is_file()
    if resume and (begun or not stores):
        config = stage.read_config(out)
        _refuse_changes(config, preset, steps, settings)
    elif not stores:
        raise click.UsageError("name the STORE to train on, or give --resume to go on with --out")
    else:
        config = _config(stores, preset or "paper", steps, settings)
    if print_config:
        click.echo(json.dumps(config_to_json(config), indent=1))
        return
    ranks = ranks_from_environment()
    with progress_bar("steps", total=config.steps, hide=not ranks.is_first) as bar:
        show = _Shown(bar)
        if begun:
            store, *more = stores or (None,)
            path = stage.resume(
                out,
                store=store,
                more_stores=more,
                stop_after=stop_after,
                progress=show,
            )
        else:
            path = stage.run(config, out, stop_after=stop_after, progress=show)
    if ranks.is_first:
        _tell_rest(out, config.steps)
        click.echo(path)


def _tell_rest(out: Path, steps: int) -> None:
    """How to go on, where the run was stopped before its last step."""
    from p2pkit.pipelines.checkpoints import latest_checkpoint

    done = latest_checkpoint(out).step
    if done < steps:
        click.echo(
            f"stopped after {done} of {steps} steps; go on with `p2pkit train --out {out} "
            "--resume`",
            err=True,
        )


def _config(
    stores: Sequence[str], preset: str, steps: int | None, settings: tuple[str, ...]
) -> "TrainConfig":
    from p2pkit.config import with_settings
    from p2pkit.pipelines.presets import preset as preset_config

    overrides = (f"steps={steps}", *settings) if steps is not None else settings
    config = replace(preset_config(preset, stores[0]), more_stores=tuple(stores[1:]))
    return with_settings(config, overrides)


def _refuse_changes(
    saved: "TrainConfig", preset: str | None, steps: int | None, settings: tuple[str, ...]
) -> None:
    """A run's settings cannot change when it is resumed; repeating them is fine."""
    from p2pkit.config import config_to_json, with_settings

    if preset is not None:
        asked = _config((saved.store, *saved.more_stores), preset, steps, settings)
    else:
        asked = with_settings(saved, (f"steps={steps}", *settings) if steps else settings)
    old, new = config_to_json(saved), config_to_json(asked)
    changed = [name for name in old if old[name] != new[name]]
    if changed:
        told = "; ".join(f"{name} is {old[name]}, asked for {new[name]}" for name in changed)
        raise ConfigError(f"a resumed run keeps its settings: {told}. Start a new run with --out")


@dataclass
class _Shown:
    """Puts loss, pairs per second and the share of time spent waiting for data on the bar."""

    bar: Any
    step_s: float = 0.0
    wait_s: float = 0.0
    pairs: int = 0

    def __call__(self, report: "StepReport") -> None:
        if self.step_s == 0:
            self.bar.update(report.step - self.bar.n)
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
