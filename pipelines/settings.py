"""The settings of stages that are one file each: check, retrieval, view, report, pretrain, …"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from p2pkit.errors import ConfigError
from p2pkit.settings import Location, Seed, choices, option, recording, settings_class
from p2pkit.settings.layers import TeacherOptions

RANDOM_SEEDS: Any = Field(
    default=2,
    ge=1,
    description="Number of networks with random weights that the probe compares with.",
)


@settings_class
class CheckConfig:
    """Settings of one check."""

    source: Path | None = Field(
        description="A recording's folder, or a store; None for generated scenes."
    )
    out: Path = Field(
        default=Path("check"),
        description="Folder for check.json, check.html and overlays.",
        json_schema_extra=option(),
    )
    dataset: str | None = Field(
        default=None,
        description=f"Format of a recording: {', '.join(choices.DATASETS)}. Recognised by its "
        "files if not named; None for a store.",
        json_schema_extra=option(),
    )
    frames: int = Field(
        default=16,
        ge=1,
        description="Frames to test, spread over the recording; their neighbours are also read if "
        "they have poses.",
        json_schema_extra=option(),
    )
    camera: Path | None = recording.CAMERA
    streams: tuple[str, ...] = recording.STREAMS
    depth_units: float | None = recording.DEPTH_UNITS
    seed: Seed = Field(
        default=0,
        description="Random seed of generated scenes.",
        json_schema_extra=option(),
    )


@settings_class
class RetrievalConfig:
    """Settings of one retrieval test."""

    run: Path = Field(description="A pretraining run; its newest checkpoint is tested.")
    store: Location = Field(description="Path or URL of the store with the frames.")
    pairs: int = Field(
        default=1024,
        ge=2,
        description="Candidates per frame; frames with fewer usable pairs give all of theirs.",
        json_schema_extra=option(),
    )
    seed: Seed = Field(
        default=0,
        description="Random seed of the drawn pairs and of the random networks.",
        json_schema_extra=option(),
    )
    statistics_frames: int = Field(
        default=32,
        ge=1,
        description="Frames, evenly spread, that set the statistics of the networks' norms.",
    )
    device: str | None = Field(
        default=None,
        description="Where networks run: cpu or cuda. By default the run's own device, or the "
        "CPU if that is missing.",
        json_schema_extra=option(),
    )


@settings_class
class ViewConfig:
    """Which frames to show, and how."""

    store: Location = Field(description="Path or URL of the store.")
    keys: tuple[str, ...] = Field(
        default=(),
        description="Keys of the frames; by default the first frame, or for `rrd` the first "
        "`limit` frames.",
    )
    png: Path | None = Field(
        default=None,
        description="Picture to write, one row for each frame. Without any output option, KEY.png "
        "in the current folder.",
        json_schema_extra=option(),
    )
    ply: Path | None = Field(
        default=None,
        description="Point cloud to write, for one frame.",
        json_schema_extra=option(),
    )
    rrd: Path | None = Field(
        default=None,
        description="Rerun recording to write; needs p2pkit[rerun].",
        json_schema_extra=option(),
    )
    run: Path | None = Field(
        default=None,
        description="A run on the store, whose student is shown next to the teacher.",
        json_schema_extra=option(),
    )
    layer: str | None = Field(
        default=None,
        description="Layer whose features are shown; None takes the only layer, or the run's.",
        json_schema_extra=option(),
    )
    limit: int = Field(
        default=100,
        ge=1,
        description="Limit `rrd` to N frames if no key is named.",
        json_schema_extra=option(metavar="N"),
    )
    window: bool = Field(
        default=False,
        description="Open Open3D's viewer; needs a display.",
        json_schema_extra=option(),
    )


@settings_class
class ReportConfig:
    """What to report on a run."""

    run: Path = Field(
        description="A pretraining run; results of its probe and of `p2pkit retrieval`, if any, "
        "are shown."
    )
    store: Location = Field(description="Path or URL of the store that it was trained on.")
    out: Path = Field(description="The HTML file to write.", json_schema_extra=option())
    frames: int = Field(
        default=3,
        ge=1,
        description="Frames to draw; for a run, held-out ones if there are any.",
        json_schema_extra=option(),
    )
    seed: Seed = Field(
        default=0,
        description="Random seed of the student drawn next to the pretrained one.",
    )
    evaluation: Path | None = Field(
        default=None,
        description="For a run: folder written by `p2pkit evaluate`. None searches for one of the "
        "run's weights in and next to the run.",
        json_schema_extra=option(),
    )


@settings_class
class StoreReportConfig:
    """What to report on a store."""

    store: Location = Field(description="Path or URL of the store.")
    out: Path = Field(description="The HTML file to write.")
    layer: str | None = Field(
        default=None,
        description="For a store: layer whose features are shown; None takes the first feature "
        "layer.",
        json_schema_extra=option(),
    )
    frames: int = Field(default=3, ge=1, description="Frames to draw.")


@settings_class
class ExportConfig:
    """Settings of one export."""

    run: Path = Field(description="A pretraining run.")
    out: Path = Field(description="The file to write; must not exist.", json_schema_extra=option())
    form: Literal[
        "safetensors", "pointcontrast", "slidr", "minkunet", "pointcept", "waffleiron"
    ] = Field(
        default="safetensors",
        description="Code base whose parameter names the file uses.",
        json_schema_extra=option("--to"),
    )
    projection: bool = Field(
        default=False,
        description="Also write the point projection, as the network's last layer.",
        json_schema_extra=option(),
    )
    which: Literal["latest", "best"] = Field(
        default="latest",
        description="Which checkpoint of the run: the latest, or the best by its online probe.",
        json_schema_extra=option(),
    )


DECIDED = {
    **dict.fromkeys(("steps", "epochs"), "the length of training is that of `steps` or `minutes`"),
    **dict.fromkeys(("store", "more_stores"), "training reads the store that was extracted"),
}
"""Settings of a training that `pretrain` has itself, and where they come from."""


@settings_class
class PretrainConfig:
    """Settings of one command from a recording to a checkpoint."""

    source: Path | None = Field(description="A recording's folder; None for generated rooms.")
    out: Path = Field(
        description="Folder for the check, the store, the run and the report; by default "
        "RECORDING-pretrained.",
        json_schema_extra=option(),
    )
    dataset: str | None = Field(
        default=None,
        description="Format of the recording, such as nyuv2. Recognised by its files if not named.",
        json_schema_extra=option(),
    )
    minutes: float | None = Field(
        default=None,
        gt=0,
        description="Minutes of training. By default 20 on a CPU, and on a GPU the preset's steps. "
        "The first ten steps are timed; the number of steps that fit is then fixed.",
        json_schema_extra=option(default="20 on a CPU, the preset's steps on a GPU"),
    )
    steps: int | None = Field(
        default=None,
        ge=1,
        description="Steps of training, in place of those that fit into `minutes`.",
    )
    limit: int | None = recording.LIMIT
    every: int = recording.EVERY
    camera: Path | None = recording.CAMERA
    depth_units: float | None = recording.DEPTH_UNITS
    streams: tuple[str, ...] = recording.STREAMS
    teacher: TeacherOptions = Field(
        default=TeacherOptions(),
        description="The 2D network; its device is that of `device`.",
    )
    training: tuple[str, ...] = Field(
        default=(),
        description="Training settings that override the preset's, each as NAME=VALUE, such as "
        "stream.sample.voxel_size=0.1.",
    )
    random_seeds: int = RANDOM_SEEDS
    device: str | None = Field(
        default=None,
        description="Where networks run: cpu or cuda. By default a GPU if torch can use one.",
        json_schema_extra=option(default="a GPU if torch can use one"),
    )
    force: bool = Field(
        default=False,
        description="Continue even if the check of the recording fails.",
        json_schema_extra=option(),
    )
    seed: Seed = Field(
        default=0,
        description="Random seed of the student's weights, of the order, and of generated rooms.",
        json_schema_extra=option(),
    )

    def __post_init__(self) -> None:
        if self.steps is not None and self.minutes is not None:
            raise ConfigError(
                f"steps is {self.steps} and minutes {self.minutes:g}, but both set the length of "
                "training; keep one"
            )
        for one in self.training:
            if reason := DECIDED.get(one.partition("=")[0].strip()):
                raise ConfigError(f"training sets {one}; {reason}")


@settings_class
class DemoConfig:
    """Settings of one demo."""

    out: Path = Field(
        default=Path("demo"),
        description="Folder for the store, the run and the report.",
        json_schema_extra=option(),
    )
    frames: int = Field(
        default=48,
        ge=2,
        le=48,
        description="Frames of generated rooms to extract, 12 per room; the last room is held out.",
        json_schema_extra=option(),
    )
    steps: int = Field(
        default=100, ge=1, description="Steps of pretraining.", json_schema_extra=option()
    )
    random_seeds: int = RANDOM_SEEDS
    seed: Seed = Field(
        default=0,
        description="Random seed of the rooms, the student's weights, and everything drawn.",
        json_schema_extra=option(),
    )


@settings_class
class TransferConfig:
    """What to copy between a folder and an object store."""

    source: Location = Field(description="Path or URL of a complete store.")
    target: Location = Field(
        description="URL or path to copy it to; one of the two is a local path."
    )
    layers: tuple[str, ...] = Field(
        default=(), description="Layers to copy in addition to the geometry; by default all."
    )
    workers: int = Field(default=4, ge=1, description="Shards copied at the same time.")
