"""`p2pkit report`: a run in, one HTML page out."""

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--store", type=click.Path(), help="Where its store lies; as when it was trained.")
@click.option("--out", type=click.Path(path_type=Path), help="RUN/report.html if not given.")
@click.option("--frames", default=3, show_default=True, type=click.IntRange(min=1))
def report(run: Path, store: str | None, out: Path | None, frames: int) -> None:
    """Write one HTML page about a run: its store, pictures of features, curves and scores.

    Example: p2pkit report run --out run.html
    """
    from p2pkit.pipelines import report as stage
    from p2pkit.pipelines.runs import read_config

    config = stage.ReportConfig(
        run=run,
        store=read_config(run).store if store is None else store,
        out=run / "report.html" if out is None else out,
        frames=frames,
    )
    click.echo(stage.run(config))
