"""The profile of a step: every part is measured, and the parts make up the whole."""

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny_recording import tiny_train_config

from p2pkit.cli.main import commands
from p2pkit.errors import ConfigError
from p2pkit.laps import START, Laps
from p2pkit.pipelines.step_profile import PREPARING, STEPPING, run


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
