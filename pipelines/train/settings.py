"""The settings of a training run."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from p2pkit.errors import ConfigError
from p2pkit.pipelines.evaluate.settings import BY_SCENE, SplitConfig, check_shares
from p2pkit.settings import Location, Seed, choices, option, settings_class
from p2pkit.settings.losses import REGRESSIONS, LossConfig
from p2pkit.settings.stream import StreamConfig
from p2pkit.settings.students import InputLayer, WaffleIronConfig


@settings_class
class OptimizerConfig:
    """The optimiser and its schedule. The defaults are the paper's, except for the schedule."""

    name: Literal["sgd", "adamw"] = Field(
        default="sgd",
        description="`sgd` as PPKT and SLidR train, or `adamw` (decoupled weight decay) as ScaLR "
        "does.",
    )
    learning_rate: float = Field(default=0.5, gt=0, description="Peak learning rate.")
    momentum: float = Field(
        default=0.9, ge=0, description="Momentum of SGD, or the first beta of AdamW, below 1."
    )
    dampening: float = Field(
        default=0.0, ge=0, description="Dampening of SGD's momentum; SLidR takes 0.1."
    )
    weight_decay: float = Field(default=1e-4, ge=0, description="Weight decay, on all parameters.")
    warmup_steps: int = Field(
        default=0, ge=0, description="Steps over which the rate rises linearly."
    )
    schedule: Literal["exponential", "cosine", "cosine-by-epoch", "constant"] = Field(
        default="exponential",
        description="After warm-up: `exponential` multiplies the rate by `decay` every 1000 steps, "
        "as PointContrast does (the paper does not say), `cosine` lowers it to 0 at the last step, "
        "`cosine-by-epoch` does so once after each pass over the first store, as SLidR does, "
        "`constant` leaves it.",
    )
    decay: float = Field(default=0.99, gt=0, description="Factor per 1000 steps of `exponential`.")
    clip_norm: float = Field(
        default=0.0,
        ge=0,
        description="Gradients are scaled down to this total norm; 0 turns it off.",
    )

    def __post_init__(self) -> None:
        if self.name == "adamw" and self.momentum >= 1:
            raise ConfigError(
                f"optimizer.momentum is {self.momentum}; expected below 1 with optimizer.name=adamw"
            )


@settings_class
class OnlineProbeConfig:
    """A periodic probe of the student on a few fixed labelled frames."""

    every: int = Field(
        default=0, ge=0, description="Steps between probes, counted from the start; 0 never probes."
    )
    store: Location | None = Field(
        default=None,
        description="Path or URL of a store with labels; None takes the run's own (first) store.",
    )
    labels: str = Field(default="stored", description="Label set: stored or nyu13.")
    frames: int = Field(
        default=24,
        ge=1,
        description="Frames of the training part that fit the classifiers, and frames of the "
        "validation part that score them.",
    )
    points_per_frame: int = Field(
        default=300, ge=1, description="Labelled points drawn from each training frame."
    )
    neighbours: int = Field(
        default=20, ge=1, description="Neighbours of the nearest-neighbour classifier."
    )
    best_by: Literal["linear", "knn"] = Field(
        default="linear", description="Classifier whose mIoU decides which weights RUN/best keeps."
    )
    validation: float = Field(
        default=0.15,
        gt=0,
        lt=1,
        description="Share of the frames that are scored, cut by scene as in `evaluate`.",
    )
    test: float = Field(
        default=0.25,
        gt=0,
        lt=1,
        description="Share of the frames reserved for testing, which the probe does not use.",
    )
    split: SplitConfig = Field(
        default=BY_SCENE, description="What the parts consist of, as in `evaluate`."
    )

    def __post_init__(self) -> None:
        check_shares(self.validation, self.test, prefix="probe.")


@settings_class
class WandbConfig:
    """A log at Weights & Biases, in addition to the run's own; it does not affect the training."""

    project: str = Field(default="", description="Project to log the run to; empty turns it off.")
    entity: str | None = Field(
        default=None,
        description="User or team that owns the project; None takes the account's default.",
    )
    name: str | None = Field(
        default=None, description="Name of the run; None takes that of the run's folder."
    )


@settings_class
class TrainConfig:
    """Settings of one pretraining run; all that decides its weights."""

    store: Location = Field(description="Path or URL of geometry and features.")
    more_stores: tuple[Location, ...] = Field(
        default=(), description="Paths or URLs of further stores to mix with the first."
    )
    weights: tuple[float, ...] = Field(
        default=(),
        description="Share of each store in the mixture, the first store's first. By default, each "
        "store is weighted by its number of frames.",
        json_schema_extra=option(metavar="W,W"),
    )
    layer: str | None = Field(
        default=None, description="The feature layer of every store; None takes the only one."
    )
    superpixels: str | None = Field(
        default=None,
        description="The layer of superpixels of every store, for the loss `superpixel`; None "
        "takes the only one.",
    )
    student: str = Field(
        default="Res16UNet34C",
        description=f"The 3D network: {', '.join(choices.STUDENTS)}.",
        json_schema_extra=option(),
    )
    conv1_kernel_size: int = Field(
        default=3,
        ge=1,
        description="Side of the student's first convolution (voxels): 3 in PointContrast and "
        "SLidR, 5 in MinkowskiEngine's MinkUNets and in SpUNet. Which one PPKT used is not known.",
    )
    waffleiron: WaffleIronConfig = Field(
        default=WaffleIronConfig(),
        description="What a WaffleIron sees of a frame, and its norms.",
    )
    engine: Literal["auto", "minkowski", "torch"] = Field(
        default="auto",
        description="What computes the sparse convolutions: `minkowski` (MinkowskiEngine, built "
        "once) or `torch` (slower, nothing to build); they differ by rounding only. `auto` takes "
        "MinkowskiEngine if it works; a run keeps the engine that it started with.",
    )
    init: Path | None = Field(
        default=None,
        description="File of weights that the student starts from: an export or a checkpoint of "
        "p2pkit, or one of Pointcept, Sonata, WaffleIron or ScaLR for the same network. None "
        "starts from random weights.",
    )
    init_inputs: InputLayer = Field(
        default="exact",
        description="With `init`, if the file has another number of input channels: `average` uses "
        "the mean over its channels for each of the student's, `random` leaves the input layer "
        "random, `exact` refuses the file.",
    )
    embedding_channels: int = Field(
        default=128,
        ge=1,
        description="Channels of the space in which points and pixels are compared.",
    )
    pixel_head: Literal["trained", "fixed"] = Field(
        default="trained",
        description="`trained` is PPKT's linear projection of the teacher's features; `fixed` "
        "takes them unchanged, and points are projected to the teacher's channels.",
    )
    loss: LossConfig = Field(default=LossConfig(), description="The loss.")
    optimizer: OptimizerConfig = Field(
        default=OptimizerConfig(), description="The optimiser and its schedule."
    )
    stream: StreamConfig = Field(
        default=StreamConfig(), description="Order, augmentation, voxels, pairs."
    )
    steps: int = Field(
        default=60_000,
        ge=1,
        description="Length of the schedule in steps.",
        json_schema_extra=option(default=""),
    )
    epochs: float | None = Field(
        default=None,
        gt=0,
        description="Length of the schedule in passes over the first store, in place of `steps`, "
        "which a run then derives from the store's size; None takes `steps`.",
    )
    accumulate: int = Field(
        default=1,
        ge=1,
        description="Micro-batches into which each process splits its part of a global batch, one "
        "after the other in memory. The contrast is within a micro-batch (or across the same one "
        "of all processes), and so are the statistics of the norms.",
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32",
        description="`bfloat16` or `float16` for the student and the projections (autocast, with a "
        "scaled loss for float16); sums over neighbours, norms and the loss stay in float32. "
        "MinkowskiEngine computes in float32 only: `engine` must be `torch` or `auto`.",
    )
    sync_norm: bool = Field(
        default=True,
        description="With several processes, norms use the statistics of all of them.",
    )
    holdout: int = Field(
        default=0,
        ge=0,
        description="Frames of each store, the last in key order, that are held out of training.",
    )
    holdout_scenes: tuple[str, ...] = Field(
        default=(),
        description="Scenes of each store that are held out as well, by name, with * and ?; "
        "`official` for the benchmark's test part, or official:FILE, as for evaluate.",
    )
    checkpoint_every: int = Field(default=1000, ge=1, description="Steps between checkpoints.")
    keep_checkpoints: int = Field(
        default=2, ge=1, description="How many of the newest checkpoints to keep."
    )
    probe: OnlineProbeConfig = Field(
        default=OnlineProbeConfig(),
        description="Probe of the student during training; its best weights are kept in addition "
        "to the newest.",
    )
    wandb: WandbConfig = Field(
        default=WandbConfig(), description="A log at Weights & Biases; off without a project."
    )
    seed: Seed = Field(
        default=0,
        description="Random seed of the initial weights; as an option, of everything random.",
        json_schema_extra=option(default=""),
    )
    device: str = Field(
        default="cpu",
        description="Where the networks run: cpu or cuda.",
        json_schema_extra=option(default=""),
    )

    def __post_init__(self) -> None:
        if self.loss.name in REGRESSIONS and self.pixel_head == "trained":
            raise ConfigError(
                f"loss.name is {self.loss.name!r} and pixel_head 'trained': without negatives both "
                "sides would collapse to a constant. Set pixel_head=fixed"
            )
        if self.init is None and self.init_inputs != "exact":
            raise ConfigError(
                f"init_inputs is {self.init_inputs!r}, but no weights are named to start from: set "
                "init=FILE"
            )
        if self.weights and len(self.weights) != 1 + len(self.more_stores):
            raise ConfigError(
                f"weights are {list(self.weights)} for {1 + len(self.more_stores)} stores; give "
                "one for each store, or none to weight each by its number of frames"
            )
