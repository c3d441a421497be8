"""The settings of a training run."""

from dataclasses import dataclass, field
from typing import Literal

from p2pkit.errors import ConfigError
from p2pkit.losses import REGRESSIONS, LossConfig
from p2pkit.pipelines.evaluate.split import BY_SCENE, SplitConfig
from p2pkit.settings import check_choices, check_numbers
from p2pkit.stream.batches import StreamConfig

AT_LEAST_ONE = ("embedding_channels", "steps", "accumulate", "checkpoint_every", "keep_checkpoints")


@dataclass(frozen=True)
class OptimizerConfig:
    """SGD and its schedule. The defaults are the paper's but for the schedule.

    Args:
        learning_rate: peak.
        momentum: of SGD.
        weight_decay: of SGD, on all parameters.
        warmup_steps: the rate rises linearly over these steps.
        schedule: after warm-up: `exponential` multiplies the rate by `decay` every 1000 steps, as
            PointContrast does (the paper does not say), `cosine` lowers it to 0 at the last step,
            `constant` leaves it.
        decay: factor per 1000 steps of `exponential`.
        clip_norm: gradients are scaled down to this total norm; 0 leaves them.
    """

    learning_rate: float = 0.5
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup_steps: int = 0
    schedule: Literal["exponential", "cosine", "constant"] = "exponential"
    decay: float = 0.99
    clip_norm: float = 0.0

    def __post_init__(self) -> None:
        check_choices(self, prefix="optimizer.")
        check_numbers(self, ("learning_rate", "decay"), prefix="optimizer.", positive=True)
        names = ("momentum", "weight_decay", "warmup_steps", "clip_norm")
        check_numbers(self, names, prefix="optimizer.")


@dataclass(frozen=True)
class OnlineProbeConfig:
    """A probe of the student every so many steps, on a fixed few labelled frames.

    Args:
        every: steps between probes, counted from the start; 0 probes never.
        store: path or URL of a store with labels; None takes the run's own (first) store.
        labels: a name out of `label_sets.LABEL_SETS`.
        frames: so many of the training part's frames fit the classifiers, and so many of the
            validation part's score them.
        points_per_frame: labelled points drawn from each training frame.
        neighbours: of the nearest-neighbour classifier.
        best_by: whose mIoU decides which weights RUN/best keeps.
        validation, test: shares of the frames, cut by scene as `evaluate` does; test is left alone.
        split: what the parts are made of, also as for `evaluate`.
    """

    every: int = 0
    store: str | None = None
    labels: str = "stored"
    frames: int = 24
    points_per_frame: int = 300
    neighbours: int = 20
    best_by: Literal["linear", "knn"] = "linear"
    validation: float = 0.15
    test: float = 0.25
    split: SplitConfig = BY_SCENE

    def __post_init__(self) -> None:
        check_choices(self, prefix="probe.")
        if self.every < 0:
            raise ConfigError(f"probe.every is {self.every}; 0 (never) or more is possible")
        for name in ("frames", "points_per_frame", "neighbours"):
            if getattr(self, name) < 1:
                raise ConfigError(f"probe.{name} is {getattr(self, name)}; at least 1 is needed")
        if not (self.validation > 0 and self.test > 0 and self.validation + self.test < 1):
            raise ConfigError(
                f"probe.validation {self.validation} and probe.test {self.test} must be positive "
                "shares whose sum is below 1"
            )


@dataclass(frozen=True)
class WandbConfig:
    """A log at Weights & Biases, beside the run's own; it changes nothing of the training.

    Args:
        project: that the run is logged in; empty logs nowhere.
        entity: user or team that has the project; None takes the account's own.
        name: of the run there; None takes that of the run's folder.
    """

    project: str = ""
    entity: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one pretraining run; all that decides its weights.

    Args:
        store: path or URL of geometry and features.
        more_stores: paths or URLs of further stores that are mixed with the first.
        weights: share of each store in the mixture, the first store's first; none at all weighs
            each store by its number of frames.
        layer: the feature layer of every store; None takes the only one.
        superpixels: the layer of superpixels of every store, for the loss `superpixel`; None takes
            the only one.
        student: a name out of `p2pkit.networks.STUDENTS`.
        conv1_kernel_size: side of the student's first convolution (voxels); 5 as published.
        engine: what computes the sparse convolutions: `minkowski` (MinkowskiEngine, to be built
            once) or `torch` (slower, nothing to build); they differ by rounding only.
        embedding_channels: width of the space in which points and pixels meet.
        pixel_head: `trained` is PPKT's linear projection of the teacher's features; `fixed` takes
            them as they are, and points are projected to the teacher's channels.
        loss: the objective.
        optimizer: SGD and its schedule.
        stream: order, augmentation, voxels, pairs.
        steps: length of the schedule.
        accumulate: micro-batches into which each process splits its part of a global batch, one
            after the other in memory. The contrast is within a micro-batch (or across the same one
            of all processes), and so are the statistics of the norms.
        precision: `bfloat16` or `float16` for the projections (autocast, with a scaled loss for
            float16); the student and the loss stay in float32.
        sync_norm: with several processes, norms take the statistics of all of them.
        holdout: number of frames of each store, the last in key order, that are never trained on.
        checkpoint_every: steps between checkpoints.
        keep_checkpoints: how many of the newest are kept.
        probe: of the student during training; the best weights by it are kept beside the newest.
        wandb: a log at Weights & Biases; none without a project.
        seed: of the initial weights.
        device: where the networks run, `cpu` or `cuda`.
    """

    store: str
    more_stores: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    layer: str | None = None
    superpixels: str | None = None
    student: str = "Res16UNet34C"
    conv1_kernel_size: int = 5
    engine: Literal["minkowski", "torch"] = "minkowski"
    embedding_channels: int = 128
    pixel_head: Literal["trained", "fixed"] = "trained"
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    stream: StreamConfig = field(default_factory=StreamConfig)
    steps: int = 60_000
    accumulate: int = 1
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    sync_norm: bool = True
    holdout: int = 0
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    probe: OnlineProbeConfig = field(default_factory=OnlineProbeConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_choices(self)
        for name in AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.loss.name in REGRESSIONS and self.pixel_head == "trained":
            raise ConfigError(
                f"loss.name is {self.loss.name!r} and pixel_head 'trained': without negatives both "
                "sides would become one constant. Set pixel_head=fixed"
            )
        if self.holdout < 0:
            raise ConfigError(f"holdout is {self.holdout}; it is a number of frames, 0 or more")
        if self.weights and len(self.weights) != 1 + len(self.more_stores):
            raise ConfigError(
                f"weights are {list(self.weights)} for {1 + len(self.more_stores)} stores; give "
                "one to each store, or none to weigh each by its number of frames"
            )
