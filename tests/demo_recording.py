"""A posed-rgbd recording out of generated rooms, and commands as a user types them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from p2pkit.datasets.frame import SourceOptions
from p2pkit.datasets.registry import open_source
from p2pkit.datasets.rgbd.calibration import RgbdCalibration


def write_demo_recording(folder: Path, frames: int) -> Path:
    """The first generated frames in the form that the README shows."""
    folder.mkdir()
    source = open_source("demo-scene", SourceOptions(limit=frames))
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
        (folder / "camera.json").write_text(json.dumps(calibration.to_json()))
    return folder


def in_shell(script: str, folder: Path, programs: Path | None = None) -> str:
    """Run lines of a shell in a folder, which is also the home; gives what they print.

    `p2pkit` is the installed one, or that of the folder `programs`: see tests/warm_commands.py.
    """
    first = [str(programs)] if programs else []
    path = os.pathsep.join([*first, str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path, "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout
