"""Evaluation on stores of SemanticKITTI, nuScenes-lidarseg, ScanNet and S3DIS in their own formats,
and on the benchmarks' own test parts.

Small synthetic recordings: half of each frame is one class, half another, apart in colour or place.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image
from s3dis_written import write_rooms
from scannet_written import write_mesh

from p2pkit.datasets.points.ply import read_vertices
from p2pkit.datasets.registry import DATASETS, OfficialTest
from p2pkit.errors import ConfigError, FingerprintError
from p2pkit.layers.geometry import GeometryConfig
from p2pkit.pipelines.evaluate.features import FrozenConfig
from p2pkit.pipelines.evaluate.finetune import FinetuneConfig
from p2pkit.pipelines.evaluate.frames import LabelledFrames, open_labelled, pretraining_up_axis
from p2pkit.pipelines.evaluate.official import differences_to_published
from p2pkit.pipelines.evaluate.predictions import FORMS, kept_predictions
from p2pkit.pipelines.evaluate.probe import ProbeStageConfig
from p2pkit.pipelines.evaluate.probe import run as probe
from p2pkit.pipelines.evaluate.run import EvaluateConfig, run
from p2pkit.pipelines.evaluate.split import SplitConfig
from p2pkit.pipelines.extract import run as extract
from p2pkit.pipelines.extract.settings import ExtractConfig
from p2pkit.pipelines.held_out import scene_split
from p2pkit.settings.stream import SampleConfig
from p2pkit.store.reading import open_store
from p2pkit.stream.augmentation import AugmentConfig, augment_points

POINTS = 400
POSE = "1 0 0 0 0 1 0 0 0 0 1 0"
AXES = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
"""camera_from_lidar: the camera looks along the LiDAR's x."""
SEQUENCES = ("00", "07", "08", "10")
SCENES = ("scene-0001", "scene-0103", "scene-0106", "scene-0553")
SCANS = ("scene0000_00", "scene0000_01", "scene0011_00", "scene0025_00", "scene0025_01")


def sweep(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A wall before the camera (x forward, z up) with intensity, and what lies to the left."""
    random = np.random.default_rng(seed)
    low, high = (5, -1.5, -1, 0), (5, 1.5, 1, 1)
    points = random.uniform(low, high, (POINTS, 4)).astype(np.float32)
    return points, points[:, 1] > 0


def picture(path: Path) -> None:
    """Left half red, right half blue."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[:, :32, 0], image[:, 32:, 2] = 200, 200
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def write_semantic_kitti(root: Path) -> Path:
    for number, name in enumerate(SEQUENCES):
        folder = root / "sequences" / name
        for part in ("velodyne", "labels"):
            (folder / part).mkdir(parents=True)
        tr = " ".join(map(str, AXES[:3].ravel()))
        p2 = "60 0 31.5 0 0 60 23.5 0 0 0 1 0"
        (folder / "calib.txt").write_text(f"P2: {p2}\nTr: {tr}\n")
        (folder / "times.txt").write_text("0\n0.1\n")
        (folder / "poses.txt").write_text(f"{POSE}\n{POSE}\n")
        for frame in range(2):
            points, left = sweep(10 * number + frame)
            points.tofile(folder / "velodyne" / f"{frame:06d}.bin")
            picture(folder / "image_2" / f"{frame:06d}.png")
            # A moving car and a building; every tenth point is an outlier. Upper half: the object.
            values = np.where(left, 252, 50).astype(np.uint32) | (3 << 16)
            values[::10] = 1
            values.tofile(folder / "labels" / f"{frame:06d}.label")
    return root


def write_nuscenes(root: Path) -> Path:
    tables: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("scene", "sample", "sample_data", "ego_pose", "lidarseg")
    }
    place = {"translation": [0, 0, 0], "rotation": [1, 0, 0, 0]}
    camera = {"translation": [0, 0, 0], "rotation": [0.5, -0.5, 0.5, -0.5]}
    matrix = [[60, 0, 31.5], [0, 60, 23.5], [0, 0, 1]]
    tables["sensor"] = [{"token": name, "channel": name} for name in ("LIDAR_TOP", "CAM_FRONT")]
    tables["calibrated_sensor"] = [
        {"token": "c-LIDAR_TOP", "sensor_token": "LIDAR_TOP", "camera_intrinsic": [], **place},
        {"token": "c-CAM_FRONT", "sensor_token": "CAM_FRONT", "camera_intrinsic": matrix, **camera},
    ]
    names = {0: "noise", 17: "vehicle.car", 28: "static.manmade"}
    tables["category"] = [
        {"token": name, "index": index, "name": name} for index, name in names.items()
    ]
    for number, scene in enumerate(SCENES):
        tables["scene"].append({"token": scene, "name": scene})
        tables["sample"].append({"token": f"a{number}", "timestamp": 0, "scene_token": scene})
        points, left = sweep(number)
        for channel, file in (("LIDAR_TOP", "sweep.pcd.bin"), ("CAM_FRONT", "image.png")):
            token, path = f"{channel}-{number}", f"samples/{channel}/{number}-{file}"
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            tables["ego_pose"].append({"token": token, **place})
            tables["sample_data"].append(
                {
                    **{"token": token, "sample_token": f"a{number}", "ego_pose_token": token},
                    **{"calibrated_sensor_token": f"c-{channel}", "filename": path},
                    **{"timestamp": 0, "is_key_frame": True},
                }
            )
        rows = np.insert(points * (1, 1, 1, 255), 4, 0, axis=1).astype(np.float32)
        rows.tofile(root / f"samples/LIDAR_TOP/{number}-sweep.pcd.bin")
        picture(root / f"samples/CAM_FRONT/{number}-image.png")
        labels = np.where(left, 17, 28).astype(np.uint8)
        labels[::10] = 0
        (root / "lidarseg").mkdir(exist_ok=True)
        labels.tofile(root / "lidarseg" / f"{number}.bin")
        tables["lidarseg"].append(
            {"sample_data_token": f"LIDAR_TOP-{number}", "filename": f"lidarseg/{number}.bin"}
        )
    (root / "v1.0-trainval").mkdir()
    for name, records in tables.items():
        (root / "v1.0-trainval" / f"{name}.json").write_text(json.dumps(records))
    return root


def write_scannet(root: Path) -> Path:
    """Exported scenes: a wall at 2 m whose left half is a door (8) and right half a desk (14)."""
    for number, name in enumerate(SCANS):
        folder = root / name
        for part in ("color", "depth", "pose", "intrinsic"):
            (folder / part).mkdir(parents=True)
        for kind in ("color", "depth"):
            matrix = "60 0 31.5 0\n0 60 23.5 0\n0 0 1 0\n0 0 0 1\n"
            (folder / "intrinsic" / f"intrinsic_{kind}.txt").write_text(matrix)
        (folder / f"{name}.txt").write_text(
            "colorHeight = 48\ncolorWidth = 64\ndepthHeight = 48\ndepthWidth = 64\n"
        )
        picture(folder / "color" / "0.jpg")
        depth = np.full((48, 64), 2000 + number, np.uint16)
        Image.fromarray(depth).save(folder / "depth" / "0.png")
        np.savetxt(folder / "pose" / "0.txt", np.eye(4))
        v, u = np.mgrid[0:48, 0:64]
        points = np.stack([(u - 31.5) / 30, (v - 23.5) / 30, np.full(u.shape, 2.0)], axis=-1)
        labels = np.where(u < 32, 8, 14).ravel()
        labels[:64] = 13  # a class of NYU40 that the benchmark leaves out
        lines = ["ply", "format ascii 1.0", f"element vertex {labels.size}"]
        lines += [f"property float {axis}" for axis in "xyz"]
        rows = np.zeros(labels.size, [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("label", "<u2")])
        rows["x"], rows["y"], rows["z"] = points.reshape(-1, 3).T
        rows["label"] = labels
        lines[1] = "format binary_little_endian 1.0"
        header = "\n".join([*lines, "property ushort label", "end_header\n"])
        path = folder / f"{name}_vh_clean_2.labels.ply"
        path.write_bytes(header.encode() + rows.tobytes())
    return root


def write_s3dis(root: Path) -> Path:
    rooms = [f"Area_{area}/{room}" for area in (1, 3, 5) for room in ("hallway_1", "office_1")]
    return write_rooms(root, tuple(rooms))


def write_scenes(root: Path) -> Path:
    """The meshes alone: a wall, half door (8) and half desk (14), apart in colour."""
    u, v = np.meshgrid(np.arange(40), np.arange(20))
    points = np.stack([0.1 * u, np.zeros(u.shape), 0.1 * v], axis=-1).reshape(-1, 3)
    for number, name in enumerate(SCANS):
        (root / "scans" / name).mkdir(parents=True)
        stem, left = root / "scans" / name / f"{name}_vh_clean_2", u.ravel() < 20 + number
        shade = np.where(left[:, None], (200, 0, 0), (0, 0, 200))
        write_mesh(stem.with_suffix(".ply"), points, None, shade)
        labels = np.where(left, 8, 14)
        labels[:3] = 0
        write_mesh(root / "scans" / name / f"{name}_vh_clean_2.labels.ply", points, labels)
    return root


FORMATS = {
    "kitti-odometry": (write_semantic_kitti, "08", 19, {"car", "building"}),
    "nuscenes": (write_nuscenes, "scene-0103", 16, {"car", "manmade"}),
    "scannet": (write_scannet, "scene0025_0?", 20, {"door", "desk"}),
    "scannet-scenes": (write_scenes, "scene0025_0?", 20, {"door", "desk"}),
    "s3dis": (write_s3dis, "Area_5_*", 13, {"floor", "ceiling", "wall", "table", "chair"}),
}


@pytest.fixture(scope="module", params=FORMATS)
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    root = FORMATS[request.param][0](folder / request.param)
    geometry = GeometryConfig(voxel_size=0.0)
    return extract.run(
        ExtractConfig(request.param, root, folder / "s.store", geometry=geometry, features=None)
    )


def evaluation(store: Path, tiny_run: Path, out: Path) -> EvaluateConfig:
    dataset = open_store(store).manifest.dataset["dataset"]
    return EvaluateConfig(
        runs=(tiny_run,),
        store=str(store),
        out=out,
        modes=("linear", "finetune"),
        fractions=(100.0,),
        seeds=1,
        split=SplitConfig(test_scenes=(FORMATS[dataset][1],)),
        frozen=FrozenConfig(points_per_frame=100, statistics_frames=2),
        finetune=FinetuneConfig(steps=2, batch_size=1, validations=1, validation_frames=1),
    )


def test_named_scenes_test_and_the_benchmarks_classes_count(
    stored: Path, tiny_run: Path, tmp_path: Path
) -> None:
    dataset = open_store(stored).manifest.dataset["dataset"]
    _, _, classes, present = FORMATS[dataset]
    config = evaluation(stored, tiny_run, tmp_path / "out")
    report = json.loads(run(config).read_text())
    assert len(report["protocol"]["classes"]) == classes
    # The run is of another recording, so this is a transfer.
    assert report["protocol"]["pretrained_on_test_frames"] == {tiny_run.name: None}
    for cell in report["cells"]:
        assert {name for name, iou in cell["iou"].items() if iou is not None} == present
    linear = {c["name"]: c["miou"] for c in report["cells"] if c["mode"] == "linear"}
    assert set(linear) == {"scratch", "inputs+position", tiny_run.name}
    assert min(linear["scratch"], linear[tiny_run.name]) > 0.5
    assert (
        ", ".join(report["protocol"]["split"]["test_scenes"])
        in (tmp_path / "out" / "report.md").read_text()
    )
    with pytest.raises(FingerprintError, match=r"protocol\.split"):
        run(replace(config, split=SplitConfig()))


def test_no_place_is_in_two_parts(stored: Path) -> None:
    store = open_store(stored)
    dataset = store.manifest.dataset["dataset"]
    split = SplitConfig(test_scenes=(FORMATS[dataset][1],))
    data = open_labelled(
        store,
        label_set="stored",
        validation=0.2,
        test=0.2,
        sample=SampleConfig(inputs=("color",), voxel_size=0.1),
        split=split,
    )
    scenes = [data.scenes(part) for part in ("train", "validation", "test")]
    assert sum(map(len, scenes)) == len(set().union(*scenes))
    if dataset.startswith("scannet"):
        assert scenes == [["scene0000"], ["scene0011"], ["scene0025"]]


def test_points_are_turned_about_their_own_up_axis(stored: Path) -> None:
    store = open_store(stored)
    dataset = store.manifest.dataset["dataset"]
    data = open_labelled(
        store,
        label_set="stored",
        validation=0.2,
        test=0.2,
        sample=SampleConfig(inputs=("color",), voxel_size=0.01),
    )
    assert data.turn is None
    assert data.up_axis == ((0.0, -1.0, 0.0) if dataset == "scannet" else (0.0, 0.0, 1.0))
    turned = AugmentConfig(tilt_deg=0.0, scale=(1.0, 1.0), elastic=())
    sample = int(data.parts["train"][0])
    height = 1 if dataset == "scannet" else 2
    frame = data.frame(sample, np.random.default_rng(3), turned)
    still = data.frame(sample)
    levels = [np.unique(part.coordinates[:, height]) for part in (frame, still)]
    assert abs(levels[0][[0, -1]] - levels[1][[0, -1]]).max() <= 1
    other = replace(turned, up_axis=(1.0, 0.0, 0.0))
    points = np.array([[1, 2, 3]], np.float32)
    moved = augment_points(points, np.random.default_rng(3), other).points
    assert moved[0, 0] == pytest.approx(1.0)
    overturned = data.frame(sample, np.random.default_rng(3), other)
    assert np.unique(overturned.coordinates[:, 0])[0] == np.unique(still.coordinates[:, 0])[0]


def test_points_are_turned_to_what_was_up_in_pretraining(
    stored: Path, tiny_run: Path, tmp_path: Path
) -> None:
    """The run is of a depth camera, whose up is -y; LiDARs and rooms have z up."""
    store = open_store(stored)
    has_z_up = store.manifest.dataset["dataset"] != "scannet"
    up = pretraining_up_axis([tiny_run], store)
    assert up == (0.0, -1.0, 0.0)
    asked: dict[str, Any] = {
        "validation": 0.2,
        "test": 0.2,
        "sample": SampleConfig(inputs=("color",), voxel_size=0.01),
    }
    as_stored = open_labelled(store, label_set="stored", **asked)
    data = as_stored.turned_to(up)
    sample = int(data.parts["train"][0])
    here, there = (sorted(x.frame(sample).coordinates.tolist()) for x in (data, as_stored))
    assert (here != there) == has_z_up
    height = [-y for _, y, _ in here]
    other = [z for _, _, z in there] if has_z_up else [-y for _, y, _ in there]
    assert max(height) - min(height) == pytest.approx(max(other) - min(other), abs=1)
    settings = AugmentConfig(tilt_deg=0.0, scale=(1.0, 1.0), elastic=())
    moved = data.frame(sample, np.random.default_rng(3), settings).coordinates[:, 1]
    assert -moved.min() == pytest.approx(max(height), abs=1)
    assert run_report(stored, tiny_run, tmp_path / "run", "run") == has_z_up
    assert not run_report(stored, tiny_run, tmp_path / "stored", "stored")


def run_report(store: Path, tiny_run: Path, out: Path, axes: Literal["run", "stored"]) -> bool:
    """Whether the report says that points were turned."""
    config = replace(evaluation(store, tiny_run, out), modes=("linear",), axes=axes)
    run(config)
    return "turned to the axes of pretraining" in (out / "report.md").read_text()


def test_a_probe_takes_the_same_names(stored: Path, tiny_run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_run, tmp_path / "run")
    dataset = open_store(stored).manifest.dataset["dataset"]
    _, pattern, _, present = FORMATS[dataset]
    config = ProbeStageConfig(
        copy, str(stored), points_per_frame=50, statistics_frames=2, test_scenes=(pattern,)
    )
    report = json.loads(probe(config).read_text())
    assert set(report["scores"]["pretrained"]["iou"]) == present
    assert report["protocol"]["sequences_in_both_parts"] == []
    assert report["protocol"]["points_turned"] == (dataset != "scannet")
    assert report["protocol"]["test_frames"] == {"nuscenes": 1}.get(dataset, 2)


OFFICIAL = {
    "kitti-odometry": ("official", ["08"]),
    "nuscenes": ("official:splits.py", ["scene-0103", "scene-0553"]),
    "scannet": ("official:scannetv2_val.txt", ["scene0025"]),
    "scannet-scenes": ("official:scannetv2_val.txt", ["scene0025"]),
    "s3dis": ("official", ["Area_5_hallway_1", "Area_5_office_1"]),
}


@pytest.fixture
def lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the lists of the releases; the store lacks one of each."""
    names = "scene0025_00\nscene0025_01\nscene0700_00\n"
    (tmp_path / "scannetv2_val.txt").write_text(names)
    text = "train = ['scene-0001']\nval = \\\n    ['scene-0103', 'scene-0553', 'scene-0999']\n"
    (tmp_path / "splits.py").write_text(f"import os\n{text}\nprint('must not run')\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_official_test_part(stored: Path, lists: Path) -> None:
    store = open_store(stored)
    dataset = store.manifest.dataset["dataset"]
    name, scenes = OFFICIAL[dataset]
    sample = SampleConfig(inputs=("color",), voxel_size=0.1)
    asked: dict[str, Any] = {"validation": 0.2, "test": 0.2, "sample": sample}

    def opened(*names: str) -> LabelledFrames:
        split = SplitConfig(test_scenes=names)
        return open_labelled(store, label_set="stored", split=split, **asked)

    data = opened(name)
    assert data.scenes("test") == scenes
    assert data.split.test_scenes == ("official",)
    split = scene_split(store, 0.2, (name,))
    assert split.test.tolist() == data.parts["test"].tolist()
    wrong = "official" if ":" in name else "official:list.txt"
    with pytest.raises(ConfigError, match=r"is listed in|omit the file"):
        opened(wrong)
    if ":" in name:
        (lists / "none.txt").write_text("scene0700_00\n")
        with pytest.raises(ConfigError, match="the store has no scene of the official"):
            opened("official:none.txt")
        for text, message in (("", "lists no scene"), ("val = (", "cannot be read as a list")):
            (lists / "list.py").write_text(text if text else "val = []")
            with pytest.raises(ConfigError, match=message):
                opened("official:list.py")


def test_what_differs_from_the_published_protocol(stored: Path) -> None:
    store = open_store(stored)
    dataset = store.manifest.dataset["dataset"]
    part = DATASETS[dataset].official_test
    assert part is not None
    full = differences_to_published(store, part.frames or 1, "stored")
    assert ["vertices of whole scenes" in one for one in full] == [True] * (dataset == "scannet")
    of_boxes = differences_to_published(store, part.frames or 1, "stored", boxes=True)
    assert of_boxes[0].startswith("boxes are scored as VoteNet does")
    found = differences_to_published(store, 2, "nyu13")
    assert found[-1] == "the label set nyu13"
    if part.frames:
        assert f"2 of {part.frames} frames" in found


def as_if_complete(monkeypatch: pytest.MonkeyPatch, dataset: str, frames: int) -> None:
    row = DATASETS[dataset]
    assert row.official_test is not None
    whole = replace(row.official_test, frames=frames)
    monkeypatch.setitem(DATASETS, dataset, replace(row, official_test=whole))


@pytest.mark.parametrize("stored", ["kitti-odometry", "scannet-scenes"], indirect=True)
def test_the_card_says_as_published_only_where_it_is(
    stored: Path, tiny_run: Path, lists: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_store(stored).manifest.dataset["dataset"]
    split = SplitConfig(test_scenes=(OFFICIAL[dataset][0],))
    config = replace(
        evaluation(stored, tiny_run, lists / "out"),
        split=split,
        modes=("linear",),
        runs=(tiny_run,),
    )
    run(config)
    text = (lists / "out" / "report.md").read_text()
    assert "official test part, not as published: " in text
    frames = {"kitti-odometry": 2, "scannet-scenes": 2}[dataset]
    as_if_complete(monkeypatch, dataset, frames)
    config = replace(config, out=lists / "whole", predictions=lists / "predictions")
    report = json.loads(run(config).read_text())
    assert "official test part, as published" in (lists / "whole" / "report.md").read_text()
    check_predictions(dataset, lists / "predictions", stored.parent / dataset, report)
    # The cells are there; what was deleted of the predictions is made again.
    shutil.rmtree(next((lists / "predictions").glob(f"linear-{tiny_run.name}-*")))
    assert json.loads(run(config).read_text()) == report
    check_predictions(dataset, lists / "predictions", stored.parent / dataset, report)


def check_predictions(dataset: str, folder: Path, root: Path, report: dict[str, Any]) -> None:
    """One folder per cell; compared with the recording's own files they give its accuracy."""
    assert len([*folder.iterdir()]) == len(report["cells"]) == 3
    for cell in report["cells"]:
        (predicted,) = folder.glob(f"linear-{cell['name']}-*")
        right, total = 0, 0
        if dataset == "kitti-odometry":
            for path in sorted((root / "sequences/08/labels").iterdir()):
                raw = np.fromfile(path, "<u4") & 0xFFFF
                found = np.fromfile(predicted / "sequences/08/predictions" / path.name, "<u4")
                assert len(found) == POINTS
                right += int(((raw == 252) & (found == 10) | (raw == 50) & (found == 50)).sum())
                total += int((raw != 1).sum())
        else:
            for name in ("scene0025_00", "scene0025_01"):
                path = root / "scans" / name / f"{name}_vh_clean_2.labels.ply"
                raw, found = read_vertices(path)["label"], np.loadtxt(predicted / f"{name}.txt")
                right += int((raw == found).sum())
                total += int((raw > 0).sum())
        assert total > 0
        assert right / total == pytest.approx(cell["accuracy"])


def test_a_thinned_store_is_not_scored_as_published(
    room_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = OfficialTest(("scene-2",), frames=4)
    row = replace(DATASETS["posed-rgbd"], official_test=part)
    monkeypatch.setitem(DATASETS, "posed-rgbd", row)
    assert differences_to_published(open_store(room_store), 4, "stored") == [
        "the store keeps one point per voxel of 0.02 m (extract with --voxel-size 0)"
    ]


def test_predictions_need_all_points(
    room_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_labelled(
        open_store(room_store),
        label_set="stored",
        validation=0.3,
        test=0.3,
        sample=SampleConfig(inputs=("color",), voxel_size=0.1),
    )
    with kept_predictions(None, data) as keep:
        assert keep is None
    folder = tmp_path / "cell"
    with pytest.raises(RuntimeError, match="broken off"), kept_predictions(folder, data):
        raise RuntimeError("broken off")
    assert not folder.exists()
    sample = int(data.parts["test"][0])
    points = len(data.frame(sample).labels)
    with kept_predictions(folder, data) as keep:
        assert keep is not None
        keep(sample, np.full(points, 2))
    assert json.loads((folder / "classes.json").read_text()) == ["wall", "floor", "box"]
    written = np.load(folder / f"{data.test_keys[0]}.npy")
    assert (written.dtype, len(written), set(written.tolist())) == (np.uint8, points, {2})
    monkeypatch.setitem(FORMS, "posed-rgbd", FORMS["scannet-scenes"])
    with (
        pytest.raises(ConfigError, match=r"--voxel-size 0\.02 .*: extract with --voxel-size 0"),
        kept_predictions(tmp_path / "other", data),
    ):
        pass
