"""The README's picture is drawn from any finished run of one store."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from tiny_recording import tiny_train_config

from p2pkit.pipelines.train import run as train

ROOT = Path(__file__).parents[2]


def test_every_panel_is_drawn(room_store: Path, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("overview", ROOT / "tools/overview_picture.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    shutil.copytree(room_store, tmp_path / "store")
    train.run(tiny_train_config(tmp_path / "store", steps=1, holdout=4), tmp_path / "run")
    tool.main(tmp_path, tmp_path / "images" / "overview.png")
    with Image.open(tmp_path / "images" / "overview.png") as picture:
        pixels = np.asarray(picture)
    panels_high = (pixels.shape[0] - tool.HEADING) // 2
    columns = np.array_split(pixels, 3, axis=1)
    for top in (tool.HEADING, tool.HEADING + panels_high):
        for column in columns:
            panel = column[top : top + panels_high - tool.CAPTION]
            assert (panel < 250).any(axis=2).mean() > 0.1
            assert len(np.unique(panel.reshape(-1, 3), axis=0)) > 10
