"""`scannet` and `scannet200`: ScanNet scenes as `.sens` files or exported folders, with labels.

Dai et al., "ScanNet: Richly-annotated 3D Reconstructions of Indoor Scenes", CVPR 2017. The folder
is a scene such as `scene0000_00` or holds scenes. Labels come from the scene's labelled mesh (see
`scannet_labels`); scenes without one are void throughout, if others have one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from p2pkit.datasets.calibration import RgbdCalibration
from p2pkit.datasets.frame import Frame
from p2pkit.datasets.frame_list import (
    chosen_frames,
    existing_root,
    frame_list_digest,
    known_frame,
    safe_key,
)
from p2pkit.datasets.images import read_color, read_depth_png, read_pose
from p2pkit.datasets.options import SourceOptions
from p2pkit.datasets.rgbd import RgbdListed, assemble, usable_depth
from p2pkit.datasets.scannet_folders import exported_calibration, exported_images
from p2pkit.datasets.scannet_labels import (
    CLASSES_20,
    TABLE,
    LabelledMesh,
    groups_file,
    mesh_20,
    mesh_200,
    pixel_classes,
    read_table,
)
from p2pkit.datasets.scannet_sens import read_frame, read_header
from p2pkit.errors import FrameError, GeometryError, SourceError
from p2pkit.geometry.transforms import nearest_rigid


@dataclass(frozen=True)
class ScanNetFrame:
    """One frame's place: in a `.sens` file, or two images of an exported scene."""

    key: str
    sequence: str
    folder: Path
    number: int
    sens: Path | None = None
    color: Path | None = None
    depth: Path | None = None

    def paths(self) -> tuple[Path | None, ...]:
        """The files that it is read from."""
        return (self.sens, self.color, self.depth)


class ScanNet:
    """ScanNet as a `FrameSource`, with the 20 classes of its benchmark or the 200 of ScanNet200.

    Args:
        options: where; `every=25` takes the frames that the paper takes.
        classes: 20 or 200.

    Raises:
        SourceError: there is no scene, a `.sens` file's header is not usable, or the class table of
            ScanNet200 is missing.
    """

    def __init__(self, options: SourceOptions, *, classes: int = 20) -> None:
        self.name = "scannet" if classes == 20 else "scannet200"
        root = existing_root(options, self.name)
        folders = _scene_folders(root)
        listed = [frame for folder in folders for frame in _listed(folder)]
        self._frames = chosen_frames(listed, options)
        self._calibrations: dict[str, RgbdCalibration] = {}
        self._table = None
        labelled = {folder for folder in folders if _has_labels(folder, classes)}
        self._labelled = frozenset(labelled)
        self.label_names: Sequence[str] | None = None
        if labelled and classes == 200:
            places = (root / TABLE, root.parent / TABLE, root.parent.parent / TABLE)
            path = next((path for path in places if path.is_file()), places[0])
            self._table = read_table(path)
            self.label_names = self._table.names
        elif labelled:
            self.label_names = ("void", *CLASSES_20.values())
        self.ignore_label: int | None = 0 if labelled else None

    def keys(self) -> Sequence[str]:
        """`scene0000_00_000025`: scene and frame."""
        return list(self._frames)

    def load(self, key: str) -> Frame:
        """Read one frame; without a pose, and void throughout, where tracking was lost.

        Raises:
            FrameError: an image is missing or damaged, no depth is valid, the pose is not rigid, or
                the scene's labels cannot be read.
        """
        listed = known_frame(self._frames, key)
        try:
            calibration = self._calibration(listed)
            frame = _load(listed, calibration)
            return replace(frame, labels=self._labels(listed, frame))
        except FrameError:
            raise
        except SourceError as error:
            raise FrameError(key, str(error)) from error

    def fingerprint(self) -> dict[str, Any]:
        """Frame list digest, each scene's calibration, the classes and the labels' files."""
        frames = self._frames.values()
        return {
            "dataset": self.name,
            "frames": len(frames),
            "frame_list": frame_list_digest((frame.key, frame.paths()) for frame in frames),
            "calibration": self._all_calibrations(),
            "labels": None if self.label_names is None else list(self.label_names),
            "labelled_scenes": sorted(folder.name for folder in self._labelled),
        }

    def _all_calibrations(self) -> dict[str, dict[str, Any]]:
        """Of each scene, by its first frame that tells: a damaged image costs one frame only."""
        found: dict[str, dict[str, Any]] = {}
        errors: dict[str, SourceError] = {}
        for frame in self._frames.values():
            if frame.sequence not in found:
                try:
                    found[frame.sequence] = self._calibration(frame).to_json()
                except SourceError as error:
                    errors.setdefault(frame.sequence, error)
        for scene, error in errors.items():
            if scene not in found:
                raise error
        return found

    def _calibration(self, listed: ScanNetFrame) -> RgbdCalibration:
        """Of the frame's scene; read once."""
        if listed.sequence not in self._calibrations:
            self._calibrations[listed.sequence] = _calibration(listed)
        return self._calibrations[listed.sequence]

    def _labels(
        self, listed: ScanNetFrame, frame: Frame
    ) -> UInt8[np.ndarray, "height width"] | None:
        if self.label_names is None or frame.depth is None:
            return None
        if listed.folder not in self._labelled or frame.world_from_sensor is None:
            return np.zeros(frame.depth.values.shape, dtype=np.uint8)
        return pixel_classes(self._mesh(listed.folder), frame.depth, frame.world_from_sensor)

    def _mesh(self, folder: Path) -> LabelledMesh:
        if self._table is not None:
            return mesh_200(folder, self._table)
        return mesh_20(_labelled_mesh(folder))


def _scene_folders(root: Path) -> list[Path]:
    if _is_scene(root):
        return [root]
    folders = sorted(path for path in root.iterdir() if path.is_dir() and _is_scene(path))
    if not folders:
        raise SourceError(
            f"{root}: neither it nor a folder of it is a scene with NAME.sens, or with color/ and "
            "depth/ of an exported one"
        )
    return folders


def _is_scene(folder: Path) -> bool:
    exported = (folder / "color").is_dir() and (folder / "depth").is_dir()
    return exported or (folder / f"{folder.name}.sens").is_file()


def _labelled_mesh(folder: Path) -> Path:
    return folder / f"{folder.name}_vh_clean_2.labels.ply"


def _has_labels(folder: Path, classes: int) -> bool:
    return (_labelled_mesh(folder) if classes == 20 else groups_file(folder)).is_file()


def _listed(folder: Path) -> list[ScanNetFrame]:
    scene = folder.name
    sens = folder / f"{scene}.sens"
    if sens.is_file():
        return [
            ScanNetFrame(safe_key(scene, f"{number:06d}"), scene, folder, number, sens=sens)
            for number in range(read_header(sens).frames)
        ]
    return [
        ScanNetFrame(
            safe_key(scene, f"{number:06d}"), scene, folder, number, color=color, depth=depth
        )
        for number, color, depth in exported_images(folder)
    ]


def _calibration(listed: ScanNetFrame) -> RgbdCalibration:
    if listed.sens is None:
        assert listed.color is not None
        assert listed.depth is not None
        return exported_calibration(listed.folder, listed.color, listed.depth)
    header = read_header(listed.sens)
    return RgbdCalibration(
        units_per_metre=header.units_per_metre,
        depth=header.depth,
        color=header.color,
        color_from_depth=np.eye(4),
        pose="world_from_depth",
        invalid_depth=(0, 65535),
    )


def _load(listed: ScanNetFrame, calibration: RgbdCalibration) -> Frame:
    key = listed.key
    offset, speed = None, 0.0
    if listed.sens is not None:
        read = read_frame(listed.sens, listed.number, key)
        image, depth, pose, offset, speed = read
    else:
        assert listed.color is not None
        assert listed.depth is not None
        color, camera = calibration.color, calibration.depth
        image = read_color(listed.color, key, (color.width, color.height))
        depth = read_depth_png(listed.depth, key, (camera.width, camera.height))
        # By the image's own name: the 25k subset writes 000100, the exporter 100.
        pose = _exported_pose(listed.folder / "pose" / f"{listed.color.stem}.txt", key)
    try:
        pose = None if pose is None else nearest_rigid(pose, "the pose")
    except GeometryError as error:
        raise FrameError(key, str(error)) from error
    place = RgbdListed(
        key=key,
        sequence=listed.sequence,
        world_from_depth=pose,
        time_offset_s=offset,
        speed_m_s=speed,
    )
    return assemble(place, image, usable_depth(depth, calibration, key), calibration)


def _exported_pose(path: Path, key: str) -> np.ndarray | None:
    """None where the file holds infinity or NaN, as ScanNet writes when tracking is lost."""
    try:
        text = path.read_text(errors="replace").lower()
        if "inf" in text or "nan" in text:
            return None
    except OSError as error:
        raise FrameError(key, f"{path.name} cannot be read: {error}") from error
    return read_pose(path, key)
