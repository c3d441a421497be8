"""`p2pkit profile`: where the time of a training step goes."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from p2pkit.cli.commands.train import asked_settings, training_options
from p2pkit.cli.options import AS_JSON

if TYPE_CHECKING:
    from p2pkit.pipelines.train.profile import StepProfile


@click.command()
@training_options
@click.option(
    "--measured", default=10, show_default=True, type=click.IntRange(1), help="Steps to measure."
)
@AS_JSON
def profile(stores: tuple[str, ...], measured: int, as_json: bool, **asked: Any) -> None:
    """Train for a few steps, keep nothing, and print where the time went.

    Example: p2pkit profile rooms.store --preset cpu-small --measured 5
    """
    from p2pkit.pipelines.train import profile as stage

    config = asked_settings(asked).config(stores)
    found = stage.run(config, steps=measured)
    click.echo(json.dumps(asdict(found), indent=1) if as_json else "\n".join(_table(found)))


def _table(found: "StepProfile") -> list[str]:
    lines = [f"a step: {found.step_ms:.1f} ms, mean of {found.steps}"]
    for part, value in found.stepping_ms.items():
        lines.append(f"  {part:<12}{value:10.1f} ms {value / found.step_ms:8.1%}")
    lines.append(f"in parallel, in {found.threads} threads, per global batch:")
    lines += [f"  {part:<12}{value:10.1f} ms" for part, value in found.preparing_ms.items()]
    return lines
