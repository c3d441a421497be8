"""`init=FILE`: a run starts from other weights, and says which."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_recording import tiny_train_config

from p2pkit.errors import ConfigError, TrainingError
from p2pkit.files import sha256_file
from p2pkit.networks import build_student
from p2pkit.pipelines.export import ExportConfig
from p2pkit.pipelines.export import run as export
from p2pkit.pipelines.train import run as train
from p2pkit.pipelines.train.checkpoints import latest_checkpoint
from p2pkit.pipelines.train.model import WEIGHTS
from p2pkit.pipelines.train.run_folder import INIT, initial_weights
from p2pkit.pipelines.train.settings import OptimizerConfig, TrainConfig
from p2pkit.weight_files import read_weight_file

STILL = OptimizerConfig(learning_rate=1e-30)
"""A rate too small to move a float32 weight; the norms still follow their statistics."""


@pytest.fixture(scope="module")
def config(room_store: Path) -> TrainConfig:
    return tiny_train_config(room_store, steps=1, optimizer=STILL, engine="torch", seed=7)


def student_weights(run: Path) -> dict[str, torch.Tensor]:
    read = read_weight_file(latest_checkpoint(run).path / WEIGHTS, TrainingError)
    return {
        name.removeprefix("student."): value
        for name, value in read.items()
        if name.startswith("student.") and "running" not in name and "num_batches" not in name
    }


@pytest.mark.parametrize("form", ["checkpoint", "safetensors", "pointcontrast"])
def test_a_run_starts_from_own_weights_of_any_form(
    config: TrainConfig, tiny_run: Path, tmp_path: Path, form: str
) -> None:
    file = latest_checkpoint(tiny_run).path / WEIGHTS
    if form != "checkpoint":
        file = export(ExportConfig(tiny_run, tmp_path / "student", form=form, projection=True))
    run = train.run(replace(config, init=file), tmp_path / "run")
    found, expected = student_weights(run), student_weights(tiny_run)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    report = json.loads((run / INIT).read_text())
    assert report["file"] == str(file)
    assert report["sha256"] == sha256_file(file)
    assert report["loaded"] >= len(expected)
    assert (report["averaged"], report["random"], report["other_inputs"]) == ([], [], [])
    assert initial_weights(tiny_run) == "random"
    about = "point_projection" if form == "checkpoint" else "final"
    assert any(name.startswith(about) for name in report["not_used"])


def test_other_inputs_need_a_word_and_are_reported(config: TrainConfig, tmp_path: Path) -> None:
    other = build_student(
        "Res16UNet14A", in_channels=4, conv1_kernel_size=config.conv1_kernel_size, engine="torch"
    )
    file = tmp_path / "other.pth"
    torch.save({"model_points": other.state_dict()}, file)
    with pytest.raises(TrainingError, match=r"init_inputs=average or random"):
        train.run(replace(config, init=file), tmp_path / "refused")
    assert not (tmp_path / "refused" / "config.json").exists()
    run = train.run(replace(config, init=file, init_inputs="average"), tmp_path / "run")
    report = json.loads((run / INIT).read_text())
    assert report["averaged"] == ["conv0p1s1.kernel"]
    assert "other.pth" in initial_weights(run)
    assert "averaged (conv0p1s1.kernel)" in initial_weights(run)
    exported = export(ExportConfig(run, tmp_path / "out.pth", form="pointcontrast"))
    del report["path"]
    assert torch.load(exported, weights_only=True)["p2pkit"]["init"] == report


def write_student(file: Path, config: TrainConfig) -> None:
    first = config.conv1_kernel_size
    own = build_student("Res16UNet14A", in_channels=3, conv1_kernel_size=first, engine="torch")
    torch.save(own.state_dict(), file)


def test_a_run_resumed_before_its_first_checkpoint_starts_from_the_same_file(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "own.pth"
    write_student(file, config)
    monkeypatch.chdir(tmp_path)
    run = train.run(replace(config, init=Path(file.name)), tmp_path / "run")
    whole = student_weights(run)
    assert f"tensors of {file.name}" in initial_weights(run)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    shutil.rmtree(run / "checkpoints")
    train.resume(run)
    torch.testing.assert_close(student_weights(run), whole, rtol=0, atol=0)
    train.resume(run)
    shutil.rmtree(run / "checkpoints")
    file.write_bytes(file.read_bytes() + b"x")
    places = rf"{run} has no checkpoint yet and starts from {file} again, which"
    with pytest.raises(TrainingError, match=rf"{places} has the sha256 .*{run / INIT} says sha"):
        train.resume(run)
    file.unlink()
    with pytest.raises(TrainingError, match=rf"{places} does not exist"):
        train.resume(run)


def test_other_inputs_of_as_many_channels_are_warned_of_and_reported(
    config: TrainConfig, tiny_run: Path, tmp_path: Path
) -> None:
    file = export(ExportConfig(tiny_run, tmp_path / "student.safetensors"))
    sample = replace(config.stream.sample, inputs=("position",))
    other = replace(config, init=file, stream=replace(config.stream, sample=sample))
    said = r"on other inputs \(color\) than this run has \(position\).*inputs=\[\"color\"\]'$"
    with pytest.warns(RuntimeWarning, match=said):
        run = train.run(other, tmp_path / "run")
    assert json.loads((run / INIT).read_text())["other_inputs"] == ["color"]
    assert initial_weights(run).endswith(", trained on other inputs (color)")


def test_a_stopped_run_needs_the_file_no_more(config: TrainConfig, tmp_path: Path) -> None:
    file = tmp_path / "own.pth"
    write_student(file, config)
    longer = replace(config, init=file, steps=2)
    whole = train.run(longer, tmp_path / "whole")
    part = train.run(longer, tmp_path / "part", stop_after=1)
    file.unlink()
    train.resume(part)
    one, other = (student_weights(run) for run in (whole, part))
    torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert (part / INIT).read_text() == (whole / INIT).read_text()


def test_inputs_without_a_file_are_refused(room_store: Path) -> None:
    with pytest.raises(ConfigError, match="set init=FILE"):
        TrainConfig(store=str(room_store), init_inputs="average")
