"""`p2pkit export`: a run in, a file of weights out."""

from pathlib import Path
from typing import Any

import click

from p2pkit.cli.options import config_of, options_of
from p2pkit.pipelines.settings import ExportConfig


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@options_of(ExportConfig)
def export(run: Path, **_: Any) -> None:
    """Write a run's student for other code bases, under the published parameter names.

    Example: p2pkit export run --to pointcontrast --out student.pth
    """
    from p2pkit.pipelines import export as stage

    click.echo(stage.run(config_of(ExportConfig, run=run)))
