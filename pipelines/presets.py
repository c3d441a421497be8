"""Named starting points for `p2pkit train`; every setting can be overridden."""

from pathlib import Path
from typing import Any

from p2pkit.config import config_from_json
from p2pkit.errors import ConfigError
from p2pkit.pipelines.pretraining import TrainConfig

PRESETS: dict[str, dict[str, Any]] = {
    # The recipe of PPKT (Liu et al. 2021), i.e. the defaults of TrainConfig.
    "paper": {},
    # SLidR's re-implementation of PPKT (Sautier et al. 2022, arXiv 2203.16258) for driving scenes:
    # 64 channels, temperature 0.07, 4096 pairs a batch, voxels of 10 cm.
    "slidr": {
        "embedding_channels": 64,
        "loss": {"temperature": 0.07},
        "optimizer": {"schedule": "cosine"},
        "stream": {
            "batch_size": 16,
            "sample": {"voxel_size": 0.1, "pairs_per_frame": 256},
        },
    },
    # SLidR itself: the same with its contrast of superpixels. It takes every pair; here eight times
    # as many as above are drawn, so that most superpixels have several.
    "slidr-superpixel": {
        "embedding_channels": 64,
        "loss": {"name": "superpixel", "temperature": 0.07},
        "optimizer": {"schedule": "cosine"},
        "stream": {
            "batch_size": 16,
            "sample": {"voxel_size": 0.1, "pairs_per_frame": 2048},
        },
    },
    # Small enough for a few CPU cores: coarse voxels, a slim student, short schedule.
    "cpu-small": {
        "student": "Res16UNet14A",
        "conv1_kernel_size": 3,
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
}


def preset(name: str, store: str | Path) -> TrainConfig:
    """The config of a preset for the store at a path or URL.

    Raises:
        ConfigError: there is no preset of that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"no preset is called {name!r}; choose one of {', '.join(PRESETS)}")
    return config_from_json(TrainConfig, {**PRESETS[name], "store": str(store)})
