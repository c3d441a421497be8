"""The settings of an evaluation and of a probe."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from p2pkit.errors import ConfigError
from p2pkit.settings import Location, Seed, option, settings_class
from p2pkit.settings.evaluation import ProbeConfig
from p2pkit.settings.stream import AugmentConfig, Input

Mode = Literal["linear", "knn", "finetune", "detect"]
Rate = Annotated[float, Field(gt=0)]
Percent = Annotated[float, Field(gt=0, le=100)]
Which = Literal["latest", "best"]


def check_shares(validation: float, test: float, *, prefix: str = "") -> None:
    """Raise ConfigError if validation and test leave nothing to train on."""
    if validation + test >= 1:
        raise ConfigError(
            f"{prefix}validation {validation} and {prefix}test {test} must be positive shares "
            "whose sum is below 1"
        )


@settings_class
class SplitConfig:
    """What the training, validation and test parts are made of."""

    unit: Literal["scene", "time-block"] = Field(
        default="scene",
        description="scene keeps each scene in one part; time-block cuts a single recording into "
        "runs of its frames with a gap between them, which says nothing about new scenes.",
        json_schema_extra=option("--split-unit"),
    )
    test_scenes: tuple[str, ...] = Field(
        default=(),
        description="Test scenes by name, with * and ? as in file names, or a file of names; "
        "`official`, or official:FILE with its list, for the benchmark's own; the last ones if "
        "none is named.",
        json_schema_extra=option(metavar="NAMES|FILE|official"),
    )
    block_frames: int = Field(
        default=2, ge=1, description="Frames per time block; labels are given to whole blocks."
    )
    gap_frames: int = Field(
        default=2,
        ge=1,
        description="Frames left out between two parts that consist of time blocks.",
    )

    def __post_init__(self) -> None:
        if self.unit == "time-block" and self.test_scenes:
            raise ConfigError(
                f"test_scenes are {list(self.test_scenes)}, but time blocks share one scene; use "
                "only one of them"
            )


BY_SCENE = SplitConfig()


@settings_class
class FrozenConfig:
    """How frozen features are classified."""

    points_per_frame: int = Field(
        default=1000, ge=1, description="Labelled points drawn from each training frame."
    )
    statistics_frames: int = Field(
        default=32,
        ge=1,
        description="Training frames, evenly spread, that recompute the batch norms' statistics, "
        "for pretrained and random weights alike; their labels are not used.",
    )
    neighbours: int = Field(
        default=20,
        ge=1,
        description="Neighbours of the nearest-neighbour classifier, by cosine, votes weighted by "
        "similarity.",
    )
    most_neighbours: int = Field(
        default=20_000,
        ge=1,
        description="Most training points of the nearest-neighbour classifier, drawn at random.",
    )
    probe: ProbeConfig = Field(default=ProbeConfig(), description="The linear classifier.")


@settings_class
class FinetuneConfig:
    """How a network is fine-tuned; the same for pretrained and random weights."""

    steps: int = Field(default=200, ge=1, description="Updates.")
    batch_size: int = Field(default=4, ge=1, description="Frames per step.")
    trunk_rate: float = Field(default=2e-3, gt=0, description="Peak learning rate of the student.")
    scratch_rate: Rate | None = Field(
        default=None,
        description="Peak learning rate of a student with random weights, whose best rate is often "
        "higher. None uses `trunk_rate`.",
    )
    head_rate: float = Field(default=1e-2, gt=0, description="Peak learning rate of the new layer.")
    rates: tuple[Rate, ...] = Field(
        default=(),
        description="Peak rates of the student to choose from, in place of `trunk_rate`: each set "
        "of weights and each draw takes the one with the best mIoU on the validation part. The new "
        "layer's rate stays in proportion. Without any, nothing is chosen.",
    )
    weight_decay: float = Field(default=1e-2, ge=0, description="Weight decay of AdamW.")
    warmup: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Share of the steps over which the rates rise; then they fall along a half "
        "cosine.",
    )
    choose: Literal["best", "last"] = Field(
        default="best",
        description="Which weights are tested: `best` takes those with the highest mIoU on the "
        "validation part, the later one in a tie; `last` takes those of the last step, and does "
        "not validate.",
    )
    validations: int = Field(
        default=5,
        ge=1,
        description="How often `best` validates, at equal intervals and after the last step.",
    )
    validation_frames: int = Field(
        default=200,
        ge=1,
        description="Maximum number of validation frames that `best` uses, evenly spread over the "
        "part, so that each scene counts by its length.",
    )
    augment: AugmentConfig = Field(
        default=AugmentConfig(color_jitter=0.1),
        description="Random changes to the training frames.",
    )

    def __post_init__(self) -> None:
        if len(self.rates) > 1 and self.choose == "last":
            raise ConfigError(
                f"finetune.rates are {self.rates}, which are compared on the validation part, but "
                "finetune.choose=last does not use it; give one rate, or set finetune.choose=best"
            )
        if self.rates and self.scratch_rate is not None:
            raise ConfigError(
                f"finetune.scratch_rate is {self.scratch_rate:g}, but finetune.rates "
                f"{self.rates} are tried for random weights, too; use only one of them"
            )


@settings_class
class DetectConfig:
    """How boxes are learned and detected; steps and rates are those of fine-tuning."""

    cells_per_box: int = Field(
        default=6,
        ge=1,
        description="Number of decoder cells, those nearest to a box's middle, that predict it.",
    )
    coarse_cells: float = Field(
        default=2.0,
        gt=0,
        description="Boxes are learned at stride 8 if the geometric mean of their sides is at "
        "least this many of its cells, else at stride 4.",
    )
    overlap: float = Field(
        default=0.25,
        gt=0,
        lt=1,
        description="3D IoU above which the less confident of two boxes of a class is dropped.",
    )
    most_boxes: int = Field(default=100, ge=1, description="Most boxes detected in a frame.")


@settings_class
class EvaluateConfig:
    """Settings of one evaluation."""

    runs: tuple[Path, ...] = Field(
        min_length=1, description="Pretraining runs, each named after its folder."
    )
    store: Location = Field(
        description="A store with labels, by path or URL.", json_schema_extra=option("--on")
    )
    out: Path = Field(
        description="Folder of the report: cells/, report.json, report.md and the plots.",
        json_schema_extra=option(),
    )
    test_store: Location | None = Field(
        default=None,
        description="Test on all frames of this store, which has the same classes; --on then "
        "trains and validates.",
        json_schema_extra=option(),
    )
    predictions: Path | None = Field(
        default=None,
        description="Folder for the predictions of the test part, one folder for each cell: in the "
        "benchmark's submission form for scannet-scenes and kitti-odometry, else a .npy per frame.",
        json_schema_extra=option(),
    )
    checkpoints: dict[str, Path] = Field(
        default_factory=dict,
        description="Further weights by name, in files of published networks; the student is that "
        "of the runs.",
        json_schema_extra=option("--checkpoint", metavar="NAME=FILE"),
    )
    labels: str = Field(
        default="stored",
        description="Label set: stored or nyu13.",
        json_schema_extra=option(),
    )
    modes: tuple[Mode, ...] = Field(
        default=("linear",),
        min_length=1,
        description="What to measure: linear, knn, finetune, or several separated by commas; or "
        "detect, by itself.",
        json_schema_extra=option("--mode"),
    )
    fractions: tuple[Percent, ...] = Field(
        default=(1.0, 5.0, 10.0, 100.0),
        min_length=1,
        description="Percentages of the training part's scenes whose labels are used, in whole "
        "scenes.",
        json_schema_extra=option(),
    )
    seeds: int = Field(
        default=3,
        ge=1,
        description="Number of draws per fraction: of scenes, disjoint while enough are left, and "
        "of initial weights of the head and of scratch.",
        json_schema_extra=option(),
    )
    first_seed: Seed = Field(
        default=0,
        description="Number of the first draw: choose settings on some draws, report later ones.",
        json_schema_extra=option(),
    )
    validation: float = Field(
        default=0.15,
        gt=0,
        lt=1,
        description="Share of validation frames, cut by scene before the test part in key order.",
    )
    test: float = Field(
        default=0.25,
        gt=0,
        lt=1,
        description="Share of test frames, cut by scene at the end of the key order.",
    )
    split: SplitConfig = Field(
        default=BY_SCENE,
        description="Named test scenes, or parts of one recording by time.",
    )
    frozen: FrozenConfig = Field(
        default=FrozenConfig(), description="Settings of the modes linear and knn."
    )
    finetune: FinetuneConfig = Field(
        default=FinetuneConfig(), description="Settings of the modes finetune and detect."
    )
    detect: DetectConfig = Field(
        default=DetectConfig(), description="Further settings of the mode detect."
    )
    device: str = Field(
        default="cpu",
        description="Where networks run: cpu or cuda.",
        json_schema_extra=option(),
    )
    workers: int = Field(
        default=1,
        ge=1,
        description="Processes that work at the same time.",
        json_schema_extra=option(),
    )
    which: Which = Field(
        default="latest",
        description="Which checkpoint of the runs: the latest, or the best by their online probe.",
        json_schema_extra=option(),
    )
    axes: Literal["run", "stored"] = Field(
        default="run",
        description="`run` turns points of other recordings to the up axis of pretraining; "
        "`stored` leaves them unchanged.",
    )
    blank: tuple[Input, ...] = Field(
        default=(),
        description="Inputs of the student whose channels are 0 in every frame, such as color for "
        "data without colours; `colored` goes with `color`. The stores may lack them.",
    )

    def __post_init__(self) -> None:
        check_shares(self.validation, self.test)
        if "detect" in self.modes and (len(self.modes) > 1 or self.labels != "stored"):
            raise ConfigError(
                f"modes are {', '.join(self.modes)} and labels is {self.labels!r}; detect has the "
                "classes of the store's boxes, so give it its own --out, without other modes or "
                "--labels"
            )
        if "detect" in self.modes and self.predictions is not None:
            raise ConfigError(
                f"predictions is {self.predictions}, but detect writes no predictions; leave it out"
            )
        if self.test_store is not None and self.split.test_scenes:
            raise ConfigError(
                f"test_store {self.test_store} is the whole test part; omit the test scenes"
            )


@settings_class
class ProbeStageConfig:
    """Settings of `p2pkit evaluate RUN --preset probe`."""

    run: Path = Field(description="A pretraining run.")
    store: Location = Field(
        description="A store with labels, by path or URL.", json_schema_extra=option("--on")
    )
    test_fraction: float = Field(
        default=0.25,
        gt=0,
        lt=1,
        description="Share of test frames, the last in key order; the cut moves to the nearest "
        "change of sequence.",
        json_schema_extra=option(),
    )
    points_per_frame: int = Field(
        default=1000, ge=1, description="Labelled points drawn from each training frame."
    )
    statistics_frames: int = Field(
        default=32,
        ge=1,
        description="Training frames that set every network's batch-norm statistics.",
    )
    random_seeds: int = Field(
        default=1,
        ge=1,
        description="Networks with random weights to compare with; their mean is reported.",
        json_schema_extra=option(),
    )
    seed: Seed = Field(
        default=0,
        description="Random seed of the points drawn and of the first random network.",
        json_schema_extra=option(),
    )
    probe: ProbeConfig = Field(default=ProbeConfig(), description="The linear classifier.")
    which: Which = Field(
        default="latest",
        description="Which checkpoint of the run: the latest, or the best by its online probe.",
        json_schema_extra=option(),
    )
    test_scenes: tuple[str, ...] = Field(
        default=(),
        description="Test scenes instead of that share, by name, with * and ?, or a file of names, "
        "or official, as for evaluate.",
        json_schema_extra=option(metavar="NAMES|FILE|official"),
    )
    device: str | None = Field(
        default=None,
        description="Where networks run: cpu or cuda. By default the run's own device, or the CPU "
        "if that is missing.",
        json_schema_extra=option(),
    )
    blank: tuple[Input, ...] = Field(
        default=(), description="Inputs whose channels are 0 in every frame, as for evaluate."
    )
