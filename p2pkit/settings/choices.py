"""The names that settings may take, so that `--help` lists them without importing what they name.

A test holds each equal to the names of the dict in its comment.
"""

DATASETS = (
    "7scenes",
    "arkitscenes",
    "demo-scene",
    "kitti-object",
    "kitti-odometry",
    "kitti-raw",
    "lerobot",
    "nerfstudio",
    "nuscenes",
    "nyuv2",
    "pandaset",
    "posed-rgbd",
    "redwood",
    "ros-rgbd",
    "ros-sweeps",
    "s3dis",
    "scannet",
    "scannet-scenes",
    "scannet200",
    "sunrgbd",
    "tum",
)
"""Of `p2pkit.datasets.registry.DATASETS`."""
STUDENTS = (
    "Res16UNet14",
    "Res16UNet14A",
    "Res16UNet14B",
    "Res16UNet14C",
    "Res16UNet14D",
    "Res16UNet18",
    "Res16UNet18A",
    "Res16UNet18B",
    "Res16UNet18D",
    "Res16UNet34",
    "Res16UNet34A",
    "Res16UNet34B",
    "Res16UNet34C",
    "Res16UNet50",
    "Res16UNet101",
    "SpUNet",
    "PTv3",
    "PTv3-small",
    "PTv3-encoder",
    "WaffleIron-12-256",
    "WaffleIron-48-256",
    "WaffleIron-48-768",
)
"""Of `p2pkit.networks.students.STUDENTS`."""
LOSSES = ("ppnce", "ppnce-symmetric", "ppnce-soft", "superpixel", "cosine", "l2")
"""Of `p2pkit.losses.LOSSES`."""
