"""Predictions of a test part, in the form that its benchmark takes where there is one."""

import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from p2pkit.datasets.lidar.kitti_odometry import SUBMITTED
from p2pkit.datasets.rgbd.scannet.labels import CLASSES_20
from p2pkit.errors import ConfigError
from p2pkit.evaluation.label_sets import STORED
from p2pkit.files import write_json
from p2pkit.pipelines.evaluate.frames import Keep, LabelledFrames
from p2pkit.pipelines.held_out import all_keys
from p2pkit.store.manifest import GEOMETRY

Write = Callable[[Path, str, Int64[np.ndarray, " points"]], None]


def _scannet(folder: Path, key: str, classes: Int64[np.ndarray, " points"]) -> None:
    """`SCENE.txt`: the NYU40 id of each vertex, one a line."""
    ids = np.array([*CLASSES_20])[classes]
    (folder / f"{key}.txt").write_text("".join(f"{one}\n" for one in ids.tolist()))


def _semantic_kitti(folder: Path, key: str, classes: Int64[np.ndarray, " points"]) -> None:
    """`sequences/NN/predictions/NNNNNN.label`: the original id of each point as u4."""
    sequence, _, number = key.rpartition("_")
    path = folder / "sequences" / sequence / "predictions" / f"{number}.label"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.array(SUBMITTED, "<u4")[classes].tofile(path)


def _numpy(folder: Path, key: str, classes: Int64[np.ndarray, " points"]) -> None:
    """`KEY.npy`: the class of each stored point as u1, an index into `classes.json`."""
    np.save(folder / f"{key}.npy", classes.astype(np.uint8))


FORMS: dict[str, Write] = {"scannet-scenes": _scannet, "kitti-odometry": _semantic_kitti}
"""Benchmarks' forms by dataset; others get a numpy file for each frame, and `classes.json`."""


@contextmanager
def kept_predictions(folder: Path | None, data: LabelledFrames) -> Generator[Keep | None]:
    """What takes predictions and writes them to `folder`, which appears when all are written.

    Args:
        folder: of one cell's predictions; None where none are wanted.
        data: whose test part is predicted.

    Raises:
        ConfigError: the benchmark's form needs all points or other classes than the store gives.
    """
    if folder is None:
        yield None
        return
    tested = data.other or data
    first = 0 if data.other is None else data.store.samples
    write, keys = FORMS.get(_dataset(tested), _numpy), all_keys(tested.store)
    if write is not _numpy:
        _check(tested)
    written = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(written, ignore_errors=True)
    written.mkdir(parents=True)
    if write is _numpy:
        write_json(written / "classes.json", list(data.labels.classes))
    yield lambda sample, classes: write(written, keys[sample - first], classes)
    shutil.rmtree(folder, ignore_errors=True)
    written.rename(folder)


def _dataset(data: LabelledFrames) -> str:
    return str(data.store.manifest.dataset.get("dataset"))


def _check(data: LabelledFrames) -> None:
    size = data.store.layer(GEOMETRY).fingerprint.get("voxel_size")
    if size != 0 or data.labels.name != STORED:
        raise ConfigError(
            f"predictions in the format of {_dataset(data)} need every point of the recording and "
            f"its own classes; the store was extracted with --voxel-size {size} and the label set "
            f"is {data.labels.name}: extract with --voxel-size 0 and use --labels {STORED}"
        )
