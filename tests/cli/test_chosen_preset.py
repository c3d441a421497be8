"""What `p2pkit train` starts from where no preset is named, and how long it says it takes."""

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import p2pkit

from p2pkit.cli.commands.train import _Shown
from p2pkit.cli.progress import progress_bar
from p2pkit.pipelines.train.presets import chosen_preset
from p2pkit.pipelines.train.step import StepReport
from p2pkit.store.writing import create_or_open, read_manifest


@pytest.mark.parametrize(
    ("dataset", "device", "preset"),
    [
        ("posed-rgbd", "cpu", "cpu-small"),
        ("posed-rgbd", "cuda", "paper"),
        ("nuscenes+pandaset", "cpu", "cpu-small-lidar"),
        ("kitti-raw", "cuda:1", "slidr"),
        ("pandaset+scannet", "cpu", "cpu-small"),
    ],
)
def test_the_preset_goes_by_device_and_store(
    dataset: str, device: str, preset: str, room_store: Path, tmp_path: Path
) -> None:
    store, manifest = tmp_path / "begun.store", read_manifest(room_store)
    create_or_open(store, replace(manifest, dataset={**manifest.dataset, "dataset": dataset}))
    assert chosen_preset(device, str(store))[0] == preset


def test_the_choice_is_told(room_store: Path, tmp_path: Path) -> None:
    words = ("train", room_store, "--out", tmp_path / "run", "--print-config")
    chosen = p2pkit(*words)
    assert "preset: cpu-small (for depth images on cpu); --preset chooses another" in chosen.stderr
    assert chosen.stdout == p2pkit(*words, "--preset", "cpu-small").stdout
    on_gpu = p2pkit(*words, "--device", "cuda")
    assert "preset: paper (for depth images on cuda)" in on_gpu.stderr
    assert tomllib.loads(on_gpu.stdout)["steps"] == 60_000


def test_a_device_of_the_wrong_type_is_named(room_store: Path, tmp_path: Path) -> None:
    words = ("train", room_store, "--out", tmp_path / "run", "--set", "device=3")
    assert "device is 3; should be a valid string" in str(p2pkit(*words, code=1).exception)


def test_what_is_named_is_taken_without_a_word(room_store: Path, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("steps = 7\n")
    words = ("train", room_store, "--out", tmp_path / "run", "--print-config")
    by_file = p2pkit(*words, "--config", tmp_path / "run.toml")
    assert tomllib.loads(by_file.stdout)["student"] == "Res16UNet34C"
    named = p2pkit(*words, "--preset", "cpu-small")
    assert (by_file.stderr, named.stderr) == ("", "")


@pytest.mark.parametrize(
    ("device", "step_s", "message"),
    [
        ("cpu", 30.0, "10,990 steps of 30.0 s will take about 3.8 days on this CPU"),
        ("cpu", 1.0, ""),
        ("cuda", 30.0, ""),
    ],
)
def test_a_run_of_days_is_announced_after_ten_steps(
    device: str, step_s: float, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_bar("steps", 12_000) as bar:
        show = _Shown(bar, device)
        for step in range(1000, 1010):
            assert "days" not in capsys.readouterr().err
            # The first step, which compiles, says nothing about the rest.
            show(StepReport(step, 1.0, 0.1, 1.0, 8, 0, 1, 1, 1, 1, 999 if step == 1000 else step_s))
        err = capsys.readouterr().err
        assert bar.n == 1010
        assert message in err if message else "days" not in err
