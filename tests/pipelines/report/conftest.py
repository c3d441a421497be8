"""Browsers for the tests of pages: started once for a file."""

from collections.abc import Iterator

import pytest
from chromium_page import launched
from playwright.sync_api import Browser, Playwright, sync_playwright


@pytest.fixture(scope="module")
def playwright_driver() -> Iterator[Playwright]:
    with sync_playwright() as driver:
        yield driver


@pytest.fixture(scope="module")
def browser(playwright_driver: Playwright) -> Iterator[Browser]:
    with launched(playwright_driver) as found:
        yield found


@pytest.fixture(scope="module")
def blind_browser(playwright_driver: Playwright) -> Iterator[Browser]:
    """A browser without WebGL."""
    with launched(playwright_driver, "--disable-3d-apis") as found:
        yield found
