"""The report's viewer, in a real browser from a local file."""

import json
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from chromium_page import drawn_extent, open_browser, opened, stage_pixels, turn
from click.testing import CliRunner
from playwright.sync_api import Browser

import p2pkit.viewer
from p2pkit.cli.main import commands
from p2pkit.errors import ConfigError
from p2pkit.pipelines.report import store_page as report_store
from p2pkit.pipelines.report.frames import up_of
from p2pkit.pipelines.report.html import page as html_page
from p2pkit.viewer.points import RELATIVE_CORE, PointFrame, point_viewer

VIEWER = Path(p2pkit.viewer.__file__).parent
NO_MINKOWSKI = """
import sys
sys.modules["MinkowskiEngine"] = None
from pathlib import Path
from p2pkit.pipelines.report import store_page as report_store
report_store.run(report_store.StoreReportConfig(sys.argv[1], Path(sys.argv[2]), frames=1))
"""


@pytest.fixture
def browser() -> Iterator[Browser]:
    yield from open_browser()


@pytest.fixture
def blind_browser() -> Iterator[Browser]:
    """A browser without WebGL."""
    yield from open_browser("--disable-3d-apis")


@pytest.fixture(scope="module")
def store_page(room_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("store-report") / "report.html"
    return report_store.run(report_store.StoreReportConfig(str(room_store), out, frames=2))


def test_the_viewer_turns_zooms_and_recolours_without_errors(
    browser: Browser, store_page: Path
) -> None:
    page, told = opened(browser, store_page)
    canvas = page.locator(".stage canvas")
    canvas.wait_for()
    canvas.scroll_into_view_if_needed()
    first = stage_pixels(page)
    turn(page)
    turned = stage_pixels(page)
    page.mouse.wheel(0, -400)
    zoomed = stage_pixels(page)
    assert page.locator("[name=coloring] option").all_text_contents() == [
        "image", "depth", "pair confidence", "labels", "2D teacher",
    ]  # fmt: skip
    page.locator("[name=coloring]").select_option("depth")
    recoloured = stage_pixels(page)
    page.locator("[name=frame]").select_option("1")
    other = stage_pixels(page)
    assert page.locator("[name=coloring]").input_value() == "depth"
    page.locator("[name=coloring]").select_option("image")
    page.locator("[name=frame]").select_option("0")
    assert len({first, turned, zoomed, recoloured, other}) == 5
    assert stage_pixels(page) == first
    assert told == []


def room(random: np.random.Generator) -> PointFrame:
    """A depth camera's view of a wall beside it, which lies far to the right of its axis."""
    points = random.uniform([1.5, -1, 2], [3, 1, 2.2], (4000, 3)).astype(np.float32)
    return PointFrame("room", points, {"grey": np.full((4000, 3), 160, np.uint8)})


def street(random: np.random.Generator) -> PointFrame:
    """A road 1.7 m below a camera that is tilted by 20°, denser near it, and a few far points."""
    depth = 5 + 75 * random.uniform(size=4000) ** 3
    points = np.stack([random.uniform(-8, 8, 4000), np.full(4000, 1.7), depth], axis=1)
    points[:20] = [300, -40, 900]
    cos, sin = np.cos(np.radians(20)), np.sin(np.radians(20))
    tilt = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    up = tilt @ (0, -1, 0)
    colors = {"grey": np.full((4000, 3), 160, np.uint8)}
    return PointFrame("street", (points @ tilt.T).astype(np.float32), colors, tuple(up.tolist()))


@pytest.mark.parametrize("size", [(1200, 900), (420, 800)])
def test_the_first_view_is_centred_and_fills_the_canvas(
    browser: Browser, tmp_path: Path, size: tuple[int, int]
) -> None:
    random = np.random.default_rng(0)
    frames = [room(random), street(random)]
    path = tmp_path / "page.html"
    path.write_text(html_page("points", [point_viewer(frames)]))
    page, told = opened(browser, path)
    page.set_viewport_size({"width": size[0], "height": size[1]})
    for number in ("0", "1"):
        page.locator("[name=frame]").select_option(number)
        middle, extent = drawn_extent(stage_pixels(page))
        np.testing.assert_allclose(middle, 0.5, atol=0.06)
        assert 0.75 < extent.max() <= 1
        assert extent.min() > 0.15
    assert told == []


def test_a_store_s_points_are_centred(browser: Browser, store_page: Path) -> None:
    page, _ = opened(browser, store_page)
    middle, extent = drawn_extent(stage_pixels(page))
    np.testing.assert_allclose(middle, 0.5, atol=0.06)
    assert extent.max() > 0.75


def test_points_of_a_lidar_stand_upright() -> None:
    camera_from_lidar = np.eye(4)
    camera_from_lidar[:3, :3] = [[0, -1, 0], [0, 0, -1], [1, 0, 0]]
    assert up_of("points", camera_from_lidar) == (0.0, -1.0, 0.0)
    camera_from_lidar[:3, :3] = np.eye(3)
    assert up_of("points", camera_from_lidar) == (0.0, 0.0, 1.0)
    assert up_of("depth", camera_from_lidar) == (0.0, -1.0, 0.0)


def test_without_webgl_the_page_says_so(blind_browser: Browser, store_page: Path) -> None:
    page, told = opened(blind_browser, store_page)
    page.get_by_text("offers no WebGL 2").wait_for()
    assert page.locator(".controls").is_hidden()
    assert told == []


def test_the_kept_files_are_those_that_were_published() -> None:
    kept = json.loads((VIEWER / "versions.json").read_text())["files"]
    for name, entry in kept.items():
        assert sha256((VIEWER / name).read_bytes()).hexdigest() == entry["sha256"], name
    assert RELATIVE_CORE in (VIEWER / "three.module.min.js").read_text()


def test_large_frames_are_thinned_and_keys_are_escaped() -> None:
    points = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    frame = PointFrame("</script><b>", points, {"grey": np.full((500, 3), 90, np.uint8)})
    html = point_viewer([frame], most_points=100)
    assert "</script><b>" not in html
    (value,) = json.loads(html.split('"application/json">')[1].split("</script>")[0])
    assert len(value["positions"]) == 100 * 6 * 4 // 3
    assert len(value["colors"]["grey"]) == 100 * 3 * 4 // 3


def test_a_store_is_reported_without_minkowski_engine(room_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    command = [sys.executable, "-c", NO_MINKOWSKI, str(room_store), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = out.read_text()
    for told in ("Fingerprint", "resnet10t", "Measured grid", "Pairs by confidence", "turned by"):
        assert told in text


def test_the_command_takes_a_store(room_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    arguments = ["report", str(room_store), "--out", str(out), "--frames", "1"]
    result = CliRunner().invoke(commands, arguments)
    assert result.stdout == f"{out}\n"
    result = CliRunner().invoke(commands, ["report", str(room_store), str(room_store)])
    assert result.exit_code == 2
    assert "is a store itself" in result.output
    result = CliRunner().invoke(commands, ["report", str(room_store), "--evaluation", "x"])
    assert result.exit_code == 2
    assert "--evaluation goes with a run" in result.output


def test_neither_store_nor_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"neither a store .* nor a run"):
        report_store.source_kind(str(tmp_path))
