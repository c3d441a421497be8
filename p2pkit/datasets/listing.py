"""Helpers that frame sources share: the folder they need, the frames chosen, and their digest."""

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from p2pkit.datasets.frame import SourceOptions
from p2pkit.errors import FrameError, SourceError
from p2pkit.files import sha256_json


@runtime_checkable
class Listed(Protocol):
    """A frame that is known but not yet read."""

    @property
    def key(self) -> str:
        """Unique in the source."""
        ...

    @property
    def sequence(self) -> str:
        """The recording or scene that it is of."""
        ...


@runtime_checkable
class ListedFiles(Listed, Protocol):
    """A listed frame that knows its files."""

    def paths(self) -> Sequence[Path | None]:
        """The files that it is read from; None stands for a missing one."""
        ...


Item = TypeVar("Item")
ListedFrame = TypeVar("ListedFrame", bound=Listed)


def existing_root(options: SourceOptions, dataset: str) -> Path:
    """The folder in `options.root`, under its own name.

    Raises:
        SourceError: no folder was given, or it does not exist.
    """
    if options.root is None:
        raise SourceError(f"{dataset} needs the folder of a recording; none was given")
    if not options.root.is_dir():
        raise SourceError(
            f"{options.root} is not a folder; {dataset} needs the folder of a recording"
        )
    # Sequences are named by folders, and `.` and `..` are not names.
    return options.root.resolve() if options.root.name in ("", "..") else options.root


def visible_files(folder: Path, pattern: str) -> list[Path]:
    """The folder's files that fit the pattern, 2.png before 10.png; none that begins with a dot.

    macOS leaves a `._NAME` beside each `NAME` on other file systems: not an image, whatever its
    suffix.
    """
    found = [path for path in folder.glob(pattern) if not path.name.startswith(".")]
    return sorted(found, key=lambda path: natural_order(path.name))


def image_suffix(folder: Path) -> str | None:
    """The suffix of a camera's images, .png or .jpg; None without images or folder."""
    for suffix in (".png", ".jpg"):
        if visible_files(folder, f"*{suffix}"):
            return suffix
    return None


def natural_order(name: str) -> list[tuple[int, str]]:
    """Sort key that puts frame-2 before frame-10."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    ]


def folders_with(root: Path, name: str) -> list[Path]:
    """`root` and the folders below, links followed, that hold a file or folder `name`; sorted."""
    return sorted(folder for folder, names in folders_below(root) if name in names)


def folders_below(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """`root` and the folders below, links followed, each once, with the names that they hold."""
    entered = {root.resolve()}
    for place, below, files in os.walk(root, followlinks=True):
        folder = Path(place)
        yield folder, [*below, *files]
        seen = (one for one in sorted(below) if not one.startswith("."))
        # A link to a folder above would be entered for ever; links come after what they may repeat.
        ordered = sorted(seen, key=lambda one: (folder / one).is_symlink())
        below[:] = [one for one in ordered if _is_new(folder / one, entered)]


def _is_new(folder: Path, entered: set[Path]) -> bool:
    real = folder.resolve()
    if real in entered:
        return False
    entered.add(real)
    return True


def frame_list_digest(frames: Iterable[tuple[str, Iterable[Path | None]]]) -> str:
    """Hex sha256 over each frame's key and its files' sizes in bytes; -1 for missing files."""
    return sha256_json([[key, *map(_file_size, paths)] for key, paths in frames])


def listed_json(dataset: str, frames: Collection[ListedFiles]) -> dict[str, Any]:
    """What fingerprints of readers begin with: the dataset, how many frames, and their digest."""
    return {
        "dataset": dataset,
        "frames": len(frames),
        "frame_list": frame_list_digest((frame.key, frame.paths()) for frame in frames),
    }


def chosen_frames(listed: Sequence[ListedFrame], options: SourceOptions) -> dict[str, ListedFrame]:
    """The frames that `every` and `limit` leave, by key.

    Raises:
        SourceError: two frames have the same key.
    """
    count_of: dict[str, int] = {}
    chosen: dict[str, ListedFrame] = {}
    for frame in listed:
        number = count_of.get(frame.sequence, 0)
        count_of[frame.sequence] = number + 1
        if number % options.every:
            continue
        if options.limit is not None and len(chosen) == options.limit:
            break
        if frame.key in chosen:
            raise SourceError(f"two frames have the key {frame.key}; rename one of their folders")
        chosen[frame.key] = frame
    return chosen


def check_distinct(names: Mapping[Path, str]) -> None:
    """Check that the sequences of a recording have different names.

    Args:
        names: by the file or folder of each sequence.

    Raises:
        SourceError: two have the same.
    """
    found: dict[str, Path] = {}
    for path, name in names.items():
        if name in found:
            raise SourceError(
                f"{found[name]} and {path} would both be the sequence {name}; rename one, or read "
                "them one at a time"
            )
        found[name] = path


def known_frame(frames: Mapping[str, Item], key: str) -> Item:
    """The listed frame with this key.

    Raises:
        FrameError: there is none.
    """
    if key not in frames:
        raise FrameError(key, f"no such frame among the {len(frames)} of this recording")
    return frames[key]


def safe_key(*parts: str) -> str:
    """The parts joined by `_`, with characters that a key may not have replaced by `-`."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", "_".join(parts))


def _file_size(path: Path | None) -> int:
    return path.stat().st_size if path is not None and path.is_file() else -1
