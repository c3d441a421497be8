"""Named starting points for `p2pkit train`, as settings and as a commented file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from p2pkit.errors import ConfigError
from p2pkit.pipelines.train.settings import TrainConfig
from p2pkit.settings import commented_toml, config_from_json

EVERY_PAIR = 1_000_000
"""More pairs than a frame has."""
_SLIDR_SAMPLE: dict[str, Any] = {
    "voxel_size": 0.1,
    "grid": "cylindrical",
    "cylindrical_size": (0.1, 1.0, 0.1),
    "inputs": ("intensity",),
    "intensity_scale": 255.0,
    "augment": {
        "rotation_deg": 180.0,
        "tilt_deg": 0.0,
        "scale": (1.0, 1.0),
        "elastic": (),
        "flip_x": 0.5,
        "flip_y": 0.5,
        "drop_cuboids": 1.0,
    },
}

PRESETS: dict[str, dict[str, Any]] = {
    # PPKT (Liu et al. 2021), i.e. the defaults of TrainConfig: its student, temperature, voxels,
    # SGD and length. Which first kernel PPKT had is not known; 3 is PointContrast's, and so is the
    # exponential schedule (Xie et al. 2020), in whose code PPKT was written; PPKT's own was not
    # available. After 60,000 steps the rate is still 0.27 of 0.5; schedule = "cosine" ends at 0.
    "paper": {},
    # SLidR's re-implementation of PPKT (Sautier et al. 2022, arXiv 2203.16258) for driving scenes,
    # by its public configuration; docs/training.md has what differs. 4096 pairs a batch of 4.
    "slidr": {
        "embedding_channels": 64,
        "loss": {"temperature": 0.07},
        "optimizer": {"dampening": 0.1, "schedule": "cosine-by-epoch"},
        "epochs": 50.0,
        "stream": {"batch_size": 4, "sample": {**_SLIDR_SAMPLE, "pairs_per_frame": 1024}},
    },
    # SLidR itself: the same with its contrast of superpixels, which takes every pair. A batch then
    # holds hundreds of megabytes of features, so only one is prepared in advance.
    "slidr-superpixel": {
        "embedding_channels": 64,
        "loss": {"name": "superpixel", "temperature": 0.07},
        "optimizer": {"dampening": 0.1, "schedule": "cosine-by-epoch"},
        "epochs": 50.0,
        "stream": {
            "batch_size": 4,
            "ahead": 1,
            "sample": {**_SLIDR_SAMPLE, "pairs_per_frame": EVERY_PAIR},
        },
    },
    # Small enough for a few CPU cores: coarse voxels, a slim student, short schedule.
    "cpu-small": {
        "student": "Res16UNet14A",
        "steps": 400,
        "checkpoint_every": 100,
        "optimizer": {
            "learning_rate": 0.1,
            "warmup_steps": 20,
            "schedule": "cosine",
            "clip_norm": 5.0,
        },
        "stream": {
            "batch_size": 4,
            "sample": {"voxel_size": 0.05, "pairs_per_frame": 512},
        },
    },
    # ScaLR (Puy et al. 2024, arXiv 2310.17504) by its public configuration: WaffleIron with layer
    # norms, the distance to a ViT's fixed features at unit length, AdamW, no superpixels. It trains
    # for 25 epochs; 88,000 steps are those of nuScenes. It mirrors along x or y, which is the same
    # with free rotation. docs/training.md says what still differs.
    "scalr": {
        "student": "WaffleIron-48-768",
        "waffleiron": {"scene": "scalr", "norm": "layer"},
        "pixel_head": "fixed",
        "loss": {"name": "l2"},
        "steps": 88_000,
        "optimizer": {
            "name": "adamw",
            "learning_rate": 0.002,
            "weight_decay": 0.03,
            "warmup_steps": 3500,
            "schedule": "cosine",
        },
        "stream": {
            "batch_size": 8,
            "sample": {
                "voxel_size": 0.1,
                "inputs": ("intensity", "position", "range"),
                "pairs_per_frame": 4096,
                "augment": {"tilt_deg": 0.0, "flip_x": 0.667, "elastic": []},
            },
        },
    },
}
# Sweeps are sparser: in the voxels of rooms most would have no neighbour. 0.3 m as in
# docs/results.md.
PRESETS["cpu-small-lidar"] = {
    **PRESETS["cpu-small"],
    "stream": {"batch_size": 4, "sample": {"voxel_size": 0.3, "pairs_per_frame": 512}},
}


def preset(name: str, store: str | Path) -> TrainConfig:
    """The config of a preset for the store at a path or URL.

    Raises:
        ConfigError: the preset is unknown.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
    return config_from_json(TrainConfig, {**PRESETS[name], "store": str(store)})


LIDAR_VOXEL_SIZE = {"paper": 0.1, "cpu-small": 0.3}
"""Voxels (m) of driving scenes for presets made for rooms: SLidR's and those of docs/results.md."""


def chosen_preset(device: str, store: str) -> tuple[str, str]:
    """The preset for a store where none is named, and why.

    Args:
        device: that the training runs on.
        store: path or URL.

    Raises:
        StoreError: the store cannot be read.
    """
    if _is_of_sweeps(store):
        name, kind = ("cpu-small-lidar", "slidr"), "LiDAR sweeps"
    else:
        name, kind = ("cpu-small", "paper"), "depth images"
    return name[not device.startswith("cpu")], f"for {kind} on {device}"


def _is_of_sweeps(store: str) -> bool:
    from p2pkit.datasets.registry import is_kind
    from p2pkit.store.reading import open_store

    return all(is_kind(dataset, "sweeps") for dataset in open_store(store).manifest.datasets)


def starting_training(store: str, name: str) -> str:
    """TOML for `p2pkit train --config`: each setting of a preset below its description.

    Voxels are larger than the preset's if it is made for rooms and the store is of LiDAR sweeps.

    Args:
        store: path or URL.
        name: of the preset.

    Raises:
        ConfigError: the preset is unknown.
        StoreError: the store cannot be read.
    """
    config = preset(name, store)
    if not _is_of_sweeps(store) or name not in LIDAR_VOXEL_SIZE:
        return commented_toml(config)
    size, rooms = LIDAR_VOXEL_SIZE[name], config.stream.sample.voxel_size
    sample = replace(config.stream.sample, voxel_size=size)
    remark = (
        f"{size} m because this is a store of LiDAR sweeps: in the {rooms} m of the preset {name} "
        "most voxels would have no neighbour, which sparse convolutions need."
    )
    return commented_toml(
        replace(config, stream=replace(config.stream, sample=sample)),
        {"stream.sample.voxel_size": remark},
    )
