"""Multinomial logistic regression on frozen features: what a network's features say linearly."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Integer
from torch import Tensor
from torch.nn import functional

from p2pkit.errors import ConfigError
from p2pkit.settings.evaluation import ProbeConfig

POINTS_AT_ONCE = 2**18


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """A fitted classifier.

    Args:
        mean: of each channel over the training rows.
        scale: standard deviation of each channel; 1 where it is constant.
        weight: of the standardised channels.
        bias: one per class.
    """

    mean: Float32[np.ndarray, " channels"]
    scale: Float32[np.ndarray, " channels"]
    weight: Float32[np.ndarray, "channels classes"]
    bias: Float32[np.ndarray, " classes"]

    def predict(
        self, features: Float32[np.ndarray, "points channels"]
    ) -> Int64[np.ndarray, " points"]:
        """The most likely class of each row."""
        weight = self.weight / self.scale[:, None]
        bias = self.bias - self.mean @ weight
        parts = [
            np.argmax(part @ weight + bias, axis=1)
            for part in np.split(features, range(POINTS_AT_ONCE, len(features), POINTS_AT_ONCE))
        ]
        return np.concatenate(parts)


def fit_linear_probe(
    features: Float32[np.ndarray, "points channels"],
    labels: Integer[np.ndarray, " points"],
    *,
    classes: int,
    config: ProbeConfig | None = None,
) -> LinearProbe:
    """Fit a softmax classifier; the problem is convex, so the result does not depend on luck.

    A class without rows is never predicted in practice: its bias falls without bound.

    Args:
        features: frozen features, one row per labelled point.
        labels: classes 0 .. classes - 1; leave void points out before.
        classes: number of classes.
        config: settings, `ProbeConfig()` if None.

    Raises:
        ConfigError: the probe has no rows, a label is out of range, or a feature is not finite.
    """
    config = config or ProbeConfig()
    _check(features, labels, classes)
    if len(features) > config.max_points:
        rows = np.random.default_rng(config.seed).permutation(len(features))[: config.max_points]
        features, labels = features[np.sort(rows)], labels[np.sort(rows)]
    mean, deviation = (
        features.mean(axis=0, dtype=np.float64),
        features.std(axis=0, dtype=np.float64),
    )
    scale = np.where(deviation > 1e-6 * (np.abs(mean) + 1e-6), deviation, 1.0).astype(np.float32)
    mean = mean.astype(np.float32)
    inputs = torch.from_numpy((features - mean) / scale)
    target = torch.from_numpy(labels.astype(np.int64))
    weight, bias = _minimise(inputs, target, classes, config)
    return LinearProbe(mean, scale, weight.numpy(), bias.numpy())


def _check(features: np.ndarray, labels: np.ndarray, classes: int) -> None:
    if len(features) == 0:
        raise ConfigError("expected at least one labelled point, found none")
    if labels.min() < 0 or labels.max() >= classes:
        raise ConfigError(
            f"labels lie in {labels.min()}..{labels.max()}; expected 0..{classes - 1}: leave out "
            "void points before fitting"
        )
    if not np.isfinite(features).all():
        raise ConfigError("a feature is NaN or infinite; the network's weights are probably broken")


def _minimise(
    inputs: Tensor, target: Tensor, classes: int, config: ProbeConfig
) -> tuple[Tensor, Tensor]:
    weight = torch.zeros(inputs.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    importance = _importance(target, classes, balanced=config.balanced)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=config.iterations,
        tolerance_grad=1e-5,
        tolerance_change=1e-7,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        loss, slope = _loss_and_slope(inputs, target, importance, weight, bias)
        weight.grad = (slope @ inputs).T.contiguous() + config.l2 * weight.detach()
        bias.grad = slope.sum(dim=1)
        return loss + config.l2 / 2 * weight.detach().square().sum()

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]  (typed for a float closure)
    return weight.detach(), bias.detach()


@torch.no_grad()
def _loss_and_slope(
    inputs: Float[Tensor, "points channels"],
    target: Int64[Tensor, " points"],
    importance: Float[Tensor, " points"],
    weight: Float[Tensor, "channels classes"],
    bias: Float[Tensor, " classes"],
) -> tuple[Float[Tensor, ""], Float[Tensor, "classes points"]]:
    """Cross-entropy summed by importance, and its gradient by the logits.

    Classes come first, so that the softmax runs over long rows: with a dozen classes it is several
    times faster so.
    """
    log_share = functional.log_softmax(torch.addmm(bias[:, None], weight.T, inputs.T), dim=0)
    loss = -(log_share.gather(0, target[None])[0] * importance).sum()
    slope = log_share.exp_()
    slope.scatter_add_(0, target[None], slope.new_full((1, len(target)), -1.0))
    return loss, slope.mul_(importance)


def _importance(
    target: Int64[Tensor, " points"], classes: int, *, balanced: bool
) -> Float[Tensor, " points"]:
    """Weight of each point, 1 in all: the same, or the same in total for every class present."""
    if not balanced:
        return torch.full((len(target),), 1 / len(target))
    counts = torch.bincount(target, minlength=classes).float()
    return 1 / (counts[target] * (counts > 0).sum())
