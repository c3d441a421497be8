"""What every frame source is opened with."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt8, UInt16

from p2pkit.geometry.camera import Camera

ANY_DEPTH = (0.0, inf)


@dataclass(frozen=True)
class View:
    """One image that shows the frame's points.

    Args:
        image: RGB, undistorted.
        camera: its intrinsics.
        camera_from_sensor: takes points from the frame's sensor coordinates to this camera's (m).
            For RGB-D the sensor is the depth camera, so this is `color_from_depth`. Where the
            recording has ego motion it is the transform at the image's time.
        time_offset_s: the image's time minus the frame's (s); None where it is not known.
        valid: where the image has content; undistortion leaves pixels without. None: everywhere.
        sees: for each of the frame's points, False where the source knows that this view does not
            see it; None: the geometry decides alone.
    """

    image: UInt8[np.ndarray, "height width 3"]
    camera: Camera
    camera_from_sensor: Float64[np.ndarray, "4 4"]
    time_offset_s: float | None = None
    valid: Bool[np.ndarray, "height width"] | None = None
    sees: Bool[np.ndarray, " points"] | None = None


@dataclass(frozen=True)
class DepthImage:
    """Depth along the optical axis as the sensor stored it.

    Args:
        values: 0 where there is no measurement.
        camera: intrinsics of the depth image.
        units_per_metre: `values / units_per_metre` is in metres.
    """

    values: UInt16[np.ndarray, "height width"]
    camera: Camera
    units_per_metre: float


@dataclass(frozen=True, eq=False)
class Boxes:
    """The annotated boxes of a frame, good and bad; `layers.boxes` keeps the good ones.

    Boxes stand upright, which a sensor need not: they are given in axes with z up whose origin is
    the sensor's.

    Args:
        upright_from_sensor: the rotation from the sensor's axes to these.
        center: middle of each box in the upright axes (m).
        size: along the box's x and y, and its height (m).
        yaw: from the upright axes' x to the box's, about z, counterclockwise from above (rad).
        class_id: of each box, by `HasBoxes.box_names`; `UNKNOWN_CLASS` for others.
        given: the annotation's word for each box's class.
    """

    upright_from_sensor: Float64[np.ndarray, "3 3"]
    center: Float64[np.ndarray, "boxes 3"]
    size: Float64[np.ndarray, "boxes 3"]
    yaw: Float64[np.ndarray, " boxes"]
    class_id: Int64[np.ndarray, " boxes"]
    given: tuple[str, ...]


UNKNOWN_CLASS = -1


@dataclass(frozen=True)
class Frame:
    """One moment of a recording: images and either a depth image or points.

    Args:
        key: unique in the source; letters, digits, `_` and `-` only (it names tar members).
        views: one image for RGB-D, one per camera for LiDAR rigs; none for labelled points
            for evaluation, which bring `colors`.
        depth: the depth image, or None where `points` is given.
        points: points in the sensor's frame (m), or None where `depth` is given.
        world_from_sensor: pose of the depth camera or LiDAR, or None.
        labels: class of each depth pixel [height width] or of each point [points]; see
            `FrameSource.label_names`; None without labels.
        sequence: the recording or scene that the frame is of, for splits that do not leak.
        intensity: strength of each point's return, 0 to 1; None where the sensor gives none.
        point_time_s: when each point was measured, relative to the frame's time (s), or None.
        speed_m_s: how fast the sensor moves (m/s); 0 where it is unknown.
        interval_s: the usual time between frames of the sequence (s), or None.
        colors: RGB of each of `points` where the recording has them; None where the views give it.
        instances: number of the object that each depth pixel [height width] or point [points] is
            of, from 1 in each frame, 0 without; None in recordings without objects.
        boxes: what was annotated, perhaps nothing; None where nobody annotated the frame.
    """

    key: str
    views: tuple[View, ...]
    depth: DepthImage | None = None
    points: Float32[np.ndarray, "points 3"] | None = None
    world_from_sensor: Float64[np.ndarray, "4 4"] | None = None
    labels: UInt8[np.ndarray, "..."] | None = None
    sequence: str = ""
    intensity: Float32[np.ndarray, "points"] | None = None
    point_time_s: Float32[np.ndarray, "points"] | None = None
    speed_m_s: float = 0.0
    interval_s: float | None = None
    colors: UInt8[np.ndarray, "points 3"] | None = None
    instances: UInt16[np.ndarray, "..."] | None = None
    boxes: Boxes | None = None


@runtime_checkable
class FrameSource(Protocol):
    """A recording as p2pkit reads it. `load` is thread-safe and reads from disk at each call."""

    @property
    def name(self) -> str:
        """The dataset's name as given on the command line."""
        ...

    @property
    def label_names(self) -> Sequence[str] | None:
        """Name of each label value, value 0 first; None where frames carry no labels."""
        ...

    @property
    def ignore_label(self) -> int | None:
        """The label value that means void, or None."""
        ...

    def keys(self) -> Sequence[str]:
        """All frame keys in recording order."""
        ...

    def load(self, key: str) -> Frame:
        """Read and check one frame.

        Raises:
            FrameError: the frame is bad; the reason says what is wrong with which value.
        """
        ...

    def fingerprint(self) -> dict[str, Any]:
        """JSON of all that determines the frames' content: calibration, and a digest of the frame
        list with file sizes. Not the path, which may move.
        """
        ...


@dataclass(frozen=True)
class SourceOptions:
    """Where a recording lies and how much of it to read.

    Args:
        root: the recording's folder; None for sources that need none.
        camera_file: a `camera.json` to use instead of the one in the folder (`posed-rgbd`), or the
            lens of a recording in the form of `tum` or `lerobot`.
        every: use each `every`-th frame of each sequence, beginning with its first.
        limit: use the first `limit` of these frames in recording order; None for all.
        seed: for sources that generate their frames.
        flying_margin: drop flying pixels of depth images (see `geometry.flying_pixels`); 0 keeps
            all.
        depth_units: units per metre of stored depth, in place of what the recording says; None
            takes that.
        streams: which topics or cameras to read where several fit (see `datasets.streams`).
        fuse: neighbouring posed frames to fuse into one sample (see `datasets.fused`); 0: none.
        depth_range_m: fuse depth pixels in this range only (m); frames that are not fused keep all.
    """

    root: Path | None = None
    camera_file: Path | None = None
    limit: int | None = None
    seed: int = 0
    every: int = 1
    flying_margin: float = 0.0
    fuse: int = 0
    depth_units: float | None = None
    streams: tuple[str, ...] = ()
    depth_range_m: tuple[float, float] = ANY_DEPTH
