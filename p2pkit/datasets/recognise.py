"""Which format a recording is in, told by the files that each format has: one table of patterns."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from p2pkit.datasets.frame_list import folders_below
from p2pkit.errors import SourceError

HERE = "."
ANYWHERE = "**"
HERE_OR_BELOW = (HERE, "*")


@dataclass(frozen=True)
class Layout:
    """One way in which a format lies on the disk.

    Args:
        files: glob patterns, each of which must match something in one folder.
        places: where that folder may be, as patterns below the recording's; `.` is this itself.
        name: pattern of the name of the recording's folder.
    """

    files: tuple[str, ...]
    places: tuple[str, ...] = (HERE,)
    name: str = "*"

    def matches(self, root: Path) -> bool:
        """Whether `root` is such a recording."""
        return fnmatch(root.resolve().name, self.name) and any(
            all(any(folder.glob(pattern)) for pattern in self.files)
            for place in self.places
            for folder in _folders(root, place)
        )

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


_SEVEN_SCENES = ("frame-*.color.png", "frame-*.pose.txt")

LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "7scenes": (
        Layout(_SEVEN_SCENES, places=("seq-*", "*/seq-*")),
        Layout(_SEVEN_SCENES, name="seq-*"),
    ),
    "arkitscenes": (Layout(("lowres_depth", "lowres_wide.traj"), places=(ANYWHERE,)),),
    "kitti-object": (
        Layout(("velodyne/*.bin", "calib/*.txt"), places=(HERE, "training", "testing")),
    ),
    "kitti-odometry": (Layout(("velodyne", "calib.txt"), places=("sequences/*",)),),
    "kitti-raw": (Layout(("calib_velo_to_cam.txt", "*/velodyne_points"), HERE_OR_BELOW),),
    "nuscenes": (
        Layout(("sample_data.json", "calibrated_sensor.json"), places=(HERE, "v1.0-*")),
        Layout(("calib.json", "*LIDAR_TOP*.pcd.bin")),
    ),
    "nyuv2": (
        Layout(("classes40.txt", "train.txt", "rgb/*.jpg", "depth/*.png")),
        Layout(("classes40.txt", "test.txt", "rgb/*.jpg", "depth/*.png")),
    ),
    "pandaset": (Layout(("calib.json", "lidar/*.npz"), HERE_OR_BELOW),),
    "posed-rgbd": (
        Layout(("camera.json", "frame-*.depth.*"), HERE_OR_BELOW),
        Layout(("camera.json", "*/frame-*.depth.*")),
    ),
    "redwood": (
        Layout(("depth/*.png", "*intrinsic.json"), HERE_OR_BELOW),
        Layout(("depth/*.png", "camera.json"), HERE_OR_BELOW),
        Layout(("depth/*.png", "camera_primesense.json"), HERE_OR_BELOW),
    ),
    "s3dis": (Layout(("Annotations/*.txt",), places=("Area_*/*", "*", HERE)),),
    "scannet": (
        Layout(("*.sens",), HERE_OR_BELOW),
        Layout(("color", "depth", "pose"), HERE_OR_BELOW),
    ),
    "sunrgbd": (Layout(("intrinsics.txt", "image/*.jpg", "depth*/*.png"), places=(ANYWHERE,)),),
    "tum": (Layout(("rgb.txt", "depth.txt"), HERE_OR_BELOW),),
}
"""The layouts of each format; a recording in any of them is one of that format."""

SAME_FILES = {"scannet200": "scannet"}
"""Datasets that read the files of another: they are never recognised, only named."""


@dataclass(frozen=True)
class Recognised:
    """A recording whose format is known.

    Args:
        dataset: a name out of `p2pkit.datasets.SOURCES`.
        root: the recording's folder.
        layout: by which it was recognised.
    """

    dataset: str
    root: Path
    layout: Layout

    @property
    def told(self) -> list[str]:
        """Sentences: what was recognised, and which datasets read the same files."""
        others = (other for other, same in SAME_FILES.items() if same == self.dataset)
        return [
            f"Recognised as {self.dataset} by {self.layout}.",
            *(f"{other} reads the same files, for other classes." for other in others),
        ]


def recognise(place: Path) -> Recognised:
    """The format of the recording at `place`, which may be one of the files in its folder.

    Raises:
        SourceError: nothing is there, no format has these files (the message lists what each would
            have), or several have.
    """
    if not place.exists():
        raise SourceError(f"{place} does not exist; the folder of a recording is needed")
    root = place if place.is_dir() else place.parent
    found = [
        Recognised(dataset, root, layout)
        for dataset, layouts in LAYOUTS.items()
        if (layout := next((layout for layout in layouts if layout.matches(root)), None))
    ]
    if not found:
        looked_for = (
            f"\n  {dataset}: {', or '.join(map(str, layouts))}"
            for dataset, layouts in LAYOUTS.items()
        )
        raise SourceError(
            f"{root} is no recording in a format that is recognised; name its format with "
            f"--dataset. Looked for (** is any folder below):{''.join(looked_for)}\n"
            "A recording in a form of its own is best brought into posed-rgbd (depth images) or "
            "pandaset (LiDAR and cameras): docs/datasets/own.md has a script for each"
        )
    if len(found) > 1:
        matching = "; ".join(f"{one.dataset} by {one.layout}" for one in found)
        raise SourceError(
            f"{root} may be in {len(found)} formats: {matching}. Name the right one with --dataset"
        )
    return found[0]
