"""`p2pkit extract`: a recording in, a store out."""

import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from p2pkit.cli.bars import progress_bar
from p2pkit.cli.placement import is_first, own_device
from p2pkit.cli.recognised import recognised
from p2pkit.cli.unused import refuse_unnamed_views, refuse_unused_in_extraction
from p2pkit.errors import ConfigError

if TYPE_CHECKING:
    from p2pkit.pipelines.extract_plan import ExtractConfig

TEACHER = "tf_efficientnet_lite0"
COUNT = click.IntRange(min=1)


OPTIONS = (
    click.argument("source", required=False, type=click.Path(path_type=Path)),
    click.option(
        "--dataset",
        help="Format of SOURCE, such as nyuv2; told by its files where neither this nor --config "
        "names one.",
    ),
    click.option(
        "--config", "config_file", type=click.Path(path_type=Path), help="Settings in TOML."
    ),
    click.option(
        "--teacher",
        show_default=f"{TEACHER}; none for recordings without images",
        help="Any timm model name, or hf:NAME, torchscript:FILE, onnx:FILE; none stores geometry "
        "and labels alone.",
    ),
    click.option("--layer", default=-1, show_default=True, help="Stage of the teacher, by index."),
    click.option(
        "--weights",
        default="default",
        show_default=True,
        help="default, timm, random, or a file of weights.",
    ),
    click.option("--input-size", type=(int, int), help="Width and height for the teacher (px)."),
    click.option("--views", default="", help="Beside the image: flip, scale:S, or both."),
    click.option(
        "--views-as",
        type=click.Choice(["average", "stored"]),
        default="average",
        show_default=True,
        help="Average the views' maps, or store each, for training to draw one.",
    ),
    click.option(
        "--features",
        type=click.Choice(["grid", "pixels"]),
        default="grid",
        show_default=True,
        help="Store the teacher's map, or its upsampled value at sampled pairs.",
    ),
    click.option(
        "--map",
        "map_coding",
        default="float16",
        show_default=True,
        help="float16, int8, pca:K or pca:K+int8.",
    ),
    click.option(
        "--codec", "codecs", multiple=True, metavar="FIELD=CODEC", help="Bytes of a field, by name."
    ),
    click.option("--pairs-per-frame", default=16384, show_default=True, help="Of layout pixels."),
    click.option(
        "--upsampling",
        default="bilinear",
        show_default=True,
        metavar="bilinear|joint-bilateral[:RANGE_SIGMA]",
        help="Of layout pixels.",
    ),
    click.option(
        "--superpixels",
        metavar="slic:N[:COMPACTNESS]",
        help="Also store the superpixel of each pair; slic:150 is SLidR's.",
    ),
    click.option(
        "--format",
        "storage",
        type=click.Choice(["tar", "zarr"]),
        default="tar",
        show_default=True,
        help="On-disk format of the shards.",
    ),
    click.option("--limit", type=COUNT, help="Only the first frames."),
    click.option("--every", type=COUNT, default=1, show_default=True, help="Each n-th frame only."),
    click.option("--fuse", default=0, help="One sample of so many posed frames; 0: of each."),
    click.option(
        "--flying-margin",
        default=0.02,
        show_default=True,
        help="For points at depth edges; 0 keeps all.",
    ),
    click.option(
        "--voxel-size",
        type=float,
        default=0.0125,
        show_default=True,
        help="One point in each cube of so many metres; 0 keeps all. For LiDARs 0.05 or more.",
    ),
    click.option(
        "--depth-range",
        type=(float, float),
        default=(0.1, 10.0),
        show_default=True,
        help="Of depth images (m); points of LiDARs are all kept.",
    ),
    click.option("--camera", type=click.Path(path_type=Path), help="A calibration to use instead."),
    click.option("--shard-size", type=COUNT, default=64, show_default=True, help="In frames."),
    click.option("--seed", default=0, show_default=True, help="Of every random choice."),
    click.option(
        "--max-failure-rate", type=float, default=0.5, show_default=True, help="Stop above it."
    ),
    click.option("--threads", type=COUNT, default=4, show_default=True, help="Frames at once."),
    click.option("--device", default="cpu", show_default=True, help="cpu or cuda."),
)
"""The recording and all that decides what is stored of it; `p2pkit plan` has them too.

Defaults stand here for `--help` alone: only what was typed goes over --config and over the defaults
of `ExtractConfig`, which are the same.
"""

SETTINGS: dict[str, tuple[str, ...]] = {
    "source": ("root",),
    "dataset": ("dataset",),
    "out": ("out",),
    "teacher": ("features.teacher.name",),
    "layer": ("features.teacher.layer",),
    "weights": ("features.teacher.weights",),
    "input_size": ("features.teacher.input_size",),
    "views": ("features.teacher.views",),
    "views_as": (),
    "device": ("features.teacher.device",),
    "features": ("features.layout",),
    "map_coding": ("features.map",),
    "pairs_per_frame": ("features.pairs_per_frame",),
    "upsampling": ("features.upsampling",),
    "superpixels": ("superpixels",),
    "codecs": ("codecs",),
    "storage": ("storage",),
    "limit": ("limit",),
    "every": ("every",),
    "fuse": ("fuse",),
    "flying_margin": ("flying_margin",),
    "voxel_size": ("geometry.voxel_size",),
    "depth_range": ("geometry.depth_min", "geometry.depth_max"),
    "camera": ("camera_file",),
    "shard_size": ("shard_size",),
    "seed": ("seed", "features.seed", "features.teacher.seed"),
    "max_failure_rate": ("max_failure_rate",),
    "threads": ("threads",),
}
"""Which settings of `ExtractConfig` each option is; `views_as` says which of two `views` is."""


def extraction_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the recording and all options that decide what is stored of it."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@click.command()
@extraction_options
@click.option("--out", type=click.Path(), help="The store to write, a folder; here or in --config.")
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
    from p2pkit.config import config_to_toml
    from p2pkit.pipelines.engines import run_on
    from p2pkit.pipelines.extract import Progress

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
    from p2pkit.pipelines.extract_plan import NO_TEACHER

    config = settled(store_else=store_else, **options)
    without = config.features is not None and config.features.teacher.name == NO_TEACHER
    return replace(config, features=None) if without else config


def settled(*, store_else: Path | None = None, **options: Any) -> "ExtractConfig":
    """The settings that the options of `extraction_options` and `out` make, over --config.

    A recording whose dataset is not named is recognised by its files. Recordings without images
    have the teacher none where nothing else is named.

    Args:
        store_else: the store where neither names one.
        options: by name; only what was typed counts.

    Raises:
        click.UsageError: neither the options nor the file name the store, or a recording or
            dataset; the recording is not recognised; or an option was typed that the others leave
            without use.
        ConfigError: the file cannot be read, or a setting is unknown or of the wrong type.
    """
    from p2pkit.config import config_from_json, merged_tables, nested, settings_from_toml
    from p2pkit.datasets import WITHOUT_IMAGES
    from p2pkit.pipelines.extract_plan import NO_TEACHER, ExtractConfig
    from p2pkit.shards.location import local_folder

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
    if settings["dataset"] in WITHOUT_IMAGES:
        none = nested({"features.teacher.name": NO_TEACHER})
        settings = merged_tables(none, settings)
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
