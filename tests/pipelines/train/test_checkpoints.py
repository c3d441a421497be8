import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from tiny_recording import tiny_train_config

from p2pkit.errors import TrainingError
from p2pkit.pipelines.train.checkpoints import (
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from p2pkit.pipelines.train.distributed import Ranks
from p2pkit.pipelines.train.model import build_model
from p2pkit.pipelines.train.step import Trainer

CONFIG = tiny_train_config(Path("unused"))


def make(seed: int, channels: int = 8) -> Trainer:
    """A model and its optimiser after one update with made-up gradients."""
    model = build_model(CONFIG, channels, seed=seed)
    trainer = Trainer(model, CONFIG, model, Ranks())
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.1 * (seed + 1))
    trainer.optimizer.step()
    return trainer


def save(run: Path, trainer: Trainer, step: int) -> None:
    save_checkpoint(run, trainer.model, trainer.state(), step=step, keep=2)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one checkpoint of seed 0; not to be written."""
    run = tmp_path_factory.mktemp("saved")
    torch.manual_seed(5)
    save(run, make(0), 7)
    return run


def test_everything_comes_back(saved: Path) -> None:
    wanted, trainer = make(0), make(1)
    torch.manual_seed(6)
    trainer.restore(load_checkpoint(latest_checkpoint(saved), trainer.model))
    weights = trainer.model.state_dict()
    torch.testing.assert_close(weights, wanted.model.state_dict(), rtol=0, atol=0)
    found, expected = trainer.optimizer.state_dict(), wanted.optimizer.state_dict()
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
        load_checkpoint(latest_checkpoint(run), make(0).model)


def test_another_architecture_is_refused(saved: Path) -> None:
    with pytest.raises(TrainingError, match="does not fit this model"):
        load_checkpoint(latest_checkpoint(saved), make(0, channels=9).model)


def test_the_newest_are_kept_and_leftovers_are_no_checkpoints(tmp_path: Path) -> None:
    trainer = make(0)
    leftover = tmp_path / "checkpoints" / ".tmp-step-00000003"
    leftover.mkdir(parents=True)
    (leftover / "weights.safetensors").write_bytes(b"half")
    assert list_checkpoints(tmp_path) == []
    for step in (1, 2, 3, 3):
        save(tmp_path, trainer, step)
    assert [checkpoint.step for checkpoint in list_checkpoints(tmp_path)] == [2, 3]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_no_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="has no checkpoint; train it first"):
        latest_checkpoint(tmp_path)


def test_a_copy_beside_the_checkpoints_is_let_be(saved: Path, tmp_path: Path) -> None:
    run = shutil.copytree(saved, tmp_path / "run")
    newest = latest_checkpoint(run)
    shutil.copytree(newest.path, newest.path.with_name("step-00000003-backup"))
    assert list_checkpoints(run) == [newest]


@pytest.mark.parametrize("name", ["checkpoint.json", "weights.safetensors", "state.pt"])
@pytest.mark.parametrize("content", [None, b"", b"[]"])
def test_a_file_that_is_missing_or_cut_is_told_with_advice(
    saved: Path, tmp_path: Path, name: str, content: bytes | None
) -> None:
    run = shutil.copytree(saved, tmp_path / "run")
    path = latest_checkpoint(run).path / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TrainingError, match=r"delete .* to resume from an older checkpoint"):
        load_checkpoint(latest_checkpoint(run), make(0).model)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    trainer = make(0)
    save(tmp_path, trainer, 1)
    limits, before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, limits[1]))
    try:
        with pytest.raises(TrainingError, match=r"step-00000002 cannot be written: .*00000001.*"):
            save(tmp_path, trainer, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    trainer = make(0)
    save(tmp_path, trainer, 1)
    next(trainer.model.parameters()).data[0] = float("inf")
    with pytest.raises(TrainingError, match=r"NaN or infinite after 2 steps.*step-00000001"):
        save(tmp_path, trainer, 2)
    assert latest_checkpoint(tmp_path).step == 1
