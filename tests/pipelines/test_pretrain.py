"""One command from a recording to a report: all of it, again, interrupted, and refused."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tiny_recording import TEACHER, write_recording

from p2pkit.cli.commands.pretrain import STAGES
from p2pkit.cli.main import commands
from p2pkit.errors import ConfigError, FingerprintError, SourceError, TrainingError
from p2pkit.pipelines import pretrain
from p2pkit.pipelines.check import run as check
from p2pkit.pipelines.extract import run as extract
from p2pkit.pipelines.settings import CheckConfig, PretrainConfig
from p2pkit.pipelines.train import profile
from p2pkit.pipelines.train import run as train
from p2pkit.pipelines.train.run_folder import read_config
from p2pkit.store.reading import open_store
from p2pkit.store.verifying import verify_store

SLIM = ("student=Res16UNet14A", "stream.sample.voxel_size=0.15", "embedding_channels=16")


def tiny(recording: Path, out: Path, **changes: Any) -> PretrainConfig:
    """Two steps; the drawn pictures of the tiny recording do not pass the check."""
    settings: dict[str, Any] = {
        "dataset": "posed-rgbd",
        "teacher": TEACHER,
        "training": SLIM,
        "steps": 2,
        "random_seeds": 1,
        "force": True,
    }
    return PretrainConfig(source=recording, out=out, **{**settings, **changes})


def words(config: PretrainConfig) -> list[str]:
    """The command that has these settings."""
    settings = (
        "steps=2",
        "random_seeds=1",
        f"training={json.dumps(SLIM)}",
        "teacher.layer=2",
    )
    of_teacher = ["--teacher", TEACHER.name, "--weights", TEACHER.weights]
    sets = [word for setting in settings for word in ("--set", setting)]
    return ["pretrain", str(config.source), "--out", str(config.out), "--force", *of_teacher, *sets]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two frames of each of three scenes, with labels; not to be written."""
    return write_recording(tmp_path_factory.mktemp("recording") / "rooms", 6, sequences=3)


@pytest.fixture(scope="module")
def config(recording: Path, tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    return tiny(recording, tmp_path_factory.mktemp("pretrain") / "kitchen-pretrained")


@pytest.fixture(scope="module")
def result(config: PretrainConfig) -> Result:
    """`p2pkit pretrain` from the beginning to the end."""
    result = CliRunner().invoke(commands, words(config))
    assert result.exit_code == 0, (result.output, result.exception)
    return result


@pytest.fixture
def copied(config: PretrainConfig, result: Result, tmp_path: Path) -> PretrainConfig:
    """A copy of the finished folder, to change."""
    assert result.exit_code == 0
    shutil.copytree(config.out, tmp_path / "my copy")
    return replace(config, out=tmp_path / "my copy")


def test_each_stage_is_announced_and_three_lines_end_it(
    result: Result, config: PretrainConfig
) -> None:
    assert re.findall(r"^\d/5 (.*)$", result.stderr, re.MULTILINE) == [*STAGES.values()]
    assert "preset cpu-small for depth images on cpu" in result.stderr
    learned, places, following = result.stdout.splitlines()
    held = json.loads((config.out / "run" / "retrieval.json").read_text())
    assert learned.startswith(f"Learned: in {held['frames']} frames held out")
    assert f"{held['trained']['top1_pixel']:.2%} of cases; by chance it is" in learned
    scores = json.loads((config.out / "run" / "probe.json").read_text())["scores"]
    assert f"A linear probe has {scores['pretrained']['miou']:.1%} mIoU" in learned
    assert f"with random weights {scores['random']['miou']:.1%}" in learned
    assert f"Checkpoint: {config.out}/run/checkpoints/step-00000002" in places
    assert places.endswith(str(config.out / "report.html"))
    assert following.startswith("Next: p2pkit evaluate")
    assert "<h1>run: pretrained on kitchen</h1>" in (config.out / "report.html").read_text()


def test_the_next_command_can_be_typed(copied: PretrainConfig) -> None:
    following = pretrain.run(copied).summary()[-1]
    run = copied.out / "run"
    assert shlex.split(following)[1:4] == ["p2pkit", "evaluate", str(run)]


@pytest.mark.parametrize(("training", "is_chosen"), [((), True), (("engine=torch",), False)])
def test_the_engine_is_reported_where_it_is_chosen(
    tmp_path: Path, training: tuple[str, ...], is_chosen: bool
) -> None:
    missing = tiny(tmp_path / "recording", tmp_path / "out")
    words_of = [*words(missing)[:2], "--out", str(missing.out), "--dataset", "posed-rgbd"]
    done = CliRunner().invoke(commands, [*words_of, "--set", f"training={json.dumps(training)}"])
    assert isinstance(done.exception, SourceError)
    assert ("engine: " in done.stderr) is is_chosen


@pytest.mark.usefixtures("result")
def test_the_frames_that_test_were_not_trained_on(config: PretrainConfig) -> None:
    assert verify_store(config.out / "store", deep=True).ok
    protocol = json.loads((config.out / "run" / "probe.json").read_text())["protocol"]
    assert protocol["test_sequences"] == ["scene-2"]
    assert protocol["test_frames_pretrained_on_without_labels"] == 0
    assert read_config(config.out / "run").holdout == protocol["test_frames"] == 2


def test_a_second_call_does_nothing_and_says_the_same(
    result: Result, config: PretrainConfig
) -> None:
    before = {path: path.stat().st_mtime_ns for path in config.out.rglob("*")}
    progress: list[pretrain.Progress] = []
    again = pretrain.run(config, progress=progress.append)
    assert progress == []
    assert again.summary() == result.stdout.splitlines()
    assert {path: path.stat().st_mtime_ns for path in config.out.rglob("*")} == before


def test_what_broke_off_in_training_goes_on_with_the_same_steps(copied: PretrainConfig) -> None:
    run = copied.out / "run"
    weights = {path.name: path.read_bytes() for path in run.glob("checkpoints/*2/*.safetensors")}
    for path in ("checkpoints/step-00000002", "checkpoints/step-00000002.json"):
        shutil.rmtree(run / path, ignore_errors=True)
    (run / "retrieval.json").unlink()
    (copied.out / "report.html").unlink()
    progress: list[pretrain.Progress] = []
    done = pretrain.run(copied, progress=progress.append)
    steps = [(report.done, report.total) for report in progress if report.stage == "train"]
    assert steps == [(1, 2), (2, 2)]
    assert {report.stage for report in progress} == {"train", "evaluate", "report"}
    assert done.report.is_file()
    assert weights
    assert weights.keys() == {path.name for path in done.checkpoint.glob("*.safetensors")}


def test_a_recording_that_changed_since_is_refused_and_one_that_is_gone_is_not(
    recording: Path, copied: PretrainConfig, tmp_path: Path
) -> None:
    moved = tmp_path / "rooms"
    shutil.copytree(recording, moved)
    changed = replace(copied, source=moved)
    settings = json.loads((copied.out / "pretrain.json").read_text())
    (copied.out / "pretrain.json").write_text(json.dumps({**settings, "source": str(moved)}))
    for path in sorted((moved / "scene-0").glob("frame-000001.*")):
        path.rename(path.with_name(path.name.replace("000001", "000002")))
    with pytest.raises(FingerprintError, match="files were added"):
        pretrain.run(changed)
    shutil.rmtree(moved)
    assert pretrain.run(changed).report.is_file()


def test_another_setting_in_the_same_folder_is_refused(copied: PretrainConfig) -> None:
    with pytest.raises(ConfigError, match="other settings: steps was 2, is 3"):
        pretrain.run(replace(copied, steps=3))


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("stream.sample.voxle_size=0.1", "voxle_size"),
        ("embedding_channels=wide", "embedding_channels"),
        ("student=Res16UNet14Z", "no student is called 'Res16UNet14Z'"),
        ("engine=minkowsky", "engine"),
    ],
)
def test_a_wrong_setting_of_the_training_is_refused_before_anything_is_read(
    tmp_path: Path, setting: str, reason: str
) -> None:
    wrong = tiny(tmp_path / "recording", tmp_path / "out", training=(setting,))
    with pytest.raises(ConfigError, match=reason):
        pretrain.run(wrong)
    assert not wrong.out.exists()


def test_settings_of_the_training_alone_may_change_until_it_begins(
    copied: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(copied.out / "run")
    whole: Callable[..., Path] = train.run
    monkeypatch.setattr(train, "run", lambda *args, **rest: whole(*args, stop_after=1, **rest))
    changed = replace(copied, steps=3, training=(*SLIM, "embedding_channels=8"))
    with pytest.raises(TrainingError, match="stopped after 1 of 3 steps"):
        pretrain.run(changed)
    assert json.loads((copied.out / "pretrain.json").read_text())["steps"] == 3
    with pytest.raises(ConfigError, match="other settings: steps was 3, is 4"):
        pretrain.run(replace(changed, steps=4))


def test_a_failed_check_stops_it_before_anything_is_extracted(
    recording: Path, tmp_path: Path
) -> None:
    out = tmp_path / "stopped"
    strict = tiny(recording, out, force=False)
    progress: list[pretrain.Progress] = []
    with pytest.raises(SourceError, match=r"failed: .*See .*check.html, or use --force"):
        pretrain.run(strict, progress=progress.append)
    assert {report.stage for report in progress} == {"check"}
    assert not (out / "store").exists()


def test_a_failed_check_is_repeated_since_the_recording_may_have_been_mended(
    copied: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that passed, or was overridden, is not."""
    mended = check.CheckReport(copied.out / "check" / "check.json", (), "now right", ())
    asked: list[CheckConfig] = []

    def checked(config: CheckConfig, progress: object) -> check.CheckReport:
        asked.append(config)
        return mended

    monkeypatch.setattr(check, "run", checked)
    pretrain.run(copied)
    assert asked == []
    pretrain.run(replace(copied, force=False))
    assert [config.source for config in asked] == [copied.source]


def test_settings_may_change_before_anything_is_extracted_and_are_checked_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed check may ask for other units of depth."""
    out = tmp_path / "out"
    (out / "check").mkdir(parents=True)
    (out / "pretrain.json").write_text('{"depth_units": null}')
    (out / "check" / "check.json").write_text('{"outcome": "pass"}')

    def checked(config: CheckConfig, progress: object) -> check.CheckReport:
        raise SourceError(f"checked with {config.depth_units:g} units")

    monkeypatch.setattr(check, "run", checked)
    with pytest.raises(SourceError, match="checked with 500 units"):
        pretrain.run(tiny(tmp_path / "recording", out, depth_units=500.0))
    assert json.loads((out / "pretrain.json").read_text())["depth_units"] == 500


def test_check_and_extraction_read_the_recording_in_the_same_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def checked(config: CheckConfig, progress: object) -> SimpleNamespace:
        asked.append(config)
        return SimpleNamespace(ok=True, summary="", mends=())

    def extracted(config: extract.ExtractConfig, progress: object) -> None:
        asked.append(config)
        raise SourceError("far enough")

    monkeypatch.setattr(check, "run", checked)
    monkeypatch.setattr(extract, "run", extracted)
    way: dict[str, Any] = {
        "depth_units": 500.0,
        "camera": tmp_path / "camera.json",
        "streams": ("/left/image", "/left/depth"),
    }
    with pytest.raises(SourceError, match="far enough"):
        pretrain.run(tiny(tmp_path / "recording", tmp_path / "out", **way))
    assert [{name: getattr(one, name) for name in way} for one in asked] == [way, way]


def test_training_that_a_signal_stops_says_how_to_go_on(
    copied: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(copied.out / "run")
    whole: Callable[..., Path] = train.run
    monkeypatch.setattr(train, "run", lambda *args, **rest: whole(*args, stop_after=1, **rest))
    with pytest.raises(TrainingError, match="stopped after 1 of 2 steps; run the same command"):
        pretrain.run(copied)


@pytest.mark.parametrize(
    ("minutes", "step_ms", "steps", "warm_up"), [(None, 6000, 200, 20), (1, 500, 120, 15)]
)
def test_the_steps_fill_the_minutes(
    copied: PretrainConfig,
    monkeypatch: pytest.MonkeyPatch,
    minutes: float | None,
    step_ms: float,
    steps: int,
    warm_up: int,
) -> None:
    """Measured by ten steps; 20 minutes on a CPU."""
    shutil.rmtree(copied.out / "run")
    (copied.out / "pretrain.json").unlink()
    measured = profile.StepProfile(10, 2, step_ms, {}, {})
    monkeypatch.setattr(profile, "run", lambda config, steps: measured)
    whole: Callable[..., Path] = train.run
    monkeypatch.setattr(train, "run", lambda *args, **rest: whole(*args, stop_after=1, **rest))
    with pytest.raises(TrainingError, match=f"stopped after 1 of {steps} steps"):
        pretrain.run(replace(copied, steps=None, minutes=minutes))
    settings = read_config(copied.out / "run")
    assert (settings.steps, settings.optimizer.warmup_steps) == (steps, warm_up)
    assert settings.checkpoint_every == min(100, steps // 5)


@pytest.mark.parametrize("asked", [None, 300])
def test_epochs_of_a_preset_are_counted_or_give_way_to_steps(
    copied: PretrainConfig, monkeypatch: pytest.MonkeyPatch, asked: int | None
) -> None:
    """As on a GPU, where no minutes are set."""
    monkeypatch.setattr(pretrain, "chosen_preset", lambda *_: ("slidr", "for sweeps"))
    training = ("stream.batch_size=4", 'stream.sample.inputs=["color"]')
    plain = replace(copied, device="cuda", steps=asked, training=training)
    store = copied.out / "store"
    settings = pretrain._train_config(plain, store, lambda _: None)
    if asked is not None:
        assert (settings.epochs, settings.steps) == (None, asked)
        return
    frames = open_store(store).samples - settings.holdout
    assert (settings.epochs, settings.steps) == (50, -(-50 * frames // 4))


@pytest.mark.slow
def test_without_labels_retrieval_alone_tests(tmp_path: Path) -> None:
    recording = write_recording(tmp_path / "plain", 4, labels=False)
    done = pretrain.run(tiny(recording, tmp_path / "out", steps=1))
    assert done.probe is None
    learned, _, following = done.summary()
    assert "probe" not in learned
    assert following == f"Next: p2pkit export {done.run} --out student.safetensors"
    assert read_config(done.run).holdout == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("labelled", "reason"),
    [
        (slice(0, 1), "no labelled point was counted"),
        (slice(3, 4), "training frames have no labelled"),
    ],
)
def test_labels_of_a_part_alone_leave_out_the_probe(
    tmp_path: Path, labelled: slice, reason: str
) -> None:
    recording = write_recording(tmp_path / "partly", 4)
    found = sorted(recording.glob("*.label.png"))
    for path in {*found} - {*found[labelled]}:
        path.unlink()
    progress: list[pretrain.Progress] = []
    config = tiny(recording, tmp_path / "out", steps=1)
    done = pretrain.run(config, progress=progress.append)
    notes = [report.note for report in progress if report.stage == "evaluate" and report.note]
    assert len(notes) == 1
    assert re.match(f"no linear probe: .*{reason}", notes[0])
    assert done.probe is None
    assert done.report.is_file()
    assert len(done.summary()) == 3


def test_a_single_frame_cannot_be_pretrained_on(tmp_path: Path) -> None:
    recording = write_recording(tmp_path / "one", 1)
    with pytest.raises(ConfigError, match="has 1 frame; pretraining needs two"):
        pretrain.run(tiny(recording, tmp_path / "out"))


def test_what_pretrain_decides_itself_is_not_set_twice(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="steps is 2 and minutes 3, but both set the length"):
        tiny(tmp_path, tmp_path / "out", minutes=3)
    for length in ("steps=9", "epochs=2"):
        with pytest.raises(ConfigError, match=f"training sets {length}; the length of training"):
            tiny(tmp_path, tmp_path / "out", training=(length,))
    for store in ("store=other.store", 'more_stores=["b.store"]'):
        with pytest.raises(ConfigError, match="training reads the store that was extracted"):
            tiny(tmp_path, tmp_path / "out", training=(store,))
