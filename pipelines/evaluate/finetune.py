"""Fine-tuning a student with a new head on a few labelled frames; the head of segmentation."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from p2pkit.evaluation.label_sets import IGNORE
from p2pkit.networks.students import Student
from p2pkit.pipelines.evaluate.frames import (
    Keep,
    LabelledFrame,
    LabelledFrames,
    PartScores,
    network_inputs,
)
from p2pkit.pipelines.evaluate.settings import FinetuneConfig
from p2pkit.pipelines.held_out import spread
from p2pkit.stream.augmentation import AugmentConfig


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


@runtime_checkable
class Scored(Protocol):
    """Scores of a part of the frames."""

    @property
    def value(self) -> float:
        """The score by which weights are chosen; larger is better."""
        ...


Scores = TypeVar("Scores", bound=Scored, covariant=True)


@runtime_checkable
class Task(Protocol[Scores]):
    """What a student is fine-tuned for."""

    def network(self, student: Student) -> nn.Module:
        """A network with the modules `student` and `head`; the head's weights are random."""
        ...

    def loss(
        self,
        network: nn.Module,
        samples: Int64[np.ndarray, " batch"],
        random: np.random.Generator,
        augment: AugmentConfig,
    ) -> Tensor | None:
        """Of a batch of augmented frames; None where they have no labels."""
        ...

    def scores(self, network: nn.Module, samples: Int64[np.ndarray, " samples"]) -> Scores:
        """Over all labels of some frames; the network is in eval mode."""
        ...


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The class of every point, by a linear layer on the student's features.

    Args:
        data: the labelled frames.
        keep: as in `LabelledFrames.score`.
    """

    data: LabelledFrames
    keep: Keep | None = None

    def network(self, student: Student) -> SegmentationNetwork:
        """The student with a new linear layer."""
        return SegmentationNetwork(student, len(self.data.labels.classes))

    def loss(
        self,
        network: nn.Module,
        samples: Int64[np.ndarray, " batch"],
        random: np.random.Generator,
        augment: AugmentConfig,
    ) -> Tensor | None:
        """Cross-entropy of the voxels that have a class."""
        frames = [self.data.frame(int(sample), random, augment) for sample in samples]
        labels = np.concatenate([frame.voxel_label for frame in frames])
        target = torch.from_numpy(labels).to(next(network.parameters()).device)
        if not (target != IGNORE).any():
            return None
        logits = network(frames)
        return functional.cross_entropy(logits, target, ignore_index=IGNORE)

    def scores(self, network: nn.Module, samples: Int64[np.ndarray, " samples"]) -> PartScores:
        """Over all labelled points of some frames."""

        def predict(sample: int) -> tuple[LabelledFrame, Int64[np.ndarray, " voxels"]]:
            frame = self.data.frame(sample)
            with torch.inference_mode():
                logits = network([frame])
            return frame, logits.argmax(dim=1).cpu().numpy()

        return self.data.score(samples, predict, self.keep)


@dataclass(frozen=True)
class Finetuned(Generic[Scores]):
    """The result of one fine-tuning.

    Args:
        tested: scores on the test part.
        step: whose weights were tested; the first has number 1.
        validated: score of each validation, by step, at the rate that was tested.
        rate: peak learning rate of the student that was tested.
    """

    tested: Scores
    step: int
    validated: dict[int, float]
    rate: float


def finetune(
    student: Student,
    data: LabelledFrames,
    samples: Int64[np.ndarray, " samples"],
    config: FinetuneConfig,
    *,
    seed: int,
    device: str = "cpu",
    task: Task[Scores],
    test: Task[Scores] | None = None,
) -> Finetuned[Scores]:
    """Train on `samples`, choose weights and rate as `config` says, test them once.

    Args:
        student: with its initial weights; changed in place.
        data: the labelled frames.
        samples: which frames of the training part have labels.
        config: of the training.
        seed: of the head's weights, the order and the augmentation.
        device: where.
        task: what to train for.
        test: how the test part is scored, if otherwise than in validations.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = task.network(student).to(device)
    shown = spread(data.parts["validation"], config.validation_frames)
    training = _Training(network, task, samples, shown, seed)
    initial, best = _copy(network), _Candidate(0.0, 0, {}, {})
    for rate in config.rates or (config.trunk_rate,):
        network.load_state_dict(initial)
        head_rate = rate * config.head_rate / config.trunk_rate
        at_rate = replace(config, trunk_rate=rate, head_rate=head_rate)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # of layers that draw as they train
            found = _train(training, at_rate)
        if not best.weights or found.value > best.value:
            best = found
    network.load_state_dict(best.weights)
    tested = _scores(network, test or task, data.parts["test"])
    return Finetuned(tested, best.step, best.validated, best.rate)


@dataclass(frozen=True, eq=False)
class _Training:
    """What is trained on which frames, whatever the rate."""

    network: nn.Module
    task: Task[Scored]
    samples: Int64[np.ndarray, " samples"]
    shown: Int64[np.ndarray, " validation"]
    seed: int


@dataclass(frozen=True)
class _Candidate:
    """Weights of one training, with their rate and step, and the score of each validation."""

    rate: float
    step: int
    validated: dict[int, float]
    weights: dict[str, Tensor]

    @property
    def value(self) -> float:
        return max(self.validated.values(), default=0.0)


def _train(training: _Training, config: FinetuneConfig) -> _Candidate:
    """Train at one pair of rates; return the weights of the best validation, or the last."""
    network, task = training.network, training.task
    optimizer = _optimizer(network, config)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(config, step))
    random = np.random.default_rng(training.seed)
    steps, found = validation_steps(config), dict[int, float]()
    best_step, kept = config.steps, dict[str, Tensor]()
    for step in range(1, config.steps + 1):
        batch = random.choice(training.samples, config.batch_size)
        loss = task.loss(network, batch, random, config.augment)
        if loss is not None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        if step in steps:
            found[step] = _scores(network, task, training.shown).value
            if found[step] >= max(found.values()):
                best_step, kept = step, _copy(network)
    return _Candidate(config.trunk_rate, best_step, found, kept or _copy(network))


def _scores(
    network: nn.Module, task: Task[Scores], samples: Int64[np.ndarray, " samples"]
) -> Scores:
    """Scores in eval mode; the network then trains on."""
    network.eval()
    found = task.scores(network, samples)
    network.train()
    return found


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def validation_steps(config: FinetuneConfig) -> set[int]:
    """The steps after which to validate; with few steps some of them coincide."""
    if config.choose == "last":
        return set()
    count = config.validations
    return {max(1, round(config.steps * (i + 1) / count)) for i in range(count)}


def _optimizer(network: nn.Module, config: FinetuneConfig) -> torch.optim.Optimizer:
    parts = {"student": config.trunk_rate, "head": config.head_rate}
    groups = [
        {"params": network.get_submodule(name).parameters(), "lr": rate}
        for name, rate in parts.items()
    ]
    return torch.optim.AdamW(groups, weight_decay=config.weight_decay)


def _rate(config: FinetuneConfig, step: int) -> float:
    warm = max(1, round(config.warmup * config.steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(config.steps - warm, 1))))
