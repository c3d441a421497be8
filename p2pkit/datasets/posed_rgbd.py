"""`posed-rgbd`: folders of colour and depth images, poses and one `camera.json`.

docs/datasets.md describes the form.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt16

from p2pkit.datasets.depth_scale import check_depth_scale
from p2pkit.datasets.frame import DepthImage, Frame, View
from p2pkit.datasets.frame_list import (
    chosen_frames,
    existing_root,
    frame_list_digest,
    known_frame,
)
from p2pkit.datasets.images import (
    check_depth,
    read_color,
    read_depth_npy,
    read_depth_png,
    read_labels,
    read_pose,
)
from p2pkit.datasets.options import SourceOptions
from p2pkit.datasets.posed_files import FrameFiles, find_frames, find_label_names
from p2pkit.errors import FrameError


class PosedRgbd:
    """A recording in the `posed-rgbd` form, as a `FrameSource`.

    Raises:
        SourceError: the folder, its calibration or its labels cannot be used, or the depth of a few
            frames contradicts `depth_units_per_metre` (see `depth_scale`).
    """

    name = "posed-rgbd"

    def __init__(self, options: SourceOptions) -> None:
        root = existing_root(options, self.name)
        listed = find_frames(root, options.camera_file)
        labels = find_label_names(root, listed)
        self.label_names: Sequence[str] | None = labels[0] if labels else None
        self.ignore_label: int | None = labels[1] if labels else None
        self._frames = chosen_frames(listed, options)
        check_depth_scale(listed, read_frame_depth)

    def keys(self) -> Sequence[str]:
        """Frames sorted by folder and number."""
        return list(self._frames)

    def load(self, key: str) -> Frame:
        """Read one frame.

        Raises:
            FrameError: a file is missing, damaged, of another size or mode; no valid depth; a pose
                that is not rigid.
        """
        files = known_frame(self._frames, key)
        calibration = files.calibration
        depth = read_frame_depth(files)
        if files.color is None:
            raise FrameError(
                key, "there is no colour image (.color.jpg or .color.png) beside the depth"
            )
        image = read_color(files.color, key, (calibration.color.width, calibration.color.height))
        stored = read_pose(files.pose, key) if files.pose and calibration.pose != "none" else None
        labels = None
        if files.label is not None and self.label_names is not None:
            size = (calibration.depth.width, calibration.depth.height)
            labels = read_labels(files.label, key, size, len(self.label_names))
        return Frame(
            key=key,
            views=(View(image, calibration.color, calibration.color_from_depth),),
            depth=DepthImage(depth, calibration.depth, calibration.units_per_metre),
            world_from_sensor=None if stored is None else calibration.world_from_depth(stored),
            labels=labels,
            sequence=files.sequence,
        )

    def fingerprint(self) -> dict[str, Any]:
        """Frame list digest, the calibration of each sequence, and the class names."""
        frames = self._frames.values()
        sequences = {files.sequence: files.calibration.to_json() for files in frames}
        return {
            "dataset": self.name,
            "frames": len(frames),
            "frame_list": frame_list_digest((files.key, files.paths()) for files in frames),
            "calibration": list(sequences.values()),
            "labels": None if self.label_names is None else [*self.label_names, self.ignore_label],
        }


def read_frame_depth(files: FrameFiles) -> UInt16[np.ndarray, "height width"]:
    """The frame's depth as stored, with invalid values set to 0.

    Raises:
        FrameError: the depth is missing, damaged, of another size or mode, or nowhere valid.
    """
    calibration = files.calibration
    if files.depth is None:
        raise FrameError(
            files.key, "there is no depth (.depth.png or .depth.npy) beside the colour"
        )
    if files.depth.suffix == ".npy":
        values = read_depth_npy(
            files.depth, files.key, calibration.depth, calibration.units_per_metre
        )
    else:
        size = (calibration.depth.width, calibration.depth.height)
        values = read_depth_png(files.depth, files.key, size)
    for invalid in calibration.invalid_depth:
        if invalid != 0:
            values[values == invalid] = 0
    check_depth(values, files.key, files.depth.name)
    return values
