"""`p2pkit retrieval`: a run and its store in, pixel-retrieval top-1 out."""

import json
from pathlib import Path
from typing import Any

import click

from p2pkit.cli.options import AS_JSON, config_of, options_of
from p2pkit.pipelines.settings import RetrievalConfig


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("store", type=click.Path())
@options_of(RetrievalConfig)
@AS_JSON
def retrieval(run: Path, store: str, as_json: bool, **_: Any) -> None:
    """Measure how often a point's embedding finds its own pixel on frames held out of training.

    A store that the run was not trained on is tested as a whole.

    Example: p2pkit retrieval run rooms.store
    """
    from p2pkit.pipelines import retrieval as stage

    config = config_of(RetrievalConfig, run=run, store=store)
    text = stage.run(config).read_text()
    if as_json:
        click.echo(text)
        return
    report = json.loads(text)
    found = round(report["pairs_found"])
    fewer = "" if found == config.pairs else f" (mean {found} found)"
    kind = "held-out frames" if report["trained_on_store"] else "frames of another store"
    click.echo(f"{report['frames']} {kind}, {config.pairs} candidates each{fewer}; top-1 in %")
    if not report["trained_on_store"]:
        click.echo("(the run has seen these frames if it was trained on the same recording)")
    click.echo(f"{'':<12}{'own pixel':>12}{'own cell':>12}")
    for name in ("trained", "untrained"):
        row = report[name]
        click.echo(f"{name:<12}{100 * row['top1_pixel']:12.2f}{100 * row['top1_cell']:12.2f}")
    chances = (report["chance"], report["chance_cell"])
    click.echo(f"{'chance':<12}" + "".join(f"{100 * chance:12.2f}" for chance in chances))
