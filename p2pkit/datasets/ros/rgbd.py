"""`ros-rgbd`: depth images and colour of a ROS bag.

Topics are found by the types of their messages and the encodings of their first images. Depth is a
frame; the colour image nearest to it in time, by the headers, goes with it. The place of the colour
camera comes from tf where the two have different frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from p2pkit.datasets.frame import DepthImage, Frame, SourceOptions
from p2pkit.datasets.left_out import LeftOut, read_sequences
from p2pkit.datasets.listing import chosen_frames, known_frame, safe_key
from p2pkit.datasets.pairing import pair_moments
from p2pkit.datasets.rgbd.calibration import RgbdCalibration
from p2pkit.datasets.rgbd.depth_scale import DepthProbe, probes_of
from p2pkit.datasets.rgbd.reading import RgbdListed, assemble, usable_depth
from p2pkit.datasets.ros.bag import NS, POINTS, Moment, RosBag, bag_root, bag_sizes, find_bags
from p2pkit.datasets.ros.messages import (
    UNITS_PER_METRE,
    Lens,
    base_topic,
    color_of,
    color_topics,
    depth_of,
    depth_topics,
    lens_of,
    no_color,
)
from p2pkit.datasets.ros.transforms import TransformTree
from p2pkit.datasets.streams import check_streams, chosen_streams, one_stream
from p2pkit.datasets.world import near_world
from p2pkit.errors import FrameError, SourceError
from p2pkit.files import sha256_json

MAX_GAP_S = 0.02
"""Colour is at most this far from its depth image."""

VIEWER = "/device_0/"
"""What topics of librealsense's own recordings begin with."""


class Topics(NamedTuple):
    """The topics that are read."""

    depth: str
    color: str


@dataclass(frozen=True, kw_only=True)
class _BagFrame(RgbdListed):
    """A frame's messages in one bag."""

    depth: Moment
    color: Moment


@dataclass(frozen=True)
class _Opened:
    """One bag, and what holds for all of its frames."""

    bag: RosBag
    topics: Topics
    calibration: RgbdCalibration


class RosRgbd:
    """ROS bags with depth images as a `FrameSource`; keys are `BAG_000012`, by depth image.

    Raises:
        SourceError: no bag has depth images and colour with intrinsics, or several topics fit.
        MissingDependencyError: `rosbags` is not installed.
    """

    name = "ros-rgbd"
    label_names: Sequence[str] | None = None
    ignore_label: int | None = None

    def __init__(self, options: SourceOptions) -> None:
        root = bag_root(options, self.name)
        self._options = options
        self.left_out: list[LeftOut] = []
        self._opened: dict[str, _Opened] = {}
        found = read_sequences(find_bags(root), self._read, self.left_out, root)
        listed, self._origins = near_world(found, "world_from_depth")
        self._frames = chosen_frames(listed, options)

    def depth_probes(self) -> Sequence[DepthProbe]:
        """Those of all frames."""
        return probes_of(self._frames.values(), self._depth, attrgetter("world_from_depth"))

    def keys(self) -> Sequence[str]:
        """All keys, in recording order."""
        return list(self._frames)

    def load(self, key: str) -> Frame:
        """Read one frame.

        Raises:
            FrameError: an image is damaged, of another size or encoding, or no depth is valid.
        """
        listed = known_frame(self._frames, key)
        opened = self._opened[listed.sequence]
        bag, topic, calibration = opened.bag, opened.topics.color, opened.calibration
        depth = self._depth(listed)
        try:
            message = bag.read(topic, listed.color)
        except SourceError as error:
            raise FrameError(key, str(error)) from error
        image = color_of(message, bag.type_of(topic), key, calibration.color)
        # Depth in floating point became millimetres as it was read.
        scaled = replace(calibration, units_per_metre=depth.units_per_metre)
        return assemble(listed, image, depth.values, scaled)

    def fingerprint(self) -> dict[str, Any]:
        """The frames' times, the bags' sizes, topics, poses and calibrations."""
        frames = self._frames.values()
        moments = [[one.key, *one.depth, *one.color] for one in frames]
        poses = [
            None if one.world_from_depth is None else one.world_from_depth.tolist()
            for one in frames
        ]
        return {
            "dataset": self.name,
            "frames": len(frames),
            "frame_list": sha256_json([moments, bag_sizes([x.bag for x in self._opened.values()])]),
            "poses": sha256_json(poses),
            "topics": {name: list(one.topics) for name, one in self._opened.items()},
            "calibration": {
                name: one.calibration.fingerprint() for name, one in self._opened.items()
            },
            "max_gap_s": MAX_GAP_S,
            **self._origins,
        }

    def _read(self, path: Path) -> list[_BagFrame]:
        bag = RosBag(path)
        topics = _chosen(bag, self._options.streams)
        tree = TransformTree(bag)
        calibration = _calibration(bag, topics, tree).with_units(self._options.depth_units)
        listed = self._listed(bag, topics, tree)
        self._opened[bag.name] = _Opened(bag, topics, calibration)
        return listed

    def _listed(self, bag: RosBag, topics: Topics, tree: TransformTree) -> list[_BagFrame]:
        depth, color = (bag.moments(topic) for topic in topics)
        frame_id = str(bag.first(topics.depth).header.frame_id)
        start = depth[0].stamp_ns
        times = [[(one.stamp_ns - start) / NS for one in stream] for stream in (color, depth)]
        pairs = pair_moments(times[0], times[1], max_gap_s=MAX_GAP_S)
        if not pairs:
            raise SourceError(
                f"{bag.path.name}: none of {len(depth)} depth images has colour within "
                f"{MAX_GAP_S} s; the first of {topics.color} is {times[0][0]:.3f} s from the first "
                f"of {topics.depth}"
            )
        if len(pairs) < len(depth):
            count = f"{len(depth) - len(pairs)} of {len(depth)} depth images"
            self.left_out.append(LeftOut(bag.name, f"{count} have no colour within {MAX_GAP_S} s"))
        return [
            _BagFrame(
                key=safe_key(bag.name, f"{second:06d}"),
                sequence=bag.name,
                world_from_depth=tree.world_from(frame_id, depth[second].stamp_ns),
                time_offset_s=times[0][first] - times[1][second],
                depth=depth[second],
                color=color[first],
            )
            for first, second in pairs
        ]

    def _depth(self, listed: _BagFrame) -> DepthImage:
        opened = self._opened[listed.sequence]
        topic, calibration = opened.topics.depth, opened.calibration
        bag, key, units = opened.bag, listed.key, self._options.depth_units
        try:
            message = bag.read(topic, listed.depth)
        except SourceError as error:
            raise FrameError(key, str(error)) from error
        values, units = depth_of(message, bag.type_of(topic), key, calibration.depth, units)
        return DepthImage(usable_depth(values, calibration, key), calibration.depth, units)


def _chosen(bag: RosBag, given: Sequence[str]) -> Topics:
    """Of several depth topics the one in the colour camera's frame, if one is."""
    depths, colors = depth_topics(bag), color_topics(bag)
    where = bag.path.name
    if any(topic.startswith(VIEWER) for topic in depths):
        raise SourceError(
            f"{where} was recorded by the RealSense Viewer, which does not align depth to colour: "
            "convert it with Open3D's RSBagReader, which aligns it (docs/datasets/i-have.md)"
        )
    if not depths:
        clouds = bag.topics(POINTS)
        more = f"; it has clouds of points ({', '.join(clouds)}): --dataset ros-sweeps"
        raise SourceError(f"{where} has no depth images (16UC1 or 32FC1){more if clouds else ''}")
    if not colors:
        raise SourceError(no_color(bag))
    check_streams([*depths, *colors], given, where)
    color = one_stream(colors, given, what="topics of colour images", where=where)
    fitting = chosen_streams(depths, given)
    if len(fitting) > 1:
        frame = bag.first(color).header.frame_id
        aligned = [one for one in fitting if bag.first(one).header.frame_id == frame]
        fitting = aligned if len(aligned) == 1 else fitting
    return Topics(one_stream(fitting, given, what="topics of depth images", where=where), color)


def _calibration(bag: RosBag, topics: Topics, tree: TransformTree) -> RgbdCalibration:
    depth, color = _lens(bag, topics.depth), _lens(bag, topics.color)
    messages = bag.first(topics.depth), bag.first(topics.color)
    frames = [str(message.header.frame_id) for message in messages]
    color_from_depth = np.eye(4)
    if frames[0] != frames[1]:
        stamp = messages[0].header.stamp
        time = stamp.sec * 1_000_000_000 + stamp.nanosec
        found = tree.between(frames[1], time, frames[0], time)
        if found is None:
            raise SourceError(
                f"{bag.path.name}: {topics.depth} is in the frame {frames[0]} and {topics.color} "
                f"in {frames[1]}, which tf does not connect; record /tf_static with them, or "
                "aligned depth (RealSense: align_depth.enable:=true)"
            )
        color_from_depth = found
    return RgbdCalibration(
        units_per_metre=UNITS_PER_METRE,
        depth=depth.camera,
        color=color.camera,
        color_from_depth=color_from_depth,
        pose="world_from_depth",
        invalid_depth=(0,),
        depth_distortion=depth.distortion,
        color_distortion=color.distortion,
    )


def _lens(bag: RosBag, topic: str) -> Lens:
    found = lens_of(bag, topic)
    if found is None:
        folder = base_topic(topic).rpartition("/")[0]
        raise SourceError(
            f"{bag.path.name}: {topic} has no CameraInfo; expected {folder}/camera_info"
        )
    return found
