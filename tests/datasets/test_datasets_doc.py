"""Pages on datasets: every source has a section; the example of one's own works as it stands."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from p2pkit.datasets.frame import FrameSource, SourceOptions
from p2pkit.datasets.registry import DATASETS
from p2pkit.layers.geometry import GeometryConfig, encode_geometry

DOCS = Path(__file__).parents[2] / "docs"
PAGES = (
    "datasets.md",
    "datasets/posed-rgbd.md",
    "datasets/rgbd.md",
    "datasets/devices.md",
    "datasets/lidar.md",
    "datasets/points.md",
)


def example() -> str:
    text = (DOCS / "datasets" / "adding.md").read_text()
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_source_has_a_section_and_a_row(name: str) -> None:
    headings = [
        line
        for page in PAGES
        for line in (DOCS / page).read_text().splitlines()
        if line.startswith("## ")
    ]
    assert any(f"`{name}`" in heading for heading in headings)
    table = (DOCS / "datasets.md").read_text()
    row = re.search(rf"^\| \[`{name}`\]\((.*?)#(.*?)\)(.*)", table, re.M)
    assert row is not None
    labels, poses = (cell.strip() for cell in row[3].split("|")[2:4])
    assert labels == (DATASETS[name].labels or "–")
    assert poses == ("yes" if DATASETS[name].has_poses else "–")
    page = (DOCS / (row[1] or "datasets.md")).read_text()
    anchors = [
        re.sub(r"[^a-z0-9 -]", "", line[3:].lower()).replace(" ", "-")
        for line in page.splitlines()
        if line.startswith("## ")
    ]
    assert row[2] in anchors


def test_a_dataset_of_ones_own_takes_less_than_60_lines(tmp_path: Path) -> None:
    assert example().count("\n") < 60
    names: dict[str, Any] = {}
    exec(example(), names)  # our own documentation
    for name, image in (
        ("rgb", np.full((480, 640, 3), 90, np.uint8)),
        ("depth", np.full((480, 640), 1500, np.uint16)),
    ):
        (tmp_path / name).mkdir()
        Image.fromarray(image).save(tmp_path / name / "0001.png")
    source = names["MyRecording"](SourceOptions(tmp_path))
    assert isinstance(source, FrameSource)
    assert source.keys() == ["0001"]
    sample = encode_geometry(source.load("0001"), GeometryConfig())
    assert (sample.arrays["colors"] == 90).all()
    assert source.fingerprint()["frames"] == 1
