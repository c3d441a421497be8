"""`p2pkit shards`: inspect, check, repair, merge and copy stores."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p2pkit.cli.options import refuse
from p2pkit.cli.progress import progress_bar, shown_on
from p2pkit.errors import counted

if TYPE_CHECKING:
    from p2pkit.pipelines.shards.transfer import TransferReport


FOLDER = click.Path(path_type=Path)

LOCAL_STORE = click.argument("store", type=FOLDER)
ANY_STORE = click.argument("store", type=click.Path())  # a URL, too


@click.command()
@LOCAL_STORE
@click.option("--source", type=FOLDER, help="The recording, to extract lost frames again.")
@click.option("--dataset", help="Format of the recording; the store's if only --source is given.")
@click.option("--camera", type=FOLDER, help="Separate calibration file, as for extract.")
@click.option(
    "--weights",
    multiple=True,
    metavar="FILE",
    help="A file of a teacher's weights, if the store was made with one; may be repeated.",
)
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    metavar="KIND:PATH",
    help="A teacher's file or folder: hf:, torchscript: or onnx: and its path.",
)
@click.option(
    "--device", default="cpu", show_default=True, help="Where the teacher runs: cpu or cuda."
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Frames worked on at the same time.",
)
@click.option("--drop", is_flag=True, help="Without --source, remove lost frames from the store.")
@click.option("--dry-run", is_flag=True, help="Report what would be done; change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def repair(store: Path, as_json: bool, **options: Any) -> None:
    """Extract damaged shards again or, without the recording, remove lost frames.

    Exits with 1 if the store is not complete afterwards.

    Example: p2pkit shards repair STORE --source recordings/office
    """
    from p2pkit.pipelines.extract.mend import RepairConfig, SourceConfig, run

    if options["source"] is None and options["dataset"] is None:
        refuse(
            ["camera", "weights", "teachers", "device", "threads"],
            "nothing is extracted without the recording; name it with --source",
        )
    else:
        refuse(["drop"], "lost frames are extracted again from the recording")
    source = SourceConfig(
        dataset=options["dataset"],
        root=options["source"],
        camera=options["camera"],
        weights=options["weights"],
        teachers=options["teachers"],
        device=options["device"],
        threads=options["threads"],
    )
    config = RepairConfig(
        store=store,
        source=source,
        drop=options["drop"],
        dry_run=options["dry_run"],
    )
    with progress_bar("shards") as bar:
        report = run(config, progress=shown_on(bar))
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=1))
    else:
        click.echo(_repair_text(report.to_json()))
    if report.verified is not None and not report.verified.ok:
        click.get_current_context().exit(1)


@click.command()
@click.argument("stores", nargs=-1, required=True, type=click.Path())
@click.option("--out", required=True, type=FOLDER, help="The new store.")
@click.option(
    "--prefix", "prefixes", multiple=True, help="Prefix of the keys; once for each store."
)
@click.option(
    "--shard-size",
    type=click.IntRange(min=1),
    help="Samples per shard; the first store's by default.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    help="Random seed of the new plan; the first store's by default.",
)
def merge(
    stores: tuple[str, ...],
    out: Path,
    prefixes: tuple[str, ...],
    shard_size: int | None,
    seed: int | None,
) -> None:
    """Merge several stores that were extracted in the same way into one.

    Example: p2pkit shards merge kitchen.store office.store --out rooms.store
    """
    from p2pkit.pipelines.shards.merge import MergeConfig, merge_stores

    config = MergeConfig(stores, out, prefixes=prefixes, shard_size=shard_size, seed=seed)
    with progress_bar("shards") as bar:
        click.echo(merge_stores(config, shown_on(bar)))


@click.command("drop-layer")
@LOCAL_STORE
@click.argument("layer")
@click.option("--yes", is_flag=True, help="Delete; without it, only report what would be deleted.")
def drop_layer(store: Path, layer: str, yes: bool) -> None:
    """Delete one layer of features, superpixels or boxes; the geometry and other layers stay.

    Example: p2pkit shards drop-layer STORE features/resnet50-0123abcd --yes
    """
    from p2pkit.pipelines.shards import drop_layer as dropping

    found = dropping.drop_layer(store, layer) if yes else dropping.layer_files(store, layer)
    action = "deleted" if yes else "would delete (add --yes)"
    click.echo(f"{action} {found.name}: {found.files} files, {found.bytes:,} bytes")


@click.command()
@ANY_STORE
@click.option("--out", required=True, type=FOLDER, help="The new store.")
@click.option(
    "--format",
    "storage",
    required=True,
    type=click.Choice(["tar", "zarr"]),
    help="The format to write.",
)
def convert(store: str, out: Path, storage: str) -> None:
    """Rewrite a store in the other on-disk format, bit for bit.

    Example: p2pkit shards convert STORE --out rooms-zarr.store --format zarr
    """
    from p2pkit.pipelines.shards.convert import convert_store

    with progress_bar("shards") as bar:
        click.echo(convert_store(store, out=out, storage=storage, report=shown_on(bar)))


def _repair_text(report: dict[str, Any]) -> str:
    verified, lines = report["verified"], list[str]()
    for action in report["actions"]:
        what = f"would {action['what']}" if verified is None else action["what"]
        keys = f": frames {', '.join(action['keys'])}" if action["keys"] else ""
        where = f"layer {action['layer']}, shard {action['shard']}"
        lines.append(f"{what} {where}{keys}: {action['reason']}")
    geometry = [x for x in report["actions"] if x["layer"] == "geometry" and x["what"] == "drop"]
    if geometry:
        verb = "would become" if verified is None else "became"
        count = sum(len(action["keys"]) for action in geometry)
        lines.append(
            f"{count} frames {verb} failures of stage repair and are removed from every layer; "
            "repair with --source brings them back"
        )
    if report["failures_file"]:
        verb = "would be" if verified is None else "was"
        lines.append(f"failures.jsonl {verb} rewritten: it did not match the records")
    if verified is None:
        lines.append(f"dry run: {len(report['actions'])} actions needed, nothing changed")
    else:
        problems = len(verified["problems"])
        state = f"{counted(problems, 'problem')} left" if problems else "ok"
        lines.append(f"{state}: {len(report['actions'])} actions done, every byte read again")
    return "\n".join(lines)


LAYERS = click.option(
    "--layer",
    "layers",
    multiple=True,
    help="Copy only this layer and the geometry; may be repeated.",
)

WORKERS = click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Shards copied at the same time.",
)


@click.command()
@click.argument("store", type=click.Path())
@click.argument("url")
@LAYERS
@WORKERS
def push(store: str, url: str, layers: tuple[str, ...], workers: int) -> None:
    """Copy a store to an object store; each shard is read back and compared.

    Running the same command again continues where it stopped.

    Example: p2pkit shards push rooms.store s3://bucket/rooms.store
    """
    _transfer(store, url, layers, workers)


@click.command()
@click.argument("url")
@click.argument("store", type=click.Path())
@LAYERS
@WORKERS
def pull(url: str, store: str, layers: tuple[str, ...], workers: int) -> None:
    """Copy a store from a URL into a folder; each shard is compared with its record.

    Running the same command again continues where it stopped.

    Example: p2pkit shards pull s3://bucket/rooms.store rooms.store
    """
    _transfer(url, store, layers, workers)


def _transfer(source: str, target: str, layers: tuple[str, ...], workers: int) -> None:
    from p2pkit.pipelines.shards.transfer import TransferConfig, run

    with progress_bar("MB") as bar:

        def show(report: "TransferReport") -> None:
            bar.total = round(report.total_bytes / 1e6, 1)
            bar.update(round(report.bytes / 1e6, 1) - bar.n)

        report = run(TransferConfig(source, target, layers, workers), progress=show)
    click.echo(
        f"{target}: {report.copied} shards copied and verified, {report.kept} already present"
    )


STORE = click.argument("store", type=click.Path())  # a Path would lose a slash of a URL

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def shards() -> None:
    """Inspect, verify, repair, merge, convert and copy stores.

    Example: p2pkit shards info STORE
    """


for command in (repair, merge, drop_layer, convert, push, pull):
    shards.add_command(command)


@shards.command()
@STORE
@click.option(
    "--sample",
    "samples",
    type=click.IntRange(min=0),
    default=64,
    show_default=True,
    help="Samples per layer whose values are read; 0 for none.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Random seed of the choice of samples.",
)
@AS_JSON
def info(store: str, samples: int, seed: int, as_json: bool) -> None:
    """Print a store's layers, contents and origin; exit with 1 if damage was found.

    Example: p2pkit shards info STORE --sample 16
    """
    from p2pkit.store.reading import open_store
    from p2pkit.store.summary import store_summary

    summary = store_summary(open_store(store), samples=samples, seed=seed)
    click.echo(json.dumps(summary, indent=1) if as_json else _info_text(summary))
    if any((layer["statistics"] or {}).get("damage") for layer in summary["layers"]):
        click.get_current_context().exit(1)


@shards.command()
@STORE
@click.option("--deep", is_flag=True, help="Also read and check every byte.")
@AS_JSON
def verify(store: str, deep: bool, as_json: bool) -> None:
    """Check a store; exit with 1 if anything is wrong.

    Example: p2pkit shards verify STORE --deep
    """
    from p2pkit.store.verifying import verify_store

    report = verify_store(store, deep=deep)
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=1))
    else:
        for problem in report.problems:
            named = ("layer", "shard", "key", "field")
            places = [(name, getattr(problem, name)) for name in named]
            where = ", ".join(f"{name} {value}" for name, value in places if value is not None)
            click.echo(f"{where or 'store'}: {problem.reason}")
        state = counted(len(report.problems), "problem") if report.problems else "ok"
        found = f"{counted(report.shards, 'shard')}, {counted(report.samples, 'sample')}"
        click.echo(f"{state}: {found} checked")
    if not report.ok:
        click.get_current_context().exit(1)


@shards.command()
@STORE
@AS_JSON
def ls(store: str, as_json: bool) -> None:
    """List the samples: key, shard and row.

    Example: p2pkit shards ls STORE
    """
    from p2pkit.store.reading import open_store

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
@click.option(
    "--ply", type=click.Path(path_type=Path), help="Also write its coloured points to this file."
)
@AS_JSON
def show(store: str, key: str, ply: Path | None, as_json: bool) -> None:
    """Print the fields of one sample: dtype, shape, smallest and largest value, and its JSON.

    Example: p2pkit shards show STORE frame-000012
    """
    from p2pkit.store.reading import open_store
    from p2pkit.store.summary import sample_summary

    opened = open_store(store)
    summary = sample_summary(opened, key)
    if ply is not None:
        from p2pkit.pipelines.shards.export_ply import write_ply

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
        f"{counted(plan['frames'], 'frame')} in {counted(plan['shards'], 'shard')} of up to "
        f"{plan['shard_size']}, seed {plan['seed']}"
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
            text = value if isinstance(value, str) else json.dumps(value)
            lines.append(f"  {name:<12} {text}")
        if pca := layer["details"].get("pca"):
            lines.append(f"  pca          {_pca_text(pca)}")
        lines += _field_lines(layer)
    return "\n".join(lines)


def _pca_text(pca: dict[str, Any]) -> str:
    held_out = pca["held_out_variance"]
    unfitted = f", {held_out:.2%} of that of cells not fitted" if held_out is not None else ""
    return (
        f"{pca['components']} of {pca['channels']} channels: {sum(pca['explained_variance']):.2%} "
        f"of the variance of {pca['cells']} cells{unfitted}"
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
        count = f"{statistics['looked_at']} of {statistics['of']} samples"
        lines.append(f"  values are those of {count}, seed {statistics['seed']}")
        if statistics["damage"]:
            lines.append(f"  DAMAGED      {statistics['damage']}")
    return lines
