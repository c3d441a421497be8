"""`7scenes`: Microsoft 7-Scenes in its original layout.

Shotton et al., "Scene Coordinate Regression Forests for Camera Relocalization in RGB-D Images",
CVPR 2013, and the data set's page: `seq-NN/frame-000000.{color.png,depth.png,pose.txt}`, depth in
millimetres with 65535 for none, poses of the depth camera. Colour is not registered to depth, and
the page gives no extrinsics: those here were measured on RedKitchen.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from p2pkit.datasets.files.images import read_color, read_pose
from p2pkit.datasets.frame import Frame, SourceOptions
from p2pkit.datasets.left_out import LeftOut, read_sequences
from p2pkit.datasets.listing import (
    chosen_frames,
    existing_root,
    known_frame,
    listed_json,
    safe_key,
    visible_files,
)
from p2pkit.datasets.pairing import without_partner
from p2pkit.datasets.rgbd.calibration import RgbdCalibration
from p2pkit.datasets.rgbd.depth_scale import DepthProbe
from p2pkit.datasets.rgbd.posed_rgbd import FrameFiles, probe_of_posed, read_frame_depth
from p2pkit.datasets.rgbd.reading import RgbdListed, assemble
from p2pkit.errors import FrameError, SourceError
from p2pkit.geometry.camera import Camera

_SHIFT_M = -0.025


def _kinect() -> RgbdCalibration:
    """The Kinect's published depth intrinsics; colour as measured: 525 px, 25 mm to the left."""
    color_from_depth = np.eye(4)
    color_from_depth[0, 3] = _SHIFT_M
    return RgbdCalibration(
        units_per_metre=1000.0,
        depth=Camera(640, 480, fx=585.0, fy=585.0, cx=320.0, cy=240.0),
        color=Camera(640, 480, fx=525.0, fy=525.0, cx=320.0, cy=240.0),
        color_from_depth=color_from_depth,
        pose="world_from_depth",
        invalid_depth=(0, 65535),
    )


class SevenScenes:
    """7-Scenes as a `FrameSource`: a scene's folder, one `seq-NN` of it, or all scenes.

    Raises:
        SourceError: no `seq-NN` has frames.
    """

    name = "7scenes"
    label_names: Sequence[str] | None = None
    ignore_label: int | None = None

    def __init__(self, options: SourceOptions) -> None:
        root = existing_root(options, self.name)
        self._calibration = _kinect().with_units(options.depth_units)
        sequences = _sequences(root)
        if not sequences:
            raise SourceError(
                f"{root}: 7scenes needs seq-NN/frame-*.color.png in this folder or in the scenes "
                "below it, or frames in the folder itself if it is a seq-NN; unpack the "
                "seq-NN.zip files"
            )
        self.left_out = _packed(root)

        def read(folder: Path) -> list[FrameFiles]:
            # A scene's name stands before the sequence's where the root holds several scenes.
            scene = () if root in (folder, folder.parent) else (folder.parent.name,)
            return _listed(folder, (*scene, folder.name), self._calibration, self.left_out)

        listed = read_sequences(sequences, read, self.left_out, root)
        self._frames = chosen_frames(listed, options)

    def keys(self) -> Sequence[str]:
        """`seq-01_frame-000012`, after the scene's name where all scenes are read."""
        return list(self._frames)

    def depth_probes(self) -> Sequence[DepthProbe]:
        """Those of all frames."""
        return [probe_of_posed(files) for files in self._frames.values()]

    def load(self, key: str) -> Frame:
        """Read one frame.

        Raises:
            FrameError: a file is missing or damaged, no depth is valid, or the pose is not rigid.
        """
        files = known_frame(self._frames, key)
        assert files.color is not None
        assert files.pose is not None
        if not files.pose.is_file():
            raise FrameError(key, f"{files.pose.name} does not exist")
        pose = read_pose(files.pose, key)
        listed = RgbdListed(key=key, sequence=files.sequence, world_from_depth=pose)
        size = (self._calibration.color.width, self._calibration.color.height)
        image = read_color(files.color, key, size)
        return assemble(listed, image, read_frame_depth(files), self._calibration)

    def fingerprint(self) -> dict[str, Any]:
        """Frame list digest with the poses' sizes, and the calibration."""
        found = listed_json(self.name, self._frames.values())
        return found | {"calibration": self._calibration.fingerprint()}


def _sequences(root: Path) -> list[Path]:
    if root.name.startswith("seq-"):
        return [root]
    here = sorted(path for path in root.glob("seq-*") if path.is_dir())
    return here or sorted(path for path in root.glob("*/seq-*") if path.is_dir())


def _packed(root: Path) -> list[LeftOut]:
    """The archives of sequences, as the scenes are published, that were not unpacked."""
    archives = sorted([*root.glob("seq-*.zip"), *root.glob("*/seq-*.zip")])
    return [
        LeftOut(path.stem, f"{path.relative_to(root)} is not unpacked")
        for path in archives
        if not path.with_suffix("").is_dir()
    ]


def _listed(
    folder: Path, names: tuple[str, ...], calibration: RgbdCalibration, left_out: list[LeftOut]
) -> list[FrameFiles]:
    sequence = "_".join(names)
    images = visible_files(folder, "frame-*.color.png")
    if not images:
        raise SourceError(f"{folder} contains no frame-*.color.png")
    frames = [
        FrameFiles(
            key=safe_key(*names, color.name.partition(".")[0]),
            sequence=sequence,
            calibration=calibration,
            color=color,
            depth=color.with_name(color.name.replace(".color.", ".depth.")),
            pose=color.with_name(color.name.replace(".color.png", ".pose.txt")),
        )
        for color in images
    ]
    used = {frame.depth for frame in frames}
    depth = visible_files(folder, "frame-*.depth.png")
    if alone := [path for path in depth if path not in used]:
        left_out.append(LeftOut(sequence, without_partner(alone, "colour image")))
    return frames
