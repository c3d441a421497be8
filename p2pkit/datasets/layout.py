"""How the files of a dataset lie on the disk, as patterns."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from p2pkit.datasets.listing import folders_below

HERE = "."
ANYWHERE = "**"
HERE_OR_BELOW = (HERE, "*")
IMAGE_ENDINGS = ("jpg", "png")


@dataclass(frozen=True)
class Layout:
    """One way in which a format lies on the disk.

    Args:
        files: glob patterns, each of which must match something in one folder.
        places: where that folder may be, as patterns below the recording's; `.` is this itself.
        name: pattern of the name of the recording's folder.
        more: patterns of further files in that folder that may be named in its place.
        any_case: whether the reader takes endings of images in capitals, too.
    """

    files: tuple[str, ...]
    places: tuple[str, ...] = (HERE,)
    name: str = "*"
    more: tuple[str, ...] = ()
    any_case: bool = False

    def matches(self, root: Path) -> bool:
        """Whether `root` is such a recording."""
        return any(True for _ in self.matching_folders(root))

    def includes(self, file: Path) -> bool:
        """Whether the folder of a file is such a recording, and the file one of it."""
        named = any(fnmatch(file.name, pattern) for pattern in (*self.files, *self.more))
        return named and file.parent in self.matching_folders(file.parent)

    def matching_folders(self, root: Path) -> Iterator[Path]:
        """The folders that hold all of the files, where `root` is such a recording."""
        if fnmatch(root.resolve().name, self.name):
            for folder in self.possible_folders(root):
                if not self.missing_in(folder):
                    yield folder

    def possible_folders(self, root: Path) -> Iterator[Path]:
        """The folders in which the files are searched for."""
        for place in self.places:
            yield from _folders(root, place)

    def folders_around(self, inside: Path, root: Path) -> list[Path]:
        """The folders of `possible_folders(root)` that hold `inside` or that it holds.

        Both are resolved. Of layouts that lie anywhere, only folders that hold it: to search all
        of a folder above could take minutes.
        """
        if ANYWHERE in self.places:
            holding = (inside, *inside.parents)
            return [folder for folder in holding if folder.is_relative_to(root)]
        folders = (folder.resolve() for folder in self.possible_folders(root))
        return [
            folder
            for folder in folders
            if inside.is_relative_to(folder) or folder.is_relative_to(inside)
        ]

    def missing_in(self, folder: Path) -> tuple[str, ...]:
        """The patterns that match nothing in a folder."""
        return tuple(pattern for pattern in self.files if not self._is_in(folder, pattern))

    def _is_in(self, folder: Path, pattern: str) -> bool:
        stem, dot, ending = pattern.rpartition(".")
        if self.any_case and ending in IMAGE_ENDINGS:
            pattern = stem + dot + "".join(f"[{one}{one.upper()}]" for one in ending)
        return any(folder.glob(pattern))

    def __str__(self) -> str:
        places = ("the folder" if place == HERE else place for place in self.places)
        named = "" if self.name == "*" else f" {self.name}"
        return f"{' + '.join(self.files)} in {' or '.join(places)}{named}"


def _folders(root: Path, place: str) -> Iterable[Path]:
    if place == HERE:
        return (root,)
    if place == ANYWHERE:
        return (folder for folder, _ in folders_below(root))
    return root.glob(f"{place}/")
