"""Fixed settings give the geometry that they always gave, to the byte: see make.py."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest


def _make() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "golden_make", Path(__file__).with_name("make.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = _make()
GOLDEN = json.loads(make.FILE.read_text())


def test_generated_rooms_give_the_golden_geometry_and_superpixels(tmp_path: Path):
    assert make.generated(tmp_path) == GOLDEN[make.GENERATED]


@pytest.mark.realdata
@pytest.mark.parametrize("name", make.REAL)
def test_real_recordings_give_the_golden_geometry(name: str, data_root: Path, tmp_path: Path):
    assert make.real(name, data_root / name, tmp_path) == GOLDEN[name]
