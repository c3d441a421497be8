"""demo: the whole path on generated rooms, from frames to a report, in minutes on a few cores."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from p2pkit.errors import ConfigError
from p2pkit.files import write_json
from p2pkit.layers.features import FeatureConfig
from p2pkit.pipelines import retrieval
from p2pkit.pipelines.evaluate import probe
from p2pkit.pipelines.extract import run as extract
from p2pkit.pipelines.held_out import scene_split
from p2pkit.pipelines.report import run_page as report
from p2pkit.pipelines.settings import DemoConfig
from p2pkit.pipelines.train import run as train
from p2pkit.pipelines.train.checkpoints import list_checkpoints
from p2pkit.pipelines.train.presets import preset
from p2pkit.pipelines.train.settings import TrainConfig
from p2pkit.pipelines.train.step import StepReport
from p2pkit.settings import config_to_json, with_settings
from p2pkit.store.reading import open_store
from p2pkit.teachers import TeacherOptions

Stage = Literal["extract", "train", "probe", "retrieval", "report"]

TEST_FRACTION = 0.25
SHARD_SIZE = 12
# Twice the size of the rooms' images, so that the teacher's map has as many cells as at the
# 640 x 480 px of the paper.
TEACHER_INPUT = (640, 480)
# Changes to the preset `cpu-small` that fit it into two minutes on two cores.
SETTINGS = (
    "checkpoint_every=20",
    "optimizer.warmup_steps=10",
    "stream.sample.voxel_size=0.1",
)


@dataclass(frozen=True)
class Progress:
    """Progress of a stage, in frames (extract) or steps (train); 0 or 1 for other stages."""

    stage: Stage
    done: int
    total: int


Show = Callable[[Progress], None]


def run(config: DemoConfig, *, progress: Show | None = None) -> Path:
    """Extract, pretrain, probe, test retrieval, and report.

    Running it again continues where it stopped; if the report exists, nothing is done.

    Returns:
        The path of the report, OUT/report.html. The store is OUT/store, the run OUT/run.

    Raises:
        ConfigError: `out` holds a demo with other settings.
    """
    show = progress or (lambda report: None)
    path = config.out / "report.html"
    _claim_folder(config)
    if path.is_file():
        return path
    store, run_folder = config.out / "store", config.out / "run"
    _extract(config, store, show)
    _train(_train_config(config, store), run_folder, show)
    _evaluate(config, store, run_folder, show)
    show(Progress("report", 0, 1))
    report.run(report.ReportConfig(run=run_folder, store=str(store), out=path, seed=config.seed))
    show(Progress("report", 1, 1))
    return path


def _claim_folder(config: DemoConfig) -> None:
    wanted = config_to_json(config)
    del wanted["out"]
    path = config.out / "demo.json"
    if not path.is_file():
        write_json(path, wanted)
        return
    found = json.loads(path.read_text())
    if found != wanted:
        raise ConfigError(
            f"{config.out} holds a demo with the settings {found}, expected {wanted}; choose "
            "another --out, or delete the folder"
        )


def _extract(config: DemoConfig, store: Path, show: Show) -> None:
    extract.run(
        extract.ExtractConfig(
            dataset="demo-scene",
            root=None,
            out=store,
            features=FeatureConfig(
                teacher=TeacherOptions(input_size=TEACHER_INPUT), seed=config.seed
            ),
            limit=config.frames,
            shard_size=SHARD_SIZE,
            seed=config.seed,
        ),
        progress=lambda report: show(Progress("extract", report.done, report.total)),
    )


def _train_config(config: DemoConfig, store: Path) -> TrainConfig:
    test = scene_split(open_store(store), TEST_FRACTION).test
    drawn = (f"steps={config.steps}", f"holdout={len(test)}")
    seeds = (f"seed={config.seed}", f"stream.seed={config.seed}")
    return with_settings(preset("cpu-small", store), (*SETTINGS, *drawn, *seeds))


def _train(config: TrainConfig, run_folder: Path, show: Show) -> None:
    done = list_checkpoints(run_folder)
    start = done[-1].step if done else 0
    show(Progress("train", start, config.steps))
    if start == config.steps:
        return

    def step(report: StepReport) -> None:
        show(Progress("train", report.step + 1, config.steps))

    if (run_folder / "config.json").is_file():
        train.resume(run_folder, progress=step)
    else:
        train.run(config, run_folder, progress=step)


def _evaluate(config: DemoConfig, store: Path, run_folder: Path, show: Show) -> None:
    show(Progress("probe", 0, 1))
    if not (run_folder / "probe.json").is_file():
        probe.run(
            probe.ProbeStageConfig(
                run=run_folder,
                store=str(store),
                test_fraction=TEST_FRACTION,
                random_seeds=config.random_seeds,
                seed=config.seed,
            )
        )
    show(Progress("probe", 1, 1))
    show(Progress("retrieval", 0, 1))
    if not (run_folder / "retrieval.json").is_file():
        retrieval.run(retrieval.RetrievalConfig(run=run_folder, store=str(store), seed=config.seed))
    show(Progress("retrieval", 1, 1))
