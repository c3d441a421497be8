"""`posed-rgbd`: folders of colour and depth images, poses and one `camera.json`.

docs/datasets.md describes the form.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import UInt8

from p2pkit.datasets.frame import Frame, SourceOptions
from p2pkit.datasets.image_files import (
    read_color,
    read_labels,
    read_pose,
)
from p2pkit.datasets.left_out import LeftOut
from p2pkit.datasets.listing import chosen_frames, existing_root, known_frame, listed_json
from p2pkit.datasets.rgbd.depth_scale import DepthProbe
from p2pkit.datasets.rgbd.posed_files import (
    FrameFiles,
    find_frames,
    find_label_names,
    find_origins,
    probe_of_posed,
    read_frame_depth,
)
from p2pkit.datasets.rgbd.reading import RgbdListed, assemble
from p2pkit.datasets.world import moved, origins_json
from p2pkit.errors import FrameError
from p2pkit.geometry.distortion import undistort_depth


class PosedRgbd:
    """A recording in the `posed-rgbd` form, as a `FrameSource`.

    Raises:
        SourceError: the folder, its calibration or its labels cannot be used.
    """

    name = "posed-rgbd"

    def __init__(self, options: SourceOptions) -> None:
        root = existing_root(options, self.name)
        self.left_out: list[LeftOut] = []
        listed = find_frames(root, options, self.left_out)
        labels = find_label_names(root, listed)
        self.label_names: Sequence[str] | None = labels[0] if labels else None
        self.ignore_label: int | None = labels[1] if labels else None
        self._frames = chosen_frames(listed, options)
        self._listed = listed
        self._origins = find_origins(listed)

    def depth_probes(self) -> Sequence[DepthProbe]:
        """Those of all frames of the recording."""
        return [probe_of_posed(files) for files in self._listed]

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
                key, "the depth has no colour image (.color.jpg, .jpeg or .png) beside it"
            )
        image = read_color(files.color, key, (calibration.color.width, calibration.color.height))
        stored = read_pose(files.pose, key) if files.pose and calibration.pose != "none" else None
        pose = None if stored is None else calibration.world_from_depth(stored)
        pose = moved(pose, self._origins[files.sequence])
        listed = RgbdListed(key=key, sequence=files.sequence, world_from_depth=pose)
        frame = assemble(listed, image, depth, calibration)
        return replace(frame, labels=self._labels(files))

    def fingerprint(self) -> dict[str, Any]:
        """Frame list digest, the calibration of each sequence, and the class names."""
        frames = self._frames.values()
        sequences = {files.sequence: files.calibration.fingerprint() for files in frames}
        return listed_json(self.name, frames) | {
            "calibration": list(sequences.values()),
            "labels": None if self.label_names is None else [*self.label_names, self.ignore_label],
            **origins_json(self._origins),
        }

    def _labels(self, files: FrameFiles) -> UInt8[np.ndarray, "height width"] | None:
        """Void throughout where others have labels, so that all frames have the same fields."""
        if self.label_names is None or self.ignore_label is None:
            return None
        camera, distortion = files.calibration.depth, files.calibration.depth_distortion
        if files.label is None:
            return np.full((camera.height, camera.width), self.ignore_label, np.uint8)
        size = (camera.width, camera.height)
        labels = read_labels(files.label, files.key, size, len(self.label_names))
        if distortion is None:
            return labels
        return undistort_depth(labels.astype(np.uint16), camera, distortion).astype(np.uint8)
