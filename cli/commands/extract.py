"""`p2pkit extract`: a recording in, a store out. `p2pkit plan` shares its options."""

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

import click

from p2pkit.cli.options import (
    CONFIG_FILE,
    PRINT_CONFIG,
    NamedPath,
    options_of,
    refuse,
    refuse_set,
    refuse_twice,
    set_names,
    typed,
    typed_settings,
)
from p2pkit.cli.progress import is_first, local_rank, progress_bar
from p2pkit.errors import SourceError, StoreError, counted
from p2pkit.pipelines.extract.settings import NO_TEACHER, ExtractConfig
from p2pkit.settings import flat
from p2pkit.settings.layers import GeometryConfig

if TYPE_CHECKING:
    from p2pkit.datasets.recognise import Recognised

DEPTHS = GeometryConfig()
DEPTH_RANGE = ("geometry.depth_min", "geometry.depth_max")
VIEWS, STORED_VIEWS = "features.teacher.views", "features.stored_views"

OPTIONS = (
    click.argument("source", required=False, type=NamedPath(path_type=Path)),
    CONFIG_FILE,
    options_of(ExtractConfig, optional=("dataset", "out")),
    click.option(
        "--views-as",
        type=click.Choice(["average", "stored"]),
        default="average",
        show_default=True,
        help="Average the maps of --views, or store each so that training can draw one.",
    ),
    click.option(
        "--depth-range",
        type=(float, float),
        default=(DEPTHS.depth_min, DEPTHS.depth_max),
        show_default=True,
        help="Smallest and largest depth kept of depth images (m).",
    ),
)


def extraction_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the SOURCE argument and all options that decide what is stored."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@click.command()
@extraction_options
@click.option(
    "--engine",
    default="local",
    show_default=True,
    metavar="local|ray[://ADDRESS]",
    help="What distributes the shards.",
)
@PRINT_CONFIG
def extract(engine: str, print_config: bool, config_file: Path | None, **_: Any) -> None:
    """Run a 2D network once over a recording and store its features and pixel-point pairs.

    SOURCE is the recording's folder; `p2pkit init SOURCE` writes all settings into a file.
    Running the same command again finishes an interrupted extraction; another --teacher, or
    --superpixels, adds a layer to the same store. Several processes, under torchrun, in a
    SLURM array or on several machines with one folder, share the shards.

    Example: p2pkit extract --dataset demo-scene --out rooms.store --limit 8
    """
    from p2pkit.layers.features import WEIGHTS_ORIGIN
    from p2pkit.pipelines.extract.run import Progress, run_on
    from p2pkit.settings import config_to_toml
    from p2pkit.store.manifest import LEFT_OUT
    from p2pkit.store.writing import read_manifest
    from p2pkit.teachers import normalisation_note

    if print_config:
        click.echo(config_to_toml(settled(config_file)), nl=False)
        return
    config = extract_config(config_file)
    if engine == "local":
        config = _on_own_device(config)
    note = "" if config.features is None else normalisation_note(config.features.teacher)
    # Ray reports on its workers on stdout, which is reserved for the result.
    failed, first = 0, None
    with progress_bar("frames", hide=not is_first()) as bar, redirect_stdout(sys.stderr):

        def show(report: Progress) -> None:
            nonlocal failed, first
            if first is None and note and is_first():
                bar.write(note, file=sys.stderr)
            failed, first = report.failed, first or report
            bar.total = report.total
            bar.set_postfix(failed=report.failed, refresh=False)
            bar.update(report.done - bar.n)
            if report.line:
                bar.write(report.line, file=sys.stderr)

        store = run_on(engine, config, progress=show)
    if is_first():
        if first is not None and first.done == first.total:
            click.echo(f"already complete: {counted(first.total, 'frame')}", err=True)
        layers = read_manifest(store).layers
        for part in layers[0].details.get(LEFT_OUT, ()):
            click.echo(f"Left out: {part['name']}: {part['reason']}", err=True)
        if failed:
            reasons = f"{store}/failures.jsonl says why"
            click.echo(f"{failed} of {bar.total} frames could not be used: {reasons}", err=True)
        for line in _box_lines(store):
            click.echo(line, err=True)
        for layer in layers:
            if origin := layer.details.get(WEIGHTS_ORIGIN):
                click.echo(f"{layer.name}: weights from {origin}", err=True)
        click.echo(store)


def _box_lines(store: Path) -> list[str]:
    """How many boxes the store has, and which were left out; empty for stores without boxes."""
    from p2pkit.layers.boxes import box_layer, count_boxes
    from p2pkit.store.reading import open_store

    opened = open_store(store)
    if not any(layer.kind == "boxes" for layer in opened.manifest.layers):
        return []
    try:
        box_layer(opened)
    except StoreError as error:  # several: the extraction is complete, but one of them must go
        return [str(error)]
    found = count_boxes(opened)
    if not found.left_out:
        return [f"{found.stored} boxes"]
    faults = ", ".join(f"{count} with {fault}" for fault, count in found.left_out.items())
    return [f"{found.stored} boxes; left out: {faults}; the first: {found.first}"]


def extract_config(file: Path | None, *, store_else: Path | None = None) -> ExtractConfig:
    """The resolved settings, with `features` None if the teacher is none."""
    config = settled(file, store_else=store_else)
    without = config.features is not None and config.features.teacher.name == NO_TEACHER
    return replace(config, features=None) if without else config


def settled(file: Path | None, *, store_else: Path | None = None) -> ExtractConfig:
    """The settings on the command line over those of --config.

    A recording whose dataset is not named is recognised by its files. By default,
    recordings without images get the teacher none, and LiDAR sweeps get voxels for sweeps.

    Args:
        file: of --config.
        store_else: the store if neither the options nor the file names one.

    Raises:
        click.UsageError: neither the options nor the file name the store, or a recording or
            dataset; the recording is not recognised; or an option has no effect.
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
            "Missing option '--out': name the store to write, here or as `out` in the file of "
            "--config; `p2pkit init SOURCE` writes one"
        )
    if "dataset" not in settings and isinstance(settings["root"], (str, Path, NoneType)):
        found = recognised(settings["root"])
        settings |= {"dataset": found.dataset, "root": found.root}
    if isinstance(settings.get("dataset"), str):
        settings = merged_tables(settings_of(settings["dataset"]), settings)
    if isinstance(settings["out"], (str, Path)):
        settings["out"] = local_folder(str(settings["out"]), "what is extracted")
    config = config_from_json(ExtractConfig, settings)
    refuse_unused_in_extraction(config)
    return config


def typed_extraction() -> dict[str, Any]:
    """The settings of `ExtractConfig` given on the command line, by dotted name.

    Raises:
        click.UsageError: as `typed_settings`, or `--set` names the recording, or what --depth-range
            or --views set.
    """
    refuse_set(["root"])
    settings, params = typed_settings(ExtractConfig), click.get_current_context().params
    if params["source"] is not None:
        settings["root"] = params["source"]
    if typed("depth_range"):
        refuse_twice("depth_range", DEPTH_RANGE)
        settings |= dict(zip(DEPTH_RANGE, params["depth_range"], strict=True))
    if VIEWS in settings:  # averaged or stored, not both
        if STORED_VIEWS in flat(settings):
            raise click.UsageError(
                f"--set {STORED_VIEWS} would be ignored: the views of --views are averaged or "
                "stored; keep those, with --views-as stored, or these"
            )
        stored = params["views_as"] == "stored"
        settings[STORED_VIEWS] = settings[VIEWS] if stored else ""
        settings[VIEWS] = "" if stored else settings[VIEWS]
    return settings


def recognised(source: str | Path | None) -> "Recognised":
    """Recognise a recording's format by its files, and print it on stderr.

    Raises:
        SourceError: the path does not exist.
        click.UsageError: no recording is named, or a store is; or no format matches, or several
            do; the message lists them.
    """
    from p2pkit.datasets.recognise import recognise
    from p2pkit.store.location import MANIFEST

    if source is None:
        raise click.UsageError(
            "Missing argument 'SOURCE': name a recording, or choose generated rooms with --dataset "
            "demo-scene"
        )
    place = Path(source)
    if (place / MANIFEST).is_file():
        raise click.UsageError(f"{place} is a store; name the recording that it was extracted from")
    try:
        found = recognise(place)
    except SourceError as error:
        if not place.exists():
            raise
        raise click.UsageError(str(error)) from error
    if is_first():
        click.echo(
            f"{' '.join(found.sentences)} If that is wrong, name another --dataset.", err=True
        )
    return found


def refuse_unnamed_views() -> None:
    """Raise UsageError if --views-as is given without --views."""
    by_option = click.get_current_context().params["features__teacher__views"]
    if not by_option and VIEWS not in set_names():
        refuse(
            ["views_as"],
            "it says how the maps of --views are kept; add --views, such as --views flip. Views in "
            "a --config are averaged if in [features.teacher] (views), stored if in [features] "
            "(stored_views)",
        )


def refuse_unused_in_extraction(config: ExtractConfig) -> None:
    """Raise UsageError if an option has no effect on this extraction."""
    from p2pkit.datasets.registry import is_kind

    if is_kind(config.dataset, "sweeps", "points"):
        refuse(
            ["depth_range", "flying_margin", "depth_units"],
            f"it is for depth images, but {config.dataset} has points, which are kept at any "
            "distance; omit it",
        )
    features = config.features
    if features is None or features.teacher.name == NO_TEACHER:
        options = [str(option.name) for option in click.get_current_context().command.params]
        of_a_teacher = [name for name in options if name.startswith("features__")]
        of_a_teacher.remove("features__teacher__name")
        refuse(
            [*of_a_teacher, "views_as"],
            "the teacher is none; name one with --teacher, or omit this",
        )
    elif features.layout != "pixels":
        refuse(
            ["features__pairs_per_frame"],
            f"the layout {features.layout} stores the whole map, from which training samples any "
            "pair; add --features pixels, or omit this",
        )


def own_device(device: str, *, visible: int | None = None) -> str:
    """The GPU with this process's number for `cuda`; any other device unchanged.

    Where a process sees fewer GPUs than there are processes, the numbers wrap: a launcher that
    shows each process its own GPU (`srun --gpus-per-task=1`) calls all of them number 0.

    Args:
        device: as given by the user.
        visible: number of GPUs that this process sees; None asks torch.
    """
    number = local_rank()
    if device != "cuda" or number is None:
        return device
    count = _visible_gpus() if visible is None else visible
    return f"cuda:{number % count}" if count else device


def _visible_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _on_own_device(config: ExtractConfig) -> ExtractConfig:
    if config.features is None:
        return config
    teacher = config.features.teacher
    teacher = replace(teacher, device=own_device(teacher.device))
    return replace(config, features=replace(config.features, teacher=teacher))
