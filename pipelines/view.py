"""view: one stored frame as a picture, or in Open3D's window."""

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from p2pkit.errors import ConfigError, MissingDependencyError
from p2pkit.pipelines.evaluate.inference import read_cloud
from p2pkit.pipelines.held_out import all_keys
from p2pkit.pipelines.report.frames import stored_pictures
from p2pkit.pipelines.settings import ViewConfig
from p2pkit.pipelines.train.run_folder import feature_layer
from p2pkit.store.reading import Store, open_store

GAP_PX = 6


def run(config: ViewConfig) -> Path | None:
    """Write the picture: colours, depth, labels and the teacher's features, side by side.

    Returns:
        The picture's path, if one was written.

    Raises:
        StoreError: the store cannot be read, or has no such frame.
        ConfigError: a window is asked for where none can be opened, or nothing is; or the layer is
            unclear.
        MissingDependencyError: a window is asked for, and open3d does not import.
    """
    if config.png is None and not config.window:
        raise ConfigError("nothing to do: name a picture with --png, or ask for a --window")
    store = open_store(config.store)
    sample = _sample(store, config.key)
    if config.png is not None:
        layer = feature_layer(store, config.layer, "--layer NAME")
        pictures = stored_pictures(store, layer, sample)
        config.png.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(_side_by_side(list(pictures.values()))).save(config.png)
    if config.window:
        _open_window(store, sample)
    return config.png


def _sample(store: Store, key: str) -> int:
    store.find(key)  # a StoreError that names near keys, if there is none
    return all_keys(store).index(key)


def _side_by_side(pictures: list[np.ndarray]) -> np.ndarray:
    """RGBA pictures of one height in a row, on white."""
    height = pictures[0].shape[0]
    gap = np.zeros((height, GAP_PX, 4), np.uint8)
    parts = [part for picture in pictures for part in (picture, gap)][:-1]
    row = np.concatenate(parts, axis=1)
    alpha = row[..., 3:].astype(np.float32) / 255
    return np.rint(row[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def _open3d() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import open3d
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f"a window needs open3d, which does not import ({error}): pip install 'p2pkit[view]', "
            "or write a picture with --png; `p2pkit doctor` names system libraries that it lacks"
        ) from None
    return open3d


def _open_window(store: Store, sample: int) -> None:
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        raise ConfigError(
            "no window can be opened: DISPLAY is not set. Write a picture with --png instead"
        )
    open3d = _open3d()
    cloud = read_cloud(store, sample)
    shown = open3d.geometry.PointCloud()
    shown.points = open3d.utility.Vector3dVector(cloud.points.astype(np.float64))
    shown.colors = open3d.utility.Vector3dVector(cloud.colors / 255.0)
    open3d.visualization.draw_geometries([shown], window_name=cloud.key)
