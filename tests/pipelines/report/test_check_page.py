"""The page of `p2pkit check`, in a real browser from a local file."""

from pathlib import Path

import numpy as np
import pytest
from chromium_page import opened
from playwright.sync_api import Browser

from p2pkit.alignment.shifts import Profile
from p2pkit.pipelines.check.page import check_page

REASON = "edges fit best 3.1 % of the width away (tolerance 1.7 %), " * 4 + "x" * 90
TESTS = [
    {"test": "fields", "outcome": "pass", "fault": "", "reason": "valid fields in 3 frames"},
    {"test": "shift test", "outcome": "fail", "fault": "stale calibration", "reason": REASON},
    {"test": "time test", "outcome": "cannot tell", "fault": "", "reason": "no frame has poses"},
]
STATISTICS = {
    "frames": 3,
    "points_per_frame": 70_000.0,
    "pairs_per_frame": 69_000.0,
    "seen": 1.0,
    "covered": 0.97,
    "removed_by_occlusion": None,
    "pairs_by_view": [207_000],
    "pairs_per_voxel": 1.4,
    "pairs_per_cell": 870.0,
    "cell_px": 32,
    "depth_histogram": [
        {"from": 0.0, "to": 1.0, "share": 0.0},
        {"from": 1.0, "to": 2.0, "share": 0.25},
        {"from": 2.0, "to": 3.0, "share": 0.75},
    ],
    "range_histogram": [],
    "confidence_histogram": [],
}
REPORT = {
    "source": "recordings/my-room",
    "outcome": "fail",
    "faults": ["stale calibration"],
    "mends": ["give --depth-units 1000; then check again"],
    "frames": ["a", "b", "c"],
    "tests": TESTS,
    "statistics": STATISTICS,
}


@pytest.fixture
def page_file(tmp_path: Path) -> Path:
    curve = Profile("u", "px at 640 px of width", (-8.0, 0.0, 8.0), (0.1, 0.4, 0.2))
    overlay = np.full((48, 64, 3), 120, np.uint8)
    path = tmp_path / "check.html"
    path.write_text(check_page(REPORT, [curve], {"a-view0": overlay}))
    return path


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)])
def test_outcomes_differ_in_colour_and_nothing_is_cut(
    browser: Browser, page_file: Path, width: int, dark: bool
) -> None:
    page, problems = opened(browser, page_file, width=width, dark=dark)
    color = "cell => getComputedStyle(cell).color"
    colors = {
        kind: page.locator(f".tests td.{kind}").evaluate(color)
        for kind in ("pass", "fail", "cannot-tell")
    }
    assert len(set(colors.values())) == 3
    assert page.locator(".verdict").evaluate(color) == colors["fail"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = """cells => cells.filter(cell => {
      const { left, right } = cell.getBoundingClientRect();
      return left < 0 || right > innerWidth || cell.scrollWidth > cell.clientWidth;
    }).length"""
    assert page.locator(".tests td:visible").evaluate_all(outside) == 0
    assert page.locator("h1").inner_text() == "Check of my-room"
    assert "do not trust these pairs; likely fault: stale calibration" in page.inner_text("body")
    assert page.locator("svg").count() == 2
    assert page.locator("nav a").all_text_contents() == ["Tests", "Shift test", "Overlays", "Pairs"]
    assert problems == []
