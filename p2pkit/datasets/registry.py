"""The datasets: one row each with its name, its reader, and everything else that differs by
dataset.

To add a dataset see docs/datasets/adding.md. A row names its reader as `module:Class` below
`p2pkit.datasets`; it is imported when a recording is opened, so that importing this module stays
light.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

from p2pkit.datasets.frame import FrameSource, SourceOptions
from p2pkit.datasets.layout import ANYWHERE, HERE, HERE_OR_BELOW, IMAGE_ENDINGS, Layout
from p2pkit.errors import ConfigError

Kind = Literal["depth", "sweeps", "points", "generated"]


@dataclass(frozen=True)
class OfficialTest:
    """The part of a benchmark that results are published on and that has public labels.

    Args:
        scenes: patterns of its sequences; empty where a file of the release lists them.
        listed_in: that file, and where it is; empty where `scenes` has all.
        frames: of it, as published; None where the benchmark counts something else.
        scores: what the benchmark scores in place of each point of the recording; empty where it
            is these points.
    """

    scenes: tuple[str, ...] = ()
    listed_in: str = ""
    frames: int | None = None
    scores: str = ""


@dataclass(frozen=True)
class Dataset:
    """What is known of a dataset before a recording of it is opened.

    Args:
        name: as given with `--dataset`.
        reader: `module:NAME` below `p2pkit.datasets` of what makes a `FrameSource` from
            `SourceOptions`: a class or a function.
        kind: `depth` for depth images with colour; `sweeps` for LiDAR sweeps with cameras, tens of
            metres wide with decimetres between the points; `points` for labelled points without
            images, to evaluate on; `generated` for depth images made by code, without a folder.
        layouts: how its recordings lie on the disk; a folder in any of them is recognised.
        world_up: the axis of the world that points up, or None where it has to be estimated.
        labels: what the labels are, or empty.
        has_poses: whether recordings can have poses.
        takes_camera_file: whether `--camera` gives the calibration.
        takes_streams: whether `--streams` chooses what is read.
        same_files_as: the dataset whose recordings it reads in another way, or empty; such a
            dataset is recognised only by that one's `narrowed_by`.
        narrowed_by: `module:function` below `p2pkit.datasets` that names, for a folder in one of
            `layouts`, which of the datasets with the same files it is; empty for this one.
        settings: dotted settings of `ExtractConfig` that replace the defaults.
        typical: files that hardly any other dataset has; a folder that holds them but matches none
            of `layouts` is a near miss.
        hints: for patterns that a near miss lacks, `module:NAME` below `p2pkit.datasets` of a text
            that says how such files are made or named.
        official_test: its benchmark's test part, if it has one.
        boxes_in_view: whether only what a camera sees was searched for boxes.
    """

    name: str
    reader: str
    kind: Kind = "depth"
    layouts: tuple[Layout, ...] = ()
    world_up: Literal["z"] | None = None
    labels: str = ""
    has_poses: bool = True
    takes_camera_file: bool = False
    takes_streams: bool = False
    narrowed_by: str = ""
    same_files_as: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    typical: tuple[Layout, ...] = ()
    hints: Mapping[str, str] = field(default_factory=dict)
    official_test: OfficialTest | None = None
    boxes_in_view: bool = False


LARGEST_UNITS = 1e9
"""Most units of depth per metre."""
SWEEP_VOXEL_M = 0.05
"""Voxels of stored sweeps: the default, made for rooms, would keep nearly every point."""
SWEEP_NEAR_LIMIT_M = 1.0
"""Pairs nearer to a camera are left out, as by SLidR: they show the vehicle itself."""
_SWEEPS: dict[str, Any] = {
    "geometry.voxel_size": SWEEP_VOXEL_M,
    "geometry.near_limit": SWEEP_NEAR_LIMIT_M,
}
_PIXELS = "the pixels of images"
_SCANNET_TEST = OfficialTest(
    listed_in="scannetv2_val.txt of ScanNet's repository (Tasks/Benchmark)",
    scores="the vertices of whole scenes, as --dataset scannet-scenes reads them",
)
_SEVEN_SCENES = ("frame-*.color.png", "frame-*.pose.txt")

_ROWS = (
    Dataset(
        "7scenes",
        "rgbd.seven_scenes:SevenScenes",
        layouts=(
            Layout(_SEVEN_SCENES, places=("seq-*", "*/seq-*")),
            Layout(_SEVEN_SCENES, name="seq-*", more=("frame-*.depth.png",)),
        ),
    ),
    Dataset(
        "arkitscenes",
        "rgbd.arkitscenes:ArkitScenes",
        layouts=(Layout(("lowres_depth", "lowres_wide.traj"), places=(ANYWHERE,)),),
        world_up="z",
        typical=(Layout(("lowres_depth",), HERE_OR_BELOW),),
    ),
    Dataset(
        "demo-scene",
        "rooms.demo_scene:DemoScene",
        kind="generated",
        world_up="z",
        labels="11 classes",
    ),
    Dataset(
        "kitti-object",
        "lidar.kitti_object:KittiObject",
        kind="sweeps",
        layouts=(Layout(("velodyne/*.bin", "calib/*.txt"), places=(HERE, "training", "testing")),),
        has_poses=False,
        settings=_SWEEPS,
        boxes_in_view=True,
        typical=(Layout(("velodyne/*.bin",), places=(HERE, "training", "testing")),),
    ),
    Dataset(
        "kitti-odometry",
        "lidar.kitti_odometry:KittiOdometry",
        kind="sweeps",
        layouts=(Layout(("velodyne", "calib.txt"), places=("sequences/*",)),),
        labels="SemanticKITTI, 19",
        settings=_SWEEPS,
        official_test=OfficialTest(("08",), frames=4071),
        typical=(Layout(("velodyne",), places=("sequences/*",)),),
    ),
    Dataset(
        "kitti-raw",
        "lidar.kitti_raw:KittiRaw",
        kind="sweeps",
        layouts=(Layout(("calib_velo_to_cam.txt", "*/velodyne_points"), HERE_OR_BELOW),),
        settings=_SWEEPS,
        typical=(Layout(("*/velodyne_points",), HERE_OR_BELOW),),
    ),
    Dataset(
        "lerobot",
        "rgbd.lerobot:LeRobot",
        layouts=(Layout(("meta/info.json", "data")),),
        has_poses=False,
        takes_camera_file=True,
        takes_streams=True,
    ),
    Dataset(
        "nerfstudio",
        "rgbd.nerfstudio:Nerfstudio",
        layouts=(Layout(("transforms.json",), HERE_OR_BELOW),),
        typical=(Layout(("keyframes/depth", "keyframes/images"), HERE_OR_BELOW),),
        hints={"transforms.json": "rgbd.nerfstudio:RAW_EXPORT"},
    ),
    Dataset(
        "nuscenes",
        "lidar.nuscenes:NuScenes",
        kind="sweeps",
        layouts=(
            Layout(("sample_data.json", "calibrated_sensor.json"), places=(HERE, "v1.0-*")),
            Layout(("calib.json", "*LIDAR_TOP*.pcd.bin"), more=("*CAM_*.jpg",)),
        ),
        labels="lidarseg, 16",
        settings=_SWEEPS,
        official_test=OfficialTest(
            listed_in="splits.py of nuscenes-devkit (python-sdk/nuscenes/utils)", frames=6019
        ),
        typical=(Layout(("samples/LIDAR_TOP",)), Layout(("*LIDAR_TOP*.pcd.bin",))),
    ),
    Dataset(
        "nyuv2",
        "rgbd.nyu.nyuv2:open_nyuv2",
        layouts=(
            Layout(("classes40.txt", "train.txt", "rgb/*.jpg", "depth/*.png")),
            Layout(("classes40.txt", "test.txt", "rgb/*.jpg", "depth/*.png")),
            Layout(("nyu_depth_v2_labeled.mat", "splits.mat")),
        ),
        typical=(Layout(("nyu_depth_v2_labeled.mat",)),),
        labels="40 classes",
        has_poses=False,
        official_test=OfficialTest(("test-*",), frames=654, scores=_PIXELS),
    ),
    Dataset(
        "pandaset",
        "lidar.pandaset:PandaSet",
        kind="sweeps",
        layouts=(Layout(("calib.json", "lidar/*.npz"), HERE_OR_BELOW),),
        labels="42 classes",
        settings=_SWEEPS,
        typical=(
            Layout(("lidar/*.npz",), HERE_OR_BELOW),
            Layout(("lidar/*.pkl*", "lidar/poses.json"), HERE_OR_BELOW),
        ),
        hints={"calib.json": "lidar.pandaset:CONVERSION"},
    ),
    Dataset(
        "posed-rgbd",
        "rgbd.posed_rgbd:PosedRgbd",
        layouts=(
            Layout(
                ("camera.json", "frame-*.depth.*"),
                HERE_OR_BELOW,
                more=("frame-*.color.*", "frame-*.pose.txt", "frame-*.label.png"),
            ),
            Layout(("camera.json", "*/frame-*.depth.*")),
        ),
        labels="your own",
        takes_camera_file=True,
        typical=(
            Layout(("frame-*.depth.*", "frame-*.color.*"), HERE_OR_BELOW),
            Layout(("camera.json", "*.color.*"), HERE_OR_BELOW),
            Layout(("camera.json", "*/*.color.*")),
        ),
        hints={
            "camera.json": "rgbd.calibration:MISSING",
            "frame-*.depth.*": "rgbd.posed_rgbd:NAMES",
        },
    ),
    Dataset(
        "redwood",
        "rgbd.redwood:Redwood",
        layouts=(
            Layout(("depth/*.png", "*intrinsic.json"), HERE_OR_BELOW, any_case=True),
            Layout(("depth/*.png", "camera.json"), HERE_OR_BELOW, any_case=True),
            Layout(("depth/*.png", "camera_primesense.json"), HERE_OR_BELOW, any_case=True),
        ),
        typical=tuple(
            Layout((f"{color}/*.{ending}", "depth/*.png"), HERE_OR_BELOW, any_case=True)
            for color in ("color", "image", "rgb")
            for ending in IMAGE_ENDINGS
        ),
        hints={"*intrinsic.json": "rgbd.redwood:INTRINSICS_FORM"},
    ),
    Dataset(
        "ros-rgbd",
        "ros.rgbd:RosRgbd",
        layouts=(
            Layout(("*.bag",), HERE_OR_BELOW),
            Layout(("*.mcap",), HERE_OR_BELOW, more=("metadata.yaml",)),
            Layout(("*.db3",), HERE_OR_BELOW, more=("metadata.yaml",)),
        ),
        typical=(Layout(("*.bag.active",), HERE_OR_BELOW),),
        hints={"*.bag": "ros.bag:UNFINISHED"},
        takes_streams=True,
        narrowed_by="ros.messages:dataset_of",
    ),
    Dataset(
        "ros-sweeps",
        "ros.sweeps:RosSweeps",
        kind="sweeps",
        same_files_as="ros-rgbd",
        takes_streams=True,
        settings=_SWEEPS,
    ),
    Dataset(
        "s3dis",
        "points.s3dis:S3dis",
        kind="points",
        layouts=(Layout(("Annotations/*.txt",), places=("Area_*/*", "*", HERE)),),
        world_up="z",
        labels="13 classes",
        settings={"features.teacher.name": "none"},
        official_test=OfficialTest(("Area_5_*",), frames=68),
    ),
    Dataset(
        "scannet",
        "rgbd.scannet.frames:ScanNet",
        layouts=(
            Layout(("*.sens",), HERE_OR_BELOW),
            Layout(("color", "depth", "pose"), HERE_OR_BELOW),
        ),
        world_up="z",
        labels="20 classes",
        official_test=_SCANNET_TEST,
    ),
    Dataset(
        "scannet-scenes",
        "points.scannet_scenes:ScanNetScenes",
        kind="points",
        world_up="z",
        labels="20 classes",
        same_files_as="scannet",
        settings={"features.teacher.name": "none", "geometry.voxel_size": 0.0},
        official_test=OfficialTest(listed_in=_SCANNET_TEST.listed_in, frames=312),
    ),
    Dataset(
        "scannet200",
        "rgbd.scannet.frames:ScanNet200",
        world_up="z",
        labels="200 classes",
        same_files_as="scannet",
        official_test=_SCANNET_TEST,
    ),
    Dataset(
        "sunrgbd",
        "rgbd.sunrgbd:SunRgbd",
        layouts=(Layout(("intrinsics.txt", "image/*.jpg", "depth*/*.png"), places=(ANYWHERE,)),),
        labels="37 classes",
        has_poses=False,
        official_test=OfficialTest(("test-*",), frames=5050, scores=_PIXELS),
    ),
    Dataset(
        "tum",
        "rgbd.tum:TumRgbd",
        layouts=(Layout(("rgb.txt", "depth.txt"), HERE_OR_BELOW, more=("groundtruth.txt",)),),
        typical=(Layout(("rgb.txt",), HERE_OR_BELOW), Layout(("depth.txt",), HERE_OR_BELOW)),
        world_up="z",
        takes_camera_file=True,
    ),
)

DATASETS: dict[str, Dataset] = {row.name: row for row in _ROWS}
"""The datasets by name, in alphabetical order."""


def dataset_row(name: str) -> Dataset:
    """The row of a dataset.

    Raises:
        ConfigError: no dataset has that name; the message lists them.
    """
    if name not in DATASETS:
        raise ConfigError(f"unknown dataset {name!r}; choose one of {', '.join(sorted(DATASETS))}")
    return DATASETS[name]


def is_kind(name: str, *kinds: Kind) -> bool:
    """Whether `name` is a dataset of one of these kinds; False for unknown names."""
    return name in DATASETS and DATASETS[name].kind in kinds


def open_source(name: str, options: SourceOptions) -> FrameSource:
    """Open a recording.

    Raises:
        ConfigError: no dataset has that name (the message lists them), `limit` or `every` is below
            1, or an option (camera file, depth units, streams, folder) is given to a dataset that
            does not take it.
        SourceError: the recording or its calibration cannot be used.
    """
    row = dataset_row(name)
    _check_options(row, options)
    module, _, reader = row.reader.partition(":")
    source: FrameSource = getattr(import_module(f"p2pkit.datasets.{module}"), reader)(options)
    if row.kind == "depth":
        from p2pkit.datasets.rgbd.depth_scale import ProbesDepth, check_depth_scale

        if isinstance(source, ProbesDepth):
            check_depth_scale(source.depth_probes())
    if options.flying_margin:
        from p2pkit.datasets.clean_depth import CleanDepth

        source = CleanDepth(source, options.flying_margin)
    if options.fuse:
        from p2pkit.datasets.fused import FusedFrames

        source = FusedFrames(
            source,
            options.fuse,
            depth_range_m=options.depth_range_m,
            world_up=row.world_up,
        )
    return source


def _check_options(row: Dataset, options: SourceOptions) -> None:
    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"limit is {options.limit}; it must be at least 1 frame, or left out")
    if options.every < 1:
        raise ConfigError(f"every is {options.every}; it must be at least 1: use each n-th frame")
    if options.camera_file is not None and not row.takes_camera_file:
        takers = ", ".join(one.name for one in DATASETS.values() if one.takes_camera_file)
        raise ConfigError(
            f"a camera file applies to {takers} only; {row.name} has its own calibration"
        )
    if options.streams and not row.takes_streams:
        takers = ", ".join(one.name for one in DATASETS.values() if one.takes_streams)
        raise ConfigError(f"streams apply to {takers} only; {row.name} has one of each kind")
    if options.depth_units is not None:
        if row.kind != "depth":
            raise ConfigError(f"depth units apply to recorded depth images; {row.name} has none")
        if not 0 < options.depth_units <= LARGEST_UNITS:
            raise ConfigError(
                f"depth_units is {options.depth_units:g}; expected positive units per metre, at "
                f"most {LARGEST_UNITS:g}"
            )
    if options.root is not None and row.kind == "generated":
        raise ConfigError(f"{row.name} is generated and reads no folder; leave out {options.root}")
