"""Which dataset a folder belongs to, by its files; and what is missing in near misses."""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path

from p2pkit.datasets.layout import Layout
from p2pkit.datasets.registry import DATASETS, Dataset
from p2pkit.datasets.ros.bag import is_bag_file
from p2pkit.errors import SourceError

ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".7z")
"""Endings of files in which a recording may be packed."""
LEVELS_ABOVE = 3
"""How many folders above a given one are searched for the recording that contains it."""


@dataclass(frozen=True)
class Recognised:
    """A recording whose format is known.

    Args:
        dataset: its name.
        root: the recording's folder, or the one bag in it that was named.
        layout: by which it was recognised.
    """

    dataset: str
    root: Path
    layout: Layout

    @property
    def sentences(self) -> list[str]:
        """What was recognised, and which datasets read the same files."""
        others = (row for row in DATASETS.values() if row.same_files_as == self.dataset)
        return [
            f"Recognised as {self.dataset} by {self.layout}.",
            *(f"{row.name} reads the same recording in another way." for row in others),
        ]


def recognise(place: str | Path) -> Recognised:
    """The format of the recording at `place`: its folder, or a file in it that is part of it.

    Raises:
        SourceError: the place does not exist, or is an archive; no dataset has these files, where
            the message names the dataset that lacks one file, the recording that holds `place` or
            lies beside it, or else what was searched for; or several datasets have them.
    """
    place = Path(place)
    if not place.exists():
        raise SourceError(f"{place} does not exist; expected the folder of a recording")
    root = place if place.is_dir() else place.parent
    if root != place and place.name.lower().endswith(ARCHIVES):
        raise SourceError(f"{place} is an archive; unpack it and name the folder")
    found = _all_recognised(place)
    if not found:
        raise SourceError(
            _recording_beside(place)
            or _recording_above(root)
            or _near_misses(root)
            or _what_was_tried(root)
        )
    if len(found) > 1:
        matching = "; ".join(f"{one.dataset} by {one.layout}" for one in found)
        raise SourceError(
            f"{root} may be in {len(found)} formats: {matching}. Name the right one with --dataset"
        )
    return found[0]


def _all_recognised(place: Path) -> list[Recognised]:
    # The other bags in the folder of a bag were not named.
    root = place if place.is_dir() or is_bag_file(place) else place.parent
    return [
        Recognised(_narrowed(row, root), root, layout)
        for row in DATASETS.values()
        if (layout := _layout_at(place, row))
    ]


def _layout_at(place: Path, row: Dataset) -> Layout | None:
    """The first of the row's layouts that fits a folder, or a file and its folder."""
    fits = Layout.matches if place.is_dir() else Layout.includes
    return next((layout for layout in row.layouts if fits(layout, place)), None)


def _narrowed(row: Dataset, root: Path) -> str:
    """Which of the datasets with the same files a folder in the row's layout is."""
    if not row.narrowed_by:
        return row.name
    module, _, name = row.narrowed_by.partition(":")
    return str(getattr(import_module(f"p2pkit.datasets.{module}"), name)(root))


def _recording_beside(place: Path) -> str:
    """Says which recording lies in the folder of a file that is not part of it; empty if none."""
    beside = [] if place.is_dir() else _all_recognised(place.parent)
    if not beside:
        return ""
    named = " and ".join(f"{one.dataset} by {one.layout}" for one in beside)
    return (
        f"{place} is not a file that a recording is recognised by. Its folder is recognised as "
        f"{named}; to read that, name the folder: {place.parent}"
    )


def _recording_above(root: Path) -> str:
    """Says which folder above is the recording that `root` is a part of; empty if none is."""
    inside = root.resolve()
    for above in inside.parents[:LEVELS_ABOVE]:
        for row in DATASETS.values():
            for layout in row.layouts:
                # A recording beside `root` makes the folder above a recording, but not of `root`.
                places = layout.folders_around(inside, above)
                named = fnmatch(above.name, layout.name)
                if named and any(not layout.missing_in(place) for place in places):
                    return (
                        f"{root} is a folder inside a {row.name} recording; give the recording "
                        f"itself: {above}"
                    )
    return ""


@dataclass(frozen=True)
class _NearMiss:
    """A dataset whose typical files exist, and the patterns that match nothing."""

    row: Dataset
    missing: tuple[str, ...]
    folder: Path


def _near_misses(root: Path) -> str:
    """Says which datasets `root` looks like, and what is missing; empty if it looks like none."""
    found = [miss for row in DATASETS.values() for miss in _near_miss(row, root)]
    if not found:
        return ""
    fewest = min(len(miss.missing) for miss in found)
    found = [miss for miss in found if len(miss.missing) == fewest]
    said = "; or like ".join(
        f"{miss.row.name}, but {' and '.join(miss.missing)} "
        f"{'is' if len(miss.missing) == 1 else 'are'} missing in {miss.folder}"
        for miss in found
    )
    hints = dict.fromkeys(hint for miss in found for hint in _hints(miss))
    named = [
        miss.row.name
        for miss in found
        if miss.row.takes_camera_file and "camera.json" in miss.missing
    ]
    elsewhere = f"; a calibration elsewhere: --dataset {named[0]} --camera FILE" if named else ""
    return (
        f"{root} looks like {said}. Add what is missing, or name another format with --dataset"
        + elsewhere
        + "".join(f"\n{hint}" for hint in hints)
    )


def _near_miss(row: Dataset, root: Path) -> Iterator[_NearMiss]:
    """At most one, by the layout that lacks the fewest files besides the dataset's typical ones."""
    misses = [
        _NearMiss(row, layout.missing_in(folder), folder)
        for typical in row.typical
        for folder in typical.matching_folders(root)
        for layout in row.layouts
    ]
    if misses:
        yield min(misses, key=lambda miss: len(miss.missing))


def _hints(miss: _NearMiss) -> Iterator[str]:
    """How the missing files are made or named."""
    for pattern in miss.missing:
        if pattern in miss.row.hints:
            module, _, name = miss.row.hints[pattern].partition(":")
            yield str(getattr(import_module(f"p2pkit.datasets.{module}"), name))


def _what_was_tried(root: Path) -> str:
    tried = (
        f"\n  {row.name}: {', or '.join(map(str, row.layouts))}"
        for row in DATASETS.values()
        if row.layouts
    )
    return (
        f"{root} is not a recording in a known format; name its format with --dataset. Formats "
        f"(** is any folder below):{''.join(tried)}\n"
        "A recording in a custom format is best converted to posed-rgbd (depth images) or pandaset "
        "(LiDAR and cameras): docs/datasets/own.md has a script for each"
    )
