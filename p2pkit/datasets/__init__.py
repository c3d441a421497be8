"""Recordings as sources of frames: a dict from the name of a dataset to the function that opens it.

To add a dataset see docs/datasets.md. The functions import their module when they are called, so
that importing this package stays light.
"""

from collections.abc import Callable

from p2pkit.datasets.frame import DepthImage, Frame, FrameSource, View
from p2pkit.datasets.options import SourceOptions
from p2pkit.errors import ConfigError

__all__ = [
    "LIDAR",
    "SOURCES",
    "WITHOUT_IMAGES",
    "DepthImage",
    "Frame",
    "FrameSource",
    "SourceOptions",
    "View",
    "open_source",
    "refuse_unknown_dataset",
]


def _open_posed_rgbd(options: SourceOptions) -> FrameSource:
    from p2pkit.datasets.posed_rgbd import PosedRgbd

    return PosedRgbd(options)


def _open_kitti_object(options: SourceOptions) -> FrameSource:
    from p2pkit.datasets.kitti_object import KittiObject

    return KittiObject(options)


def _open_kitti_odometry(options: SourceOptions) -> FrameSource:
    from p2pkit.datasets.kitti_odometry import KittiOdometry

    return KittiOdometry(options)


def _open_kitti_raw(options: SourceOptions) -> FrameSource:
    from p2pkit.datasets.kitti_raw import KittiRaw

    return KittiRaw(options)


def _open_nuscenes(options: SourceOptions) -> FrameSource:
    from p2pkit.datasets.nuscenes import NuScenes

    return NuScenes(options)


def _open_nyuv2(options: SourceOptions) -> FrameSource:
    from p2pkit.datasets.nyuv2 import NyuV2

    return NyuV2(options)


def _open_pandaset(options: SourceOptions) -> FrameSource:
    from p2pkit.datasets.pandaset import PandaSet

    return PandaSet(options)


def _open_demo_scene(options: SourceOptions) -> FrameSource:
    from p2pkit.datasets.demo_scene import DemoScene

    return DemoScene(options)


def _open_seven_scenes(options: SourceOptions) -> FrameSource:
    from p2pkit.datasets.seven_scenes import SevenScenes

    return SevenScenes(options)


def _open_arkitscenes(options: SourceOptions) -> FrameSource:
    from p2pkit.datasets.arkitscenes import ArkitScenes

    return ArkitScenes(options)


def _open_redwood(options: SourceOptions) -> FrameSource:
    from p2pkit.datasets.redwood import Redwood

    return Redwood(options)


def _open_sunrgbd(options: SourceOptions) -> FrameSource:
    from p2pkit.datasets.sunrgbd import SunRgbd

    return SunRgbd(options)


def _open_tum(options: SourceOptions) -> FrameSource:
    from p2pkit.datasets.tum import TumRgbd

    return TumRgbd(options)


def _open_scannet(options: SourceOptions) -> FrameSource:
    from p2pkit.datasets.scannet import ScanNet

    return ScanNet(options)


def _open_scannet200(options: SourceOptions) -> FrameSource:
    from p2pkit.datasets.scannet import ScanNet

    return ScanNet(options, classes=200)


def _open_s3dis(options: SourceOptions) -> FrameSource:
    from p2pkit.datasets.s3dis import S3dis

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
        from p2pkit.datasets.clean_depth import CleanDepth

        source = CleanDepth(source, options.flying_margin)
    if options.fuse:
        from p2pkit.datasets.fused import FusedFrames

        source = FusedFrames(source, options.fuse)
    return source
