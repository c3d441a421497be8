"""Fixtures for all tests, and run-time checks of the shapes in p2pkit's signatures."""

import glob
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import jaxtyping
import pytest

import p2pkit

if TYPE_CHECKING:
    from object_server import Bucket

# numba cannot compile a function that beartype wraps: kernels stand in files of their own.
# Files are listed, not imported: a module that is imported before the hook goes unchecked.
CHECKED = [
    ".".join(("p2pkit", *Path(file).with_suffix("").parts))
    for file in glob.glob("**/*.py", root_dir=Path(p2pkit.__file__).parent, recursive=True)
    if not file.endswith(("__init__.py", "kernels.py")) and "/kernels/" not in file
]
jaxtyping.install_import_hook(CHECKED, "beartype.beartype")


@cache
def lacks_minkowski() -> str:
    """Why MinkowskiEngine cannot be used here; empty where it can."""
    from p2pkit.networks import choose_engine

    return choose_engine("auto").reason


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs MinkowskiEngine: tests with that marker or with the engine as a parameter."""
    parameters = (
        item.callspec.params
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
        else {}
    )
    asks = item.get_closest_marker("minkowski") is not None or "minkowski" in [
        value for value in parameters.values() if isinstance(value, str)
    ]
    if asks and lacks_minkowski():
        pytest.skip(lacks_minkowski())


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real recordings; the test is skipped where there is none."""
    root = Path(os.environ.get("P2PKIT_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no recordings at {root}: set P2PKIT_DATA to the folder that holds them")
    return root


@pytest.fixture(scope="session")
def room_recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A posed-rgbd folder of 12 small frames in 3 sequences, with labels."""
    from tiny_recording import write_recording

    return write_recording(tmp_path_factory.mktemp("recording") / "rooms", 12, sequences=3)


@pytest.fixture(scope="session")
def room_store(room_recording: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`room_recording` extracted with a small network, 4 frames per shard; not to be written."""
    from tiny_recording import recording_config

    from p2pkit.pipelines.extract.run import run

    return run(recording_config(room_recording, tmp_path_factory.mktemp("store") / "rooms.store"))


@pytest.fixture(scope="session")
def s3_address() -> Iterator[str]:
    """host:port of an S3 server."""
    from object_server import moto_server

    with moto_server() as address:
        yield address


@pytest.fixture
def remote_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Credentials, short waits, and a cache folder of the test's own, which is given back."""
    from p2pkit.store.remote import client as remote

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("P2PKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("P2PKIT_CACHE_GB", raising=False)
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.005)
    monkeypatch.setenv("AWS_TIMEOUT", "2s")
    remote.open_client.cache_clear()
    yield tmp_path / "cache"
    remote.open_client.cache_clear()


@pytest.fixture
def bucket(
    s3_address: str, remote_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator["Bucket"]:
    """A new bucket behind a proxy that injects faults."""
    from object_server import Bucket

    with Bucket.create(s3_address) as made:
        monkeypatch.setenv("AWS_ENDPOINT_URL", made.endpoint)
        yield made


@pytest.fixture(params=["tar", "zarr"])
def tiny_store(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A written store, once per storage."""
    from tiny_store import write_all

    write_all(tmp_path / "store", request.param)
    return tmp_path / "store"


@pytest.fixture
def tiny_tar(tmp_path: Path) -> Path:
    """A written tar store."""
    from tiny_store import write_all

    write_all(tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture(scope="session")
def published(data_root: Path) -> Path:
    """Shapes and reference outputs of published networks, beside the recordings."""
    folder = data_root.parent / "published"
    if not folder.is_dir():
        pytest.skip(f"no reference outputs of published networks at {folder}")
    return folder
