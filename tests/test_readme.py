"""Every command in the README runs, and every link in it and in docs/ leads somewhere."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from p2pkit.datasets import SourceOptions, open_source
from p2pkit.datasets.calibration import RgbdCalibration

ROOT = Path(__file__).parents[1]
MADE_BY_MAKE = ("make demo", "make test")
"""What runs the tests themselves, or what tests/cli/test_demo.py runs."""
SHORTER = {
    "--steps 400": "--steps 2",
    "--steps 200": "--steps 2",
    "--fractions 50,100": "--fractions 100 --seeds 1",
    "--dataset demo-scene": "--dataset demo-scene --limit 28",
}
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")


def readme_commands() -> list[str]:
    text = (ROOT / "README.md").read_text()
    return [line for block in BLOCK.findall(text) for line in block.splitlines() if line]


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder with `my-recording`: five generated frames in the form that the README shows."""
    folder = tmp_path / "my-recording"
    folder.mkdir()
    source = open_source("demo-scene", SourceOptions(limit=5))
    for number, key in enumerate(source.keys()):
        frame = source.load(key)
        assert frame.depth is not None
        assert frame.world_from_sensor is not None
        stem = f"{folder}/frame-{number:06d}"
        Image.fromarray(frame.views[0].image).save(f"{stem}.color.jpg")
        Image.fromarray(frame.depth.values).save(f"{stem}.depth.png")
        np.savetxt(f"{stem}.pose.txt", frame.world_from_sensor)
        camera, units = frame.depth.camera, frame.depth.units_per_metre
        calibration = RgbdCalibration(units, camera, camera, np.eye(4), "world_from_depth", (0,))
        text = json.dumps(calibration.to_json())
        (folder / "camera.json").write_text(text)
    return tmp_path


def test_every_command_runs_in_the_order_of_the_page(workplace: Path) -> None:
    lines = readme_commands()
    assert [line for line in lines if line.startswith("make")] == list(MADE_BY_MAKE)
    script = "\n".join(line for line in lines if line not in MADE_BY_MAKE)
    assert script.count("p2pkit ") >= 9
    for long, short in SHORTER.items():
        assert long in script
        script = script.replace(long, short)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=workplace,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for told in ("ok: ", "1 held-out frames", "pretrained"):
        assert told in done.stdout


@pytest.mark.parametrize(
    "page", ["README.md", *sorted(p.name for p in (ROOT / "docs").glob("*.md"))]
)
def test_every_local_link_leads_somewhere(page: str) -> None:
    path = ROOT / page if page == "README.md" else ROOT / "docs" / page
    broken: list[str] = []
    for target, anchor in LINK.findall(path.read_text()):
        if "://" in target:
            continue
        file = path.parent / target
        if not file.exists():
            broken.append(target)
        elif anchor:
            titles = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            known = {"#" + re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}
            broken += [] if anchor in known else [target + anchor]
    assert not broken
