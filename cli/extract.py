"""`p2pkit extract`: a recording in, a store out."""

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from p2pkit.cli.bars import progress_bar
from p2pkit.cli.extraction_options import SETTINGS, extraction_options
from p2pkit.cli.placement import is_first, own_device
from p2pkit.cli.recognised import NamedPath, recognised
from p2pkit.cli.unused import refuse_unnamed_views, refuse_unused_in_extraction
from p2pkit.errors import ConfigError

if TYPE_CHECKING:
    from p2pkit.pipelines.extract.settings import ExtractConfig


@click.command()
@extraction_options
@click.option("--out", type=NamedPath(), help="The store to write, a folder; here or in --config.")
@click.option(
    "--engine",
    default="local",
    show_default=True,
    metavar="local|ray[://ADDRESS]",
    help="Who hands out the shards.",
)
@click.option("--print-config", is_flag=True, help="Print the resolved settings as TOML and stop.")
def extract(engine: str, print_config: bool, **options: Any) -> None:
    """Run a 2D network once over a recording and store its features and pixel-point pairs.

    SOURCE is the recording's folder; `p2pkit init SOURCE` writes all settings into a file.
    Running the same command again finishes an interrupted extraction; another --teacher, or
    --superpixels, adds a layer to the same store. Several processes of it, under torchrun, in a
    SLURM array or on several machines with one folder, share the shards.

    Example: p2pkit extract --dataset demo-scene --out rooms.store --limit 8
    """
    from p2pkit.pipelines.extract.run import Progress, run_on
    from p2pkit.settings import config_to_toml

    if print_config:
        click.echo(config_to_toml(settled(**options)), nl=False)
        return
    config = extract_config(**options)
    if engine == "local":
        config = _on_own_device(config)
    # Ray tells of its workers on stdout, which is for the result.
    failed = 0
    with progress_bar("frames", hide=not is_first()) as bar, redirect_stdout(sys.stderr):

        def show(report: Progress) -> None:
            nonlocal failed
            failed = report.failed
            bar.total = report.total
            bar.set_postfix(failed=report.failed, refresh=False)
            bar.update(report.done - bar.n)

        store = run_on(engine, config, progress=show)
    if is_first():
        if failed:
            reasons = f"{store}/failures.jsonl says why"
            click.echo(f"{failed} of {bar.total} frames could not be used: {reasons}", err=True)
        click.echo(store)


def extract_config(*, store_else: Path | None = None, **options: Any) -> "ExtractConfig":
    """What `settled` gives, with no features where the teacher is none."""
    from p2pkit.pipelines.extract.settings import NO_TEACHER

    config = settled(store_else=store_else, **options)
    without = config.features is not None and config.features.teacher.name == NO_TEACHER
    return replace(config, features=None) if without else config


def settled(*, store_else: Path | None = None, **options: Any) -> "ExtractConfig":
    """The settings that the options of `extraction_options` and `out` make, over --config.

    A recording whose dataset is not named is recognised by its files. Where nothing else is named,
    recordings without images have the teacher none, and LiDAR sweeps their own voxels.

    Args:
        store_else: the store where neither names one.
        options: by name; only what was typed counts.

    Raises:
        click.UsageError: neither the options nor the file name the store, or a recording or
            dataset; the recording is not recognised; or an option was typed that the others leave
            without use.
        ConfigError: the file cannot be read, or a setting is unknown or of the wrong type.
    """
    from p2pkit.pipelines.extract.settings import ExtractConfig, settings_of
    from p2pkit.settings import config_from_json, merged_tables, nested, settings_from_toml
    from p2pkit.store.location import local_folder

    file = options.pop("config_file")
    refuse_unnamed_views(options["views"])
    settings: dict[str, Any] = {"root": None, **({"out": store_else} if store_else else {})}
    settings |= settings_from_toml(file) if file is not None else {}
    settings = merged_tables(settings, nested(_typed(options)))
    if "out" not in settings:
        raise click.UsageError(
            "Missing option '--out': name the store to write, here or as out in the file of "
            "--config; `p2pkit init SOURCE` writes one"
        )
    if "dataset" not in settings:
        found = recognised(settings["root"])
        settings |= {"dataset": found.dataset, "root": found.root}
    settings = merged_tables(settings_of(settings["dataset"]), settings)
    if isinstance(settings["out"], str):
        settings["out"] = local_folder(settings["out"], "what is extracted")
    config = config_from_json(ExtractConfig, settings)
    refuse_unused_in_extraction(config)
    return config


def _typed(options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the options that stand on the command line."""
    from p2pkit.geometry.superpixels import parse_superpixels

    context = click.get_current_context()
    settings: dict[str, Any] = {}
    for option, value in options.items():
        if context.get_parameter_source(option) is ParameterSource.DEFAULT:
            continue
        names = SETTINGS[option]
        if option == "views":
            settings |= _views(value, options["views_as"])
            continue
        if option == "codecs":
            value = dict(map(_field_codec, value))
        if option == "superpixels":
            value = asdict(parse_superpixels(str(value)))
        values = value if option == "depth_range" else (value,) * len(names)
        settings |= dict(zip(names, values, strict=True))
    return settings


def _views(value: str, views_as: str) -> dict[str, str]:
    """Views are averaged or stored, not both."""
    averaged, stored = ("", value) if views_as == "stored" else (value, "")
    return {"features.teacher.views": averaged, "features.stored_views": stored}


def _on_own_device(config: "ExtractConfig") -> "ExtractConfig":
    if config.features is None:
        return config
    teacher = config.features.teacher
    teacher = replace(teacher, device=own_device(teacher.device))
    return replace(config, features=replace(config.features, teacher=teacher))


def _field_codec(text: str) -> tuple[str, str]:
    name, separator, codec = text.partition("=")
    if not separator:
        raise ConfigError(f"--codec {text!r} must be FIELD=CODEC, such as map=zstd")
    return name, codec
