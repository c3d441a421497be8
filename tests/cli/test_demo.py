"""The demo on few frames and steps: all of it, again, and after a change of mind."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from p2pkit.cli.demo import STAGES
from p2pkit.cli.main import commands
from p2pkit.errors import ConfigError
from p2pkit.pipelines import demo
from p2pkit.store.verifying import verify_store


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> demo.DemoConfig:
    return demo.DemoConfig(out=tmp_path_factory.mktemp("demo") / "demo", frames=16, steps=2)


@pytest.fixture(scope="module")
def result(config: demo.DemoConfig) -> Result:
    """`p2pkit demo` from the beginning to the end."""
    settings = ["--frames", str(config.frames), "--steps", str(config.steps)]
    result = CliRunner().invoke(commands, ["demo", "--out", str(config.out), *settings])
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def test_each_stage_is_told_and_the_report_named(result: Result, config: demo.DemoConfig) -> None:
    assert re.findall(r"^\d/5 (.*)$", result.stderr, re.MULTILINE) == list(STAGES.values())
    lines = result.stdout.splitlines()
    assert lines[-1] == str(config.out / "report.html")
    assert lines[0].split() == ["IoU", "(%)", "pretrained", "random", "inputs+position"]


@pytest.mark.usefixtures("result")
def test_the_room_that_tests_was_never_trained_on(config: demo.DemoConfig) -> None:
    assert verify_store(config.out / "store", deep=True).ok
    protocol = json.loads((config.out / "run" / "probe.json").read_text())["protocol"]
    assert protocol["test_sequences"] == ["room-1"]
    assert protocol["test_frames_pretrained_on_without_labels"] == 0
    assert "Limits of these figures" in (config.out / "report.html").read_text()


@pytest.mark.usefixtures("result")
def test_a_second_call_does_nothing(config: demo.DemoConfig) -> None:
    before = {path: path.stat().st_mtime_ns for path in config.out.rglob("*")}
    told: list[demo.Progress] = []
    demo.run(config, progress=told.append)
    assert told == []
    assert {path: path.stat().st_mtime_ns for path in config.out.rglob("*")} == before


@pytest.mark.usefixtures("result")
def test_a_demo_that_broke_off_goes_on(config: demo.DemoConfig) -> None:
    (config.out / "report.html").unlink()
    (config.out / "run" / "retrieval.json").unlink()
    told: list[demo.Progress] = []
    demo.run(config, progress=told.append)
    steps = [(report.done, report.total) for report in told if report.stage == "train"]
    assert steps == [(2, 2)]
    assert (config.out / "run" / "retrieval.json").is_file()
    assert (config.out / "report.html").is_file()


@pytest.mark.usefixtures("result")
def test_other_settings_in_the_same_folder_are_refused(config: demo.DemoConfig) -> None:
    changed = demo.DemoConfig(out=config.out, frames=16, steps=3)
    with pytest.raises(ConfigError, match="holds a demo with the settings"):
        demo.run(changed)


def test_make_demo_is_this_command() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    assert "demo: install\n\t$(BIN)/p2pkit demo\n" in makefile
