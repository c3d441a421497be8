"""Contrastive losses between points and pixels; see docs/losses.md for adding one."""

from collections.abc import Callable

from torch import Tensor

from p2pkit.errors import ConfigError
from p2pkit.losses.batch import ContrastBatch, LossConfig, suspected_false_negatives
from p2pkit.losses.ppnce import ppnce, ppnce_loss

__all__ = [
    "LOSSES",
    "ContrastBatch",
    "LossConfig",
    "build_loss",
    "ppnce",
    "suspected_false_negatives",
]

LOSSES: dict[str, Callable[[ContrastBatch, LossConfig], Tensor]] = {"ppnce": ppnce_loss}


def build_loss(config: LossConfig) -> Callable[[ContrastBatch], Tensor]:
    """The loss that `config` describes: it takes a batch and gives a scalar to minimise.

    Raises:
        ConfigError: there is no loss of that name.
    """
    if config.name not in LOSSES:
        raise ConfigError(f"no loss is called {config.name!r}; choose one of {', '.join(LOSSES)}")
    loss = LOSSES[config.name]
    return lambda batch: loss(batch, config)
