"""Extraction on a Ray cluster of this machine, and what is decided before Ray is there."""

import importlib.util
import os
import signal
from pathlib import Path

import pytest
from claimed import extract_command, shard_in_work, start
from store_files import tree
from tiny_recording import recording_config

from p2pkit.errors import ConfigError
from p2pkit.pipelines.extract.ray import Pool, pool_for
from p2pkit.pipelines.extract.run import run_on
from p2pkit.teachers import TeacherOptions

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: p2pkit[ray]"
)
ON_RAY = ("--engine", "ray://local")


def test_one_actor_per_gpu_and_no_more_than_there_are_shards() -> None:
    nodes = [{"CPU": 32.0, "GPU": 8.0}, {"CPU": 4.0}, {"CPU": 2.0, "GPU": 4.0}]
    assert pool_for(nodes, device="cuda", threads=4, shards=99) == Pool(10, cpus=1, gpus=1)
    assert pool_for(nodes, device="cuda", threads=4, shards=3) == Pool(3, cpus=1, gpus=1)


def test_actors_on_the_cpu_fit_on_the_smallest_machine() -> None:
    nodes = [{"CPU": 32.0, "GPU": 8.0}, {"CPU": 3.0}, {"memory": 1.0}]
    assert pool_for(nodes, device="cpu", threads=4, shards=99) == Pool(11, cpus=3, gpus=0)
    assert pool_for(nodes, device="cpu", threads=2, shards=99) == Pool(17, cpus=2, gpus=0)


@pytest.mark.parametrize(("device", "needed"), [("cuda", "a GPU and a CPU core"), ("cpu", "core")])
def test_a_cluster_that_cannot_work_is_refused(device: str, needed: str) -> None:
    with pytest.raises(ConfigError, match=needed):
        pool_for([{"memory": 1.0}], device=device, threads=1, shards=1)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("rey", "unknown engine 'rey'; choose one of local, ray"),
        ("ray://", "lacks the address"),
        ("local://here", "takes no address, found 'here'"),
    ],
)
def test_wrong_engines_are_refused(
    room_recording: Path, tmp_path: Path, engine: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_on(engine, recording_config(room_recording, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_numbered_gpu_is_refused(room_recording: Path, tmp_path: Path) -> None:
    from p2pkit.layers.features import FeatureConfig

    features = FeatureConfig(teacher=TeacherOptions(device="cuda:1"))
    with pytest.raises(ConfigError, match="use --device cuda"):
        run_on("ray", recording_config(room_recording, tmp_path / "out", features=features))
    assert not (tmp_path / "out").exists()


@needs_ray
@pytest.mark.slow
def test_a_killed_actor_costs_its_shard_only(
    room_recording: Path, room_store: Path, tmp_path: Path
) -> None:
    """Ray replaces the actor; the store is as that of one worker that nothing happened to."""
    out = tmp_path / "rooms.store"
    driver = start(extract_command(room_recording, out, *ON_RAY))
    shard, pid = shard_in_work(out, driver)
    assert pid != driver.pid
    os.kill(pid, signal.SIGKILL)
    assert not (out / "geometry" / f"{shard:06d}.json").exists()
    printed, errors = driver.communicate()
    assert driver.returncode == 0, errors
    assert printed == f"{out}\n"
    assert "12/12" in errors
    assert tree(out) == tree(room_store)


@needs_ray
@pytest.mark.slow
def test_an_actors_error_is_told_in_one_line(room_recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "rooms.store"
    driver = start(extract_command(room_recording, out, *ON_RAY, "--teacher", "no-such-network"))
    printed, errors = driver.communicate()
    assert (driver.returncode, printed) == (1, "")
    assert "no-such-network" in errors.splitlines()[-1]
    assert errors.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in errors


@needs_ray
@pytest.mark.slow
def test_a_cluster_that_is_not_there(room_recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "rooms.store"
    options = ("--engine", "ray://127.0.0.1:1")
    driver = start(extract_command(room_recording, out, *options))
    _, errors = driver.communicate()
    assert driver.returncode == 1
    assert "no Ray cluster answers at 127.0.0.1:1" in errors
