"""`p2pkit report`: a store or a run in, one HTML page out."""

from pathlib import Path

import click


@click.command()
@click.argument("source", metavar="STORE|RUN")
@click.argument("store", metavar="[STORE]", required=False)
@click.option("--out", type=click.Path(path_type=Path), help="RUN/report.html, STORE-report.html.")
@click.option("--layer", help="Of a store: whose features; the first layer if not given.")
@click.option(
    "--frames", default=3, show_default=True, type=click.IntRange(min=1), help="Frames to draw."
)
@click.option(
    "--evaluation",
    type=click.Path(path_type=Path),
    help="Of a run: what `p2pkit evaluate` wrote; else one beside the run.",
)
def report(
    source: str,
    store: str | None,
    out: Path | None,
    layer: str | None,
    frames: int,
    evaluation: Path | None,
) -> None:
    """Write one HTML page about a store, or about a run and its store.

    The page shows pictures of features and points that can be turned; of a run also curves,
    scores, likely false negatives and nearest points. The second STORE is where a run's store
    lies now, if it was moved.

    Example: p2pkit report run --out run.html
    """
    from p2pkit.pipelines.report import store_page as report_store

    if report_store.source_kind(source) == "store":
        if store is not None:
            raise click.UsageError(f"{source} is a store itself; a second one goes with a run")
        if evaluation is not None:
            raise click.UsageError(f"{source} is a store; --evaluation goes with a run")
        name = source.rstrip("/").rpartition("/")[2]
        path = Path(f"{name}-report.html") if out is None else out
        click.echo(report_store.run(report_store.StoreReportConfig(source, path, layer, frames)))
        return
    if layer is not None:
        raise click.UsageError(f"{source} is a run, which has its own layer; leave --layer out")
    from p2pkit.pipelines.report import run_page as stage
    from p2pkit.pipelines.train.run_folder import read_config

    config = stage.ReportConfig(
        run=Path(source),
        store=read_config(Path(source)).store if store is None else store,
        out=Path(source) / "report.html" if out is None else out,
        frames=frames,
        evaluation=evaluation,
    )
    click.echo(stage.run(config))
