"""Settings of training and fine-tuning that make no sense are refused by name."""

from collections.abc import Callable
from typing import Any

import pytest

from p2pkit.errors import ConfigError
from p2pkit.pipelines.evaluate.finetune import FinetuneConfig
from p2pkit.pipelines.evaluate.settings import EvaluateConfig
from p2pkit.pipelines.train.settings import OnlineProbeConfig, OptimizerConfig, TrainConfig
from p2pkit.stream.samples import SampleConfig

NAN, INFINITE = float("nan"), float("inf")


def train_config(**settings: Any) -> TrainConfig:
    return TrainConfig(store="any.store", **settings)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (OptimizerConfig, "clip_norm", -1.0),
        (OptimizerConfig, "learning_rate", -0.1),
        (OptimizerConfig, "learning_rate", NAN),
        (OptimizerConfig, "learning_rate", 0.0),
        (OptimizerConfig, "momentum", -0.9),
        (OptimizerConfig, "weight_decay", INFINITE),
        (OptimizerConfig, "weight_decay", -1e-4),
        (OptimizerConfig, "decay", -1.0),
        (OptimizerConfig, "warmup_steps", -5),
        (FinetuneConfig, "trunk_rate", NAN),
        (FinetuneConfig, "weight_decay", -1.0),
        (FinetuneConfig, "warmup", 1.5),
        (SampleConfig, "voxel_size", NAN),
        (train_config, "embedding_channels", 0),
        (train_config, "seed", -1),
        (train_config, "seed", 2**63),
        (EvaluateConfig, "first_seed", 2**63),
    ],
)
def test_values_without_sense_are_refused_by_name(
    kind: Callable[..., object], name: str, value: object
) -> None:
    with pytest.raises(ConfigError, match=f"{name} is {value!r}"):
        kind(**{name: value})


def test_adamw_needs_a_momentum_below_one() -> None:
    with pytest.raises(ConfigError, match=r"momentum is 1\.0; expected below 1 with .*adamw"):
        OptimizerConfig(name="adamw", momentum=1.0)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (OptimizerConfig, "schedule", "linear"),
        (OnlineProbeConfig, "best_by", "loss"),
        (FinetuneConfig, "choose", "first"),
        (SampleConfig, "pairs", "all"),
        (train_config, "precision", "float8"),
        (train_config, "pixel_head", "free"),
        (train_config, "engine", "spconv"),
    ],
)
def test_names_are_checked_where_no_file_was_read(
    kind: Callable[..., object], name: str, value: str
) -> None:
    with pytest.raises(ConfigError, match=f"{name} is {value!r}; choose one of"):
        kind(**{name: value})
