"""Whole pretraining runs on either sparse engine."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_recording import tiny_train_config

from p2pkit.pipelines.train import run as train
from p2pkit.pipelines.train.checkpoints import latest_checkpoint


def trained(store: Path, out: Path, engine: str) -> dict[str, torch.Tensor]:
    config = tiny_train_config(store, steps=3, engine=engine)
    return load_file(latest_checkpoint(train.run(config, out)).path / "weights.safetensors")


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
