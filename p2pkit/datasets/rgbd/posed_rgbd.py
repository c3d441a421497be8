"""`posed-rgbd`: folders of colour and depth images, poses and one `camera.json`.

docs/datasets/posed-rgbd.md describes the form.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8, UInt16

from p2pkit.datasets.files.images import (
    read_color,
    read_depth_npy,
    read_depth_png,
    read_labels,
    read_pose,
)
from p2pkit.datasets.files.text import read_json
from p2pkit.datasets.frame import DepthImage, Frame, SourceOptions
from p2pkit.datasets.left_out import LeftOut, read_sequences, some_names
from p2pkit.datasets.listing import (
    chosen_frames,
    existing_root,
    known_frame,
    listed_json,
    natural_order,
    safe_key,
)
from p2pkit.datasets.pairing import without_partner
from p2pkit.datasets.rgbd.calibration import RgbdCalibration, read_calibration
from p2pkit.datasets.rgbd.depth_scale import DepthProbe
from p2pkit.datasets.rgbd.reading import RgbdListed, assemble, usable_depth
from p2pkit.datasets.world import moved, near_origin, origins_json
from p2pkit.errors import FrameError, SourceError
from p2pkit.geometry.lens_distortion import undistort_depth

NAMES = (
    "Names in a posed-rgbd folder must begin with frame-, such as frame-000012.depth.png, "
    "frame-000012.color.jpg and frame-000012.pose.txt"
)
_ROLES = {
    ".color.jpg": "color",
    ".color.jpeg": "color",
    ".color.png": "color",
    ".depth.png": "depth",
    ".depth.npy": "depth",
    ".pose.txt": "pose",
    ".label.png": "label",
}


@dataclass(frozen=True)
class FrameFiles:
    """The files of one frame; None stands for a missing file."""

    key: str
    sequence: str
    calibration: RgbdCalibration
    color: Path | None = None
    depth: Path | None = None
    pose: Path | None = None
    label: Path | None = None

    def paths(self) -> tuple[Path | None, ...]:
        """Colour, depth, pose and label, in this order."""
        return (self.color, self.depth, self.pose, self.label)


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


def find_frames(root: Path, options: SourceOptions, left_out: list[LeftOut]) -> list[FrameFiles]:
    """All frames of a recording or of a folder of recordings, in recording order.

    A frame is listed if its colour or its depth exists. Frames that lie in `root` itself have plain
    keys; those of a sub-folder are prefixed with its name. Sub-folders that cannot be used are
    added to `left_out`.

    Raises:
        SourceError: no frame at all, frames both in `root` and below, two frames with one key, or,
            in every folder, two files for one role or a calibration that is missing or wrong.
    """
    here = _files_by_stem(root)
    folders = _sub_folders(root)
    below = [folder for folder in folders if _has_frames(folder)]
    if here and below:
        raise SourceError(
            f"{root} contains frames itself and in {below[0].name}/; keep one of the two"
        )
    if not here and not below:
        raise SourceError(
            f"{root} contains no frame-*.color.jpg, .color.jpeg, .color.png, .depth.png or "
            ".depth.npy, nor does a sub-folder of it"
        )
    left_out.extend(_too_deep(folder for folder in folders if folder not in below))

    def read(folder: Path) -> list[FrameFiles]:
        path = options.camera_file or _own_or_parents(folder, root, "camera.json")
        calibration = read_calibration(path).with_units(options.depth_units)
        stems = _files_by_stem(folder)
        prefix = f"{folder.name}_" if below else ""
        frames = [
            FrameFiles(safe_key(prefix + stem), folder.name, calibration, **stems[stem])
            for stem in sorted(stems, key=natural_order)
        ]
        left_out.extend(LeftOut(folder.name, reason) for reason in _gaps(frames))
        return frames

    frames = read_sequences(below or [root], read, left_out, root)
    _refuse_collisions(frames)
    return frames


def _too_deep(folders: Iterable[Path]) -> Iterator[LeftOut]:
    """Says which folders without frames hold folders with frames."""
    for folder in folders:
        if deeper := [one for one in _sub_folders(folder) if _has_frames(one)]:
            yield LeftOut(folder.name, f"its frames lie one folder too deep: {some_names(deeper)}")


def _gaps(frames: list[FrameFiles]) -> Iterator[str]:
    """Says which frames lack the pose or the labels that others of their folder have."""
    for role in ("pose", "label"):
        alone = [
            next(filter(None, frame.paths())) for frame in frames if getattr(frame, role) is None
        ]
        if 0 < len(alone) < len(frames):
            yield without_partner(alone, f"{role} file, which others have")


def _has_frames(folder: Path) -> bool:
    return any(
        path.name.lower().endswith(suffix)
        for path in folder.glob("frame-*")
        for suffix, role in _ROLES.items()
        if role in ("color", "depth")
    )


def read_frame_depth(files: FrameFiles) -> UInt16[np.ndarray, "height width"]:
    """The frame's depth as stored, undistorted, with invalid values set to 0.

    Raises:
        FrameError: the depth is missing, damaged, of another size or mode, or nowhere valid.
    """
    calibration = files.calibration
    if files.depth is None:
        raise FrameError(
            files.key, "the colour image has no depth (.depth.png or .depth.npy) beside it"
        )
    if files.depth.suffix.lower() == ".npy":
        values = read_depth_npy(
            files.depth, files.key, calibration.depth, calibration.units_per_metre
        )
    else:
        size = (calibration.depth.width, calibration.depth.height)
        values = read_depth_png(files.depth, files.key, size)
    return usable_depth(values, calibration, files.key)


def probe_of_posed(files: FrameFiles) -> DepthProbe:
    """What `check_depth_scale` needs of a frame."""

    def depth() -> DepthImage:
        calibration = files.calibration
        values = read_frame_depth(files)
        return DepthImage(values, calibration.depth, calibration.units_per_metre)

    def pose() -> Float64[np.ndarray, "4 4"] | None:
        if files.pose is None:
            return None
        return files.calibration.world_from_depth(read_pose(files.pose, files.key))

    return DepthProbe(files.key, files.sequence, depth, pose)


def find_origins(frames: list[FrameFiles]) -> dict[str, Float64[np.ndarray, "3"]]:
    """The origin of each sequence's world, by its first readable pose."""
    origins: dict[str, Float64[np.ndarray, "3"]] = {}
    for files in frames:
        if files.sequence not in origins:
            try:
                pose = probe_of_posed(files).pose()
            except FrameError:
                continue
            if pose is not None:
                origins[files.sequence] = near_origin([pose])
    return {files.sequence: origins.get(files.sequence, np.zeros(3)) for files in frames}


def find_label_names(root: Path, frames: list[FrameFiles]) -> tuple[tuple[str, ...], int] | None:
    """Class names and the ignored value of `labels.json`; None if no frame has a label image.

    Raises:
        SourceError: label images without `labels.json`, a wrong one, or two that differ.
    """
    folders = sorted({frame.label.parent for frame in frames if frame.label is not None})
    found = {_own_or_parents(folder, root, "labels.json") for folder in folders}
    read = {path: _read_label_names(path) for path in sorted(found)}
    if len(set(read.values())) > 1:
        raise SourceError(f"{', '.join(map(str, read))} differ; one source has one list of classes")
    return next(iter(read.values()), None)


def _read_label_names(path: Path) -> tuple[tuple[str, ...], int]:
    form = '{"names": ["void", "wall", "floor"], "ignore": 0}'
    if not path.is_file():
        raise SourceError(
            f"{path} does not exist, but the recording has label images; write it as {form}"
        )
    value = read_json(path, "posed-rgbd")
    if set(value) != {"names", "ignore"}:
        raise SourceError(f"{path} needs exactly the fields names and ignore; write it as {form}")
    names, ignore = value["names"], value["ignore"]
    is_names = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not is_names or not 0 < len(names) <= 256:
        raise SourceError(f"{path}: expected a list of 1 to 256 strings in names, found {names!r}")
    if isinstance(ignore, bool) or not isinstance(ignore, int) or not 0 <= ignore < len(names):
        raise SourceError(
            f"{path}: ignore is {ignore!r}; expected a value from 0 to {len(names) - 1}"
        )
    return tuple(names), ignore


def _sub_folders(root: Path) -> list[Path]:
    folders = [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted(folders, key=lambda path: natural_order(path.name))


def _files_by_stem(folder: Path) -> dict[str, dict[str, Path]]:
    """Frame stem -> role -> file. Poses and labels without colour and depth make no frame."""
    stems: dict[str, dict[str, Path]] = {}
    for path in folder.glob("frame-*"):
        for suffix, role in _ROLES.items():
            if path.name.lower().endswith(suffix):
                files = stems.setdefault(path.name[: -len(suffix)], {})
                if role in files:
                    raise SourceError(
                        f"{path} and {files[role].name} are both the {role} of one frame"
                    )
                files[role] = path
    return {stem: files for stem, files in stems.items() if "color" in files or "depth" in files}


def _own_or_parents(folder: Path, root: Path, name: str) -> Path:
    own = folder / name
    return own if own.is_file() or folder == root else root / name


def _refuse_collisions(frames: list[FrameFiles]) -> None:
    seen: dict[str, FrameFiles] = {}
    for frame in frames:
        other = seen.setdefault(frame.key, frame)
        if other is not frame:
            files = [next(filter(None, one.paths())) for one in (other, frame)]
            raise SourceError(
                f"{files[0]} and {files[1]} both have the key {frame.key}; rename one"
            )
