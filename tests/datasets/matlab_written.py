"""MATLAB files in the published layouts of NYU Depth V2 and SUN RGB-D, with few frames."""

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from scipy.io import savemat

NYU_NAMES = ("book", "Wall", "floor mat", "vase", "chair")
SCENES = ("kitchen_0004", "kitchen_0004", "office_0001", "study_0002", "study_0002")


def cell(texts: Sequence[str]) -> np.ndarray:
    """A MATLAB cell array of one row."""
    found = np.empty((1, len(texts)), object)
    found[0] = list(texts)
    return found


def write_nyu(root: Path, *, test: Sequence[int] = (3,), mapping: bool = False) -> Path:
    """`nyu_depth_v2_labeled.mat` of five frames, `splits.mat` and the mapping to 40 classes.

    In frame i (from 0) the depth at row v and column u is 1 + i + u / 1000 m; the label changes at
    column 300 and the instance at row 200.
    """
    root.mkdir(parents=True, exist_ok=True)
    count = len(SCENES)
    u, v = np.meshgrid(np.arange(640), np.arange(480))
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w") as file:
        images = np.zeros((count, 3, 640, 480), np.uint8)
        depths = np.zeros((count, 640, 480), np.float32)
        labels, instances = np.zeros((count, 640, 480), np.uint16), np.zeros(depths.shape, np.uint8)
        for row in range(count):
            image = np.stack([u // 3, v // 2, np.full_like(u, 10 * row)])
            images[row] = image.transpose(0, 2, 1)
            depths[row] = (1 + row + u / 1000).T
            labels[row] = np.where(u < 300, 2, 5).T
            instances[row] = np.where(v < 200, 1, 2).T
        for name, values in (("images", images), ("depths", depths), ("labels", labels)):
            file.create_dataset(name, data=values, chunks=(1, *values.shape[1:]))
        file.create_dataset("instances", data=instances, chunks=(1, 640, 480))
        _write_cell(file, "names", NYU_NAMES)
        _write_cell(file, "scenes", SCENES)
    train = [number for number in range(1, count + 1) if number not in test]
    savemat(
        root / "splits.mat",
        {"trainNdxs": np.array([train]).T, "testNdxs": np.array([list(test)]).T},
    )
    if mapping:
        named = cell([f"class {number}" for number in range(1, 41)])
        classes = np.array([[23, 1, 20, 40, 5]], np.uint8)
        savemat(root / "classMapping40.mat", {"mapClass": classes, "className": named})
    return root


def _write_cell(file: h5py.File, name: str, texts: Sequence[str]) -> None:
    references = file.create_dataset(name, (1, len(texts)), dtype=h5py.ref_dtype)
    for number, text in enumerate(texts):
        codes = np.array([[ord(letter)] for letter in text], np.uint16)
        references[0, number] = file.create_dataset(f"#refs#/{name}{number}", data=codes).ref


def write_segmentation(folder: Path, numbers: np.ndarray, names: Sequence[str]) -> None:
    """A frame's `seg.mat`: number 1 is the first name."""
    savemat(folder / "seg.mat", {"seglabel": numbers.astype(np.uint16), "names": cell(names)})


def write_split(root: Path, train: Sequence[str], test: Sequence[str]) -> None:
    """The toolbox's `allsplit.mat`, with the paths of the authors' machine."""
    path = root / "SUNRGBDtoolbox" / "traintestSUNRGBD" / "allsplit.mat"
    path.parent.mkdir(parents=True)
    first = "/n/fs/sun3d/data/SUNRGBD/"
    parts = {"alltrain": train, "alltest": test}
    savemat(path, {name: cell([f"{first}{one}" for one in part]) for name, part in parts.items()})


Row = tuple[str, np.ndarray, Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]]]


def write_box_table(path: Path, rows: Sequence[Row]) -> None:
    """SUN RGB-D's `SUNRGBDMeta3DBB_v2.mat`, with the fields that hold boxes.

    Args:
        path: of the file.
        rows: of each frame its folder below data/, `Rtilt`, and classname, basis, coeffs and
            centroid of each box.
    """
    fields = [(name, object) for name in ("basis", "coeffs", "centroid", "classname")]
    table = np.empty(
        (1, len(rows)),
        [(name, object) for name in ("sequenceName", "groundtruth3DBB", "Rtilt", "sensorType")],
    )
    for number, (folder, tilt, boxes) in enumerate(rows):
        found = np.empty((1, len(boxes)), fields)
        for place, (name, basis, coeffs, centroid) in enumerate(boxes):
            found[0, place] = (basis, coeffs[None], centroid[None], name)
        table[0, number] = (folder, found if boxes else np.empty((0, 0)), tilt, "kv2")
    savemat(path, {"SUNRGBDMeta": table}, do_compression=True)
