"""One update of the weights: micro-batches, precision, and the step's report."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from p2pkit.errors import TrainingError
from p2pkit.losses import (
    SUPERPIXEL,
    ContrastBatch,
    LossConfig,
    build_loss,
    suspected_false_negatives,
)
from p2pkit.pipelines.train.distributed import Ranks, summed, with_others
from p2pkit.pipelines.train.model import PretrainingModel
from p2pkit.pipelines.train.optimizer import build_optimizer
from p2pkit.pipelines.train.settings import TrainConfig
from p2pkit.profiling import Lap, no_lap
from p2pkit.stream.batches import Batch

MOST_DIRECTIONS = 256
"""Number of rows for the effective rank of wider embeddings: eigenvalues of 2048 channels would
take longer than the step."""


def effective_rank(embeddings: Float[Tensor, "rows channels"]) -> float:
    """Exp of the entropy of the normalised eigenvalues of the rows' covariance.

    1 where all rows lie on a line, the number of channels where they spread evenly; 0 where they
    are all the same. For more than 256 channels it is that of 256 rows, the same in each call,
    so at most 255: it shows a collapse, not the rank itself. Source: Roy and Vetterli, "The
    effective rank", EUSIPCO 2007.
    """
    rows = embeddings.float()
    if rows.shape[1] > MOST_DIRECTIONS < len(rows):
        drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
        rows = rows[drawn[:MOST_DIRECTIONS].to(rows.device)]
    if not len(rows):
        return 0.0
    centred = rows - rows.mean(dim=0)
    # Both products have the same eigenvalues except for zeros.
    is_wide = centred.shape[1] > len(centred)
    values = torch.linalg.eigvalsh(centred @ centred.T if is_wide else centred.T @ centred)
    values = values.clamp_min(0)
    total = values.sum()
    if total <= 1e-12 * len(rows):
        return 0.0
    shares = values / total
    return float(torch.exp(torch.special.entr(shares).sum()))


def channel_spread(embeddings: Float[Tensor, "rows channels"]) -> float:
    """Mean over channels of the rows' standard deviation, times the root of their number.

    1 for unit vectors that are spread evenly over the sphere, 0 where all are the same. Source:
    Chen and He, "Exploring simple siamese representation learning", CVPR 2021, section 4.1.
    """
    if not len(embeddings):
        return 0.0
    deviation = embeddings.float().std(dim=0, correction=0)
    return float(deviation.mean() * embeddings.shape[1] ** 0.5)


FIRST_SCALE = 1024.0
"""Of float16 gradients: small, since a contrast divides by the temperature; it adapts."""

MOST_SKIPPED = 20
"""Consecutive updates that float16 may skip: its scale has then fallen by a factor of a million."""

HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class StepReport:
    """Results of one step, over all processes.

    Args:
        step: counts from 0.
        loss: of the global batch before the update.
        learning_rate: of the update.
        gradient_norm: before clipping; NaN or infinite if float16 skipped the update.
        pairs: in the global batch.
        suspected_false_negatives: share of negatives in the anchor's own cell or voxel, within a
            micro-batch of this process.
        point_rank, pixel_rank: effective rank of the embeddings, which falls to 1 when they
            collapse: exp of the entropy of their covariance's eigenvalues (Roy and Vetterli 2007).
        point_spread, pixel_spread: mean deviation of a channel of the embeddings, near 1 where they
            spread over the sphere, 0 where they collapse (Chen and He 2021, section 4.1).
        step_s: from asking for the batch to the end of the update (s), of this process.
        wait_s: part of it that was spent waiting for data (s).
        superpixels: of the global batch, each counted in every micro-batch that has it; None if
            the loss compares pairs.
    """

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    pairs: int
    suspected_false_negatives: float
    point_rank: float
    pixel_rank: float
    point_spread: float
    pixel_spread: float
    step_s: float = 0.0
    wait_s: float = 0.0
    superpixels: int | None = None


class Trainer:
    """The state of training: the weights, the optimiser, and the scale of half-precision gradients.

    Args:
        model: with its initial weights, on its device.
        config: of the run.
        replica: the wrapped model, which averages gradients over processes.
        ranks: this process's place.
        lap: called when a part of a step ends: forward, loss, backward, optimiser, meters.
    """

    def __init__(
        self,
        model: PretrainingModel,
        config: TrainConfig,
        replica: nn.Module,
        ranks: Ranks,
        *,
        lap: Lap = no_lap,
    ) -> None:
        self.model, self.config, self.ranks, self._lap = model, config, ranks, lap
        self._replica = replica
        self._loss = build_loss(config.loss)
        self._device = next(model.parameters()).device
        self.optimizer = build_optimizer(model, config)
        self.scaler = torch.amp.GradScaler(
            self._device.type, FIRST_SCALE, enabled=config.precision == "float16"
        )
        self._skipped = 0

    def step(self, batches: Sequence[Batch], rate: float) -> StepReport:
        """Update the weights by the micro-batches of one global batch.

        Each micro-batch is weighted by its anchors: its pairs, the sum of their confidence, or its
        superpixels. So the gradient is that of the mean over all anchors of all processes, whatever
        the number of either. A micro-batch without a pair counts 0.

        Raises:
            FloatingPointError: the loss or the gradient is NaN or infinite; nothing was updated.
                With float16 this is allowed for some steps.
            TrainingError: the global batch has no pair.
        """
        # What a student drops in training depends on the step alone, so that resuming repeats it.
        torch.manual_seed(hash((self.config.seed, batches[0].step, self.ranks.rank)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        weights = [anchors(batch, self.config.loss) for batch in batches]
        shares = self._shares(weights)
        losses: list[Tensor] = []
        shown: ContrastBatch | None = None
        for number, (batch, share) in enumerate(zip(batches, shares, strict=True)):
            with self._without_exchange(last=number == len(batches) - 1):
                contrast = self._forward(batch)
                self._lap("forward")
                loss = self._loss(contrast)
                self._lap("loss")
                self.scaler.scale(loss * share * self.ranks.ranks).backward()
                self._lap("backward")
            losses.append(loss.detach() * share)
            shown = contrast if shown is None or len(batch.pair_voxel) else shown
        assert shown is not None
        mean = summed(torch.stack(losses).sum(), self.ranks).item()
        pairs = self._pairs(batches)
        norm = self._update(mean)
        self._lap("optimiser")
        report = self._report(shown, batches, loss=mean, norm=norm, pairs=pairs, rate=rate)
        if self.config.loss.name == SUPERPIXEL:
            report = replace(report, superpixels=self._count(sum(weights)))
        self._lap("meters")
        return report

    def _report(
        self,
        shown: ContrastBatch,
        batches: Sequence[Batch],
        *,
        loss: float,
        norm: float,
        pairs: int,
        rate: float,
    ) -> StepReport:
        points, pixels = shown.point_embedding.detach(), shown.pixel_embedding.detach()
        return StepReport(
            step=batches[0].step,
            loss=loss,
            learning_rate=rate,
            gradient_norm=norm,
            pairs=pairs,
            suspected_false_negatives=suspected_false_negatives(shown),
            point_rank=effective_rank(points),
            pixel_rank=effective_rank(pixels),
            point_spread=channel_spread(points),
            pixel_spread=channel_spread(pixels),
            wait_s=sum(batch.wait_s for batch in batches),
        )

    def state(self) -> dict[str, Any]:
        """What resuming needs besides the weights; tensors and plain data."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": torch.get_rng_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from where `state` was saved."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])

    def _shares(self, weights: Sequence[float]) -> Float[Tensor, " parts"]:
        own = torch.tensor(weights, device=self._device)
        return own / summed(own.sum(), self.ranks).clamp_min(1e-12)

    def _pairs(self, batches: Sequence[Batch]) -> int:
        pairs = self._count(float(sum(len(batch.pair_voxel) for batch in batches)))
        if pairs == 0:
            raise TrainingError(
                f"no frame of the global batch of step {batches[0].step} has a pair, so there is "
                "nothing to learn from: run p2pkit check on the store, or raise stream.batch_size"
            )
        return pairs

    def _count(self, own: float) -> int:
        """Sum over processes."""
        return int(summed(torch.tensor(own, device=self._device), self.ranks).item())

    def _forward(self, batch: Batch) -> ContrastBatch:
        half = HALF.get(self.config.precision)
        with torch.autocast(self._device.type, dtype=half, enabled=half is not None):
            contrast = self._replica(batch.to(str(self._device)))
        loss = self.config.loss
        if not loss.across_ranks:
            return contrast
        return with_others(contrast, self.ranks, teacher=loss.compares_teacher)

    def _without_exchange(self, *, last: bool) -> Any:
        """Gradients are averaged over processes once, with the last micro-batch."""
        if last or not isinstance(self._replica, DistributedDataParallel):
            return nullcontext()
        return self._replica.no_sync()

    def _update(self, loss: float) -> float:
        """Clip and step; return the gradient's norm before clipping."""
        self.scaler.unscale_(self.optimizer)
        limit = self.config.optimizer.clip_norm or float("inf")
        norm = float(clip_grad_norm_(self.model.parameters(), limit))
        is_finite = torch.isfinite(torch.tensor([loss, norm])).tolist()
        # A scaled gradient may overflow: the scaler then skips the step and halves its scale.
        if not is_finite[0] or not (is_finite[1] or self.scaler.is_enabled()):
            raise FloatingPointError(f"the loss is {loss} and the gradient norm {norm}")
        self._skipped = 0 if is_finite[1] else self._skipped + 1
        if self._skipped >= MOST_SKIPPED:
            raise FloatingPointError(
                f"the gradient norm is {norm}, as in the last {MOST_SKIPPED} steps, which float16 "
                "skipped"
            )
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return norm


def anchors(batch: Batch, config: LossConfig) -> float:
    """The weight of a micro-batch in the mean over a global batch."""
    weighs = config.confidence == "weight"
    if config.name == SUPERPIXEL and batch.pair_superpixel is not None:
        found = batch.pair_superpixel
        return float(len(torch.unique(found[batch.pair_confidence > 0] if weighs else found)))
    return float(batch.pair_confidence.sum() if weighs else len(batch.pair_voxel))
