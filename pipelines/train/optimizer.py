"""The optimiser and the schedule of its learning rate."""

import numpy as np
import torch

from p2pkit.pipelines.train.model import PretrainingModel
from p2pkit.pipelines.train.settings import OptimizerConfig, TrainConfig

ADAM_SECOND_BETA = 0.999
"""torch's default."""


def learning_rate(
    config: OptimizerConfig, step: int, steps: int, *, steps_per_epoch: float = 1.0
) -> float:
    """The rate of step `step` (counts from 0) in a schedule of `steps`."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "exponential":
        return config.learning_rate * config.decay ** ((step - config.warmup_steps) / 1000)
    if config.schedule in ("cosine", "cosine-by-epoch"):
        by_epoch = config.schedule == "cosine-by-epoch"
        begun = step // steps_per_epoch * steps_per_epoch if by_epoch else step
        share = max(begun - config.warmup_steps, 0) / max(steps - config.warmup_steps, 1)
        return config.learning_rate * 0.5 * (1 + float(np.cos(np.pi * share)))
    return config.learning_rate


def build_optimizer(model: PretrainingModel, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser over all parameters; the rate is set at each step."""
    if config.optimizer.name == "adamw":
        return torch.optim.AdamW(
            model.parameters(),
            lr=config.optimizer.learning_rate,
            betas=(config.optimizer.momentum, ADAM_SECOND_BETA),
            weight_decay=config.optimizer.weight_decay,
        )
    return torch.optim.SGD(
        model.parameters(),
        lr=config.optimizer.learning_rate,
        momentum=config.optimizer.momentum,
        dampening=config.optimizer.dampening,
        weight_decay=config.optimizer.weight_decay,
    )
