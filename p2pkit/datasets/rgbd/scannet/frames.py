"""`scannet` and `scannet200`: ScanNet scenes as `.sens` files or exported folders, with labels.

Dai et al., "ScanNet: Richly-annotated 3D Reconstructions of Indoor Scenes", CVPR 2017. The folder
is a scene such as `scene0000_00` or holds scenes. Labels come from the scene's labelled mesh (see
`labels`); scenes without one are void throughout, if others have one. Boxes are those of
its instances, as VoteNet (Qi et al. 2019) makes them: axis-aligned in the aligned scene.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image

from p2pkit.datasets.boxes import files_fingerprint, upright_boxes, with_seen_boxes
from p2pkit.datasets.files.images import read_color, read_depth_png, read_pose
from p2pkit.datasets.files.text import read_text, short_name
from p2pkit.datasets.frame import DepthImage, Frame, SourceOptions
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
from p2pkit.datasets.rgbd.depth_scale import DepthProbe, probes_of
from p2pkit.datasets.rgbd.reading import RgbdListed, assemble, usable_depth
from p2pkit.datasets.rgbd.scannet.labels import (
    CLASSES_20,
    TABLE,
    WITHOUT_BOXES,
    LabelledMesh,
    axis_alignment,
    groups_file,
    instance_boxes,
    instance_files,
    mesh_20,
    mesh_200,
    pixel_classes,
    read_table,
)
from p2pkit.datasets.rgbd.scannet.sens import (
    read_frame,
    read_frame_depth,
    read_frame_pose,
    read_header,
)
from p2pkit.errors import FrameError, GeometryError, SourceError
from p2pkit.geometry.camera import Camera, camera_from_matrix, check_size_fits
from p2pkit.geometry.transforms import invert_rigid, nearest_rigid

NATIVE_COLOR, NATIVE_DEPTH = (1296, 968), (640, 480)
"""Sizes that ScanNet's intrinsics are for, unless SCENE.txt says otherwise."""

UNITS_PER_METRE = 1000.0

_ASPECT_TOLERANCE = 0.02


def exported_images(folder: Path, left_out: list[LeftOut]) -> list[tuple[int, Path, Path]]:
    """Number, colour and depth of each frame that has both, in the frames' order.

    Those without a partner are added to `left_out`.
    """
    depth = _numbered(folder / "depth", (".png",))
    color = _numbered(folder / "color", (".jpg", ".jpeg", ".png"))
    alone = [*(color[n] for n in color.keys() - depth), *(depth[n] for n in depth.keys() - color)]
    if alone:
        reason = without_partner(sorted(alone), "partner of the same number")
        left_out.append(LeftOut(folder.name, reason))
    return [(number, color[number], depth[number]) for number in sorted(color.keys() & depth)]


def _numbered(folder: Path, suffixes: tuple[str, ...]) -> dict[int, Path]:
    """Images by the numbers that are their names: 000100.jpg and 100.jpg are of one frame."""
    found: dict[int, Path] = {}
    for path in visible_files(folder, "*"):
        if path.suffix.lower() in suffixes and path.stem.isdecimal():
            number = int(path.stem)
            if number in found:
                raise SourceError(
                    f"{path} and {found[number].name} both belong to frame {number}; keep one"
                )
            found[number] = path
    return found


def exported_calibration(folder: Path, color: Path, depth: Path) -> RgbdCalibration:
    """The intrinsics at the size of these images.

    Raises:
        SourceError: a file is missing or wrong, or an image was cropped rather than scaled.
    """
    sizes = _native_sizes(folder / f"{folder.name}.txt")
    return RgbdCalibration(
        units_per_metre=UNITS_PER_METRE,
        depth=_camera(folder, "depth", sizes["depth"], depth),
        color=_camera(folder, "color", sizes["color"], color),
        color_from_depth=np.eye(4),
        pose="world_from_depth",
        invalid_depth=(0, 65535),
    )


def _camera(folder: Path, name: str, native: tuple[int, int], image: Path) -> Camera:
    places = (
        folder / "intrinsic" / f"intrinsic_{name}.txt",
        folder / f"intrinsic_{name}.txt",
        folder / f"intrinsics_{name}.txt",
    )
    path = next((path for path in places if path.is_file()), places[0])
    try:
        # Some exports have shrunk the intrinsics with the images; shrinking them twice is wrong.
        camera = camera_from_matrix(_matrix(path), native, str(path))
        check_size_fits(camera, f"{name}, whose size {folder.name}.txt may give")
        _refuse_uncalibrated(path.with_name(f"extrinsic_{name}.txt"))
        with Image.open(image) as opened:
            size = opened.size
    except (OSError, SyntaxError, ValueError, GeometryError) as error:
        raise SourceError(f"{path} or {image.name} cannot be used: {error}") from error
    stretch = (size[0] / native[0]) / (size[1] / native[1])
    if abs(stretch - 1) > _ASPECT_TOLERANCE:
        raise SourceError(
            f"{image} is {size[0]} x {size[1]} px, but {path.name} is for {native[0]} x "
            f"{native[1]}: another aspect ratio, so it was cropped; export it without cropping"
        )
    return camera.resized(*size)


def _matrix(path: Path) -> Float64[np.ndarray, "4 4"]:
    return np.array([float(word) for word in read_text(path, "scannet").split()]).reshape(4, 4)


def _refuse_uncalibrated(path: Path) -> None:
    """Raise SourceError where the exporter found that colour or depth is to be moved first."""
    if path.is_file() and not np.allclose(_matrix(path), np.eye(4), atol=1e-4):
        raise SourceError(
            f"{path} is not the identity, so colour is not registered to depth; expected the "
            "identity, as in the published scans"
        )


def _native_sizes(path: Path) -> dict[str, tuple[int, int]]:
    """From lines such as `colorWidth = 1296` of SCENE.txt, where there is one."""
    sizes = {"color": NATIVE_COLOR, "depth": NATIVE_DEPTH}
    if not path.is_file():
        return sizes
    pairs = (line.partition("=")[::2] for line in read_text(path, "scannet").splitlines())
    values = {name.strip(): value.strip() for name, value in pairs}
    for name in sizes:
        found = values.get(f"{name}Width", ""), values.get(f"{name}Height", "")
        if all(length.isdecimal() and int(length) > 0 for length in found):
            sizes[name] = int(found[0]), int(found[1])
    return sizes


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

    Raises:
        SourceError: no scene has usable files, or the class table of ScanNet200 is
            missing.
    """

    name = "scannet"
    classes = 20

    def __init__(self, options: SourceOptions) -> None:
        root = existing_root(options, self.name)
        folders = _scene_folders(root)
        self.left_out = _incomplete_scenes(root, folders)
        read = partial(_listed, left_out=self.left_out)
        listed = read_sequences(folders, read, self.left_out, root)
        self._frames = chosen_frames(listed, options)
        self._units = options.depth_units
        self._calibrations: dict[str, RgbdCalibration] = {}
        self._table = None
        labelled = {folder for folder in folders if _has_labels(folder, self.classes)}
        self._labelled = frozenset(labelled)
        self.label_names: Sequence[str] | None = None
        if labelled and self.classes == 200:
            places = (root / TABLE, root.parent / TABLE, root.parent.parent / TABLE)
            path = next((path for path in places if path.is_file()), places[0])
            self._table = read_table(path)
            self.label_names = self._table.names
        elif labelled:
            self.label_names = ("void", *CLASSES_20.values())
        self.ignore_label: int | None = 0 if labelled else None
        self._with_boxes = frozenset(
            x for x in labelled if all(path.is_file() for path in instance_files(x))
        )
        self.box_names: Sequence[str] | None = None
        if self.label_names is not None and self._with_boxes:
            self.box_names = tuple(x for x in self.label_names if x not in WITHOUT_BOXES)

    def depth_probes(self) -> Sequence[DepthProbe]:
        """Those of all frames."""
        return probes_of(self._frames.values(), self._depth, _pose)

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
            frame = replace(frame, labels=self._labels(listed, frame))
            return self._with_seen_boxes(listed, frame)
        except FrameError:
            raise
        except SourceError as error:
            raise FrameError(key, str(error)) from error

    def fingerprint(self) -> dict[str, Any]:
        """Frame list digest, each scene's calibration, the classes and the labels' files."""
        frames = self._frames.values()
        return listed_json(self.name, frames) | {
            "calibration": self._all_calibrations(),
            "labels": None if self.label_names is None else list(self.label_names),
            "labelled_scenes": sorted(folder.name for folder in self._labelled),
        }

    def _all_calibrations(self) -> dict[str, dict[str, Any]]:
        """Of each scene, from its first readable frame: a damaged image costs one frame only."""
        found: dict[str, dict[str, Any]] = {}
        errors: dict[str, SourceError] = {}
        for frame in self._frames.values():
            if frame.sequence not in found:
                try:
                    found[frame.sequence] = self._calibration(frame).fingerprint()
                except SourceError as error:
                    errors.setdefault(frame.sequence, error)
        for scene, error in errors.items():
            if scene not in found:
                raise error
        return found

    def _calibration(self, listed: ScanNetFrame) -> RgbdCalibration:
        """Of the frame's scene; read once."""
        if listed.sequence not in self._calibrations:
            self._calibrations[listed.sequence] = _calibration(listed).with_units(self._units)
        return self._calibrations[listed.sequence]

    def _depth(self, listed: ScanNetFrame) -> DepthImage:
        calibration = self._calibration(listed)
        camera, key = calibration.depth, listed.key
        if listed.sens is not None:
            values = read_frame_depth(listed.sens, listed.number, key)
        else:
            assert listed.depth is not None
            values = read_depth_png(listed.depth, key, (camera.width, camera.height))
        values = usable_depth(values, calibration, key)
        return DepthImage(values, camera, calibration.units_per_metre)

    def _labels(
        self, listed: ScanNetFrame, frame: Frame
    ) -> UInt8[np.ndarray, "height width"] | None:
        if self.label_names is None or frame.depth is None:
            return None
        if listed.folder not in self._labelled or frame.world_from_sensor is None:
            return np.zeros(frame.depth.values.shape, dtype=np.uint8)
        return pixel_classes(self._mesh(listed.folder), frame.depth, frame.world_from_sensor)

    def box_fingerprint(self) -> dict[str, Any]:
        """Digest of the files that give the instances, and each scene's alignment."""
        folders = sorted(self._with_boxes)
        files = [(folder.name, path) for folder in folders for path in instance_files(folder)]
        turns = {folder.name: axis_alignment(folder).tolist() for folder in folders}
        return files_fingerprint(files) | {"axis_alignment": turns}

    def _with_seen_boxes(self, listed: ScanNetFrame, frame: Frame) -> Frame:
        """With the axis-aligned boxes of the scene's instances that the frame shows."""
        pose = frame.world_from_sensor
        if listed.folder not in self._with_boxes or pose is None:
            return frame
        assert self.label_names is not None
        assert self.box_names is not None
        boxes = upright_boxes(
            instance_boxes(listed.folder, self._mesh(listed.folder), tuple(self.label_names)),
            self.box_names,
            sensor_from_annotation=invert_rigid(pose) @ invert_rigid(axis_alignment(listed.folder)),
            up=(0.0, 0.0, 1.0),
        )
        return with_seen_boxes(frame, boxes, self.label_names)

    def _mesh(self, folder: Path) -> LabelledMesh:
        if self._table is not None:
            return mesh_200(folder, self._table)
        return mesh_20(_labelled_mesh(folder))


class ScanNet200(ScanNet):
    """ScanNet's files with the 200 classes of ScanNet200."""

    name = "scannet200"
    classes = 200


def _scene_folders(root: Path) -> list[Path]:
    if _is_scene(root):
        return [root]
    folders = sorted(path for path in root.iterdir() if path.is_dir() and _is_scene(path))
    if not folders:
        raise SourceError(
            f"{root}: neither it nor a folder in it is a scene with NAME.sens, or with color/ and "
            "depth/ of an exported one"
        )
    return folders


def _incomplete_scenes(root: Path, scenes: list[Path]) -> list[LeftOut]:
    """The folders beside `scenes` that have a scene's name."""
    named = sorted(path for path in root.glob("scene*_*") if path.is_dir())
    return [
        LeftOut(folder.name, f"contains neither {folder.name}.sens nor color/ and depth/")
        for folder in named
        if root not in scenes and folder not in scenes
    ]


def _is_scene(folder: Path) -> bool:
    exported = (folder / "color").is_dir() and (folder / "depth").is_dir()
    return exported or (folder / f"{folder.name}.sens").is_file()


def _labelled_mesh(folder: Path) -> Path:
    return folder / f"{folder.name}_vh_clean_2.labels.ply"


def _has_labels(folder: Path, classes: int) -> bool:
    return (_labelled_mesh(folder) if classes == 20 else groups_file(folder)).is_file()


def _listed(folder: Path, *, left_out: list[LeftOut]) -> list[ScanNetFrame]:
    scene = folder.name
    sens = folder / f"{scene}.sens"
    if sens.is_file():
        return [
            ScanNetFrame(safe_key(scene, f"{number:06d}"), scene, folder, number, sens=sens)
            for number in range(read_header(sens).frames)
        ]
    images = exported_images(folder, left_out)
    if not images:
        raise SourceError(f"{folder}: color/ and depth/ have no images of one number")
    return [
        ScanNetFrame(
            safe_key(scene, f"{number:06d}"), scene, folder, number, color=color, depth=depth
        )
        for number, color, depth in images
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
    offset, speed, interval = None, 0.0, None
    if listed.sens is not None:
        read = read_frame(listed.sens, listed.number, key)
        image, depth, pose, offset, speed, interval = read
    else:
        assert listed.color is not None
        assert listed.depth is not None
        color, camera = calibration.color, calibration.depth
        image = read_color(listed.color, key, (color.width, color.height))
        depth = read_depth_png(listed.depth, key, (camera.width, camera.height))
        # By the image's own name: the 25k subset writes 000100, the exporter 100.
        pose = _exported_pose(listed.folder / "pose" / f"{listed.color.stem}.txt", key)
    place = RgbdListed(
        key=key,
        sequence=listed.sequence,
        world_from_depth=_rigid_pose(pose, key),
        time_offset_s=offset,
        speed_m_s=speed,
    )
    frame = assemble(place, image, usable_depth(depth, calibration, key), calibration)
    return replace(frame, interval_s=interval)


def _pose(listed: ScanNetFrame) -> Float64[np.ndarray, "4 4"] | None:
    if listed.sens is not None:
        return _rigid_pose(read_frame_pose(listed.sens, listed.number, listed.key), listed.key)
    assert listed.color is not None
    return _exported_pose(listed.folder / "pose" / f"{listed.color.stem}.txt", listed.key)


def _rigid_pose(pose: np.ndarray | None, key: str) -> Float64[np.ndarray, "4 4"] | None:
    try:
        return None if pose is None else nearest_rigid(pose, "the pose")
    except GeometryError as error:
        raise FrameError(key, str(error)) from error


def _exported_pose(path: Path, key: str) -> np.ndarray | None:
    """None where the file holds infinity or NaN, as ScanNet writes when tracking is lost."""
    try:
        text = path.read_text(errors="replace").lower()
        if "inf" in text or "nan" in text:
            return None
    except OSError as error:
        raise FrameError(key, f"{short_name(path)} cannot be read: {error}") from error
    return read_pose(path, key)
