"""`p2pkit shards …`: the commands that repair a store or make others from it."""

import json
from pathlib import Path
from typing import Any

import click

from p2pkit.cli.bars import progress_bar, shown_on
from p2pkit.cli.unused import refuse

FOLDER = click.Path(path_type=Path)
STORE = click.argument("store", type=FOLDER)


@click.command()
@STORE
@click.option("--source", type=FOLDER, help="The recording, to extract again what is lost.")
@click.option("--dataset", help="Kind of recording; the store's if only --source is given.")
@click.option("--camera", type=FOLDER, help="Calibration from elsewhere, as for extract.")
@click.option("--weights", help="Of the teacher: default, timm, random, or a file.")
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    metavar="KIND:PATH",
    help="Where a teacher out of a file or folder lies: hf:, torchscript: or onnx: and its path.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda, for the teacher.")
@click.option(
    "--threads", type=click.IntRange(min=1), default=4, show_default=True, help="Frames at once."
)
@click.option("--drop-missing", is_flag=True, help="Also drop what was never finished.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def repair(store: Path, as_json: bool, **options: Any) -> None:
    """Extract broken shards again, or, without the recording, drop the frames that are lost.

    Exits with 1 when the store is not whole afterwards.

    Example: p2pkit shards repair STORE --source recordings/office
    """
    from p2pkit.pipelines.reextract import SourceConfig
    from p2pkit.pipelines.repair import RepairConfig, run

    if options["source"] is None and options["dataset"] is None:
        refuse(
            ["camera", "weights", "teachers", "device", "threads"],
            "without the recording nothing is extracted; name it with --source",
        )
    else:
        refuse(["drop_missing"], "what was never finished is extracted from the recording")
    source = SourceConfig(
        dataset=options["dataset"],
        root=options["source"],
        camera_file=options["camera"],
        weights=options["weights"],
        teachers=options["teachers"],
        device=options["device"],
        threads=options["threads"],
    )
    config = RepairConfig(
        store=store,
        source=source,
        drop_missing=options["drop_missing"],
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
@click.argument("stores", nargs=-1, required=True, type=FOLDER)
@click.option("--out", required=True, type=FOLDER, help="The new store.")
@click.option("--prefix", "prefixes", multiple=True, help="Before the keys; once for each store.")
@click.option("--shard-size", type=click.IntRange(min=1), help="The first store's by default.")
@click.option("--seed", type=click.IntRange(min=0), help="Of the new plan; the first store's.")
def merge(
    stores: tuple[Path, ...],
    out: Path,
    prefixes: tuple[str, ...],
    shard_size: int | None,
    seed: int | None,
) -> None:
    """Make one store of several that were extracted in the same way.

    Example: p2pkit shards merge kitchen.store office.store --out rooms.store
    """
    from p2pkit.shards.merge import MergeConfig, merge_stores

    config = MergeConfig(stores, out, prefixes=prefixes, shard_size=shard_size, seed=seed)
    with progress_bar("shards") as bar:
        click.echo(merge_stores(config, shown_on(bar)))


@click.command()
@STORE
@click.option("--val-fraction", required=True, type=float, help="Share of the samples, 0 to 1.")
@click.option("--out-train", required=True, type=FOLDER, help="The new store to train on.")
@click.option("--out-val", required=True, type=FOLDER, help="The new store to validate on.")
@click.option(
    "--by",
    type=click.Choice(["sequence", "key-order"]),
    default="sequence",
    show_default=True,
    help="Keep sequences whole, or cut off the last samples in key order.",
)
@click.option("--seed", default=0, show_default=True, help="Of the choice of sequences.")
def split(store: Path, **options: Any) -> None:
    """Make two stores of one, for training and validation, that share no sequence.

    Example: p2pkit shards split STORE --val-fraction 0.2 --out-train t.store --out-val v.store
    """
    from p2pkit.shards.split import SplitConfig, split_store

    config = SplitConfig(store=store, **options)
    with progress_bar("shards") as bar:
        result = split_store(config, shown_on(bar))
    click.echo(f"{config.out_train}\t{result.train} samples")
    sequences = f"\tsequences {', '.join(result.val_sequences)}" if result.val_sequences else ""
    click.echo(f"{config.out_val}\t{result.val} samples{sequences}")
    if result.left_out:
        click.echo(f"{result.left_out} frames that {store} left out are in neither", err=True)


@click.command("drop-layer")
@STORE
@click.argument("layer")
@click.option("--yes", is_flag=True, help="Delete; without it, only say what would be deleted.")
def drop_layer(store: Path, layer: str, yes: bool) -> None:
    """Delete one teacher's layer; the geometry and the other layers stay.

    Example: p2pkit shards drop-layer STORE features/resnet50-0123abcd --yes
    """
    from p2pkit.shards import drop_layer as dropping

    found = dropping.drop_layer(store, layer) if yes else dropping.layer_files(store, layer)
    told = "deleted" if yes else "would delete (add --yes)"
    click.echo(f"{told} {found.name}: {found.files} files, {found.bytes:,} bytes")


@click.command()
@STORE
@click.option("--out", required=True, type=FOLDER, help="The new store.")
@click.option(
    "--format", "storage", required=True, type=click.Choice(["tar", "zarr"]), help="To write."
)
def convert(store: Path, out: Path, storage: str) -> None:
    """Write a store again in the other on-disk format, equal to the bit.

    Example: p2pkit shards convert STORE --out rooms-zarr.store --format zarr
    """
    from p2pkit.shards.convert import convert_store

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
            f"{count} frames {verb} failures, stage repair, and leave every layer; repair with "
            "--source brings them back"
        )
    if report["failures_file"]:
        verb = "would be" if verified is None else "was"
        lines.append(f"failures.jsonl {verb} written again: it did not hold what the records say")
    if verified is None:
        lines.append(f"dry run: {len(report['actions'])} things to do, nothing changed")
    else:
        problems = len(verified["problems"])
        told = f"{problems} problems left" if problems else "ok"
        lines.append(f"{told}: {len(report['actions'])} things done, every byte read again")
    return "\n".join(lines)
