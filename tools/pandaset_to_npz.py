"""Convert PandaSet's pickled pandas frames to the npz and JSON form that p2pkit reads.

Unpickling runs any code in the file, so p2pkit itself never does it. Run this once, only on
files that you downloaded from PandaSet yourself, with pandas installed:

    python tools/pandaset_to_npz.py PANDASET OUT

PANDASET is a sequence such as 001 or a folder of sequences, in the layout of the pandaset-devkit:
lidar/NN.pkl.gz (columns x y z i t d, in world coordinates), lidar/poses.json and timestamps.json,
camera/NAME/{intrinsics,poses,timestamps}.json with NN.jpg, annotations/semseg/NN.pkl.gz and
classes.json, and annotations/cuboids/NN.pkl.gz. Entry NN of the lists belongs to NN. OUT/NAME is
written for each; images are copied unchanged.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

# The checkout's package, even if it is not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from p2pkit.datasets.world import FAR_M
from p2pkit.geometry.transforms import transform_from_quaternion


def convert_sequence(source: Path, target: Path) -> int:
    """Write one sequence; returns the number of sweeps."""
    sweeps = sorted((source / "lidar").glob("[!.]*.pkl*"))
    if not sweeps:
        raise SystemExit(f"{source / 'lidar'} holds no .pkl.gz sweep")
    numbers = [sweep.name.partition(".")[0] for sweep in sweeps]
    times = _read(source / "lidar" / "timestamps.json")
    (target / "lidar").mkdir(parents=True, exist_ok=True)
    for number, sweep in zip(numbers, sweeps, strict=True):
        _write_sweep(sweep, source, target / "lidar" / f"{number}.npz", times[int(number)])
        _write_cuboids(source / "annotations" / "cuboids", target / "cuboids" / f"{number}.json")
    cameras = [folder for folder in sorted((source / "camera").iterdir()) if folder.is_dir()]
    calibration = {
        "cameras": {folder.name: _camera(folder, numbers) for folder in cameras},
        "lidar_pose": _poses(source / "lidar" / "poses.json", numbers),
        "lidar_timestamp": {number: times[int(number)] for number in numbers},
    }
    for folder in cameras:
        copied = target / "camera" / folder.name
        copied.mkdir(parents=True, exist_ok=True)
        for image in folder.glob("[!.]*.jpg"):
            shutil.copy(image, copied / image.name)
    classes = source / "annotations" / "semseg" / "classes.json"
    if classes.is_file():
        shutil.copy(classes, target / "semseg_classes.json")
    # The calibration comes last: without it the folder is not a sequence.
    (target / "calib.json").write_text(json.dumps(calibration))
    return len(numbers)


def _write_sweep(sweep: Path, source: Path, target: Path, time: float) -> None:
    import pandas

    points = pandas.read_pickle(sweep)
    semseg = _label_file(source / "annotations" / "semseg", target.stem)
    if semseg is not None:
        label = np.asarray(pandas.read_pickle(semseg)["class"], dtype=np.uint8)
    else:
        label = np.zeros(len(points), dtype=np.uint8)
    np.savez_compressed(
        target,
        xyz=_fine_enough(np.asarray(points[["x", "y", "z"]], dtype=np.float64)),
        intensity=np.asarray(points["i"]).round().astype(np.uint8),
        t=(np.asarray(points["t"], dtype=np.float64) - time).astype(np.float32),
        sensor=np.asarray(points["d"], dtype=np.uint8),
        label=label,
    )


def _write_cuboids(folder: Path, target: Path) -> None:
    """The table of a sweep's cuboids as a list of objects with its columns."""
    path = _label_file(folder, target.stem, "it gets no boxes")
    if path is None:
        return
    import pandas

    target.parent.mkdir(exist_ok=True)
    table = pandas.read_pickle(path)
    target.write_text(str(table.to_json(orient="records", double_precision=15)))


def _label_file(
    folder: Path, number: str, otherwise: str = "its points get label 0"
) -> Path | None:
    """The labels of a sweep, with either suffix; None if there are none.

    A warning is printed on stderr if the sequence has a folder of labels.
    """
    for path in (folder / f"{number}.pkl.gz", folder / f"{number}.pkl"):
        if path.is_file():
            return path
    if folder.is_dir():
        print(f"{folder} has no labels of sweep {number}; {otherwise}", file=sys.stderr)
    return None


def _fine_enough(xyz: np.ndarray) -> np.ndarray:
    """float32, or float64 where that has steps above 1 mm."""
    return xyz if np.abs(xyz).max(initial=0) > FAR_M else xyz.astype(np.float32)


def _camera(folder: Path, numbers: list[str]) -> dict[str, Any]:
    k = _read(folder / "intrinsics.json")
    matrix = [[k["fx"], 0, k["cx"]], [0, k["fy"], k["cy"]], [0, 0, 1]]
    times = _read(folder / "timestamps.json")
    return {
        "K": matrix,
        "T_world_camera": _poses(folder / "poses.json", numbers),
        "timestamp": {number: times[int(number)] for number in numbers},
    }


def _poses(path: Path, numbers: list[str]) -> dict[str, list[list[float]]]:
    """World-from-sensor of each sweep; the file holds `heading` (w x y z) and `position`."""
    poses: dict[str, list[list[float]]] = {}
    entries = _read(path)
    for number in numbers:
        pose = entries[int(number)]
        heading = [float(pose["heading"][axis]) for axis in "wxyz"]
        position = [float(pose["position"][axis]) for axis in "xyz"]
        poses[number] = transform_from_quaternion(heading, position, path.name).tolist()
    return poses


def _read(path: Path) -> Any:
    return json.loads(path.read_text())


def main() -> None:
    """Convert what the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pandaset", type=Path, help="a sequence, or a folder of sequences")
    parser.add_argument("out", type=Path, help="folder to write the sequences to")
    arguments = parser.parse_args()
    is_sequence = (arguments.pandaset / "lidar").is_dir()
    folders = [arguments.pandaset] if is_sequence else sorted(arguments.pandaset.iterdir())
    for folder in folders:
        if (folder / "lidar").is_dir():
            count = convert_sequence(folder, arguments.out / folder.name)
            print(f"{arguments.out / folder.name}: {count} sweeps")


if __name__ == "__main__":
    main()
