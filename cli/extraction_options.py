"""The options of `p2pkit extract` and `p2pkit plan`, and the settings that each of them is."""

from collections.abc import Callable
from pathlib import Path

import click

from p2pkit.cli.recognised import NamedPath

TEACHER = "tf_efficientnet_lite0"
COUNT = click.IntRange(min=1)


OPTIONS = (
    click.argument("source", required=False, type=NamedPath(path_type=Path)),
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
        help="For points at depth edges, of depth images; 0 keeps all.",
    ),
    click.option(
        "--voxel-size",
        type=float,
        default=0.0125,
        show_default="0.0125; 0.05 for LiDARs",
        help="One point in each cube of so many metres; 0 keeps all.",
    ),
    click.option(
        "--depth-range",
        type=(float, float),
        default=(0.1, 10.0),
        show_default=True,
        help="Of depth images (m).",
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
of `ExtractConfig`, which are the same but for the voxels of LiDAR sweeps.
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
