"""Recordings as sources of frames: a dict from the name of a dataset to the function that opens it.

To add a dataset see docs/datasets.md. The functions import their module when they are called, so
that importing this package stays light.
"""

from collections.abc import Callable

from p2pkit.datasets.frame import DepthImage, Frame, FrameSource, View
from p2pkit.datasets.options import SourceOptions
from p2pkit.errors import ConfigError

__all__ = ["SOURCES", "DepthImage", "Frame", "FrameSource", "SourceOptions", "View", "open_source"]


def _open_posed_rgbd(options: SourceOptions) -> FrameSource:
    from p2pkit.datasets.posed_rgbd import PosedRgbd

    return PosedRgbd(options)


def _open_kitti_object(options: SourceOptions) -> FrameSource:
    from p2pkit.datasets.kitti_object import KittiObject

    return KittiObject(options)


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


SOURCES: dict[str, Callable[[SourceOptions], FrameSource]] = {
    "demo-scene": _open_demo_scene,
    "kitti-object": _open_kitti_object,
    "nuscenes": _open_nuscenes,
    "nyuv2": _open_nyuv2,
    "pandaset": _open_pandaset,
    "posed-rgbd": _open_posed_rgbd,
}


def open_source(name: str, options: SourceOptions) -> FrameSource:
    """Open a recording.

    Raises:
        ConfigError: `name` is no key of `SOURCES` (the message lists them), `limit` or `every` is
            below 1, or a camera file is given to a dataset that has its own calibration.
        SourceError: the recording or its calibration cannot be used.
    """
    if name not in SOURCES:
        raise ConfigError(f"unknown dataset {name!r}; choose one of {', '.join(sorted(SOURCES))}")
    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"limit is {options.limit}; it must be at least 1 frame, or left out")
    if options.every < 1:
        raise ConfigError(f"every is {options.every}; it must be at least 1: use each n-th frame")
    if options.camera_file is not None and name != "posed-rgbd":
        raise ConfigError(f"a camera file is for posed-rgbd only; {name} has its own calibration")
    return SOURCES[name](options)
