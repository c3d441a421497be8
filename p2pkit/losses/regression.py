"""Losses without negatives: the point's embedding is drawn to the pixel's, as in ScaLR.

Puy et al., "Three Pillars improving Vision Foundation Model Distillation for Lidar", CVPR 2024
(arXiv 2310.17504). Zero for embeddings that are all equal, so the pixel side must be
fixed: `TrainConfig` refuses them with a trained pixel head.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from p2pkit.losses.batch import ContrastBatch
from p2pkit.losses.ppnce import anchor_weight
from p2pkit.settings.losses import LossConfig


def cosine_loss(batch: ContrastBatch, config: LossConfig) -> Float[Tensor, ""]:
    """L = mean_i (1 - z3_i.z2_i), with rows of unit length; weighed like `ppnce`, 0 of no pairs.

    Raises:
        TrainingError: the settings need weights and the batch has none.
    """
    return _mean(1 - (batch.point_embedding * batch.pixel_embedding).sum(dim=1), batch, config)


def l2_loss(batch: ContrastBatch, config: LossConfig) -> Float[Tensor, ""]:
    """L = mean_i |z3_i - z2_i|, the distance of unit vectors, not its square; weighed as `ppnce`.

    |z3 - z2|² = 2 - 2 z3.z2; the root is cut at 1e-6, where its slope would be infinite.

    Raises:
        TrainingError: the settings need weights and the batch has none.
    """
    squared = (batch.point_embedding - batch.pixel_embedding).square().sum(dim=1)
    return _mean(squared.clamp_min(1e-12).sqrt(), batch, config)


def _mean(losses: Tensor, batch: ContrastBatch, config: LossConfig) -> Tensor:
    if len(losses) == 0:
        return losses.sum()
    weight = anchor_weight(batch, config)
    if weight is None:
        return losses.mean()
    return (losses * weight).sum() / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)
