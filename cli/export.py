"""`p2pkit export`: a run in, a file of weights out."""

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The file to write.")
@click.option(
    "--to",
    "form",
    default="safetensors",
    show_default=True,
    help="safetensors, pointcontrast, slidr or minkunet.",
)
@click.option("--which", default="latest", show_default=True, help="Checkpoint: latest or best.")
@click.option("--projection", is_flag=True, help="With the point projection, as the layer `final`.")
def export(run: Path, out: Path, form: str, which: str, projection: bool) -> None:
    """Write a run's student for other code bases, under the published parameter names.

    Example: p2pkit export run --to pointcontrast --out student.pth
    """
    from p2pkit.pipelines import export as stage

    click.echo(
        stage.run(stage.ExportConfig(run, out, form=form, projection=projection, which=which))
    )
