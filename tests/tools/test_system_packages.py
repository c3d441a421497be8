"""What set-up says where system packages are missing and may not be installed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "system_packages.sh"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the script checks Linux only")


def run(folder: Path, python: str = sys.executable, *commands: str) -> tuple[int, str]:
    """Run it where PATH has these commands only: no apt-get."""
    for name in ("bash", "id", "uname", *commands):
        (folder / name).symlink_to(shutil.which(name) or "/bin/true")
    done = subprocess.run(
        [str(folder / "bash"), str(SCRIPT), python],
        env={"PATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_nothing_is_missing_where_there_is_a_compiler(tmp_path: Path) -> None:
    assert run(tmp_path, sys.executable, "g++") == (0, "system packages: complete\n")


def test_without_a_compiler_set_up_goes_on_and_says_what_adds_it(tmp_path: Path) -> None:
    code, printed = run(tmp_path)
    assert code == 0
    assert "sudo apt-get install -y --no-install-recommends g++\n" in printed
    assert "MinkowskiEngine may not build here" in printed


def test_without_venv_there_is_no_set_up(tmp_path: Path) -> None:
    python = tmp_path / "python-without-venv"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    code, printed = run(tmp_path, str(python), "g++")
    assert code == 1
    assert "python3-venv" in printed
