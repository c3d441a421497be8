"""The profile of a step: every part is measured, and the parts make up the whole."""

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from tiny_recording import tiny_train_config

from p2pkit.cli.main import commands
from p2pkit.errors import ConfigError
from p2pkit.pipelines.train.checkpoints import FILES, latest_checkpoint
from p2pkit.pipelines.train.distributed import Ranks
from p2pkit.pipelines.train.optimizer import learning_rate
from p2pkit.pipelines.train.profile import PREPARING, STEPPING, run
from p2pkit.pipelines.train.run import run as train
from p2pkit.pipelines.train.run import trainer_and_stream
from p2pkit.pipelines.train.stores import open_sources
from p2pkit.profiling import START, Laps


def test_laps_of_threads_do_not_mix() -> None:
    laps = Laps()
    laps(START)

    def other() -> None:
        laps(START)
        time.sleep(0.05)
        laps("other")

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    laps("own")
    laps(START)
    laps("own again")
    assert 0.05 <= laps.seconds["other"] <= laps.seconds["own"]
    assert laps.seconds["own again"] < laps.seconds["own"]
    assert START not in laps.seconds


def test_a_lap_waits_for_the_device() -> None:
    laps = Laps(lambda: time.sleep(0.02))
    laps(START)
    laps("work")
    assert laps.seconds["work"] >= 0.02


def test_the_parts_make_up_the_step(room_store: Path) -> None:
    config = replace(tiny_train_config(room_store), accumulate=2)
    found = run(config, steps=3)
    assert list(found.stepping_ms) == [*STEPPING, "rest"]
    assert list(found.preparing_ms) == list(PREPARING)
    assert all(value > 0 for value in (*found.stepping_ms.values(), *found.preparing_ms.values()))
    assert sum(found.stepping_ms.values()) == pytest.approx(found.step_ms)
    with pytest.raises(ConfigError, match="steps is 0"):
        run(config, steps=0)


def test_the_command_prints_a_table_or_json(room_store: Path) -> None:
    settings = ["--preset", "cpu-small", "--set", "stream.sample.voxel_size=0.15"]
    command = ["profile", str(room_store), *settings, "--measured", "1"]
    table = CliRunner().invoke(commands, command)
    assert table.exit_code == 0, table.output
    for part in (*STEPPING, *PREPARING):
        assert f"  {part} " in table.stdout
    found = json.loads(CliRunner().invoke(commands, [*command, "--json"]).stdout)
    assert (found["steps"], set(found["stepping_ms"])) == (1, {*STEPPING, "rest"})


def test_what_is_measured_is_what_trains(room_store: Path, tmp_path: Path) -> None:
    """The same batches and updates as of a run, with both parts marked."""
    config = replace(tiny_train_config(room_store, steps=2), accumulate=2)
    laps, loading = Laps(), Laps()
    trainer, stream = trainer_and_stream(
        config, open_sources(config), Ranks(), stepping=laps, preparing=loading
    )
    batches = list(stream.batches(0, 2))
    for step in range(2):
        parts = batches[2 * step :][:2]
        trainer.step(parts, learning_rate(config.optimizer, step, config.steps))
    assert {"forward", "loss", "backward", "optimiser", "meters"} <= set(laps.seconds)
    assert set(loading.seconds) == set(PREPARING)
    saved = load_file(latest_checkpoint(train(config, tmp_path / "run")).path / FILES[0])
    found = trainer.model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in saved.items())
