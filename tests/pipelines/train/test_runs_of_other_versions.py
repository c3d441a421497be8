"""Runs that another version wrote: their weights are used; training on them is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tiny_recording import tiny_train_config

from p2pkit.cli.main import commands
from p2pkit.errors import ConfigError
from p2pkit.pipelines import export
from p2pkit.pipelines.evaluate import probe
from p2pkit.pipelines.evaluate.weights import compared_weights
from p2pkit.pipelines.report import run_page as report
from p2pkit.pipelines.train import run as train
from p2pkit.pipelines.train.run_folder import read_config, read_config_for_use
from p2pkit.settings import config_to_json, merged_tables

Changed = Callable[[dict[str, Any]], Path]

WITHOUT_EFFECT = {
    "loss": {"name": "cosine", "negatives": "mask-same-cell", "across_ranks": True},
    "optimizer": {"clip_norm": -1.0},
    "pixel_head": "fixed",
}
"""Settings that once were accepted and changed nothing."""
OF_LATER = {"patience": 3, "optimizer": {"beta": 0.9}, "loss": {"name": "later"}}


@pytest.fixture(scope="module")
def finished(room_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny_train_config(room_store, steps=1, holdout=4, pixel_head="fixed")
    return train.run(config, tmp_path_factory.mktemp("other-versions") / "run")


@pytest.fixture
def changed(finished: Path, tmp_path: Path) -> Changed:
    """The run with other settings in its config.json."""

    def change(settings: dict[str, Any]) -> Path:
        out = shutil.copytree(finished, tmp_path / "run")
        saved = json.loads((out / "config.json").read_text())
        (out / "config.json").write_text(json.dumps(merged_tables(saved, settings)))
        return out

    return change


def test_settings_without_effect_have_their_defaults_and_are_told(
    finished: Path, changed: Changed
) -> None:
    out = changed(WITHOUT_EFFECT)
    with pytest.warns(RuntimeWarning) as told:
        config = read_config_for_use(out)
    texts = [str(warning.message) for warning in told]
    for number, (name, value, reason) in enumerate(
        [
            ("loss.negatives", "'mask-same-cell'", "has no negatives to mask"),
            ("loss.across_ranks", "True", "has no negatives that other processes could add to"),
            ("optimizer.clip_norm", "-1.0", "must be finite and 0 or more"),
        ]
    ):
        assert f"{out} was trained with {name} = {value}" in texts[number]
        assert reason in texts[number]
    loss = {"name": "cosine", "negatives": "paper", "across_ranks": False}
    plain = merged_tables(config_to_json(read_config(finished)), {"loss": loss})
    plain["optimizer"]["clip_norm"] = 0.0
    assert config_to_json(config) == plain


@pytest.mark.filterwarnings("ignore:.*was trained with:RuntimeWarning")
@pytest.mark.parametrize("settings", [WITHOUT_EFFECT, OF_LATER])
def test_the_weights_are_reported_probed_compared_and_exported(
    room_store: Path, changed: Changed, tmp_path: Path, settings: dict[str, Any]
) -> None:
    out = changed(settings)
    page = report.run(report.ReportConfig(out, str(room_store), tmp_path / "r.html", frames=1))
    assert "<html" in page.read_text()
    stage = probe.ProbeStageConfig(out, str(room_store), points_per_frame=20, statistics_frames=1)
    assert "pretrained" in json.loads(probe.run(stage).read_text())["scores"]
    assert compared_weights([out], {}).student("run", 0).out_channels > 0
    assert export.run(export.ExportConfig(out, tmp_path / "student.safetensors")).is_file()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (WITHOUT_EFFECT, "the loss 'cosine' compares each pair with itself alone"),
        (OF_LATER, "unknown setting 'optimizer.beta'"),
    ],
)
def test_training_on_is_refused(changed: Changed, settings: dict[str, Any], message: str) -> None:
    out = changed(settings)
    with pytest.raises(ConfigError, match=f"{out} cannot be trained on: .*{message}"):
        train.resume(out)
    done = CliRunner().invoke(commands, ["train", "--out", str(out), "--resume"])
    assert "Its weights can be used, by probe, evaluate" in str(done.exception)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"student_width": 2}, "student_width = 2, which this version does not know"),
        ({"stream": {"sample": {"inputs": ["xyz"]}}}, r"stream.sample.inputs = \['xyz'\]"),
        ({"engine": "later"}, "settings of its networks .*setting engine is 'later'"),
        ({"pixel_head": "deep"}, "settings of its networks .*setting pixel_head is 'deep'"),
        ({"stream": {"sample": {"voxel_size": -1}}}, "settings of its networks .*voxel_size is -1"),
    ],
)
def test_what_decides_the_networks_is_refused(
    changed: Changed, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config_for_use(changed(settings))
