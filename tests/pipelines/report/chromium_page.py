"""Pages in a real browser from a local file: how it is started, and what is on the canvas."""

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Playwright

SOFTWARE_GL = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
EDGE_PX = 4
BACKGROUND = (0x10, 0x14, 0x1B)


@contextmanager
def launched(playwright: Playwright, *flags: str) -> Iterator[Browser]:
    names = ("chromium-headless-shell", "chromium", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no chromium: apt-get install chromium-headless-shell")
    browser = playwright.chromium.launch(executable_path=found, args=[*SOFTWARE_GL, *flags])
    try:
        yield browser
    finally:
        browser.close()


def opened(
    browser: Browser, path: Path, *, width: int = 1200, dark: bool = False
) -> tuple[Page, list[str]]:
    """The page and, as they come, what the console, failed scripts and loads say."""
    scheme = "dark" if dark else "light"
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    problems: list[str] = []
    own = path.as_uri()
    page.on(
        "console",
        lambda message: message.type in ("error", "warning") and problems.append(message.text),
    )
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "request",
        lambda request: request.url.startswith(("data:", own)) or problems.append(request.url[:80]),
    )
    page.goto(own)
    return page, problems


def stage_pixels(page: Page, pane: int = 0) -> bytes:
    """A screenshot of one pane, without its controls."""
    page.wait_for_timeout(200)
    return page.locator(".pane").nth(pane).screenshot(style=".pane label { visibility: hidden }")


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
