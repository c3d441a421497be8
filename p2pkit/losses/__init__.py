"""Contrastive losses between points and pixels; see docs/losses.md for adding one."""

from collections.abc import Callable

from torch import Tensor

from p2pkit.errors import ConfigError
from p2pkit.losses.batch import ContrastBatch, suspected_false_negatives
from p2pkit.losses.ppnce import ppnce, ppnce_loss, soft_ppnce_loss, symmetric_ppnce_loss
from p2pkit.losses.regression import cosine_loss, l2_loss
from p2pkit.losses.superpixel import superpixel_loss
from p2pkit.settings.losses import REGRESSIONS, SOFT, SUPERPIXEL, LossConfig

__all__ = [
    "LOSSES",
    "REGRESSIONS",
    "SUPERPIXEL",
    "ContrastBatch",
    "LossConfig",
    "build_loss",
    "ppnce",
    "suspected_false_negatives",
]

LOSSES: dict[str, Callable[[ContrastBatch, LossConfig], Tensor]] = {
    "ppnce": ppnce_loss,
    "ppnce-symmetric": symmetric_ppnce_loss,
    SOFT: soft_ppnce_loss,
    SUPERPIXEL: superpixel_loss,
    "cosine": cosine_loss,
    "l2": l2_loss,
}


def build_loss(config: LossConfig) -> Callable[[ContrastBatch], Tensor]:
    """The loss that `config` describes: it takes a batch and gives a scalar to minimise.

    Raises:
        ConfigError: no loss has that name.
    """
    if config.name not in LOSSES:
        raise ConfigError(f"no loss is called {config.name!r}; choose one of {', '.join(LOSSES)}")
    loss = LOSSES[config.name]
    return lambda batch: loss(batch, config)
