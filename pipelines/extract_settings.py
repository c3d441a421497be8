"""The settings of an extraction before anything is known but the recording, as a commented file."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from p2pkit.commented_toml import comment, commented_toml
from p2pkit.datasets import LIDAR, SOURCES, WITHOUT_IMAGES, refuse_unknown_dataset
from p2pkit.datasets.recognise import recognise
from p2pkit.pipelines.extract_plan import NO_TEACHER, ExtractConfig
from p2pkit.pipelines.feature_stage import FeatureConfig
from p2pkit.teachers import TeacherOptions

LIDAR_VOXEL_SIZE = 0.05
LIDAR_REMARK = (
    f"{LIDAR_VOXEL_SIZE} m because these are LiDAR sweeps: the default, made for rooms, would keep "
    "nearly every point, and students of sweeps have voxels of 0.1 m or more."
)


def recognised_settings(recording: Path) -> str:
    """`starting_settings` for a recording whose files tell the format.

    Raises:
        SourceError: the format is not recognised, or several are possible.
    """
    found = recognise(recording)
    return starting_settings(found.dataset, found.root, told=found.told)


def starting_settings(dataset: str, root: Path | None, *, told: Sequence[str] = ()) -> str:
    """TOML for `p2pkit extract --config`: each setting below its meaning.

    Values are the defaults, but for the voxels of LiDAR sweeps and the teacher of labelled points.

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
    config = ExtractConfig(dataset=dataset, root=root, out=Path(f"{name}.store"))
    if dataset in WITHOUT_IMAGES:
        config = replace(config, features=FeatureConfig(teacher=TeacherOptions(name=NO_TEACHER)))
    remarks: dict[str, str] = {}
    if dataset in LIDAR:
        config = replace(config, geometry=replace(config.geometry, voxel_size=LIDAR_VOXEL_SIZE))
        remarks["geometry.voxel_size"] = LIDAR_REMARK
    return f"{''.join(map(comment, head))}\n{commented_toml(config, remarks)}"
