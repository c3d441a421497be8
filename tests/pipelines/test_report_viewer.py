"""The report's viewer, in a real browser from a local file."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from playwright.sync_api import Browser, Page, sync_playwright

import p2pkit.viewer
from p2pkit.cli.main import commands
from p2pkit.errors import ConfigError
from p2pkit.pipelines import report_store
from p2pkit.viewer.points import RELATIVE_CORE, PointFrame, point_viewer

VIEWER = Path(p2pkit.viewer.__file__).parent
SOFTWARE_GL = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
NO_MINKOWSKI = """
import sys
sys.modules["MinkowskiEngine"] = None
from pathlib import Path
from p2pkit.pipelines import report_store
report_store.run(report_store.StoreReportConfig(sys.argv[1], Path(sys.argv[2]), frames=1))
"""


def open_browser(*flags: str) -> Iterator[Browser]:
    names = ("chromium-headless-shell", "chromium", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no chromium: apt-get install chromium-headless-shell")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=[*SOFTWARE_GL, *flags])
        yield browser
        browser.close()


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


def opened(browser: Browser, path: Path) -> tuple[Page, list[str]]:
    """The page and, as they come, what the console and failed scripts and loads say."""
    page, told = browser.new_page(viewport={"width": 1200, "height": 900}), []
    page.on("console", lambda message: message.type == "error" and told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("requestfailed", lambda request: told.append(request.url[:80]))
    page.goto(path.as_uri())
    return page, told


def stage_pixels(page: Page) -> bytes:
    page.wait_for_timeout(200)
    return page.locator(".stage canvas").screenshot()


def test_the_viewer_turns_zooms_and_recolours_without_errors(
    browser: Browser, store_page: Path
) -> None:
    page, told = opened(browser, store_page)
    canvas = page.locator(".stage canvas")
    canvas.wait_for()
    canvas.scroll_into_view_if_needed()
    first = stage_pixels(page)
    box: Any = canvas.bounding_box()
    page.mouse.move(box["x"] + 300, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 450, box["y"] + 240, steps=5)
    page.mouse.up()
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


def test_neither_store_nor_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"neither a store .* nor a run"):
        report_store.source_kind(str(tmp_path))
