"""`p2pkit shards`: look into a store and check it; shards_admin.py holds what changes stores."""

import json
from pathlib import Path
from typing import Any

import click

from p2pkit.cli.shards_admin import convert, drop_layer, merge, repair, split
from p2pkit.cli.transfer import pull, push

STORE = click.argument("store", type=click.Path())  # a Path would lose a slash of a URL
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def shards() -> None:
    """Look into a store, check it, repair it, and make others from it.

    Example: p2pkit shards info STORE
    """


for command in (repair, merge, split, drop_layer, convert, push, pull):
    shards.add_command(command)


@shards.command()
@STORE
@click.option(
    "--sample",
    "samples",
    type=click.IntRange(min=0),
    default=64,
    show_default=True,
    help="Samples per layer whose values are looked at; 0 for none.",
)
@click.option("--seed", default=0, show_default=True, help="Of the choice of samples.")
@AS_JSON
def info(store: str, samples: int, seed: int, as_json: bool) -> None:
    """Print a store's layers, what they hold and come from; exit with 1 where damage was met.

    Example: p2pkit shards info STORE --sample 16
    """
    from p2pkit.shards import open_store
    from p2pkit.shards.summary import store_summary

    summary = store_summary(open_store(store), samples=samples, seed=seed)
    click.echo(json.dumps(summary, indent=1) if as_json else _info_text(summary))
    if any((layer["statistics"] or {}).get("damage") for layer in summary["layers"]):
        click.get_current_context().exit(1)


@shards.command()
@STORE
@click.option("--deep", is_flag=True, help="Also read and check every byte.")
@AS_JSON
def verify(store: str, deep: bool, as_json: bool) -> None:
    """Check a store; exit with 1 when anything is wrong.

    Example: p2pkit shards verify STORE --deep
    """
    from p2pkit.shards.verify import verify_store

    report = verify_store(store, deep=deep)
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=1))
    else:
        for problem in report.problems:
            named = ("layer", "shard", "key", "field")
            places = [(name, getattr(problem, name)) for name in named]
            where = ", ".join(f"{name} {value}" for name, value in places if value is not None)
            click.echo(f"{where or 'store'}: {problem.reason}")
        told = f"{len(report.problems)} problems" if report.problems else "ok"
        click.echo(f"{told}: {report.shards} shards, {report.samples} samples checked")
    if not report.ok:
        click.get_current_context().exit(1)


@shards.command()
@STORE
@AS_JSON
def ls(store: str, as_json: bool) -> None:
    """List the samples: key, shard and row.

    Example: p2pkit shards ls STORE
    """
    from p2pkit.shards import open_store

    opened = open_store(store)
    opened.records("geometry")
    rows: list[dict[str, Any]] = []
    for shard in range(opened.manifest.plan.shards):
        for row, key in enumerate(opened.keys(shard)):
            rows.append({"key": key, "shard": shard, "row": row})
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    for entry in rows:
        click.echo(f"{entry['key']}\t{entry['shard']:06d}\t{entry['row']}")


@shards.command()
@STORE
@click.argument("key")
@click.option("--ply", type=click.Path(path_type=Path), help="Also write its coloured points.")
@AS_JSON
def show(store: str, key: str, ply: Path | None, as_json: bool) -> None:
    """Print the fields of one sample: dtype, shape, smallest and largest value, and its JSON.

    Example: p2pkit shards show STORE frame-000012
    """
    from p2pkit.shards import open_store
    from p2pkit.shards.summary import sample_summary

    opened = open_store(store)
    summary = sample_summary(opened, key)
    if ply is not None:
        from p2pkit.shards.export import write_ply

        write_ply(opened, key, ply)
    if as_json:
        click.echo(json.dumps(summary, indent=1))
        return
    click.echo(f"{key}: shard {summary['shard']:06d}, row {summary['row']}")
    for name, layer in summary["layers"].items():
        click.echo(f"\n{name}")
        for entry in layer["fields"]:
            shape = " × ".join(map(str, entry["shape"])) or "scalar"
            values = f"{entry['min']} … {entry['max']} {entry['unit']}".rstrip()
            click.echo(f"  {entry['name']:<14} {entry['dtype']:<4} {shape:<22} {values}")
        click.echo("  json           " + json.dumps(layer["meta"]))


def _info_text(summary: dict[str, Any]) -> str:
    plan, recording = summary["plan"], summary["dataset"].get("dataset", "?")
    lines = [
        f"{summary['path']}: {summary['storage']} store of {recording}, "
        f"{plan['frames']} frames in {plan['shards']} shards of up to {plan['shard_size']}, "
        f"seed {plan['seed']}"
    ]
    for layer in summary["layers"]:
        lines += [
            "",
            layer["name"],
            f"  shards       {layer['shards']} of {plan['shards']}",
            f"  samples      {layer['samples']}",
            f"  failures     {layer['failures']}",
            f"  bytes        {layer['bytes']:,}",
            f"  fingerprint  {layer['fingerprint_sha256']}",
        ]
        for name, value in layer["provenance"].items():
            told = value if isinstance(value, str) else json.dumps(value)
            lines.append(f"  {name:<12} {told}")
        if pca := layer["details"].get("pca"):
            lines.append(f"  pca          {_pca_text(pca)}")
        lines += _field_lines(layer)
    return "\n".join(lines)


def _pca_text(pca: dict[str, Any]) -> str:
    held_out = pca["held_out_variance"]
    told = f", {held_out:.2%} of that of cells not fitted" if held_out is not None else ""
    return (
        f"{pca['components']} of {pca['channels']} channels: {sum(pca['explained_variance']):.2%} "
        f"of the variance of {pca['cells']} cells{told}"
    )


def _field_lines(layer: dict[str, Any]) -> list[str]:
    statistics = layer["statistics"]
    lines: list[str] = []
    for entry in layer["fields"]:
        line = (
            f"  {entry['name']:<12} {entry['dtype']} [{', '.join(entry['axes'])}] {entry['codec']}"
        )
        if statistics:
            found = statistics["fields"][entry["name"]]
            line += f"  {found['bytes']:,} bytes"
            if found["mean"] is not None:
                values = f"{found['min']:.6g} … {found['max']:.6g}, mean {found['mean']:.6g}"
                line += f"  {values} {entry['unit']}".rstrip()
            if found["not_finite"]:
                line += f"  {found['not_finite']:,} of {found['values']:,} not finite"
        lines.append(line)
    if statistics:
        looked = f"{statistics['looked_at']} of {statistics['of']} samples"
        lines.append(f"  values are those of {looked}, seed {statistics['seed']}")
        if statistics["damage"]:
            lines.append(f"  DAMAGED      {statistics['damage']}")
    return lines
