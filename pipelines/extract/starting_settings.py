"""The settings of an extraction before anything is known but the recording, as a commented file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from p2pkit.datasets.recognise import recognise
from p2pkit.datasets.registry import DATASETS, SWEEP_VOXEL_M, dataset_row, is_kind
from p2pkit.pipelines.extract.settings import ExtractConfig
from p2pkit.settings import comment, commented_toml, config_from_json, nested

LIDAR_REMARK = (
    f"{SWEEP_VOXEL_M} m because these are LiDAR sweeps: the default, made for rooms, would keep "
    "nearly every point, and students of sweeps have voxels of 0.1 m or more."
)


def settings_of(dataset: str) -> dict[str, Any]:
    """Nested settings that a dataset has in place of the defaults of `ExtractConfig`."""
    return nested(dataset_row(dataset).settings if dataset in DATASETS else {})


def recognised_settings(recording: Path) -> str:
    """`starting_settings` for a recording whose files tell the format.

    Raises:
        SourceError: the format is not recognised, or several are possible.
    """
    found = recognise(recording)
    return starting_settings(found.dataset, found.root, told=found.sentences)


def starting_settings(dataset: str, root: Path | None, *, told: Sequence[str] = ()) -> str:
    """TOML for `p2pkit extract --config`: each setting below its meaning.

    Values are the defaults, but for those of `settings_of`.

    Args:
        dataset: a name out of `DATASETS`.
        root: the recording's folder; None for generated scenes.
        told: what else the file begins with.

    Raises:
        ConfigError: there is no such dataset.
    """
    _ = dataset_row(dataset)  # raises where there is none of that name
    head = (
        "Settings for `p2pkit extract --config FILE`; what is typed there goes over them.",
        *told,
        f"Datasets: {', '.join(sorted(DATASETS))}.",
    )
    name = dataset if root is None else root.resolve().name
    place = {"dataset": dataset, "root": root, "out": Path(f"{name}.store")}
    config = config_from_json(ExtractConfig, {**settings_of(dataset), **place})
    remarks = {"geometry.voxel_size": LIDAR_REMARK} if is_kind(dataset, "sweeps") else {}
    return f"{''.join(map(comment, head))}\n{commented_toml(config, remarks)}"
