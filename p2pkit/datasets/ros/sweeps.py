"""`ros-sweeps`: clouds of points of a ROS bag with the images of its cameras.

A sweep is a `PointCloud2`; of each camera that has a `CameraInfo` the image nearest in time goes
with it. tf places the cameras: at each one's own time where the bag knows how the sensors move,
else by the transforms that do not change.
"""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from p2pkit.datasets.frame import Frame, SourceOptions, View
from p2pkit.datasets.left_out import LeftOut, read_sequences
from p2pkit.datasets.lidar.rig import finite_rows
from p2pkit.datasets.listing import chosen_frames, known_frame, safe_key
from p2pkit.datasets.pairing import nearest_index
from p2pkit.datasets.plausible import median_interval_s
from p2pkit.datasets.rgbd.reading import speed_between
from p2pkit.datasets.ros.bag import NS, POINTS, Moment, RosBag, bag_root, bag_sizes, find_bags
from p2pkit.datasets.ros.messages import (
    Lens,
    color_of,
    color_topics,
    lens_of,
    no_color,
    points_of,
)
from p2pkit.datasets.ros.transforms import Transform, TransformTree
from p2pkit.datasets.streams import check_streams, chosen_streams, one_stream
from p2pkit.datasets.world import near_world
from p2pkit.errors import FrameError, GeometryError, SourceError
from p2pkit.files import sha256_json
from p2pkit.geometry.lens_distortion import undistort_image
from p2pkit.sampling import evenly_spread

MAX_GAP_S = 0.05
"""An image is at most this far from its sweep."""
FULL_SCALES = (1.0, 255.0, 65535.0)
"""What sensors write for the strongest return; the first that holds what is found is taken."""
SCALE_SWEEPS = 8
"""Spread over each bag, to find the full scale of a topic."""


class _Shot(NamedTuple):
    topic: str
    moment: Moment
    camera_from_lidar: Float64[np.ndarray, "4 4"]
    time_offset_s: float


class _Camera(NamedTuple):
    """The images of one camera: when they were taken, also in seconds, and in which frame."""

    topic: str
    moments: list[Moment]
    times: list[float]
    frame_id: str

    @classmethod
    def of(cls, bag: RosBag, topic: str, start_ns: int) -> "_Camera":
        """The camera of a topic; float64 holds nanoseconds from a near start only."""
        moments = bag.moments(topic)
        times = [(one.stamp_ns - start_ns) / NS for one in moments]
        return cls(topic, moments, times, str(bag.first(topic).header.frame_id))


@dataclass(frozen=True, kw_only=True)
class _Sweep:
    """A cloud and its images, not yet read; the rest as in `Frame`."""

    key: str
    sequence: str
    moment: Moment
    shots: tuple[_Shot, ...]
    world_from_lidar: Float64[np.ndarray, "4 4"] | None
    speed_m_s: float
    interval_s: float | None


@dataclass(frozen=True)
class _Opened:
    """One bag, and what holds for all of its sweeps."""

    bag: RosBag
    points: str
    lenses: dict[str, Lens]
    strongest: float


class RosSweeps:
    """ROS bags with clouds of points as a `FrameSource`; keys are `BAG_000012`, by cloud.

    Raises:
        SourceError: no bag has clouds of points and cameras that tf connects, or several topics of
            points fit.
        MissingDependencyError: `rosbags` is not installed.
    """

    name = "ros-sweeps"
    label_names: Sequence[str] | None = None
    ignore_label: int | None = None

    def __init__(self, options: SourceOptions) -> None:
        root = bag_root(options, self.name)
        self._streams = options.streams
        self.left_out: list[LeftOut] = []
        self._opened: dict[str, _Opened] = {}
        found = read_sequences(find_bags(root), self._read, self.left_out, root)
        self._full_scale = _full_scales(self._opened.values())
        listed, self._origins = near_world(found, "world_from_lidar")
        self._frames = chosen_frames(listed, options)

    def keys(self) -> Sequence[str]:
        """All keys, in recording order."""
        return list(self._frames)

    def load(self, key: str) -> Frame:
        """Read one sweep and its images.

        Raises:
            FrameError: a message is damaged, or an image of another size or encoding.
        """
        listed = known_frame(self._frames, key)
        opened = self._opened[listed.sequence]
        try:
            cloud = points_of(opened.bag.read(opened.points, listed.moment), key)
            views = tuple(_view(opened, shot, key) for shot in listed.shots)
        except (GeometryError, SourceError) as error:
            raise error if isinstance(error, FrameError) else FrameError(key, str(error)) from error
        finite = finite_rows(cloud.xyz, key)
        strength, full_scale = None, self._full_scale[opened.points]
        if cloud.intensity is not None:
            scaled = np.nan_to_num(cloud.intensity[finite]) / np.float32(full_scale)
            strength = np.clip(scaled, 0, 1)
        return Frame(
            key=key,
            views=views,
            points=np.ascontiguousarray(cloud.xyz[finite]),
            world_from_sensor=listed.world_from_lidar,
            sequence=listed.sequence,
            intensity=strength,
            speed_m_s=listed.speed_m_s,
            interval_s=listed.interval_s,
        )

    def fingerprint(self) -> dict[str, Any]:
        """The frames' times, the bags' sizes, topics, lenses, transforms and poses."""
        frames = self._frames.values()
        moments = [
            [one.key, *one.moment, *(x for y in one.shots for x in y.moment)] for one in frames
        ]
        places = [
            [
                None if one.world_from_lidar is None else one.world_from_lidar.tolist(),
                *(shot.camera_from_lidar.tolist() for shot in one.shots),
            ]
            for one in frames
        ]
        return {
            "dataset": self.name,
            "frames": len(frames),
            "frame_list": sha256_json([moments, bag_sizes([x.bag for x in self._opened.values()])]),
            "calibration": sha256_json(places),
            "cameras": {
                name: {topic: _lens_json(lens) for topic, lens in one.lenses.items()}
                for name, one in self._opened.items()
            },
            "points": {
                name: [one.points, self._full_scale[one.points]]
                for name, one in self._opened.items()
            },
            "max_gap_s": MAX_GAP_S,
            **self._origins,
        }

    def _read(self, path: Path) -> list[_Sweep]:
        bag = RosBag(path)
        colors = color_topics(bag)
        if not colors:
            raise SourceError(no_color(bag))
        check_streams([*bag.topics(POINTS), *colors], self._streams, path.name)
        what = "topics of points (PointCloud2)"
        points = one_stream(bag.topics(POINTS), self._streams, what=what, where=path.name)
        found = {topic: lens_of(bag, topic) for topic in chosen_streams(colors, self._streams)}
        lenses = {topic: lens for topic, lens in found.items() if lens is not None}
        if not lenses:
            raise SourceError(
                f"{path.name}: none of {len(found)} topics of colour images has a CameraInfo "
                "(camera_info beside it)"
            )
        sweeps = bag.moments(points)
        listed = self._listed(bag, points, sweeps, lenses)
        self._opened[bag.name] = _Opened(bag, points, lenses, _strongest(bag, points, sweeps))
        return listed

    def _listed(
        self, bag: RosBag, points: str, sweeps: Sequence[Moment], lenses: dict[str, Lens]
    ) -> list[_Sweep]:
        tree = TransformTree(bag)
        lidar = str(bag.first(points).header.frame_id)
        start_ns = sweeps[0].stamp_ns
        cameras = [_Camera.of(bag, topic, start_ns) for topic in lenses]
        times = [(one.stamp_ns - start_ns) / NS for one in sweeps]
        poses = [tree.world_from(lidar, one.stamp_ns) for one in sweeps]
        interval_s, speeds = median_interval_s(times), _speeds(poses, times)
        listed: list[_Sweep] = []
        for number, sweep in enumerate(sweeps):
            near = [nearest_index(one.times, times[number], MAX_GAP_S) for one in cameras]
            shots = [
                _shot(bag, camera, tree, index, lidar, sweep)
                for camera, index in zip(cameras, near, strict=True)
                if index is not None
            ]
            if len(shots) == len(cameras):
                listed.append(
                    _Sweep(
                        key=safe_key(bag.name, f"{number:06d}"),
                        sequence=bag.name,
                        moment=sweep,
                        shots=tuple(shots),
                        world_from_lidar=poses[number],
                        speed_m_s=speeds[number],
                        interval_s=interval_s,
                    )
                )
        self._report(bag, listed, len(sweeps))
        return listed

    def _report(self, bag: RosBag, listed: list[_Sweep], count: int) -> None:
        """Note the sweeps that are left out; raise SourceError if all are."""
        alone = f"{count - len(listed)} of {count} sweeps have no image of each camera within "
        if not listed:
            raise SourceError(f"{bag.path.name}: {alone}{MAX_GAP_S} s; choose cameras by --streams")
        if len(listed) < count:
            self.left_out.append(LeftOut(bag.name, f"{alone}{MAX_GAP_S} s"))


def _shot(
    bag: RosBag,
    camera: _Camera,
    tree: TransformTree,
    index: int,
    lidar: str,
    sweep: Moment,
) -> _Shot:
    image = camera.moments[index]
    place = tree.between(camera.frame_id, image.stamp_ns, lidar, sweep.stamp_ns)
    if place is None:
        raise SourceError(
            f"{bag.path.name}: tf does not connect the points' frame {lidar} with "
            f"{camera.frame_id} of {camera.topic}; record /tf_static"
        )
    return _Shot(camera.topic, image, place, (image.stamp_ns - sweep.stamp_ns) / NS)


def _speeds(poses: Sequence[Transform | None], times: Sequence[float]) -> list[float]:
    """At each pose (m/s); 0 without one."""
    known = [index for index, pose in enumerate(poses) if pose is not None]
    track = [pose for pose in poses if pose is not None]
    speeds = [0.0] * len(poses)
    for place, index in enumerate(known):
        speeds[index] = speed_between(track, [times[one] for one in known], place)
    return speeds


def _view(opened: _Opened, shot: _Shot, key: str) -> View:
    camera, distortion = opened.lenses[shot.topic]
    bag, valid = opened.bag, None
    message = bag.read(shot.topic, shot.moment)
    image = color_of(message, bag.type_of(shot.topic), key, camera)
    if distortion is not None:
        image, valid = undistort_image(image, camera, distortion)
    return View(image, camera, shot.camera_from_lidar, shot.time_offset_s, valid)


def _strongest(bag: RosBag, points: str, sweeps: Sequence[Moment]) -> float:
    """Return of several sweeps: as a sensor starts, the first may be dark or empty."""
    strongest = 0.0
    for place in evenly_spread(len(sweeps), SCALE_SWEEPS):
        with contextlib.suppress(GeometryError, SourceError):  # it fails when it is loaded
            intensity = points_of(bag.read(points, sweeps[place]), bag.name).intensity
            if intensity is not None:
                strongest = max(strongest, float(np.nanmax(intensity, initial=0.0)))
    return strongest


def _full_scales(opened: Iterable[_Opened]) -> dict[str, float]:
    """By topic, over all bags: one sensor writes them, and few bags hold its strongest returns."""
    strongest: dict[str, float] = {}
    for one in opened:
        strongest[one.points] = max(strongest.get(one.points, 0.0), one.strongest)
    return {
        topic: next((scale for scale in FULL_SCALES if value <= scale), FULL_SCALES[-1])
        for topic, value in strongest.items()
    }


def _lens_json(lens: Lens) -> dict[str, Any]:
    distortion = None if lens.distortion is None else lens.distortion.to_json()
    return lens.camera.to_json() | {"distortion": distortion}
