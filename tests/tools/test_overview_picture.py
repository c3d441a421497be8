"""The README's picture and those of the tutorial are drawn from any finished run of one store."""

import importlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_recording import tiny_train_config

from p2pkit.pipelines.train import run as train

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def demo(room_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the tools need of a finished demo."""
    folder = tmp_path_factory.mktemp("pictures") / "demo"
    shutil.copytree(room_store, folder / "store")
    train.run(tiny_train_config(folder / "store", steps=1, holdout=4), folder / "run")
    (folder / "check" / "overlays").mkdir(parents=True)
    Image.new("RGB", (64, 48), "teal").save(folder / "check" / "overlays" / "frame.png")
    return folder


@pytest.fixture(autouse=True)
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts of tools/ import one another."""
    monkeypatch.syspath_prepend(ROOT / "tools")


def test_every_panel_is_drawn(demo: Path, tmp_path: Path) -> None:
    tool = importlib.import_module("overview_picture")
    tool.main(demo, tmp_path / "images" / "overview.png")
    with Image.open(tmp_path / "images" / "overview.png") as picture:
        pixels = np.asarray(picture)
    panels_high = (pixels.shape[0] - tool.HEADING) // 2
    columns = np.array_split(pixels, 3, axis=1)
    for top in (tool.HEADING, tool.HEADING + panels_high):
        for column in columns:
            panel = column[top : top + panels_high - tool.CAPTION]
            assert (panel < 250).any(axis=2).mean() > 0.1
            assert len(np.unique(panel.reshape(-1, 3), axis=0)) > 10


def test_each_stage_has_its_picture(demo: Path, tmp_path: Path) -> None:
    tool = importlib.import_module("tutorial_pictures")
    tool.main(demo, tmp_path)
    drawn = {path.name for path in tmp_path.glob("*.png")}
    page = (ROOT / "docs" / "tutorial.md").read_text()
    assert drawn == {path.name for path in tool.FOLDER.glob("tutorial-*.png")}
    assert all(f"](images/{name})" in page for name in drawn)
    for name in drawn:
        with Image.open(tmp_path / name) as picture:
            assert picture.height == tool.HEIGHT + tool.CAPTION
            assert picture.width >= 280
