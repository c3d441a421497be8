"""pretrain: a recording in, a checkpoint and a report out, in one resumable call."""

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from p2pkit.datasets.recognise import recognise
from p2pkit.errors import ConfigError, NoLabelsError, SourceError, TrainingError, counted
from p2pkit.files import write_json
from p2pkit.networks import choose_engine
from p2pkit.networks.students import check_student
from p2pkit.pipelines import retrieval
from p2pkit.pipelines.check import run as check
from p2pkit.pipelines.evaluate import probe
from p2pkit.pipelines.evaluate.split import place_of
from p2pkit.pipelines.extract import run as extract
from p2pkit.pipelines.extract.settings import settings_of
from p2pkit.pipelines.extract.start import check_recording
from p2pkit.pipelines.held_out import scene_split
from p2pkit.pipelines.report import run_page as report
from p2pkit.pipelines.settings import CheckConfig, PretrainConfig
from p2pkit.pipelines.train import profile
from p2pkit.pipelines.train import run as train
from p2pkit.pipelines.train.checkpoints import list_checkpoints
from p2pkit.pipelines.train.presets import chosen_preset, preset
from p2pkit.pipelines.train.settings import TrainConfig
from p2pkit.pipelines.train.step import StepReport
from p2pkit.settings import config_from_json, config_to_json, merged_tables, with_settings
from p2pkit.store.reading import Store, open_store
from p2pkit.teachers import normalisation_note

Stage = Literal["check", "extract", "train", "evaluate", "report"]

CPU_MINUTES = 20.0
MEASURED_STEPS, FEWEST_STEPS = 10, 20
LABELLED_TEST = 0.25
"""Share of the frames that is held out where there are labels, as the probe's test."""
UNLABELLED_TEST, MOST_TESTED = 0.1, 25
"""Share that is held out for retrieval alone, and the most frames that it needs."""
WARM_UP = 1 / 8
"""The longest warm-up, as a share of the steps."""
CHECKPOINTS = 5
"""The fewest that a run writes."""
PARTS = 3
"""An evaluation trains, validates and tests on scenes of their own."""
FREE = ("out", "force")
"""Settings that may differ when a folder is continued."""
OF_TRAINING = ("training", "minutes", "steps", "random_seeds")
"""Those that may differ until training begins: only training and testing use them."""


@dataclass(frozen=True)
class Progress:
    """Progress of a stage, in frames (check, extract) or steps (train); 0 or 1 for others."""

    stage: Stage
    done: int
    total: int
    note: str = ""


Show = Callable[[Progress], None]


@dataclass(frozen=True)
class Pretrained:
    """What a pretraining left in its folder.

    Args:
        store: of the features and pairs.
        run: the training run; `checkpoint` is its newest.
        checkpoint: the trained weights.
        report: an HTML page.
        retrieval: RUN/retrieval.json, read.
        probe: RUN/probe.json, read; None where the frames to learn from or to test have no labels.
    """

    store: Path
    run: Path
    checkpoint: Path
    report: Path
    retrieval: dict[str, Any]
    probe: dict[str, Any] | None

    def summary(self) -> list[str]:
        """Three lines: what was learned, where it is, and what to do next."""
        found = self.retrieval
        chance, trained = found["chance"], found["trained"]["top1_pixel"]
        frames = counted(found["frames"], "frame")
        learned = (
            f"Learned: in {frames} held out, a point finds its own pixel among "
            f"{found['pairs_found']:.0f} in {trained:.2%} of cases; by chance it is {chance:.2%}"
        )
        following = ["p2pkit", "export", str(self.run), "--out", "student.safetensors"]
        if self.probe is not None:
            scores = self.probe["scores"]
            pretrained, random = scores["pretrained"], scores["random"]
            learned += (
                f". A linear probe has {pretrained['miou']:.1%} mIoU and "
                f"{pretrained['accuracy']:.1%} accuracy; with random weights {random['miou']:.1%} "
                f"and {random['accuracy']:.1%}"
            )
            following = ["p2pkit", "evaluate", str(self.run), "--on", str(self.store)]
            following += ["--out", f"{self.run}-evaluation"]
            if len(_places(open_store(self.store))) < PARTS:
                following += ["--split-unit", "time-block"]
        places = f"Checkpoint: {self.checkpoint}; report: {self.report}"
        return [learned, places, f"Next: {shlex.join(following)}"]


def run(config: PretrainConfig, *, progress: Show | None = None) -> Pretrained:
    """Check, extract, train, evaluate and report; stages that are done are skipped.

    Running it again continues where it stopped. The number of steps is fixed when training begins,
    and kept. Everything is in `config.out`: check/, store/, run/, report.html, and pretrain.json
    with the settings.

    Raises:
        SourceError: the recording cannot be read, or failed its check and `force` is off.
        ConfigError: `out` holds a pretraining with other settings, a setting of `training` is
            wrong, or there are too few frames.
        FingerprintError: the recording has changed since it was extracted; the message says how.
        TrainingError: training was stopped by a signal before its last step; its work is kept.
        KeyboardInterrupt: after Ctrl-C; the work is kept.
    """
    show = progress or (lambda report: None)
    if config.dataset is None:
        found = recognise(config.source or Path())
        config = replace(config, source=found.root, dataset=found.dataset)
    known_training(config)
    _claim_folder(config)
    store, folder = config.out / "store", config.out / "run"
    _check(config, show)
    _extract(config, store, show)
    _train(config, store, folder, show)
    probed = _evaluate(config, store, folder, show)
    page = config.out / "report.html"
    if not page.is_file():
        show(Progress("report", 0, 1))
        report.run(report.ReportConfig(run=folder, store=str(store), out=page, seed=config.seed))
        show(Progress("report", 1, 1))
    return Pretrained(
        store=store,
        run=folder,
        checkpoint=list_checkpoints(folder)[-1].path,
        report=page,
        retrieval=_read(folder / "retrieval.json"),
        probe=_read(folder / "probe.json") if probed else None,
    )


def known_training(config: PretrainConfig) -> TrainConfig:
    """The settings of training, over a preset, as far as they are known without a store.

    Raises:
        ConfigError: a setting of `training` is unknown, or its value is not allowed.
    """
    device = f"device={_device(config)}"
    settings = with_settings(preset("cpu-small", config.out / "store"), (device, *config.training))
    check_student(settings.student, settings.conv1_kernel_size)
    choose_engine(settings.engine, settings.device, precision=settings.precision)
    return settings


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def _claim_folder(config: PretrainConfig) -> None:
    settings = config if config.source is None else replace(config, source=config.source.resolve())
    wanted = config_to_json(settings)
    path = config.out / "pretrain.json"
    if not path.is_file():
        write_json(path, wanted)
        return
    found = _read(path)
    differing = [name for name in wanted if name not in FREE and found.get(name) != wanted[name]]
    is_begun = _is_training_begun(config)
    used = [name for name in differing if is_begun or name not in OF_TRAINING]
    if used and (config.out / "store").exists():
        changes = "; ".join(f"{x} was {found.get(x)}, is {wanted[x]}" for x in used)
        raise ConfigError(
            f"{config.out} holds a pretraining with other settings: {changes}. Choose another "
            "--out, or delete the folder"
        )
    if used:
        # Nothing was made with them yet, and a failed check may ask for others.
        (config.out / "check" / "check.json").unlink(missing_ok=True)
    if differing:
        write_json(path, wanted)


def _check(config: PretrainConfig, show: Show) -> None:
    folder = config.out / "check"
    found = _read(folder / "check.json") if (folder / "check.json").is_file() else None
    if found is not None and (found["outcome"] != "fail" or config.force):
        return
    checking = CheckConfig(
        source=config.source,
        out=folder,
        dataset=config.dataset,
        camera=config.camera,
        depth_units=config.depth_units,
        streams=config.streams,
        seed=config.seed,
    )
    keys: list[str] = []

    def look(key: str) -> None:
        keys.append(key)
        show(Progress("check", len(keys), checking.frames))

    show(Progress("check", 0, checking.frames))
    done = check.run(checking, progress=look)
    show(Progress("check", len(keys), len(keys), note=done.summary))
    if not done.ok and not config.force:
        mends = "".join(f"; to fix it, {mend}" for mend in done.mends)
        raise SourceError(
            f"the check of {config.source or config.dataset} failed: "
            f"{done.summary.rstrip('.')}{mends}. See {folder / 'check.html'}, or use --force"
        )


def _extract(config: PretrainConfig, store: Path, show: Show) -> None:
    """Extract; once training has begun, compare the recording with the store, if it is there."""
    extraction = _extraction(config, store)
    if not _is_training_begun(config):
        features = extraction.features
        if features is not None and (note := normalisation_note(features.teacher)):
            show(Progress("extract", 0, 0, note=note))
        extract.run(
            extraction, progress=lambda report: show(Progress("extract", report.done, report.total))
        )
    elif config.source is not None and config.source.exists():
        check_recording(extraction)


def _is_training_begun(config: PretrainConfig) -> bool:
    return (config.out / "run" / "config.json").is_file()


def _extraction(config: PretrainConfig, store: Path) -> extract.ExtractConfig:
    dataset = str(config.dataset)
    asked = {
        "dataset": dataset,
        "root": config.source,
        "out": store,
        "features": {"teacher": {**config_to_json(config.teacher), "device": _device(config)}},
        "limit": config.limit,
        "every": config.every,
        "camera": config.camera,
        "depth_units": config.depth_units,
        "streams": config.streams,
        "seed": config.seed,
    }
    return config_from_json(extract.ExtractConfig, merged_tables(settings_of(dataset), asked))


def _device(config: PretrainConfig) -> str:
    """As set, else a GPU that torch can use, else the CPU."""
    if config.device is not None:
        return config.device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _train(config: PretrainConfig, store: Path, folder: Path, show: Show) -> None:
    is_begun = (folder / "config.json").is_file()
    done = list_checkpoints(folder)[-1].step if is_begun and list_checkpoints(folder) else 0
    settings = train.read_config(folder) if is_begun else _train_config(config, store, show)
    if done == settings.steps:
        return
    show(Progress("train", done, settings.steps))

    def step(report: StepReport) -> None:
        show(Progress("train", report.step + 1, settings.steps))

    if is_begun:
        train.resume(folder, store=store, progress=step)
    else:
        train.run(settings, folder, progress=step)
    done = list_checkpoints(folder)[-1].step
    if done < settings.steps:
        raise TrainingError(
            f"training was stopped after {done} of {settings.steps} steps; run the same command "
            "again to continue"
        )


def _train_config(config: PretrainConfig, store: Path, show: Show) -> TrainConfig:
    """The preset for device and store, as many steps as fit into the minutes."""
    device = _device(config)
    name, reason = chosen_preset(device, str(store))
    seeds = (f"seed={config.seed}", f"stream.seed={config.seed}")
    fixed = (f"device={device}", f"holdout={_held_out(open_store(store))}", *seeds)
    settings = with_settings(preset(name, store), (*fixed, *config.training))
    minutes, note = config.minutes, f"preset {name} {reason}"
    if minutes is None and device.startswith("cpu") and config.steps is None:
        minutes = CPU_MINUTES
    if config.steps is not None or minutes is not None:
        settings = replace(settings, epochs=None)
    elif settings.epochs is not None:
        resolved = train.resolved(settings, train.open_sources(settings))
        settings = replace(settings, steps=resolved.steps)
    steps = config.steps or settings.steps
    if minutes is not None and config.steps is None:
        show(Progress("train", 0, 0, note=f"{note}; measuring {MEASURED_STEPS} steps"))
        step_s = profile.run(settings, steps=MEASURED_STEPS).step_ms / 1e3
        steps = max(FEWEST_STEPS, int(60 * minutes / step_s))
        note = f"{steps} steps of {step_s:.2f} s, about {steps * step_s / 60:.2g} minutes"
    show(Progress("train", 0, steps, note=note))
    warm_up = min(settings.optimizer.warmup_steps, int(steps * WARM_UP))
    return replace(
        settings,
        steps=steps,
        optimizer=replace(settings.optimizer, warmup_steps=warm_up),
        checkpoint_every=min(settings.checkpoint_every, max(1, steps // CHECKPOINTS)),
    )


def _held_out(store: Store) -> int:
    """How many frames, the last in key order, test what was learned.

    Raises:
        ConfigError: the store has a single frame.
    """
    frames = sum(map(len, store.all_keys()))
    if frames < 2:
        raise ConfigError(
            f"{store.root} has {counted(frames, 'frame')}; pretraining needs two, one of "
            "them to test on"
        )
    if _has_labels(store):
        return len(scene_split(store, LABELLED_TEST).test)
    return max(1, min(MOST_TESTED, round(UNLABELLED_TEST * frames)))


def _places(store: Store) -> set[str]:
    """The scenes that an evaluation would cut between."""
    named = scene_split(store, LABELLED_TEST).sequence.values()
    return {place_of(store.manifest.dataset.get("dataset"), name) for name in named}


def _has_labels(store: Store) -> bool:
    return store.manifest.dataset.get("label_names") is not None


def _evaluate(config: PretrainConfig, store: Path, folder: Path, show: Show) -> bool:
    """Test retrieval and, where there are labels, probe; whether it was probed."""
    has_labels = _has_labels(open_store(store))
    total = 1 + has_labels
    if not (folder / "retrieval.json").is_file():
        show(Progress("evaluate", 0, total))
        retrieval.run(retrieval.RetrievalConfig(run=folder, store=str(store), seed=config.seed))
        show(Progress("evaluate", 1, total))
    if has_labels and not (folder / "probe.json").is_file():
        show(Progress("evaluate", 1, total))
        show(Progress("evaluate", 2, total, note=_probe(config, store, folder)))
    return has_labels and (folder / "probe.json").is_file()


def _probe(config: PretrainConfig, store: Path, folder: Path) -> str:
    """Write RUN/probe.json; why not, where only some frames of a recording have labels."""
    probing = probe.ProbeStageConfig(
        run=folder,
        store=str(store),
        test_fraction=LABELLED_TEST,
        random_seeds=config.random_seeds,
        seed=config.seed,
    )
    try:
        probe.run(probing)
    except NoLabelsError as error:
        return f"no linear probe: {error}"
    return ""
