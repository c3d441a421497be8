import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path

import pytest
from click.testing import CliRunner

from p2pkit.cli.main import commands
from p2pkit.errors import ConfigError
from p2pkit.layers.features import FeatureConfig
from p2pkit.layers.geometry import GeometryConfig
from p2pkit.losses import LossConfig
from p2pkit.pipelines.extract.settings import ExtractConfig
from p2pkit.pipelines.train.presets import PRESETS, preset
from p2pkit.pipelines.train.settings import OptimizerConfig, TrainConfig
from p2pkit.settings import commented_toml, config_to_json, meanings, merged, settings_from_toml
from p2pkit.stream.augmentation import AugmentConfig
from p2pkit.stream.batches import StreamConfig
from p2pkit.stream.samples import SampleConfig
from p2pkit.teachers import TeacherOptions


@dataclass(frozen=True)
class Inner:
    """Inside.

    Args:
        rate: how fast,
            in m/s.
    """

    rate: float = 0.5


@dataclass(frozen=True)
class Outer:
    """Outside.

    Args:
        names, more: two lists.
        inner: settings of the inside.
        kinds: by name.
        layer: None takes the only one.

    Raises:
        ConfigError: never.
    """

    names: tuple[str, ...] = ("a",)
    more: tuple[str, ...] = ()
    layer: str | None = None
    inner: Inner = field(default_factory=Inner)
    kinds: dict[str, str] = field(default_factory=lambda: {"map": "zstd"})


def test_a_remark_stands_below_the_meaning() -> None:
    text = commented_toml(Outer(), {"inner.rate": "Slow, as this is a test."})
    assert "# how fast, in m/s.\n# Slow, as this is a test.\nrate = 0.5\n" in text


def test_each_setting_stands_below_its_meaning() -> None:
    assert commented_toml(Outer()) == (
        '# two lists.\nnames = [\n    "a",\n]\n# two lists.\nmore = []\n'
        "# None takes the only one.\n# layer = \n"
        "\n# settings of the inside.\n\n[inner]\n# how fast, in m/s.\nrate = 0.5\n"
        '\n# by name.\n[kinds]\nmap = "zstd"\n'
    )


@pytest.mark.parametrize(
    "kind",
    [
        *(TrainConfig, LossConfig, OptimizerConfig, StreamConfig, SampleConfig, AugmentConfig),
        *(ExtractConfig, GeometryConfig, FeatureConfig, TeacherOptions),
    ],
)
def test_every_setting_is_explained(kind: type) -> None:
    assert {entry.name for entry in fields(kind)} == set(meanings(kind))
    assert all(len(text) >= 5 for text in meanings(kind).values())


@pytest.mark.parametrize("name", PRESETS)
def test_the_file_gives_the_preset_back(name: str, tmp_path: Path) -> None:
    config, file = preset(name, "rooms.store"), tmp_path / "train.toml"
    file.write_text(commented_toml(config))
    assert merged(TrainConfig(store="other"), settings_from_toml(file)) == config
    told = tomllib.loads(file.read_text())
    assert told["loss"]["temperature"] == config_to_json(config)["loss"]["temperature"]


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
