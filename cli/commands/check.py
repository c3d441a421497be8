"""`p2pkit check`: a recording or a store in, verdicts out."""

from pathlib import Path
from typing import Any

import click

from p2pkit.cli.commands.extract import recognised
from p2pkit.cli.options import AS_JSON, NamedPath, config_of, options_of, refuse
from p2pkit.pipelines.settings import CheckConfig

MARKS = {"pass": "ok", "fail": "FAILED", "cannot tell": "cannot tell"}


@click.command()
@click.argument("source", required=False, type=NamedPath(path_type=Path))
@options_of(CheckConfig)
@AS_JSON
def check(source: Path | None, dataset: str | None, as_json: bool, **_: Any) -> None:
    """Say whether the pixel-point pairs of a recording or a store can be trusted.

    Exits with 1 when a test fails, and names the likely fault: swapped u and v, a mirrored image,
    wrong intrinsics, unregistered colour, a stale calibration, inverted poses, wrong axes or units.

    Example: p2pkit check --dataset demo-scene --frames 8
    """
    from p2pkit.datasets.registry import is_kind
    from p2pkit.pipelines.check.run import run
    from p2pkit.store.location import MANIFEST

    if dataset is None and source is not None and (source / MANIFEST).is_file():
        refuse(
            ["camera", "seed", "depth_units", "streams"],
            "a store has its own calibration and frames; omit it",
        )
    elif dataset is None:
        found = recognised(source)
        source, dataset = found.root, found.dataset
    if dataset is None or not is_kind(dataset, "generated"):
        refuse(["seed"], f"it seeds generated scenes, but {dataset} is a recording; omit it")
    config = config_of(CheckConfig, source=source, dataset=dataset)
    if (config.out / "check.json").exists():
        note = f"Replacing the earlier result in {config.out}; name another --out to keep both"
        click.echo(note, err=True)
    report = run(config)
    if as_json:
        click.echo(report.path.read_text())
    else:
        for verdict in report.verdicts:
            click.echo(f"{verdict.test:<16} {MARKS[verdict.outcome]:<12} {verdict.reason}")
        click.echo(report.summary)
        for mend in report.mends:
            click.echo(f"To fix it, {mend}.")
        click.echo(report.path.with_name("check.html"))
    if not report.ok:
        click.get_current_context().exit(1)
