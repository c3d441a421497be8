"""How frames become training batches: augmentation, samples, batches."""

from math import hypot
from typing import Annotated, Literal

from pydantic import Field

from p2pkit.errors import ConfigError
from p2pkit.settings import settings_class

Axis = tuple[float, float, float]
Alignment = Literal["measured", "slidr"]
PairSelection = Literal["random", "one-per-voxel", "one-per-cell"]
TeacherView = Literal["image", "random", "random-per-pair"]
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
    """Random changes to points and colours.

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
    flip_probability: Probability = Field(
        default=0.0,
        description="Probability of mirroring across a vertical plane; 0 turns it off.",
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
    color_jitter: Probability = Field(
        default=0.0,
        description="Largest change of contrast (factor 1 ± this) and of each channel (± this, "
        "where colours span -1 to 1); 0 turns it off.",
    )
    color_drop_probability: Probability = Field(
        default=0.0,
        description="Probability that a frame loses its colours (all 0, mid grey); 0 turns it off.",
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
        default=AugmentConfig(), description="Random changes to points and colours."
    )


@settings_class
class StreamConfig:
    """How batches are made."""

    batch_size: int = Field(default=24, ge=1, description="Frames of a global batch.")
    sample: SampleConfig = Field(
        default=SampleConfig(), description="How a frame becomes a training sample."
    )
    threads: int = Field(default=2, ge=1, description="Threads that read and prepare samples.")
    ahead: int = Field(default=3, ge=1, description="Batches prepared in advance.")
    seed: int = Field(
        default=0,
        ge=0,
        lt=2**64,
        description="Random seed of order, augmentation and the choice of pairs.",
    )
