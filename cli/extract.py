"""`p2pkit extract`: a recording in, a store out."""

import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from p2pkit.cli.bars import progress_bar
from p2pkit.cli.extraction_options import extraction_options, typed_extraction
from p2pkit.cli.options import PRINT_CONFIG
from p2pkit.cli.placement import is_first, own_device
from p2pkit.cli.recognised import recognised
from p2pkit.cli.unused import refuse_unnamed_views, refuse_unused_in_extraction
from p2pkit.pipelines.extract.settings import NO_TEACHER, ExtractConfig


@click.command()
@extraction_options
@click.option(
    "--engine",
    default="local",
    show_default=True,
    metavar="local|ray[://ADDRESS]",
    help="Who hands out the shards.",
)
@PRINT_CONFIG
def extract(engine: str, print_config: bool, config_file: Path | None, **_: Any) -> None:
    """Run a 2D network once over a recording and store its features and pixel-point pairs.

    SOURCE is the recording's folder; `p2pkit init SOURCE` writes all settings into a file.
    Running the same command again finishes an interrupted extraction; another --teacher, or
    --superpixels, adds a layer to the same store. Several processes of it, under torchrun, in a
    SLURM array or on several machines with one folder, share the shards.

    Example: p2pkit extract --dataset demo-scene --out rooms.store --limit 8
    """
    from p2pkit.layers.features import WEIGHTS_ORIGIN
    from p2pkit.pipelines.extract.run import Progress, run_on
    from p2pkit.settings import config_to_toml
    from p2pkit.store.manifest import LEFT_OUT
    from p2pkit.store.writing import read_manifest

    if print_config:
        click.echo(config_to_toml(settled(config_file)), nl=False)
        return
    config = extract_config(config_file)
    if engine == "local":
        config = _on_own_device(config)
    # Ray tells of its workers on stdout, which is for the result.
    failed, first = 0, None
    with progress_bar("frames", hide=not is_first()) as bar, redirect_stdout(sys.stderr):

        def show(report: Progress) -> None:
            nonlocal failed, first
            failed, first = report.failed, first or report
            bar.total = report.total
            bar.set_postfix(failed=report.failed, refresh=False)
            bar.update(report.done - bar.n)

        store = run_on(engine, config, progress=show)
    if is_first():
        if first is not None and first.done == first.total:
            click.echo(f"already complete: {first.total} frames", err=True)
        for part in read_manifest(store).layers[0].details.get(LEFT_OUT, ()):
            click.echo(f"Left out: {part['name']}: {part['reason']}", err=True)
        if failed:
            reasons = f"{store}/failures.jsonl says why"
            click.echo(f"{failed} of {bar.total} frames could not be used: {reasons}", err=True)
        for layer in read_manifest(Path(store)).layers:
            if origin := layer.details.get(WEIGHTS_ORIGIN):
                click.echo(f"{layer.name}: weights from {origin}", err=True)
        click.echo(store)


def extract_config(file: Path | None, *, store_else: Path | None = None) -> ExtractConfig:
    """What `settled` gives, with no features where the teacher is none."""
    config = settled(file, store_else=store_else)
    without = config.features is not None and config.features.teacher.name == NO_TEACHER
    return replace(config, features=None) if without else config


def settled(file: Path | None, *, store_else: Path | None = None) -> ExtractConfig:
    """The settings on the command line over those of --config.

    A recording whose dataset is not named is recognised by its files. Where nothing else is named,
    recordings without images have the teacher none, and LiDAR sweeps voxels for sweeps.

    Args:
        file: of --config.
        store_else: the store where neither names one.

    Raises:
        click.UsageError: neither the options nor the file name the store, or a recording or
            dataset; the recording is not recognised; or an option has no effect beside the others.
        ConfigError: the file cannot be read, or a setting is unknown or of the wrong type.
    """
    from p2pkit.pipelines.extract.settings import settings_of
    from p2pkit.settings import config_from_json, merged_tables, nested, settings_from_toml
    from p2pkit.store.location import local_folder

    refuse_unnamed_views()
    settings: dict[str, Any] = {"root": None, **({"out": store_else} if store_else else {})}
    settings |= settings_from_toml(file) if file is not None else {}
    settings = merged_tables(settings, nested(typed_extraction()))
    if "out" not in settings:
        raise click.UsageError(
            "Missing option '--out': name the store to write, here or as out in the file of "
            "--config; `p2pkit init SOURCE` writes one"
        )
    if "dataset" not in settings:
        found = recognised(settings["root"])
        settings |= {"dataset": found.dataset, "root": found.root}
    settings = merged_tables(settings_of(settings["dataset"]), settings)
    if isinstance(settings["out"], (str, Path)):
        settings["out"] = local_folder(str(settings["out"]), "what is extracted")
    config = config_from_json(ExtractConfig, settings)
    refuse_unused_in_extraction(config)
    return config


def _on_own_device(config: ExtractConfig) -> ExtractConfig:
    if config.features is None:
        return config
    teacher = config.features.teacher
    teacher = replace(teacher, device=own_device(teacher.device))
    return replace(config, features=replace(config.features, teacher=teacher))
