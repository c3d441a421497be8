import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from p2pkit.cli.main import commands
from p2pkit.errors import ConfigError, MissingDependencyError, StoreError
from p2pkit.pipelines.view import GAP_PX, ViewConfig, run
from p2pkit.store.reading import open_store


def test_a_frame_as_a_picture(room_store: Path, tmp_path: Path) -> None:
    key = open_store(room_store).keys(0)[0]
    png = tmp_path / "pictures" / "frame.png"
    done = CliRunner().invoke(commands, ["view", str(room_store), key, "--png", str(png)])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(png)
    picture = np.asarray(Image.open(png))
    # Colours, depth, labels and the teacher, 64 x 48 px each.
    assert picture.shape == (48, 4 * 64 + 3 * GAP_PX, 3)
    assert (picture[:, 64 : 64 + GAP_PX] == 255).all()
    panels = [picture[:, start : start + 64] for start in range(0, 4 * 64, 64 + GAP_PX)]
    assert all(len(np.unique(panel.reshape(-1, 3), axis=0)) > 3 for panel in panels)


def test_what_cannot_be_shown(
    room_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = open_store(room_store).keys(0)[0]
    with pytest.raises(StoreError, match="nothing"):
        run(ViewConfig(str(room_store), "nothing", tmp_path / "x.png"))
    with pytest.raises(ConfigError, match="name a picture with --png"):
        run(ViewConfig(str(room_store), key, None))
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(ConfigError, match="DISPLAY is not set"):
        run(ViewConfig(str(room_store), key, None, window=True))


def test_a_window_without_open3d_names_the_extra(
    room_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = open_store(room_store).keys(0)[0]
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'p2pkit\[view\]'"):
        run(ViewConfig(str(room_store), key, None, window=True))
