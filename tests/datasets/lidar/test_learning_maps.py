"""The benchmarks' tables of merged classes, as their development kits give them, against ours."""

import numpy as np

from p2pkit.datasets.lidar import kitti_odometry, nuscenes
from p2pkit.datasets.lidar.kitti_odometry import _class_of_value
from p2pkit.datasets.lidar.nuscenes import _class_of_index
from p2pkit.datasets.rgbd.scannet.labels import CLASSES_20

SEMANTIC_KITTI = {
    "unlabelled": (0, 1, 52, 99),
    "car": (10, 252),
    "bicycle": (11,),
    "motorcycle": (15,),
    "truck": (18, 258),
    "other-vehicle": (13, 16, 20, 256, 257, 259),
    "person": (30, 254),
    "bicyclist": (31, 253),
    "motorcyclist": (32, 255),
    "road": (40, 60),
    "parking": (44,),
    "sidewalk": (48,),
    "other-ground": (49,),
    "building": (50,),
    "fence": (51,),
    "vegetation": (70,),
    "trunk": (71,),
    "terrain": (72,),
    "pole": (80,),
    "traffic-sign": (81,),
}
"""learning_map of semantic-kitti.yaml by learning_map_inv's names; moving things count as still."""

LIDARSEG = (
    "noise",
    "animal",
    "human.pedestrian.adult",
    "human.pedestrian.child",
    "human.pedestrian.construction_worker",
    "human.pedestrian.personal_mobility",
    "human.pedestrian.police_officer",
    "human.pedestrian.stroller",
    "human.pedestrian.wheelchair",
    "movable_object.barrier",
    "movable_object.debris",
    "movable_object.pushable_pullable",
    "movable_object.trafficcone",
    "static_object.bicycle_rack",
    "vehicle.bicycle",
    "vehicle.bus.bendy",
    "vehicle.bus.rigid",
    "vehicle.car",
    "vehicle.construction",
    "vehicle.emergency.ambulance",
    "vehicle.emergency.police",
    "vehicle.motorcycle",
    "vehicle.trailer",
    "vehicle.truck",
    "flat.driveable_surface",
    "flat.other",
    "flat.sidewalk",
    "flat.terrain",
    "static.manmade",
    "static.other",
    "static.vegetation",
    "vehicle.ego",
)
"""The categories of lidarseg's category.json, index 0 first."""

CHALLENGE_CLASS = (0, 0, 7, 7, 7, 0, 7, 0, 0, 1, 0, 0, 8, 0, 2, 3, 3, 4, 5, 0, 0, 6, 9, 10)
CHALLENGE_CLASS += (11, 12, 13, 14, 15, 0, 16, 0)
"""Challenge index of each; 0 is void."""

NYU40_OF_SCANNET20 = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16, 24, 28, 33, 34, 36, 39)
"""VALID_CLASS_IDS of the benchmark's evaluation script."""


def test_semantic_kitti() -> None:
    assert tuple(SEMANTIC_KITTI) == kitti_odometry.CLASSES
    classes = _class_of_value()
    for number, values in enumerate(SEMANTIC_KITTI.values()):
        assert (classes[list(values)] == number).all()
    known = [value for values in SEMANTIC_KITTI.values() for value in values]
    assert len(known) == 34
    assert np.count_nonzero(classes != 255) == len(known)


def test_nuscenes_lidarseg() -> None:
    classes = _class_of_index(dict(enumerate(LIDARSEG)))
    assert classes[: len(LIDARSEG)].tolist() == list(CHALLENGE_CLASS)
    assert (classes[len(LIDARSEG) :] == 255).all()
    assert len(nuscenes.CLASSES) == 17


def test_scannet20() -> None:
    assert tuple(CLASSES_20) == NYU40_OF_SCANNET20
    assert (CLASSES_20[1], CLASSES_20[24], CLASSES_20[39]) == (
        "wall",
        "refrigerator",
        "otherfurniture",
    )
    assert len(set(CLASSES_20.values())) == 20
