import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import Field

from p2pkit.cli.main import commands
from p2pkit.errors import ConfigError
from p2pkit.pipelines.train.presets import PRESETS, preset
from p2pkit.pipelines.train.settings import TrainConfig
from p2pkit.settings import (
    commented_toml,
    config_to_json,
    merged,
    settings_class,
    settings_from_toml,
)


@settings_class
class Inner:
    rate: float = Field(default=0.5, description="How fast, in m/s.")


@settings_class
class Outer:
    names: tuple[str, ...] = Field(default=("a",), description="A list.")
    layer: str | None = Field(default=None, description="None takes the only one.")
    inner: Inner = Field(default=Inner(), description="Settings of the inside.")
    kinds: dict[str, str] = Field(default_factory=lambda: {"map": "zstd"}, description="By name.")


def test_a_remark_stands_below_the_meaning() -> None:
    text = commented_toml(Outer(), {"inner.rate": "Slow, as this is a test."})
    assert "# How fast, in m/s.\n# Slow, as this is a test.\nrate = 0.5\n" in text


def test_each_setting_stands_below_its_meaning() -> None:
    assert commented_toml(Outer()) == (
        '# A list.\nnames = [\n    "a",\n]\n'
        "# None takes the only one.\n# layer = \n"
        "\n# Settings of the inside.\n\n[inner]\n# How fast, in m/s.\nrate = 0.5\n"
        '\n# By name.\n[kinds]\nmap = "zstd"\n'
    )


@pytest.mark.parametrize("name", PRESETS)
def test_the_file_gives_the_preset_back(name: str, tmp_path: Path) -> None:
    config, file = preset(name, "rooms.store"), tmp_path / "train.toml"
    file.write_text(commented_toml(config))
    assert merged(TrainConfig(store="other"), settings_from_toml(file)) == config
    written = tomllib.loads(file.read_text())
    assert written["loss"]["temperature"] == config_to_json(config)["loss"]["temperature"]


def test_on_the_command_line(room_store: Path, tmp_path: Path) -> None:
    arguments = ["init", str(room_store), "--preset", "cpu-small"]
    printed = CliRunner().invoke(commands, arguments)
    assert printed.exit_code == 0, printed.output
    file = tmp_path / "train.toml"
    assert CliRunner().invoke(commands, [*arguments, "--out", str(file)]).stdout.strip() == str(
        file
    )
    assert file.read_text() == printed.stdout
    again = CliRunner().invoke(commands, [*arguments, "--out", str(file)])
    assert isinstance(again.exception, ConfigError)
