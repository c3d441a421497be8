"""The datasets by name: how each is opened, and the files by which it is recognised.

To add a dataset see docs/datasets.md. The functions import their module when they are called, so
that importing this module stays light.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from p2pkit.datasets.frame import FrameSource, SourceOptions
from p2pkit.datasets.listing import folders_below
from p2pkit.errors import ConfigError, SourceError


def _open_posed_rgbd(options: SourceOptions) -> FrameSource:
    from p2pkit.datasets.rgbd.posed_rgbd import PosedRgbd

    return PosedRgbd(options)


def _open_kitti_object(options: SourceOptions) -> FrameSource:
    from p2pkit.datasets.lidar.kitti_object import KittiObject

    return KittiObject(options)


def _open_kitti_odometry(options: SourceOptions) -> FrameSource:
    from p2pkit.datasets.lidar.kitti_odometry import KittiOdometry

    return KittiOdometry(options)


def _open_kitti_raw(options: SourceOptions) -> FrameSource:
    from p2pkit.datasets.lidar.kitti_raw import KittiRaw

    return KittiRaw(options)


def _open_nuscenes(options: SourceOptions) -> FrameSource:
    from p2pkit.datasets.lidar.nuscenes import NuScenes

    return NuScenes(options)


def _open_nyuv2(options: SourceOptions) -> FrameSource:
    from p2pkit.datasets.rgbd.nyuv2 import NyuV2

    return NyuV2(options)


def _open_pandaset(options: SourceOptions) -> FrameSource:
    from p2pkit.datasets.lidar.pandaset import PandaSet

    return PandaSet(options)


def _open_demo_scene(options: SourceOptions) -> FrameSource:
    from p2pkit.datasets.rooms.demo_scene import DemoScene

    return DemoScene(options)


def _open_seven_scenes(options: SourceOptions) -> FrameSource:
    from p2pkit.datasets.rgbd.seven_scenes import SevenScenes

    return SevenScenes(options)


def _open_arkitscenes(options: SourceOptions) -> FrameSource:
    from p2pkit.datasets.rgbd.arkitscenes import ArkitScenes

    return ArkitScenes(options)


def _open_redwood(options: SourceOptions) -> FrameSource:
    from p2pkit.datasets.rgbd.redwood import Redwood

    return Redwood(options)


def _open_sunrgbd(options: SourceOptions) -> FrameSource:
    from p2pkit.datasets.rgbd.sunrgbd import SunRgbd

    return SunRgbd(options)


def _open_tum(options: SourceOptions) -> FrameSource:
    from p2pkit.datasets.rgbd.tum import TumRgbd

    return TumRgbd(options)


def _open_scannet(options: SourceOptions) -> FrameSource:
    from p2pkit.datasets.rgbd.scannet import ScanNet

    return ScanNet(options)


def _open_scannet200(options: SourceOptions) -> FrameSource:
    from p2pkit.datasets.rgbd.scannet import ScanNet

    return ScanNet(options, classes=200)


def _open_s3dis(options: SourceOptions) -> FrameSource:
    from p2pkit.datasets.points.s3dis import S3dis

    return S3dis(options)


SOURCES: dict[str, Callable[[SourceOptions], FrameSource]] = {
    "7scenes": _open_seven_scenes,
    "arkitscenes": _open_arkitscenes,
    "demo-scene": _open_demo_scene,
    "kitti-object": _open_kitti_object,
    "kitti-odometry": _open_kitti_odometry,
    "kitti-raw": _open_kitti_raw,
    "nuscenes": _open_nuscenes,
    "nyuv2": _open_nyuv2,
    "pandaset": _open_pandaset,
    "posed-rgbd": _open_posed_rgbd,
    "redwood": _open_redwood,
    "s3dis": _open_s3dis,
    "scannet": _open_scannet,
    "scannet200": _open_scannet200,
    "sunrgbd": _open_sunrgbd,
    "tum": _open_tum,
}

WITHOUT_IMAGES = ("s3dis",)
"""Labelled points to evaluate on; no teacher can look at them."""
LIDAR = ("kitti-object", "kitti-odometry", "kitti-raw", "nuscenes", "pandaset")
"""Sweeps with cameras: tens of metres wide, with decimetres between the points."""
GENERATED = ("demo-scene",)
"""Made by code; no folder is read."""
TAKE_A_CAMERA_FILE = ("posed-rgbd", "tum")


def refuse_unknown_dataset(name: str) -> None:
    """Raise a ConfigError that lists the datasets unless `name` is one of them."""
    if name not in SOURCES:
        raise ConfigError(f"unknown dataset {name!r}; choose one of {', '.join(sorted(SOURCES))}")


def open_source(name: str, options: SourceOptions) -> FrameSource:
    """Open a recording.

    Raises:
        ConfigError: `name` is no key of `SOURCES` (the message lists them), `limit` or `every` is
            below 1, a camera file is given to a dataset that has its own calibration, or a folder
            to one that is generated.
        SourceError: the recording or its calibration cannot be used.
    """
    refuse_unknown_dataset(name)
    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"limit is {options.limit}; it must be at least 1 frame, or left out")
    if options.every < 1:
        raise ConfigError(f"every is {options.every}; it must be at least 1: use each n-th frame")
    if options.camera_file is not None and name not in TAKE_A_CAMERA_FILE:
        takers = " and ".join(TAKE_A_CAMERA_FILE)
        raise ConfigError(f"a camera file is for {takers} only; {name} has its own calibration")
    if options.root is not None and name in GENERATED:
        raise ConfigError(f"{name} is generated and reads no folder; leave out {options.root}")
    source = SOURCES[name](options)
    if options.flying_margin:
        from p2pkit.datasets.rgbd.clean_depth import CleanDepth

        source = CleanDepth(source, options.flying_margin)
    if options.fuse:
        from p2pkit.datasets.rgbd.fused import FusedFrames

        source = FusedFrames(source, options.fuse, options.depth_range_m)
    return source


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
