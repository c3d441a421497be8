"""What RGB-D readers share: from one frame's images and calibration to a `Frame`."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8, UInt16
from PIL import Image

from p2pkit.datasets.files.images import check_depth, read_color, read_depth_png
from p2pkit.datasets.files.text import short_name
from p2pkit.datasets.frame import DepthImage, Frame, SourceOptions, View
from p2pkit.datasets.left_out import LeftOut, read_sequences
from p2pkit.datasets.listing import chosen_frames, existing_root, known_frame, listed_json
from p2pkit.datasets.pairing import without_partner
from p2pkit.datasets.rgbd.calibration import RgbdCalibration
from p2pkit.datasets.rgbd.depth_scale import DepthProbe, probes_of
from p2pkit.datasets.world import near_world
from p2pkit.errors import FrameError, GeometryError, SourceError
from p2pkit.files import sha256_json
from p2pkit.geometry.lens_distortion import undistort_depth, undistort_image
from p2pkit.geometry.transforms import nearest_rigid

Depth = UInt16[np.ndarray, "height width"]


@dataclass(frozen=True, kw_only=True)
class RgbdListed:
    """What is known of a frame before its images are read.

    Args:
        key, sequence: as in `Frame`.
        world_from_depth: pose of the depth camera, or None.
        time_offset_s, speed_m_s: as in `View` and `Frame`.
    """

    key: str
    sequence: str
    world_from_depth: Float64[np.ndarray, "4 4"] | None = None
    time_offset_s: float | None = None
    speed_m_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RgbdFiles(RgbdListed):
    """A frame whose images are separate files."""

    color: Path
    depth: Path

    def paths(self) -> tuple[Path, Path]:
        """Colour and depth."""
        return (self.color, self.depth)


class SeparateImages:
    """What readers of colour and depth in separate files share as a `FrameSource`.

    A reader lists its frames in `_list` and gives the calibration of each in `_calibration`; where
    depth files hold other numbers than the sensor's units, it decodes them in `_decoded`.

    Raises:
        SourceError: the folder does not exist, or as the reader's `_list`.
    """

    name: str
    label_names: Sequence[str] | None = None
    ignore_label: int | None = None

    def __init__(self, options: SourceOptions) -> None:
        self._options = options
        self.left_out: list[LeftOut] = []
        root = existing_root(options, self.name)
        self._frames = chosen_frames(self._list(root), options)

    def _list(self, root: Path) -> list[RgbdFiles]:
        raise NotImplementedError

    def _calibration(self, files: RgbdFiles) -> RgbdCalibration:
        """Before `options.depth_units`; raises FrameError where the frame's cannot be used."""
        raise NotImplementedError

    def _decoded(self, depth: Depth, files: RgbdFiles) -> Depth:
        """From the numbers in a depth file to the sensor's units."""
        return depth

    def depth_probes(self) -> Sequence[DepthProbe]:
        """Those of all frames."""
        return probes_of(self._frames.values(), self._depth, attrgetter("world_from_depth"))

    def keys(self) -> Sequence[str]:
        """All keys, in recording order."""
        return list(self._frames)

    def load(self, key: str) -> Frame:
        """Read one frame.

        Raises:
            FrameError: a file is missing, damaged or of another size, or no depth is valid.
        """
        files = known_frame(self._frames, key)
        calibration = self._used_calibration(files)
        depth = self._usable_depth(files, calibration)
        color_size = (calibration.color.width, calibration.color.height)
        return assemble(files, read_color(files.color, key, color_size), depth, calibration)

    def _used_calibration(self, files: RgbdFiles) -> RgbdCalibration:
        return self._calibration(files).with_units(self._options.depth_units)

    def _usable_depth(self, files: RgbdFiles, calibration: RgbdCalibration) -> Depth:
        size = (calibration.depth.width, calibration.depth.height)
        stored = read_depth_png(files.depth, files.key, size)
        return usable_depth(self._decoded(stored, files), calibration, files.key)

    def _depth(self, files: RgbdFiles) -> DepthImage:
        found = self._used_calibration(files)
        return DepthImage(self._usable_depth(files, found), found.depth, found.units_per_metre)

    def _units_json(self) -> dict[str, float]:
        """The units given in place of the recording's, for fingerprints without calibrations."""
        units = self._options.depth_units
        return {} if units is None else {"depth_units_per_metre": units}


class SequencesOfImages(SeparateImages):
    """Separate images in folders, each a sequence with one calibration and poses in one world.

    A reader finds the folders in `_folders` and reads one in `_read`.
    """

    def _folders(self, root: Path) -> list[Path]:
        raise NotImplementedError

    def _read(self, folder: Path) -> tuple[list[RgbdFiles], RgbdCalibration]:
        """The frames of a sequence, and its calibration; raises SourceError without either."""
        raise NotImplementedError

    def _list(self, root: Path) -> list[RgbdFiles]:
        self._calibrations: dict[str, RgbdCalibration] = {}

        def read(folder: Path) -> list[RgbdFiles]:
            listed, calibration = self._read(folder)
            self._calibrations[folder.name] = calibration
            return listed

        found = read_sequences(self._folders(root), read, self.left_out, root)
        listed, self._origins = near_world(found, "world_from_depth")
        return listed

    def _calibration(self, files: RgbdFiles) -> RgbdCalibration:
        return self._calibrations[files.sequence]

    def fingerprint(self) -> dict[str, Any]:
        """Frame list digest, poses and calibrations."""
        units = self._options.depth_units
        calibrations = {name: found.with_units(units) for name, found in self._calibrations.items()}
        return rgbd_fingerprint(self.name, self._frames.values(), calibrations) | self._origins


def assemble(
    listed: RgbdListed,
    image: UInt8[np.ndarray, "color_height color_width 3"],
    depth: UInt16[np.ndarray, "height width"],
    calibration: RgbdCalibration,
) -> Frame:
    """A frame from its image as stored and its depth from `usable_depth`.

    Raises:
        FrameError: the image's distortion cannot be undone.
    """
    valid = None
    camera = calibration.used_color
    if camera != calibration.color:
        size = (camera.width, camera.height)
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
    if calibration.color_distortion is not None:
        try:
            image, valid = undistort_image(image, camera, calibration.color_distortion)
        except GeometryError as error:
            raise FrameError(listed.key, str(error)) from error
    view = View(
        image=image,
        camera=camera,
        camera_from_sensor=calibration.color_from_depth,
        time_offset_s=listed.time_offset_s,
        valid=valid,
    )
    return Frame(
        key=listed.key,
        views=(view,),
        depth=DepthImage(depth, calibration.depth, calibration.units_per_metre),
        world_from_sensor=listed.world_from_depth,
        sequence=listed.sequence,
        speed_m_s=listed.speed_m_s,
    )


def usable_depth(
    values: UInt16[np.ndarray, "height width"], calibration: RgbdCalibration, key: str
) -> UInt16[np.ndarray, "height width"]:
    """Depth with 0 for every invalid value, and undistorted.

    Raises:
        FrameError: nothing is left, or the distortion cannot be undone.
    """
    for invalid in calibration.invalid_depth:
        if invalid != 0:
            values = np.where(values == invalid, np.uint16(0), values)
    if calibration.depth_distortion is not None:
        try:
            values = undistort_depth(values, calibration.depth, calibration.depth_distortion)
        except GeometryError as error:
            raise FrameError(key, str(error)) from error
    check_depth(values, key, "the depth image")
    return values


def rgbd_fingerprint(
    name: str, frames: Collection[RgbdFiles], calibrations: dict[str, RgbdCalibration]
) -> dict[str, Any]:
    """Frame list digest and the calibration of each sequence."""
    return listed_json(name, frames) | {
        "poses": sha256_json(
            [
                None if frame.world_from_depth is None else frame.world_from_depth.tolist()
                for frame in frames
            ]
        ),
        "calibration": {key: value.fingerprint() for key, value in calibrations.items()},
    }


def rigid_poses(
    stored: Mapping[Path, np.ndarray], file: Path, sequence: str, left_out: list[LeftOut]
) -> dict[Path, Float64[np.ndarray, "4 4"]]:
    """Poses by image; images whose pose is not rigid are added to `left_out`.

    Args:
        stored: 4 x 4 as the recording has them, by image.
        file: where they stand, for the message.
        sequence: whose images they are.
        left_out: receives one entry for all images that have none.

    Raises:
        SourceError: no pose is rigid; the message gives what is wrong with the first.
    """
    poses: dict[Path, Float64[np.ndarray, "4 4"]] = {}
    errors: dict[Path, GeometryError] = {}
    for image, pose in stored.items():
        try:
            poses[image] = nearest_rigid(pose, f"the pose of {short_name(image)}")
        except GeometryError as error:
            errors[image] = error
    if errors and not poses:
        first = next(iter(errors.values()))
        raise SourceError(f"{file}: {first}") from first
    if errors:
        left_out.append(LeftOut(sequence, without_partner([*errors], "rigid pose")))
    return poses


def speed_between(
    poses: Sequence[Float64[np.ndarray, "4 4"]], times: Sequence[float], index: int
) -> float:
    """Speed (m/s) from the pose before `index` to the one after; 0 where there is one only."""
    first, last = max(0, index - 1), min(len(poses) - 1, index + 1)
    seconds = times[last] - times[first]
    moved = float(np.linalg.norm(poses[last][:3, 3] - poses[first][:3, 3]))
    return moved / seconds if seconds > 0 else 0.0
