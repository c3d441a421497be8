"""A student of sweeps, from its settings to its evaluation: the run decides its inputs once."""

import json
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tiny_recording import tiny_train_config

import p2pkit
from p2pkit.cli.main import commands
from p2pkit.errors import ConfigError
from p2pkit.networks import build_student
from p2pkit.pipelines import export, retrieval
from p2pkit.pipelines.evaluate import probe
from p2pkit.pipelines.evaluate import run as evaluate
from p2pkit.pipelines.evaluate.settings import EvaluateConfig, FrozenConfig, ProbeStageConfig
from p2pkit.pipelines.settings import ExportConfig, RetrievalConfig
from p2pkit.pipelines.train import run as train
from p2pkit.pipelines.train.checkpoints import read_best
from p2pkit.pipelines.train.model import WEIGHTS
from p2pkit.pipelines.train.optimizer import build_optimizer, learning_rate
from p2pkit.pipelines.train.presets import preset
from p2pkit.pipelines.train.run_folder import read_config
from p2pkit.pipelines.train.settings import OnlineProbeConfig, OptimizerConfig, TrainConfig
from p2pkit.pipelines.train.stores import open_sources, resolved
from p2pkit.settings import config_to_toml
from p2pkit.stream.inputs import input_channels
from p2pkit.weight_files import read_weight_file

PROBE = OnlineProbeConfig(every=1, frames=2, points_per_frame=50, validation=0.3, test=0.3)


def sweep_config(store: Path, **changes: object) -> TrainConfig:
    config = tiny_train_config(store, steps=1, holdout=1, **changes)
    sample = replace(config.stream.sample, inputs=None, voxel_size=0.5)
    return replace(config, stream=replace(config.stream, sample=sample))


@pytest.fixture(scope="module")
def sweep_run(sweep_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = sweep_config(sweep_store, probe=PROBE, epochs=0.5)
    return train.run(config, tmp_path_factory.mktemp("run") / "run")


def test_the_run_keeps_what_it_chose(sweep_run: Path) -> None:
    config = read_config(sweep_run)
    assert config.stream.sample.inputs == ("intensity",)
    assert (config.epochs, config.steps) == (0.5, 2)  # 5 of 6 frames, 2 a batch
    assert len((sweep_run / "metrics.jsonl").read_text().splitlines()) == 2
    [folder] = (sweep_run / "checkpoints").iterdir()
    about = json.loads((folder / "checkpoint.json").read_text())
    assert (about["step"], about["inputs"], about["intensity_scale"]) == (2, ["intensity"], 1.0)
    assert read_best(sweep_run)["inputs"] == ["intensity"]
    weights = read_weight_file(folder / WEIGHTS, ConfigError)
    assert weights["student.conv0p1s1.kernel"].shape[1] == 1


def test_the_command_that_began_a_run_resumes_it(
    sweep_run: Path, sweep_store: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(sweep_run, tmp_path / "run")
    asked = replace(sweep_config(sweep_store, probe=PROBE, epochs=0.5), engine="auto")
    (tmp_path / "run.toml").write_text(config_to_toml(asked))
    arguments = ["train", "--config", str(tmp_path / "run.toml"), "--out", str(folder), "--resume"]
    done = CliRunner().invoke(commands, arguments)
    assert done.exit_code == 0, done.output
    other = CliRunner().invoke(commands, [*arguments, "--set", 'stream.sample.inputs=["ones"]'])
    assert "a resumed run keeps its settings" in str(other.exception)


def test_other_steps_than_those_of_the_epochs_are_refused(sweep_run: Path) -> None:
    arguments = ["train", "--out", str(sweep_run), "--resume", "--print-config", "--steps"]
    assert CliRunner().invoke(commands, [*arguments, "2"]).exit_code == 0
    other = CliRunner().invoke(commands, [*arguments, "9"])
    assert "a resumed run keeps its settings: steps is 2, requested 9" in str(other.exception)


def test_a_run_without_named_inputs_is_of_a_development_version(
    sweep_run: Path, tmp_path: Path
) -> None:
    config = json.loads((sweep_run / "config.json").read_text())
    config["stream"]["sample"]["inputs"] = None
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"development version .*; train again"):
        read_config(tmp_path)


def test_probing_and_evaluating_feed_the_same(
    sweep_run: Path, sweep_store: Path, tmp_path: Path
) -> None:
    frozen = FrozenConfig(points_per_frame=50, statistics_frames=2)
    asked = EvaluateConfig(
        runs=(sweep_run,),
        store=str(sweep_store),
        out=tmp_path / "evaluation",
        modes=("knn",),
        fractions=(100.0,),
        seeds=1,
        validation=0.3,
        test=0.3,
        frozen=frozen,
    )
    report = json.loads(evaluate.run(asked).read_text())
    card = report["protocol"]
    assert (card["inputs"], card["intensity_scale"]) == (["intensity"], 1.0)
    text = (tmp_path / "evaluation" / "report.md").read_text()
    assert "Res16UNet14A on intensity in voxels of 50 cm" in text
    assert "mIoU over the points that a camera sees, and over those that none sees: " in text
    for row in report["tables"]["knn"]:
        low, high = sorted((row["miou_seen"], row["miou_unseen"]))
        assert 0 <= low <= high <= 1
    # The ground has a lower intensity than the walls, so the inputs alone distinguish them.
    raw = next(row for row in report["tables"]["knn"] if row["name"] == "inputs+position")
    assert raw["miou"] > 0.9


def test_scores_apart_are_those_of_the_parts(sweep_run: Path, sweep_store: Path) -> None:
    config = ProbeStageConfig(
        run=sweep_run, store=str(sweep_store), points_per_frame=50, statistics_frames=2
    )
    folder = shutil.copytree(sweep_run, sweep_run.with_name("probed"))
    report = json.loads(probe.run(replace(config, run=folder)).read_text())
    assert report["protocol"]["inputs"] == ["intensity"]
    assert {"miou_seen", "miou_unseen"} <= set(report["scores"]["pretrained"])


def test_retrieval_feeds_the_same(sweep_run: Path, sweep_store: Path) -> None:
    folder = shutil.copytree(sweep_run, sweep_run.with_name("retrieved"))
    config = RetrievalConfig(run=folder, store=str(sweep_store), pairs=50, statistics_frames=1)
    assert json.loads(retrieval.run(config).read_text())["frames"] == 1


def test_an_export_says_what_it_takes(sweep_run: Path, tmp_path: Path) -> None:
    file = export.run(ExportConfig(sweep_run, tmp_path / "student.safetensors"))
    found = p2pkit.load_pretrained(file, engine="torch")
    assert found.inputs == ("intensity",)
    assert found.intensity_scale == 1.0
    assert found.grid == "cubic"
    assert found.voxel_size_m == 0.5
    assert found.up_axis == (0.0, 0.0, 1.0)
    coordinates = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0]], dtype=torch.int32)
    assert found.student(coordinates, torch.ones(2, 1)).shape == (2, 96)


def test_a_run_on_depth_refuses_what_only_sweeps_have(room_store: Path, tmp_path: Path) -> None:
    config = tiny_train_config(room_store)
    sample = replace(config.stream.sample, inputs=("intensity",))
    config = replace(config, stream=replace(config.stream, sample=sample))
    with pytest.raises(ConfigError, match=r"name intensity, which .* lacks; it has color"):
        train.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_slidrs_network_has_the_published_tensors(published: Path, sweep_store: Path) -> None:
    """Names and shapes of SLidR's public network, head included, from its preset."""
    config = preset("slidr", sweep_store)
    shapes = json.loads((published / "slidr_res16unet34c_shapes.json").read_text())
    student = build_student(
        config.student,
        in_channels=input_channels(config.stream.sample),
        out_channels=config.embedding_channels,
        conv1_kernel_size=config.conv1_kernel_size,
        engine="torch",
    )
    assert {name: list(value.shape) for name, value in student.state_dict().items()} == shapes


def test_the_recipe_is_slidrs(sweep_store: Path) -> None:
    config = preset("slidr", sweep_store)
    sources = open_sources(config)
    assert resolved(config, sources).steps == 75  # 50 passes over 6 frames in batches of 4
    optimizer = build_optimizer(torch.nn.Linear(2, 2), config)
    group = optimizer.param_groups[0]
    found = [group[name] for name in ("lr", "momentum", "dampening", "weight_decay")]
    assert found == [0.5, 0.9, 0.1, 1e-4]


def test_a_rate_by_epoch_is_constant_within_it() -> None:
    config = OptimizerConfig(learning_rate=0.5, schedule="cosine-by-epoch")
    rates = [learning_rate(config, step, 10, steps_per_epoch=2.5) for step in range(10)]
    # SLidR's schedule after epoch e of 4: 0.25 (1 + cos(pi e / 4)).
    epochs = np.array([0, 0, 0, 1, 1, 2, 2, 2, 3, 3])
    expected = 0.25 * (1 + np.cos(np.pi * epochs / 4))
    np.testing.assert_allclose(rates, expected, rtol=1e-12)


def printed(tmp_path: Path, *settings: str) -> dict[str, Any]:
    """The settings that a command resolves to."""
    arguments = ["train", "any.store", "--preset", "slidr", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(commands, [*arguments, *settings, "--print-config"])
    assert done.exit_code == 0, done.output
    return tomllib.loads(done.stdout)


def test_steps_replace_the_epochs_of_a_preset(tmp_path: Path) -> None:
    assert printed(tmp_path)["epochs"] == 50
    short = printed(tmp_path, "--steps", "7")
    assert (short["steps"], short.get("epochs")) == (7, None)
    assert printed(tmp_path, "--set", "epochs=2")["epochs"] == 2
    (tmp_path / "run.toml").write_text("steps = 9\n")
    by_file = printed(tmp_path, "--config", str(tmp_path / "run.toml"))
    assert (by_file["steps"], by_file.get("epochs")) == (9, None)
    arguments = ["train", "any.store", "--out", "run", "--steps", "7", "--set", "epochs=2"]
    done = CliRunner().invoke(commands, [*arguments, "--preset", "slidr"])
    assert done.exit_code == 2
    assert "steps would be ignored: epochs decides how many" in done.output
