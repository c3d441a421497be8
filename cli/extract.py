"""`p2pkit extract`: a recording in, a store out."""

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p2pkit.cli.bars import progress_bar
from p2pkit.cli.placement import is_first, own_device
from p2pkit.errors import ConfigError

if TYPE_CHECKING:
    from p2pkit.pipelines.extract_plan import ExtractConfig
    from p2pkit.pipelines.feature_stage import FeatureConfig

TEACHER = "tf_efficientnet_lite0"
NO_TEACHER = "none"


OPTIONS = (
    click.argument("source", required=False, type=click.Path(path_type=Path)),
    click.option("--dataset", required=True, help="Such as posed-rgbd or nyuv2."),
    click.option(
        "--teacher",
        show_default=f"{TEACHER}; none for recordings without images",
        help="Any timm model name; none stores geometry and labels alone.",
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
    click.option("--pairs-per-frame", default=16384, show_default=True, help="For pixels."),
    click.option(
        "--upsampling",
        default="bilinear",
        show_default=True,
        metavar="bilinear|joint-bilateral[:RANGE_SIGMA]",
        help="For pixels.",
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
    click.option("--limit", type=click.IntRange(min=1), help="Only the first frames."),
    click.option("--every", type=click.IntRange(min=1), default=1, help="Each n-th frame only."),
    click.option("--fuse", default=0, help="One sample of so many neighbouring posed frames."),
    click.option(
        "--flying-margin",
        default=0.02,
        show_default=True,
        help="For points at depth edges; 0 keeps all.",
    ),
    click.option(
        "--voxel-size", type=float, default=0.0125, show_default=True, help="0 keeps all (m)."
    ),
    click.option("--depth-range", type=(float, float), default=(0.1, 10.0), show_default=True),
    click.option("--camera", type=click.Path(path_type=Path), help="Calibration from elsewhere."),
    click.option("--shard-size", type=click.IntRange(min=1), default=64, show_default=True),
    click.option("--seed", default=0, show_default=True),
    click.option("--max-failure-rate", type=float, default=0.5, show_default=True),
    click.option("--threads", type=click.IntRange(min=1), default=4, show_default=True),
    click.option("--device", default="cpu", show_default=True, help="cpu or cuda."),
)
"""The recording and all that decides what is stored of it; `p2pkit plan` has them too."""


def extraction_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the recording and all options that decide what is stored of it."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@click.command()
@extraction_options
@click.option("--out", required=True, type=click.Path(), help="The store to write, a folder.")
@click.option(
    "--engine",
    default="local",
    show_default=True,
    metavar="local|ray[://ADDRESS]",
    help="Who hands out the shards.",
)
def extract(source: Path | None, engine: str, **options: Any) -> None:
    """Run a 2D network once over a recording and store its features and pixel-point pairs.

    Running the same command again finishes an interrupted extraction; another --teacher, or
    --superpixels, adds a layer to the same store. Several processes of it, under torchrun, in a
    SLURM array or on several machines with one folder, share the shards.

    Example: p2pkit extract --dataset demo-scene --out rooms.store --limit 8
    """
    from p2pkit.pipelines.engines import run_on
    from p2pkit.pipelines.extract import Progress

    if engine == "local":
        options["device"] = own_device(options["device"])
    config = extract_config(source, **options)
    # Ray tells of its workers on stdout, which is for the result.
    with progress_bar("frames", hide=not is_first()) as bar, redirect_stdout(sys.stderr):

        def show(report: Progress) -> None:
            bar.total = report.total
            bar.set_postfix(failed=report.failed, refresh=False)
            bar.update(report.done - bar.n)

        store = run_on(engine, config, progress=show)
    if is_first():
        click.echo(store)


def extract_config(source: Path | None, **options: Any) -> "ExtractConfig":
    """The settings that the options of `extraction_options`, and `out`, make."""
    from p2pkit.geometry.superpixels import parse_superpixels
    from p2pkit.pipelines.extract_plan import ExtractConfig
    from p2pkit.shards.geometry_layer import GeometryConfig
    from p2pkit.shards.location import local_folder

    near, far = options["depth_range"]
    return ExtractConfig(
        dataset=options["dataset"],
        root=source,
        out=local_folder(options["out"], "what is extracted"),
        geometry=GeometryConfig(voxel_size=options["voxel_size"], depth_min=near, depth_max=far),
        features=_feature_config(options),
        storage=options["storage"],
        limit=options["limit"],
        every=options["every"],
        flying_margin=options["flying_margin"],
        fuse=options["fuse"],
        camera_file=options["camera"],
        shard_size=options["shard_size"],
        seed=options["seed"],
        max_failure_rate=options["max_failure_rate"],
        threads=options["threads"],
        codecs=dict(map(_field_codec, options["codecs"])),
        superpixels=parse_superpixels(options["superpixels"]) if options["superpixels"] else None,
    )


def _feature_config(options: dict[str, Any]) -> "FeatureConfig | None":
    from p2pkit.datasets import WITHOUT_IMAGES
    from p2pkit.pipelines.feature_stage import FeatureConfig
    from p2pkit.teachers import TeacherOptions

    usual = NO_TEACHER if options["dataset"] in WITHOUT_IMAGES else TEACHER
    name = options["teacher"] or usual
    if name == NO_TEACHER:
        return None
    return FeatureConfig(
        teacher=TeacherOptions(
            name=name,
            layer=options["layer"],
            weights=options["weights"],
            input_size=options["input_size"],
            device=options["device"],
            views="" if options["views_as"] == "stored" else options["views"],
            seed=options["seed"],
        ),
        layout=options["features"],
        pairs_per_frame=options["pairs_per_frame"],
        seed=options["seed"],
        map=options["map_coding"],
        upsampling=options["upsampling"],
        stored_views=options["views"] if options["views_as"] == "stored" else "",
    )


def _field_codec(text: str) -> tuple[str, str]:
    name, separator, codec = text.partition("=")
    if not separator:
        raise ConfigError(f"--codec {text!r} must be FIELD=CODEC, such as map=zstd")
    return name, codec
