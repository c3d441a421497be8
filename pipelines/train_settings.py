"""The settings of a training before anything is known but the store, as a commented file."""

from dataclasses import replace

from p2pkit.commented_toml import commented_toml
from p2pkit.datasets import LIDAR
from p2pkit.pipelines.presets import preset
from p2pkit.shards import open_store

LIDAR_VOXEL_SIZE = {"paper": 0.1, "cpu-small": 0.3}
"""For presets whose own voxels are for rooms: SLidR's, and those of docs/results.md (m)."""


def starting_training(store: str, name: str) -> str:
    """TOML for `p2pkit train --config`: each setting of a preset below its meaning.

    Voxels are larger than the preset's where it is made for rooms and the store is of LiDAR sweeps.

    Args:
        store: path or URL.
        name: of the preset.

    Raises:
        ConfigError: there is no such preset.
        StoreError: the store cannot be read.
    """
    config = preset(name, store)
    datasets = str(open_store(store).manifest.dataset.get("dataset")).split("+")
    if name not in LIDAR_VOXEL_SIZE or not set(datasets) <= set(LIDAR):
        return commented_toml(config)
    size, rooms = LIDAR_VOXEL_SIZE[name], config.stream.sample.voxel_size
    sample = replace(config.stream.sample, voxel_size=size)
    remark = (
        f"{size} m because this is a store of LiDAR sweeps: in the {rooms} m of the preset {name} "
        "most voxels would have no neighbour, and sparse convolutions nothing to work with."
    )
    return commented_toml(
        replace(config, stream=replace(config.stream, sample=sample)),
        {"stream.sample.voxel_size": remark},
    )
