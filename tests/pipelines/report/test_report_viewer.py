"""The report's viewer, in a real browser from a local file."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from chromium_page import drawn_extent, opened, stage_pixels, turn
from click.testing import CliRunner
from PIL import Image
from playwright.sync_api import Browser

from p2pkit.cli.main import commands
from p2pkit.errors import ConfigError
from p2pkit.pipelines.report import store_page as report_store
from p2pkit.pipelines.report.frames import up_of
from p2pkit.pipelines.report.page import TEMPLATES
from p2pkit.viewer.points import FeatureLayer, PointFrame, point_viewer

PINCH = """canvas => {
  canvas.setPointerCapture = () => {};
  const send = (name, pointerId, clientX) => canvas.dispatchEvent(
    new PointerEvent(name, { pointerId, clientX, clientY: 300, buttons: 1, bubbles: true }));
  send('pointerdown', 11, 100);
  send('pointerdown', 12, 300);
  send('pointermove', 12, 200);
}"""
NO_MINKOWSKI = """
import sys
sys.modules["MinkowskiEngine"] = None
from pathlib import Path
from p2pkit.pipelines.report import store_page as report_store
report_store.run(report_store.StoreReportConfig(sys.argv[1], Path(sys.argv[2]), frames=1))
"""


@pytest.fixture(scope="module")
def store_page(room_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("store-report") / "report.html"
    return report_store.run(report_store.StoreReportConfig(str(room_store), out, frames=2))


def test_the_viewer_turns_zooms_and_recolours_without_errors(
    browser: Browser, store_page: Path
) -> None:
    page, problems = opened(browser, store_page)
    canvas = page.locator(".stage canvas")
    canvas.wait_for()
    canvas.scroll_into_view_if_needed()
    first = stage_pixels(page)
    turn(page)
    turned = stage_pixels(page)
    page.mouse.wheel(0, -400)
    zoomed = stage_pixels(page)
    choice = page.locator(".pane select").first
    assert choice.locator("option").all_text_contents() == [
        "image", "depth", "pair confidence", "labels", "2D teacher",
    ]  # fmt: skip
    assert page.locator(".pane select").nth(1).input_value() == "2D teacher"
    choice.select_option("depth")
    recoloured = stage_pixels(page)
    page.locator("[name=frame]").select_option("1")
    other = stage_pixels(page)
    assert choice.input_value() == "depth"
    choice.select_option("image")
    page.locator("[name=frame]").select_option("0")
    assert len({first, turned, zoomed, recoloured, other}) == 5
    assert stage_pixels(page) == first
    assert problems == []


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
    turned = (points @ tilt.T).astype(np.float32)
    return PointFrame("street", turned, colors, up=tuple(up.tolist()))


def viewer_page(frames: list[PointFrame], first: list[str]) -> str:
    """A page of nothing but the viewer, in the report's style."""
    style = (TEMPLATES / "style.css").read_text()
    return f"<!doctype html><style>{style}</style>{point_viewer(frames, first=first)}"


@pytest.mark.parametrize("size", [(1200, 900), (420, 800)])
def test_the_first_view_is_centred_and_fills_the_canvas(
    browser: Browser, tmp_path: Path, size: tuple[int, int]
) -> None:
    random = np.random.default_rng(0)
    frames = [room(random), street(random)]
    path = tmp_path / "page.html"
    path.write_text(viewer_page(frames, ["grey"]))
    page, problems = opened(browser, path)
    page.set_viewport_size({"width": size[0], "height": size[1]})
    for number in ("0", "1"):
        page.locator("[name=frame]").select_option(number)
        middle, extent = drawn_extent(stage_pixels(page))
        np.testing.assert_allclose(middle, 0.5, atol=0.06)
        assert 0.75 < extent.max() <= 1
        assert extent.min() > 0.15
    assert problems == []


def two_walls() -> PointFrame:
    """A wall: one feature is the same in its left half, another one in its upper half."""
    x, y = (part.ravel() for part in np.meshgrid(np.linspace(-1, 1, 80), np.linspace(-1, 1, 80)))
    points = np.stack([x, y, np.full(x.size, 3.0)], axis=1).astype(np.float32)

    def layer(is_one: np.ndarray) -> FeatureLayer:
        vectors = np.where(is_one[:, None], [100, 20, 0, 0], [-20, 100, 0, 0]).astype(np.int8)
        return FeatureLayer(vectors, (-100.0, -100.0, -1.0), (100.0, 100.0, 1.0))

    features = {"sides": layer(x < 0), "heights": layer(y < 0)}
    return PointFrame("walls", points, {"grey": np.full((x.size, 3), 90, np.uint8)}, features)


def test_a_clicked_point_shows_what_is_similar_in_both_panes(
    browser: Browser, tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    path.write_text(viewer_page([two_walls()], ["sides", "heights"]))
    page, problems = opened(browser, path)
    before = [stage_pixels(page, pane) for pane in (0, 1)]
    box = page.locator(".pane").first.bounding_box()
    assert box is not None
    # In the left pane, left of the middle and above it.
    page.mouse.click(box["x"] + 0.35 * box["width"], box["y"] + 0.35 * box["height"])
    left, right = (pane_colors(stage_pixels(page, pane)) for pane in (0, 1))
    yellow, dark = (255, 240, 80), (38, 20, 74)
    for pane, alike, other in ((left, (0.3, 0.6), (0.7, 0.4)), (right, (0.6, 0.3), (0.4, 0.7))):
        np.testing.assert_allclose(color_at(pane, alike), yellow, atol=6)
        np.testing.assert_allclose(color_at(pane, other), dark, atol=6)
    pink = (255, 64, 140)
    for pane in (left, right):
        rows, columns = np.nonzero((np.abs(pane - pink) < 8).all(axis=2))
        place = np.median(columns) / pane.shape[1], np.median(rows) / pane.shape[0]
        np.testing.assert_allclose(place, 0.35, atol=0.03)
    page.keyboard.press("Escape")
    for pane, pixels in enumerate(before):  # the canvas has the focus, and so an outline
        after = pane_colors(stage_pixels(page, pane))
        assert np.abs(after - pane_colors(pixels)).mean() < 0.5
    assert problems == []


def pane_colors(pixels: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(pixels)).convert("RGB")).astype(int)


def color_at(pane: np.ndarray, place: tuple[float, float]) -> np.ndarray:
    height, width, _ = pane.shape
    return pane[round(place[1] * height), round(place[0] * width)]


def test_both_panes_move_together_and_pinching_zooms(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(viewer_page([two_walls()], ["grey", "grey"]))
    page, problems = opened(browser, path)
    turn(page)
    left, right = stage_pixels(page, 0), stage_pixels(page, 1)
    assert abs(pane_colors(left) - pane_colors(right)).mean() < 3
    _, extent = drawn_extent(left)
    page.locator(".stage canvas").evaluate(PINCH)
    _, pinched = drawn_extent(stage_pixels(page, 0))
    assert pinched.max() < 0.7 * extent.max()
    assert problems == []


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
    page, problems = opened(blind_browser, store_page)
    page.get_by_text("offers no WebGL 2").wait_for()
    assert page.locator(".controls").is_hidden()
    assert problems == []


def test_large_frames_are_thinned_and_keys_are_escaped() -> None:
    points = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    frame = PointFrame("</script><b>", points, {"grey": np.full((500, 3), 90, np.uint8)})
    html = point_viewer([frame], first=["grey"], most_points=100)
    assert "</script><b>" not in html
    (value,) = json.loads(html.split('"application/json">')[1].split("</script>")[0])
    assert len(value["positions"]) == 100 * 6 * 4 // 3
    assert len(value["layers"]["grey"]["rgb"]) == 100 * 3 * 4 // 3


def test_a_store_is_reported_without_minkowski_engine(room_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    command = [sys.executable, "-c", NO_MINKOWSKI, str(room_store), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = out.read_text()
    for words in ("Fingerprint", "resnet10t", "Measured grid", "Pairs by confidence", "turned by"):
        assert words in text


def test_the_command_takes_a_store(room_store: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    arguments = ["report", str(room_store), "--out", str(out), "--frames", "1"]
    result = CliRunner().invoke(commands, arguments)
    assert result.stdout == f"{out}\n"
    result = CliRunner().invoke(commands, ["report", str(room_store), str(room_store)])
    assert result.exit_code == 2
    assert "is already a store" in result.output
    result = CliRunner().invoke(commands, ["report", str(room_store), "--evaluation", "x"])
    assert result.exit_code == 2
    assert "--evaluation would be ignored" in result.output


def test_neither_store_nor_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"neither a store .* nor a run"):
        report_store.source_kind(str(tmp_path))
