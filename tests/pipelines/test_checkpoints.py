import shutil
from pathlib import Path

import pytest
import torch
from tiny_recording import tiny_train_config

from p2pkit.errors import TrainingError
from p2pkit.pipelines.checkpoints import (
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from p2pkit.pipelines.pretraining import PretrainingModel, build_model
from p2pkit.pipelines.train import build_optimizer

CONFIG = tiny_train_config(Path("unused"))


def make(seed: int, channels: int = 8) -> tuple[PretrainingModel, torch.optim.SGD]:
    """A model and its optimiser after one update with made-up gradients."""
    model = build_model(CONFIG, channels, seed=seed)
    optimizer = build_optimizer(model, CONFIG)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.1 * (seed + 1))
    optimizer.step()
    return model, optimizer


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one checkpoint of seed 0; not to be written."""
    run = tmp_path_factory.mktemp("saved")
    torch.manual_seed(5)
    save_checkpoint(run, *make(0), step=7, keep=2)
    return run


def test_everything_comes_back(saved: Path) -> None:
    expected_model, expected_optimizer = make(0)
    model, optimizer = make(1)
    torch.manual_seed(6)
    load_checkpoint(latest_checkpoint(saved), model, optimizer)
    torch.testing.assert_close(model.state_dict(), expected_model.state_dict(), rtol=0, atol=0)
    found, expected = optimizer.state_dict(), expected_optimizer.state_dict()
    torch.testing.assert_close(found["state"], expected["state"], rtol=0, atol=0)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))


@pytest.mark.parametrize("name", ["weights.safetensors", "state.pt"])
def test_a_damaged_file_is_refused_by_name(saved: Path, tmp_path: Path, name: str) -> None:
    run = shutil.copytree(saved, tmp_path / "run")
    path = latest_checkpoint(run).path / name
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(TrainingError, match=rf"{name} has the checksum .* delete .*step-00000007"):
        load_checkpoint(latest_checkpoint(run), *make(0))


def test_another_architecture_is_refused(saved: Path) -> None:
    with pytest.raises(TrainingError, match="does not fit this model"):
        load_checkpoint(latest_checkpoint(saved), *make(0, channels=9))


def test_the_newest_are_kept_and_leftovers_are_no_checkpoints(tmp_path: Path) -> None:
    model, optimizer = make(0)
    leftover = tmp_path / "checkpoints" / ".tmp-step-00000003"
    leftover.mkdir(parents=True)
    (leftover / "weights.safetensors").write_bytes(b"half")
    assert list_checkpoints(tmp_path) == []
    for step in (1, 2, 3, 3):
        save_checkpoint(tmp_path, model, optimizer, step=step, keep=2)
    assert [checkpoint.step for checkpoint in list_checkpoints(tmp_path)] == [2, 3]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_no_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="has no checkpoint; train it first"):
        latest_checkpoint(tmp_path)
