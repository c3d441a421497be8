"""The demo is `pretrain` on generated rooms: on few frames and steps."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from p2pkit.cli.main import commands
from p2pkit.cli.pretrain import STAGES
from p2pkit.pipelines.demo import pretraining
from p2pkit.pipelines.settings import DemoConfig


@pytest.mark.slow
def test_each_stage_is_shown_and_a_room_is_held_out(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    result = CliRunner().invoke(
        commands, ["demo", "--out", str(out), "--frames", "16", "--steps", "2"]
    )
    assert result.exit_code == 0, (result.output, result.exception)
    assert re.findall(r"^\d/5 (.*)$", result.stderr, re.MULTILINE) == list(STAGES.values())
    assert "do not trust" not in result.stderr
    assert len(result.stdout.splitlines()) == 3
    protocol = json.loads((out / "run" / "probe.json").read_text())["protocol"]
    assert protocol["test_sequences"] == ["room-1"]
    assert protocol["test_frames_pretrained_on_without_labels"] == 0
    assert "Limits of these figures" in (out / "report.html").read_text()


def test_a_demo_does_not_depend_on_the_speed_of_the_machine() -> None:
    config = pretraining(DemoConfig())
    assert config.steps == DemoConfig().steps
    assert config.device == "cpu"
    assert not config.force


def test_make_demo_is_this_command() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    assert "demo: install\n\t$(BIN)/p2pkit demo\n" in makefile
