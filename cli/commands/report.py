"""`p2pkit report`: a store or a run in, one HTML page out."""

from pathlib import Path
from typing import Any

import click

from p2pkit.cli.options import config_of, option_of, options_of, refuse, setting_of
from p2pkit.pipelines.settings import ReportConfig, StoreReportConfig


@click.command()
@click.argument("source", metavar="STORE|RUN")
@click.argument("store", metavar="[STORE]", required=False)
@options_of(ReportConfig, optional=("out",))
@option_of(setting_of(StoreReportConfig, "layer"))
def report(source: str, store: str | None, out: Path | None, layer: str | None, **_: Any) -> None:
    """Write one HTML page about a store, or about a run and its store.

    The page shows pictures of features and rotatable points; for a run also curves,
    scores, likely false negatives and nearest points. The second STORE is where a run's store
    is now, if it was moved.

    Example: p2pkit report run --out run.html
    """
    from p2pkit.pipelines.report import store_page as report_store

    if report_store.source_kind(source) == "store":
        if store is not None:
            raise click.UsageError(
                f"{source} is already a store; give a second one only with a run"
            )
        refuse(["evaluation", "settings"], f"{source} is a store; these options are only for runs")
        name = source.rstrip("/").rpartition("/")[2]
        path = Path(f"{name}-report.html") if out is None else out
        frames = config_of(ReportConfig, run=source, store=source, out=path).frames
        click.echo(report_store.run(StoreReportConfig(source, path, layer, frames)))
        return
    refuse(["layer"], f"{source} is a run, which determines the layer; omit this")
    from p2pkit.pipelines.report import run_page as stage
    from p2pkit.pipelines.train.run_folder import read_config, store_of

    if store is None:
        store = store_of(Path(source), read_config(Path(source)).store)
    path = Path(source) / "report.html" if out is None else out
    click.echo(stage.run(config_of(ReportConfig, run=source, store=store, out=path)))
