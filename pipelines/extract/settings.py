"""The settings of an extraction and of a plan, their checks, and a commented file to start from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from p2pkit.settings import (
    Seed,
    choices,
    comment,
    commented_toml,
    config_from_json,
    config_to_json,
    nested,
    option,
    recording,
    settings_class,
)
from p2pkit.settings.layers import FeatureConfig, GeometryConfig, Superpixels

NO_TEACHER = "none"
"""Name that means no teacher."""
NOT_KEPT = (
    "out",
    "features",
    "superpixels",
    "codecs",
    "format",
    "threads",
    "max_failure_rate",
)
"""Settings that a store's geometry does not keep: other layers keep theirs, the manifest has codecs
and format, and the rest changes no byte.
"""


@settings_class
class ExtractConfig:
    """Settings of one extraction."""

    dataset: str = Field(
        description=f"Format of the recording: {', '.join(choices.DATASETS)}. Recognised by its "
        "files if not named.",
        json_schema_extra=option(),
    )
    root: Path | None = Field(description="The recording's folder; none for generated scenes.")
    out: Path = Field(
        description="The store to write, a local folder. An existing one is finished, or gets one "
        "more layer if only the teacher differs.",
        json_schema_extra=option(),
    )
    geometry: GeometryConfig = Field(default=GeometryConfig(), description="Which points are kept.")
    features: FeatureConfig | None = Field(
        default=FeatureConfig(),
        description="The teacher and how its features are stored; the teacher name none stores "
        "geometry and labels only, for evaluation.",
    )
    format: Literal["tar", "zarr"] = Field(
        default="tar", description="On-disk format of the shards.", json_schema_extra=option()
    )
    limit: int | None = recording.LIMIT
    every: int = recording.EVERY
    flying_margin: float = Field(
        default=recording.FLYING_MARGIN,
        ge=0,
        lt=1,
        description="Drop depth pixels that float between the two sides of an edge: those that no "
        "neighbour matches to within this share of their depth; 0 keeps them.",
        json_schema_extra=option(),
    )
    fuse: int = Field(
        default=0,
        ge=0,
        description="Fuse N neighbouring posed frames, at least 2, into one sample; 0 makes one "
        "sample per frame.",
        json_schema_extra=option(metavar="N"),
    )
    depth_units: float | None = recording.DEPTH_UNITS
    streams: tuple[str, ...] = recording.STREAMS
    camera: Path | None = recording.CAMERA
    shard_size: int = Field(
        default=64,
        ge=1,
        description="Samples per shard, the unit of work and of resumption.",
        json_schema_extra=option(),
    )
    seed: Seed = Field(
        default=0,
        description="Random seed of the plan and of generated scenes; as an option, of everything "
        "random.",
        json_schema_extra=option(),
    )
    max_failure_rate: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Stop when more than this share of all frames is bad.",
        json_schema_extra=option(),
    )
    threads: int = Field(
        default=4,
        ge=1,
        description="Frames worked on at the same time; the teacher itself uses every core.",
        json_schema_extra=option(),
    )
    codecs: dict[str, str] = Field(
        default_factory=dict,
        description="Codec of a field's bytes instead of the usual one, such as map=zstd: none, "
        "lz4, zstd, shuffle-lz4, shuffle-zstd or, for whole numbers, delta-shuffle-lz4.",
        json_schema_extra=option("--codec", metavar="FIELD=CODEC"),
    )
    superpixels: Superpixels = Field(
        default=None,
        description="Also store which superpixel each pair's pixel lies in; slic:150 is SLidR's. "
        "In a file, {segments = 150, compactness = 6.0}; by default not stored.",
        json_schema_extra=option(metavar="slic:N[:COMPACTNESS]"),
    )


@settings_class
class PlanConfig:
    """Settings of one plan."""

    extraction: ExtractConfig = Field(
        description="What would be extracted; if a store exists at its `out`, its shards count as "
        "done."
    )
    frames: int = Field(
        default=8,
        ge=1,
        description="Frames that the teacher sees; eight times as many are probed for their "
        "geometry. The recording is cut into as many equal runs, and one frame of each is drawn by "
        "the extraction's seed.",
        json_schema_extra=option("--probe"),
    )


def kept_settings(config: ExtractConfig) -> dict[str, Any]:
    """The settings as a store's geometry keeps them, to be extracted again.

    Stores are shared, so that of paths only the last name is kept.
    """
    settings = {x: y for x, y in config_to_json(config).items() if x not in NOT_KEPT}
    for name in ("root", "camera"):
        if settings[name] is not None:
            settings[name] = Path(settings[name]).name
    return settings


def check_settings(config: ExtractConfig) -> None:
    """Raise ConfigError if a setting is impossible, before anything is opened."""
    from p2pkit.store.location import local_folder

    local_folder(config.out, "what is extracted")
    if config.features is not None:
        _ = config.features.coding  # raises if `map` cannot be parsed
        _ = config.features.joint_bilateral  # or `upsampling` cannot, or does not fit the layout
        _ = config.features.further_views


def settings_of(dataset: str) -> dict[str, Any]:
    """Nested settings of a dataset that replace defaults of `ExtractConfig`."""
    from p2pkit.datasets.registry import DATASETS

    return nested(DATASETS[dataset].settings if dataset in DATASETS else {})


def usual_geometry(dataset: str) -> GeometryConfig:
    """The geometry settings of an extraction in which nobody sets any."""
    return config_from_json(GeometryConfig, settings_of(dataset).get("geometry", {}))


def recognised_settings(recording: Path) -> str:
    """`starting_settings` for a recording whose format is recognised by its files.

    Raises:
        SourceError: the format is not recognised, or several are possible.
    """
    from p2pkit.datasets.recognise import recognise

    found = recognise(recording)
    return starting_settings(found.dataset, found.root, found=found.sentences)


def starting_settings(dataset: str, root: Path | None, *, found: Sequence[str] = ()) -> str:
    """TOML for `p2pkit extract --config`: each setting below its description.

    Values are the defaults, except for those from `settings_of`.

    Args:
        dataset: a key of `DATASETS`.
        root: the recording's folder; None for generated scenes.
        found: further lines at the top of the file.

    Raises:
        ConfigError: the dataset is unknown.
    """
    from p2pkit.datasets.registry import DATASETS, SWEEP_VOXEL_M, dataset_row

    kind = dataset_row(dataset).kind
    head = (
        "Settings for `p2pkit extract --config FILE`; command-line options override them.",
        *found,
        f"Datasets: {', '.join(sorted(DATASETS))}.",
    )
    name = dataset if root is None else root.resolve().name
    place = {"dataset": dataset, "root": root, "out": Path(f"{name}.store")}
    config = config_from_json(ExtractConfig, {**settings_of(dataset), **place})
    remark = (
        f"{SWEEP_VOXEL_M} m because these are LiDAR sweeps: the default, for rooms, would keep "
        "nearly every point, and students of sweeps have voxels of 0.1 m or more."
    )
    remarks = {"geometry.voxel_size": remark} if kind == "sweeps" else {}
    return f"{''.join(map(comment, head))}\n{commented_toml(config, remarks)}"
