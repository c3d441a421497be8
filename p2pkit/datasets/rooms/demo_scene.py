"""`demo-scene`: furnished rooms made by code, seen by an RGB-D camera.

It needs no data, is the same for the same seed, and carries poses and labels. Frames are rendered
when they are loaded.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from p2pkit.datasets.boxes import upright_boxes, with_seen_boxes
from p2pkit.datasets.frame import DepthImage, Frame, SourceOptions, View
from p2pkit.datasets.listing import known_frame
from p2pkit.datasets.rooms.furniture import BOX_NAMES, LABEL_NAMES
from p2pkit.datasets.rooms.layout import Room, make_room
from p2pkit.datasets.rooms.render import UNITS_PER_METRE, render, sensor_depth
from p2pkit.datasets.rooms.textures import load_textures
from p2pkit.geometry.camera import Camera
from p2pkit.geometry.transforms import invert_rigid

ROOMS, FRAMES_PER_ROOM = 4, 12
"""Rooms, unless `SourceOptions.limit` asks for more frames than they give."""
CAMERA = Camera(width=320, height=240, fx=260.0, fy=260.0, cx=159.5, cy=119.5)
# Raised whenever the same seed would give other frames.
GENERATOR_VERSION = 2


class DemoScene:
    """Generated rooms as a `FrameSource`; `SourceOptions.seed` chooses them."""

    name = "demo-scene"
    ignore_label = 0
    label_names: Sequence[str] = LABEL_NAMES
    box_names: Sequence[str] | None = BOX_NAMES

    def __init__(self, options: SourceOptions) -> None:
        self._seed, self._every = options.seed, options.every
        self._textures = load_textures()
        numbers = range(0, FRAMES_PER_ROOM, options.every)
        rooms = max(ROOMS, -(-(options.limit or 0) // len(numbers)))
        places = [(room, frame) for room in range(rooms) for frame in numbers]
        self._places = {
            f"room-{room}_frame-{frame:06d}": (room, frame)
            for room, frame in places[: options.limit]
        }
        self._rooms = {
            room: self._make(room) for room in {room for room, _ in self._places.values()}
        }

    def keys(self) -> Sequence[str]:
        """Room by room, along each room's camera path."""
        return list(self._places)

    def load(self, key: str) -> Frame:
        """Render one frame.

        Raises:
            FrameError: the frame does not exist.
        """
        number, frame = known_frame(self._places, key)
        room = self._rooms[number]
        pose = room.poses[frame].copy()
        rendering = render(room, self._textures, camera=CAMERA, world_from_camera=pose)
        depth = sensor_depth(rendering, np.random.default_rng([self._seed, number, 1 + frame]))
        frame = Frame(
            key=key,
            views=(View(rendering.color, CAMERA, np.eye(4)),),
            depth=DepthImage(depth, CAMERA, UNITS_PER_METRE),
            world_from_sensor=pose,
            labels=rendering.labels,
            sequence=f"room-{number}",
        )
        boxes = upright_boxes(
            room.boxes,
            BOX_NAMES,
            sensor_from_annotation=invert_rigid(pose),
            up=(0.0, 0.0, 1.0),
        )
        return with_seen_boxes(frame, boxes, LABEL_NAMES)

    def fingerprint(self) -> dict[str, Any]:
        """Seed, generator version, frames and a digest of the images on the surfaces."""
        return {
            "dataset": self.name,
            "frames": len(self._places),
            "every": self._every,
            "seed": self._seed,
            "generator": GENERATOR_VERSION,
            "textures": self._textures.digest,
            "calibration": {
                "camera": CAMERA.to_json(),
                "depth_units_per_metre": UNITS_PER_METRE,
            },
        }

    def box_fingerprint(self) -> dict[str, Any]:
        """The fingerprint's seed and generator determine the boxes, too."""
        return {}

    def _make(self, room: int) -> Room:
        generator = np.random.default_rng([self._seed, room, 0])
        return make_room(self._textures, generator, FRAMES_PER_ROOM)
