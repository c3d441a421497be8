"""`p2pkit retrieval`: a run and its store in, pixel-retrieval top-1 out."""

import json
from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("store", type=click.Path())
@click.option(
    "--pairs",
    type=click.IntRange(min=2),
    default=1024,
    show_default=True,
    help="Candidates of a frame.",
)
@click.option("--seed", default=0, show_default=True, help="Of pairs and random weights.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def retrieval(run: Path, store: str, pairs: int, seed: int, as_json: bool) -> None:
    """Measure how often a point's embedding finds its own pixel on frames held out of training.

    Example: p2pkit retrieval run rooms.store
    """
    from p2pkit.pipelines import retrieval as stage

    text = stage.run(
        stage.RetrievalConfig(run=run, store=store, pairs=pairs, seed=seed)
    ).read_text()
    if as_json:
        click.echo(text)
        return
    report = json.loads(text)
    found = round(report["pairs_found"])
    fewer = "" if found == pairs else f" ({found} found in the mean)"
    click.echo(f"{report['frames']} held-out frames, {pairs} candidates each{fewer}; top-1 in %")
    click.echo(f"{'':<12}{'own pixel':>12}{'own cell':>12}")
    for name in ("trained", "untrained"):
        row = report[name]
        click.echo(f"{name:<12}{100 * row['top1_pixel']:12.2f}{100 * row['top1_cell']:12.2f}")
    chances = (report["chance"], report["chance_cell"])
    click.echo(f"{'chance':<12}" + "".join(f"{100 * chance:12.2f}" for chance in chances))
