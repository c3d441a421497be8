"""Whole pretraining runs on either sparse engine."""

import json
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from tiny_recording import tiny_train_config

from p2pkit.cli.main import commands
from p2pkit.errors import MissingDependencyError
from p2pkit.pipelines.train import run as train
from p2pkit.pipelines.train.checkpoints import latest_checkpoint
from p2pkit.pipelines.train.run_folder import read_config, read_config_for_use


def trained(store: Path, out: Path, engine: str) -> dict[str, torch.Tensor]:
    config = tiny_train_config(store, steps=3, engine=engine)
    return load_file(latest_checkpoint(train.run(config, out)).path / "weights.safetensors")


@pytest.mark.minkowski
def test_the_torch_engine_trains_to_the_bit_again_and_as_minkowski_engine(
    room_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = trained(room_store, tmp_path / "minkowski", "minkowski")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "MinkowskiEngine", None)
        ours = [trained(room_store, tmp_path / name, "torch") for name in ("first", "second")]
    torch.testing.assert_close(ours[1], ours[0], rtol=0, atol=0)
    assert ours[0].keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[0][name], value, rtol=1e-3, atol=1e-3, msg=name)


def saved_engine(run: Path) -> str:
    return json.loads((run / "config.json").read_text())["engine"]


def test_auto_is_resolved_once_reported_and_never_switched(
    room_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    arguments = ["train", str(room_store), "--out", str(run), "--preset", "cpu-small"]
    sets = ["--set", "stream.sample.voxel_size=0.2", "--set", "stream.batch_size=2"]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "MinkowskiEngine", None)
        first = CliRunner().invoke(
            commands, [*arguments, *sets, "--steps", "2", "--stop-after", "1"]
        )
    assert first.exit_code == 0, first.output
    assert "engine: torch (MinkowskiEngine is not installed; " in first.stderr
    assert saved_engine(run) == "torch"
    again = CliRunner().invoke(commands, [*arguments, *sets, "--steps", "2", "--resume"])
    assert again.exit_code == 0, again.output
    assert "engine:" not in again.stderr
    assert saved_engine(run) == "torch"
    assert read_config(run).engine == "torch"


@pytest.mark.minkowski
def test_a_run_of_minkowski_engine_is_used_without_it_but_not_trained_on(
    room_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train.run(tiny_train_config(room_store, steps=2), tmp_path / "run", stop_after=1)
    assert saved_engine(run) == "minkowski"
    monkeypatch.setitem(sys.modules, "MinkowskiEngine", None)
    with pytest.warns(RuntimeWarning, match="used with 'torch' here"):
        assert read_config_for_use(run).engine == "torch"
    with pytest.raises(MissingDependencyError, match="not installed"):
        train.resume(run)
