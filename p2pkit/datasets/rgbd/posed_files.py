"""Which files a `posed-rgbd` folder holds, and the keys and sequences of their frames."""

from dataclasses import dataclass
from pathlib import Path

from p2pkit.datasets.listing import natural_order, safe_key
from p2pkit.datasets.rgbd.calibration import RgbdCalibration, read_calibration
from p2pkit.datasets.text_files import read_json
from p2pkit.errors import SourceError

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
    """The files of one frame; a None is a file that is not there."""

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


def find_frames(root: Path, camera_file: Path | None) -> list[FrameFiles]:
    """All frames of a recording or of a folder of recordings, in recording order.

    A frame is listed if its colour or its depth exists. Frames that lie in `root` itself have plain
    keys; those of a sub-folder are prefixed with its name.

    Raises:
        SourceError: no frame at all, frames both in `root` and below, two frames with one key, two
            files for one role, or a calibration that is missing or wrong.
    """
    here = _files_by_stem(root)
    below = {folder: _files_by_stem(folder) for folder in _sub_folders(root)}
    below = {folder: stems for folder, stems in below.items() if stems}
    if here and below:
        first = next(iter(below))
        raise SourceError(
            f"{root} holds frames itself and in {first.name}/; keep one of the two there"
        )
    if not here and not below:
        raise SourceError(
            f"{root} holds no frame-*.color.jpg, .color.jpeg, .color.png, .depth.png or "
            ".depth.npy, nor does a sub-folder of it"
        )
    frames: list[FrameFiles] = []
    for folder, stems in below.items() if below else [(root, here)]:
        calibration = read_calibration(camera_file or _own_or_parents(folder, root, "camera.json"))
        prefix = f"{folder.name}_" if below else ""
        for stem in sorted(stems, key=natural_order):
            key = safe_key(prefix + stem)
            frames.append(FrameFiles(key, folder.name, calibration, **stems[stem]))
    _refuse_collisions(frames)
    return frames


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
        raise SourceError(f"{path} does not exist, but there are label images; its form is {form}")
    value = read_json(path, "posed-rgbd")
    if set(value) != {"names", "ignore"}:
        raise SourceError(f"{path} needs exactly the fields names and ignore; its form is {form}")
    names, ignore = value["names"], value["ignore"]
    is_names = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not is_names or not 0 < len(names) <= 256:
        raise SourceError(f"{path}: names must be a list of 1 to 256 strings; found {names!r}")
    if isinstance(ignore, bool) or not isinstance(ignore, int) or not 0 <= ignore < len(names):
        raise SourceError(
            f"{path}: ignore is {ignore!r}; a value from 0 to {len(names) - 1} is due"
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
                    raise SourceError(f"{path} and {files[role].name} are both {role} of one frame")
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
                f"{files[0]} and {files[1]} both give the key {frame.key}; rename one"
            )
