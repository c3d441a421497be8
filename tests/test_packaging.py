"""The wheel, built from the source archive and used where the checkout is not on the path."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PARTS = ("pyproject.toml", "LICENSE", "README.md", "p2pkit", "cli", "pipelines")

IMPORT_ALL = """
import importlib, pathlib, pkgutil, sys
import p2pkit, p2pkit.cli, p2pkit.pipelines
assert pathlib.Path(p2pkit.__file__).is_relative_to(sys.argv[1]), p2pkit.__file__
from p2pkit.pipelines.extract import run as extract
from p2pkit.pipelines.train import run as train
for package in (p2pkit.cli, p2pkit.pipelines):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
        print(module.name)
"""

WITHOUT_MINKOWSKI = """
import sys
sys.modules["MinkowskiEngine"] = None
from p2pkit.cli.main import main
for command in sys.argv[1:]:
    try:
        main(command.split())
    except SystemExit as ended:
        if ended.code:
            raise
"""
NEEDS_NO_COMPILER = (
    "extract --dataset demo-scene --limit 4 --input-size 160 128 --out rooms.store",
    "shards verify rooms.store --deep",
    "check rooms.store --frames 2 --out check",
    "report rooms.store",
    "train rooms.store --out run --preset cpu-small --steps 1 --set engine=torch"
    " --set stream.batch_size=1 --set stream.sample.voxel_size=0.2",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive and the wheel that was built from it."""
    source = tmp_path_factory.mktemp("source")
    for part in PARTS:
        if (ROOT / part).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / part, source / part, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / part, source)
    out = tmp_path_factory.mktemp("built")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def wheel_files(built: Path) -> set[str]:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel alone is installed into."""
    folder = tmp_path_factory.mktemp("installed")
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(folder), str(wheel)], check=True)
    return folder


def run_installed(installed: Path, arguments: list[str], cwd: Path, **environment: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed), **environment}
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_wheel_installs_one_name(wheel_files: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel_files}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"p2pkit"}


def test_wheel_holds_every_module_and_header(wheel_files: set[str]) -> None:
    expected = {
        str(path.relative_to(ROOT))
        for pattern in ("*.py", "*.h", "*.js", "*.json", "*.txt", "py.typed")
        for path in (ROOT / "p2pkit").rglob(pattern)
    }
    for folder in ("cli", "pipelines"):
        expected |= {f"p2pkit/{path.relative_to(ROOT)}" for path in (ROOT / folder).rglob("*.py")}
    assert not expected - wheel_files
    assert "p2pkit/minkowski/cblas.h" in wheel_files


def test_licence_travels_along(built: Path, wheel_files: set[str]) -> None:
    assert any(name.endswith("licenses/LICENSE") for name in wheel_files)
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        assert any(name.endswith("/LICENSE") for name in tar.getnames())


def test_pipelines_import_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    printed = run_installed(installed, ["-c", IMPORT_ALL, str(installed)], tmp_path)
    modules = set(printed.split())
    for folder in ("cli", "pipelines"):
        names = {path.stem for path in (ROOT / folder).glob("*.py")} - {"__init__"}
        assert modules >= {f"p2pkit.{folder}.{name}" for name in names}


def test_command_line_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    assert "extract" in run_installed(installed, ["-m", "p2pkit.cli.main", "--help"], tmp_path)


def test_the_wheel_works_without_a_compiler_and_minkowski(installed: Path, tmp_path: Path) -> None:
    """Nothing is built where it is used; only MinkowskiEngine's students need it."""
    (tmp_path / "empty").mkdir()
    nothing = {"PATH": str(tmp_path / "empty"), "CC": "/no/compiler", "CXX": "/no/compiler"}
    run_installed(installed, ["-c", WITHOUT_MINKOWSKI, *NEEDS_NO_COMPILER], tmp_path, **nothing)
    assert (tmp_path / "check" / "check.json").is_file()
    assert (tmp_path / "rooms.store-report.html").stat().st_size > 100_000
    assert list((tmp_path / "run" / "checkpoints").iterdir())
