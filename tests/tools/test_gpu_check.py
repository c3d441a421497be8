"""The script for a machine with a GPU, on the CPU with tiny sizes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = (
    *("--device", "cpu", "--distinct", "2", "--frames", "3", "--steps", "1"),
    *("--teacher", "resnet10t:64x48", "--batch-size", "2"),
    *("--student", "Res16UNet14A", "--voxel-size", "0.3", "--frames-a-batch", "2"),
)


@pytest.mark.slow
def test_every_part_gives_a_figure(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "gpu_check.py"), *TINY, "--json", str(found)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(found.read_text())
    assert report["complete"]
    rows = {(row["what"], row["setting"]): row for row in report["rows"]}
    for precision in ("float32", "bfloat16"):
        teacher = f"resnet10t:64x48, batch 2, {precision}"
        alone, both = rows["teacher alone", teacher], rows["extract", teacher]
        ratio = rows["extract / teacher alone", teacher]["value"]
        assert ratio == pytest.approx(both["value"] / alone["value"])
        student = f"Res16UNet14A, torch, 2 frames, {precision}"
        assert rows["training", student]["value"] > 0
        assert 0 <= rows["waiting for data", student]["value"] <= 1
    assert ("training", "Res16UNet14A, minkowski, 2 frames, bfloat16") not in rows
    assert all(row["value"] is not None for row in report["rows"])
    assert done.stdout.count("| teacher alone |") == 4  # once when known, once in the table
