"""Importing MinkowskiEngine through p2pkit, with and without it."""

import collections
import os
import subprocess
import sys
from pathlib import Path

import pytest

from p2pkit.networks.engines.minkowski_engine import minkowski_engine

BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name == "MinkowskiEngine":
            raise {exception}
sys.meta_path.insert(0, Blocker())
from p2pkit.errors import MissingDependencyError
from p2pkit.networks.engines.minkowski_engine import minkowski_engine
try:
    minkowski_engine()
except MissingDependencyError as error:
    print(error)
"""


def run_blocked(exception: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED.format(exception=exception)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    return done.stdout


def test_absence_names_the_command() -> None:
    message = run_blocked("ModuleNotFoundError('no such module', name=name)")
    assert "is not installed" in message
    assert "p2pkit doctor --install minkowski" in message


def test_a_build_for_another_torch_is_told_apart_from_absence() -> None:
    message = run_blocked("ImportError('undefined symbol: _ZN3c10')")
    assert "undefined symbol: _ZN3c10" in message
    assert "another torch" in message
    assert "p2pkit doctor --install minkowski" in message


@pytest.mark.minkowski
def test_import_leaves_the_standard_library_as_it_was() -> None:
    assert minkowski_engine() is minkowski_engine()
    assert not hasattr(collections, "Sequence")


def test_networks_import_without_the_engine() -> None:
    code = "import sys; sys.modules['MinkowskiEngine'] = None; import p2pkit.networks"
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))
