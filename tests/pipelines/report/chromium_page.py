"""Pages in a real browser from a local file: how it is started, and what is on the canvas."""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

SOFTWARE_GL = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
EDGE_PX = 4
BACKGROUND = (0x10, 0x14, 0x1B)


def open_browser(*flags: str) -> Iterator[Browser]:
    names = ("chromium-headless-shell", "chromium", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no chromium: apt-get install chromium-headless-shell")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=[*SOFTWARE_GL, *flags])
        yield browser
        browser.close()


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


def turn(page: Page) -> None:
    """Drag over the canvas."""
    canvas = page.locator(".stage canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 300, box["y"] + 200)
    page.mouse.down()
    page.mouse.move(box["x"] + 450, box["y"] + 240, steps=5)
    page.mouse.up()


def drawn_extent(pixels: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Middle and size of what is drawn on a canvas, each by width and height, as parts of it.

    The outermost hundredth of the drawn pixels on each side does not count, nor does the canvas's
    edge, where the page shows through round corners and a broken last row.
    """
    image = np.asarray(Image.open(io.BytesIO(pixels)).convert("RGB")).astype(int)
    image = image[EDGE_PX:-EDGE_PX, EDGE_PX:-EDGE_PX]
    rows, columns = np.nonzero((np.abs(image - BACKGROUND) > 12).any(axis=2))
    place = np.stack([columns, rows], axis=1) / image.shape[1::-1]
    low, high = np.percentile(place, [1, 99], axis=0)
    return (low + high) / 2, high - low
