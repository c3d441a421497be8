"""Fine-tuning a student with a linear head for semantic segmentation on a few labelled frames."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from p2pkit.evaluation.label_sets import IGNORE
from p2pkit.networks.students import Student
from p2pkit.pipelines.evaluate.frames import (
    LabelledFrame,
    LabelledFrames,
    PartScores,
    network_inputs,
)
from p2pkit.pipelines.evaluate.settings import FinetuneConfig
from p2pkit.pipelines.held_out import spread


class SegmentationNetwork(nn.Module):
    """The student and a linear layer on its features."""

    def __init__(self, student: Student, classes: int) -> None:
        super().__init__()
        self.student = student
        self.head = nn.Linear(student.out_channels, classes)

    def forward(self, frames: Sequence[LabelledFrame]) -> Float[Tensor, "voxels classes"]:
        """Logits of each voxel."""
        coordinates, inputs, prepared = network_inputs(frames, self.student)
        return self.head(self.student(coordinates, inputs, **prepared))


@dataclass(frozen=True)
class Finetuned:
    """The result of one fine-tuning.

    Args:
        tested: scores on the test part.
        step: whose weights were tested; the first has number 1.
        validation_miou: mIoU of each validation, by step, at the rate that was tested.
        rate: peak learning rate of the student that was tested.
    """

    tested: PartScores
    step: int
    validation_miou: dict[int, float]
    rate: float


def finetune(
    student: Student,
    data: LabelledFrames,
    samples: Int64[np.ndarray, " samples"],
    config: FinetuneConfig,
    *,
    seed: int,
    device: str = "cpu",
) -> Finetuned:
    """Train on `samples`, choose weights and rate as `config` says, test them once.

    Args:
        student: with its initial weights; changed in place.
        data: the labelled frames.
        samples: which frames of the training part have labels.
        config: of the training.
        seed: of the head's weights, the order and the augmentation.
        device: where.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SegmentationNetwork(student, len(data.labels.classes)).to(device)
    initial, best = _copy(network), _Candidate(0.0, 0, {}, {})
    for rate in config.rates or (config.trunk_rate,):
        network.load_state_dict(initial)
        head_rate = rate * config.head_rate / config.trunk_rate
        at_rate = replace(config, trunk_rate=rate, head_rate=head_rate)
        found = _train(network, data, samples, at_rate, seed)
        if not best.weights or found.miou > best.miou:
            best = found
    network.load_state_dict(best.weights)
    tested = segment(network, data, data.parts["test"])
    return Finetuned(tested, best.step, best.validation_miou, best.rate)


@dataclass(frozen=True)
class _Candidate:
    """Weights of one training, with their rate and step, and the mIoU of each validation."""

    rate: float
    step: int
    validation_miou: dict[int, float]
    weights: dict[str, Tensor]

    @property
    def miou(self) -> float:
        return max(self.validation_miou.values(), default=0.0)


def _train(
    network: SegmentationNetwork,
    data: LabelledFrames,
    samples: Int64[np.ndarray, " samples"],
    config: FinetuneConfig,
    seed: int,
) -> _Candidate:
    """Train at one pair of rates; return the weights of the best validation, or the last."""
    optimizer = _optimizer(network, config)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(config, step))
    random = np.random.default_rng(seed)
    shown = spread(data.parts["validation"], config.validation_frames)
    validated, found = validation_steps(config), dict[int, float]()
    best_step, kept = config.steps, dict[str, Tensor]()
    for step in range(1, config.steps + 1):
        _step(network, data, random.choice(samples, config.batch_size), random, config, optimizer)
        schedule.step()
        if step in validated:
            found[step] = segment(network, data, shown).scores.miou
            if found[step] >= max(found.values()):
                best_step, kept = step, _copy(network)
    return _Candidate(config.trunk_rate, best_step, found, kept or _copy(network))


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def validation_steps(config: FinetuneConfig) -> set[int]:
    """The steps after which to validate; with few steps some of them coincide."""
    if config.choose == "last":
        return set()
    count = config.validations
    return {max(1, round(config.steps * (i + 1) / count)) for i in range(count)}


def _optimizer(network: SegmentationNetwork, config: FinetuneConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        [
            {"params": network.student.parameters(), "lr": config.trunk_rate},
            {"params": network.head.parameters(), "lr": config.head_rate},
        ],
        weight_decay=config.weight_decay,
    )


def segment(
    network: SegmentationNetwork, data: LabelledFrames, samples: Int64[np.ndarray, " samples"]
) -> PartScores:
    """Scores over all labelled points of some frames, in eval mode; the network then trains on."""

    def predict(sample: int) -> tuple[LabelledFrame, Int64[np.ndarray, " voxels"]]:
        frame = data.frame(sample)
        with torch.inference_mode():
            logits = network([frame])
        return frame, logits.argmax(dim=1).cpu().numpy()

    network.eval()
    found = data.score(samples, predict)
    network.train()
    return found


def _step(
    network: SegmentationNetwork,
    data: LabelledFrames,
    samples: Int64[np.ndarray, " batch"],
    random: np.random.Generator,
    config: FinetuneConfig,
    optimizer: torch.optim.Optimizer,
) -> None:
    frames = [data.frame(int(sample), random, config.augment) for sample in samples]
    device = next(network.parameters()).device
    target = torch.from_numpy(np.concatenate([frame.voxel_label for frame in frames])).to(device)
    if not (target != IGNORE).any():
        return
    logits = network(frames)
    optimizer.zero_grad()
    functional.cross_entropy(logits, target, ignore_index=IGNORE).backward()
    optimizer.step()


def _rate(config: FinetuneConfig, step: int) -> float:
    warm = max(1, round(config.warmup * config.steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(config.steps - warm, 1))))
