"""The demo is `pretrain` on generated rooms, and it convinces."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from command_line import p2pkit

from p2pkit.cli.commands.pretrain import STAGES
from p2pkit.pipelines.demo import pretraining
from p2pkit.pipelines.settings import DemoConfig

MARGINS = {"miou": 0.13, "accuracy": 0.04}
"""About half of the smallest that was measured over five seeds; docs/tutorial.md has them."""
STEPS = 40
"""Fewer than the default, for which the margins hold all the more."""


@dataclass(frozen=True)
class Demo:
    """What `p2pkit demo` printed, and its folder."""

    result: Result
    out: Path

    def probe(self) -> dict[str, Any]:
        return json.loads((self.out / "run" / "probe.json").read_text())


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    out = tmp_path_factory.mktemp("demo") / "demo"
    return Demo(p2pkit("demo", "--out", out, "--steps", STEPS), out)


@pytest.mark.slow
def test_each_stage_is_shown_and_a_room_is_held_out(demo: Demo) -> None:
    errors = demo.result.stderr
    assert re.findall(r"^\d/5 (.*)$", errors, re.MULTILINE) == list(STAGES.values())
    assert "do not trust" not in errors
    assert len(demo.result.stdout.splitlines()) == 3
    protocol = demo.probe()["protocol"]
    assert protocol["test_sequences"] == ["room-3"]
    assert protocol["test_frames_pretrained_on_without_labels"] == 0
    assert "Limits of these figures" in (demo.out / "report.html").read_text()


@pytest.mark.slow
def test_pretrained_features_beat_random_ones(demo: Demo) -> None:
    """In the linear probe, in the room that was left out; random: the mean of two networks."""
    pretrained, random = (demo.probe()["scores"][kind] for kind in ("pretrained", "random"))
    found = {name: pretrained[name] - random[name] for name in MARGINS}
    assert all(found[name] > margin for name, margin in MARGINS.items()), found


def test_a_demo_does_not_depend_on_the_speed_of_the_machine() -> None:
    config = pretraining(DemoConfig())
    assert config.steps == DemoConfig().steps
    assert config.device == "cpu"
    assert not config.force


def test_make_demo_is_this_command() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    assert "demo: install\n\t$(BIN)/p2pkit demo\n" in makefile
