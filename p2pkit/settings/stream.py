"""How frames become training batches: augmentation, samples, batches."""

from math import hypot
from typing import Annotated, Literal

from pydantic import Field

from p2pkit.errors import ConfigError
from p2pkit.settings import Seed, settings_class

Axis = tuple[float, float, float]
Alignment = Literal["measured", "slidr"]
PairSelection = Literal["random", "one-per-voxel", "one-per-cell"]
TeacherView = Literal["image", "random", "random-per-pair"]
Grid = Literal["cubic", "cylindrical"]
Input = Literal["color", "colored", "intensity", "height", "position", "range", "normal", "ones"]
Probability = Annotated[float, Field(ge=0, le=1)]
Degrees = Annotated[float, Field(ge=0, le=180)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


def check_up_axis(axis: Axis) -> None:
    """Raise ConfigError unless the axis is a unit vector."""
    if not abs(hypot(*axis) - 1.0) <= 1e-6:
        raise ConfigError(f"up_axis is {axis}; expected a unit vector such as (0, -1, 0)")


@settings_class
class AugmentConfig:
    """Random changes to points, colours and intensities.

    The defaults are PPKT's (Liu et al. 2021): rotation, scale and elastic distortion, with the
    ranges that Minkowski networks are trained with on ScanNet.
    """

    up_axis: Axis | None = Field(
        default=None,
        description="Unit vector that points up in all recordings. None takes each recording's "
        "own: -y of "
        "depth cameras, whose OpenCV axes have y down; z of LiDARs, fused frames and rooms.",
    )
    rotation_deg: Degrees = Field(
        default=180.0,
        description="Rotation about the up axis, uniform in ± this (degrees); 0 turns it off, 180 "
        "allows any.",
    )
    tilt_deg: Degrees = Field(
        default=2.8125,
        description="Rotation about a random horizontal axis, uniform in ± this (degrees); 0 turns "
        "it off.",
    )
    scale: tuple[Positive, Positive] = Field(
        default=(0.9, 1.1),
        description="Smallest and largest factor, uniform between them; (1, 1) turns it off.",
    )
    flip_x: Probability = Field(
        default=0.0, description="Probability of mirroring along x; 0 turns it off."
    )
    flip_y: Probability = Field(
        default=0.0,
        description="Probability of mirroring along the other horizontal axis, y where z is up; 0 "
        "turns it off.",
    )
    elastic: tuple[tuple[Positive, NotNegative], ...] = Field(
        default=((0.2, 0.4), (0.8, 1.6)),
        description="Granularity and magnitude of each elastic distortion (m); () turns it off.",
    )
    jitter_m: NotNegative = Field(
        default=0.0,
        description="Standard deviation of Gaussian noise on each coordinate (m); 0 turns it off.",
    )
    drop_fraction: Probability = Field(
        default=0.0, description="Share of the points that are dropped; 0 turns it off."
    )
    drop_cuboids: Probability = Field(
        default=0.0,
        description="Probability that the points in a random box are dropped, up to a fifth of the "
        "cloud wide along each axis, unless a camera would keep fewer than 1024 pairs, as by "
        "SLidR's DropCuboids; 0 turns it off.",
    )
    color_jitter: Probability = Field(
        default=0.0,
        description="Largest change of contrast (factor 1 ± this) and of each channel (± this, "
        "where colours span -1 to 1); 0 turns it off.",
    )
    drop_color: Probability = Field(
        default=0.0,
        description="Share of the samples that lose all colours, which are then 0 as where no "
        "camera sees a point; 0 turns it off.",
    )
    intensity_jitter: NotNegative = Field(
        default=0.0,
        description="Standard deviation of Gaussian noise on each intensity, where intensities "
        "span 0 to 1; 0 turns it off.",
    )
    intensity_gain: Probability = Field(
        default=0.0,
        description="Largest change of all intensities of a sample, factor 1 ± this; 0 turns it "
        "off.",
    )

    def __post_init__(self) -> None:
        if self.up_axis is not None:
            check_up_axis(self.up_axis)
        if self.scale[0] > self.scale[1]:
            raise ConfigError(f"scale is {self.scale}; expected the smallest factor first")


@settings_class
class SampleConfig:
    """How a frame becomes a training sample."""

    voxel_size: float = Field(default=0.025, gt=0, description="Edge of the student's voxels (m).")
    grid: Grid = Field(
        default="cubic",
        description="Shape of the student's voxels: `cubic`, of `voxel_size`, or `cylindrical` "
        "around the sensor's up axis, of `cylindrical_size`.",
    )
    cylindrical_size: tuple[Positive, Positive, Positive] = Field(
        default=(0.1, 1.0, 0.1),
        description="Size of a cylindrical voxel: along the radius (m), in angle (degrees), along "
        "the up axis (m); the default is SLidR's.",
    )
    inputs: tuple[Input, ...] | None = Field(
        default=None,
        min_length=1,
        description="The student's input channels, in this order: `color` (RGB, -1 to 1, 0 "
        "where no camera sees the point), `colored` (1 where it has a colour, else 0; follows "
        "`color` by itself where stores are of sweeps), `intensity` (of the return), `height` (m, "
        "above the lowest 1 % of the points), `position` (x, y, z in m from the sensor, in its "
        "axes), `range` (m, from the sensor), `normal` (towards the sensor), `ones`. None takes "
        "`color` for depth frames and clouds with colours, `intensity` for sweeps that have it, "
        "else `ones`.",
    )
    intensity_scale: float = Field(
        default=1.0,
        gt=0,
        description="Factor of the stored intensities, which span 0 to 1: 255 gives those that "
        "nuScenes stores, on which SLidR's networks are trained.",
    )
    pairs_per_frame: int = Field(
        default=1024, ge=2, description="Pairs drawn per frame; at least 2."
    )
    pairs: PairSelection = Field(
        default="random",
        description="`random` draws pairs as the paper does; `one-per-voxel` and `one-per-cell` "
        "draw at most one pair of each voxel or teacher cell, which avoids near-identical "
        "negatives.",
    )
    alignment: Alignment = Field(
        default="measured",
        description="How the teacher's map lies over the image: where the network's cells were "
        "`measured` to sit, or stretched over the image as `slidr` does, for comparisons only.",
    )
    teacher_view: TeacherView = Field(
        default="random",
        description="Where a layer stores several views of each image: `random` draws one for each "
        "sample, as augmenting the image before the teacher would, `random-per-pair` one for each "
        "pair, `image` takes the image as it is. With one stored view they are the same.",
    )
    augment: AugmentConfig = Field(
        default=AugmentConfig(), description="Random changes to points and inputs."
    )

    def __post_init__(self) -> None:
        if self.inputs is not None and len(set(self.inputs)) < len(self.inputs):
            raise ConfigError(f"inputs are {list(self.inputs)}; name each once")


@settings_class
class StreamConfig:
    """How batches are made."""

    batch_size: int = Field(default=24, ge=1, description="Frames of a global batch.")
    sample: SampleConfig = Field(
        default=SampleConfig(), description="How a frame becomes a training sample."
    )
    threads: int = Field(default=2, ge=1, description="Threads that read and prepare samples.")
    ahead: int = Field(default=3, ge=1, description="Batches prepared in advance.")
    seed: Seed = Field(
        default=0,
        description="Random seed of order, augmentation and the choice of pairs.",
    )
