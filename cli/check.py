"""`p2pkit check`: a recording or a store in, verdicts out."""

from pathlib import Path
from typing import Any

import click

from p2pkit.cli.recognised import NamedPath, recognised
from p2pkit.cli.unused import refuse

MARKS = {"pass": "ok", "fail": "FAILED", "cannot tell": "cannot tell"}


@click.command()
@click.argument("source", required=False, type=NamedPath(path_type=Path))
@click.option(
    "--dataset", help="Format of a recording, such as nyuv2; told by its files if not given."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="check",
    show_default=True,
    help="Folder for check.json, check.html and overlays.",
)
@click.option(
    "--frames", type=click.IntRange(min=1), default=16, show_default=True, help="To test."
)
@click.option("--camera", type=click.Path(path_type=Path), help="A calibration to use instead.")
@click.option("--seed", default=0, show_default=True, help="Of generated scenes.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def check(source: Path | None, as_json: bool, **options: Any) -> None:
    """Say whether the pixel-point pairs of a recording or a store can be trusted.

    Exits with 1 when a test fails, and names the likely fault: swapped u and v, a mirrored image,
    wrong intrinsics, unregistered colour, a stale calibration, inverted poses, wrong axes or units.

    Example: p2pkit check --dataset demo-scene --frames 8
    """
    from p2pkit.datasets.registry import GENERATED
    from p2pkit.pipelines.check.run import CheckConfig, run
    from p2pkit.store.location import MANIFEST

    dataset = options["dataset"]
    if dataset is None and source is not None and (source / MANIFEST).is_file():
        refuse(["camera", "seed"], "a store has its own calibration and frames; leave this out")
    elif dataset is None:
        found = recognised(source)
        source, dataset = found.root, found.dataset
    if dataset not in GENERATED:
        refuse(["seed"], f"it draws generated scenes, and {dataset} is a recording; leave this out")
    config = CheckConfig(
        source=source,
        out=options["out"],
        dataset=dataset,
        frames=options["frames"],
        camera_file=options["camera"],
        seed=options["seed"],
    )
    report = run(config)
    if as_json:
        click.echo(report.path.read_text())
    else:
        for verdict in report.verdicts:
            click.echo(f"{verdict.test:<16} {MARKS[verdict.outcome]:<12} {verdict.reason}")
        click.echo(report.summary)
        click.echo(report.path.with_name("check.html"))
    if not report.ok:
        click.get_current_context().exit(1)
