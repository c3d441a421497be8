"""The settings of an extraction: what they are, which are possible, and a file to start from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from p2pkit.datasets.registry import (
    LIDAR,
    SOURCES,
    WITHOUT_IMAGES,
    recognise,
    refuse_unknown_dataset,
)
from p2pkit.errors import ConfigError
from p2pkit.geometry.superpixels import SuperpixelConfig
from p2pkit.layers.features import FeatureConfig
from p2pkit.layers.geometry import GeometryConfig
from p2pkit.settings import comment, commented_toml, config_from_json, config_to_json, nested
from p2pkit.store.location import local_folder
from p2pkit.teachers import TeacherOptions

NO_TEACHER = "none"
"""Name of the teacher in settings where none is meant."""
NOT_KEPT = (
    "out",
    "features",
    "superpixels",
    "codecs",
    "storage",
    "threads",
    "max_failure_rate",
)
"""Settings that a store's geometry does not keep: other layers keep theirs, the manifest has codecs
and storage, and the rest changes no byte.
"""


@dataclass(frozen=True)
class ExtractConfig:
    """Settings of one extraction.

    Args:
        dataset: how the recording lies on the disk: a name out of `p2pkit.datasets.SOURCES`, told
            in docs/datasets.md.
        root: the recording's folder; none for generated scenes.
        out: the store to write, a local folder. One that is there is finished, or gets one more
            layer if only the teacher differs.
        geometry: which points are kept.
        features: the teacher and how its features are stored; none for geometry and labels alone,
            to evaluate on, where the teacher's name is none.
        storage: on-disk format of the shards, tar or zarr.
        limit: only the first so many frames of the recording, at least 1; all where it is left out.
        every: of each sequence, each `every`-th frame only; at least 1, which takes all.
        flying_margin: drop pixels of depth images between the two sides of an edge, which no
            neighbour supports to within this share of their depth; between 0 and 1, 0 keeps them.
        fuse: one sample of so many neighbouring posed frames, at least 2; 0 for one of each.
        camera_file: a calibration in place of the recording's own, for posed-rgbd and tum; the
            recording's own where it is left out.
        shard_size: samples per shard, at least 1; the unit of work and of resumption.
        seed: of the plan and of generated scenes; at least 0.
        max_failure_rate: stop when more than this share of all frames is bad, from 0 to 1.
        threads: frames worked on at the same time, at least 1; the teacher itself uses every core.
        codecs: how the bytes of a field are stored where not as usual, by field, such as
            map = "zstd": none, lz4, zstd, shuffle-lz4, shuffle-zstd or, for whole numbers,
            delta-shuffle-lz4.
        superpixels: also store which superpixel each pair's pixel lies in, as
            {segments = 150, compactness = 6.0}, which is SLidR's; not where it is left out.
    """

    dataset: str
    root: Path | None
    out: Path
    geometry: GeometryConfig = field(default_factory=GeometryConfig)
    features: FeatureConfig | None = field(default_factory=FeatureConfig)
    storage: Literal["tar", "zarr"] = "tar"
    limit: int | None = None
    every: int = 1
    flying_margin: float = 0.02
    fuse: int = 0
    camera_file: Path | None = None
    shard_size: int = 64
    seed: int = 0
    max_failure_rate: float = 0.5
    threads: int = 4
    codecs: dict[str, str] = field(default_factory=dict)
    superpixels: SuperpixelConfig | None = None


def kept_settings(config: ExtractConfig) -> dict[str, Any]:
    """The settings as a store's geometry keeps them, to be extracted again.

    Stores are shared, so that of paths only the last name is kept.
    """
    settings = {x: y for x, y in config_to_json(config).items() if x not in NOT_KEPT}
    for name in ("root", "camera_file"):
        if settings[name] is not None:
            settings[name] = Path(settings[name]).name
    return settings


def check_settings(config: ExtractConfig) -> None:
    """Raise ConfigError where a setting is impossible, before anything is opened."""
    local_folder(config.out, "what is extracted")
    if config.features is not None:
        _ = config.features.coding  # raises where `map` cannot be read
        _ = config.features.joint_bilateral  # and where `upsampling` cannot, or fits no layout
        _ = config.features.further_views
        _check_teacher(config.features.teacher)
        if config.features.pairs_per_frame < 0:
            raise ConfigError(
                f"pairs_per_frame is {config.features.pairs_per_frame}; a positive number, or 0 "
                "for all"
            )
    if not 0 <= config.max_failure_rate <= 1:
        raise ConfigError(f"max_failure_rate is {config.max_failure_rate}; it must lie in 0–1")
    _check_geometry(config.geometry)
    if config.seed < 0:
        raise ConfigError(f"seed is {config.seed}; it must be at least 0")
    for name in ("shard_size", "threads"):
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} is {getattr(config, name)}; it must be at least 1")
    if config.limit is not None and config.limit < 1:
        raise ConfigError(f"limit is {config.limit}; it must be at least 1")


def _check_geometry(config: GeometryConfig) -> None:
    if not 0 <= config.voxel_size < math.inf:
        raise ConfigError(
            f"voxel_size is {config.voxel_size} m; it must be positive, or 0 to keep all"
        )
    if not 0 <= config.depth_min < config.depth_max < math.inf:
        raise ConfigError(
            f"the depth range is {config.depth_min} to {config.depth_max} m; two numbers from 0 "
            "on, the smaller first, are needed"
        )


def _check_teacher(options: TeacherOptions) -> None:
    if options.input_size is not None and min(options.input_size) < 1:
        width, height = options.input_size
        raise ConfigError(f"input_size is {width} x {height} px; both must be at least 1")


LIDAR_VOXEL_SIZE = 0.05
LIDAR_REMARK = (
    f"{LIDAR_VOXEL_SIZE} m because these are LiDAR sweeps: the default, made for rooms, would keep "
    "nearly every point, and students of sweeps have voxels of 0.1 m or more."
)


def settings_of(dataset: str) -> dict[str, Any]:
    """Nested settings that a dataset has in place of the defaults of `ExtractConfig`."""
    own: dict[str, Any] = {}
    if dataset in WITHOUT_IMAGES:
        own["features.teacher.name"] = NO_TEACHER
    if dataset in LIDAR:
        own["geometry.voxel_size"] = LIDAR_VOXEL_SIZE
    return nested(own)


def recognised_settings(recording: Path) -> str:
    """`starting_settings` for a recording whose files tell the format.

    Raises:
        SourceError: the format is not recognised, or several are possible.
    """
    found = recognise(recording)
    return starting_settings(found.dataset, found.root, told=found.told)


def starting_settings(dataset: str, root: Path | None, *, told: Sequence[str] = ()) -> str:
    """TOML for `p2pkit extract --config`: each setting below its meaning.

    Values are the defaults, but for those of `settings_of`.

    Args:
        dataset: a name out of `SOURCES`.
        root: the recording's folder; None for generated scenes.
        told: what else the file begins with.

    Raises:
        ConfigError: there is no such dataset.
    """
    refuse_unknown_dataset(dataset)
    head = (
        "Settings for `p2pkit extract --config FILE`; what is typed there goes over them.",
        *told,
        f"Datasets: {', '.join(sorted(SOURCES))}.",
    )
    name = dataset if root is None else root.resolve().name
    place = {"dataset": dataset, "root": root, "out": Path(f"{name}.store")}
    config = config_from_json(ExtractConfig, {**settings_of(dataset), **place})
    remarks = {"geometry.voxel_size": LIDAR_REMARK} if dataset in LIDAR else {}
    return f"{''.join(map(comment, head))}\n{commented_toml(config, remarks)}"
