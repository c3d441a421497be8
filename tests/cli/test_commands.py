"""The commands of the main job on a small recording, as a user types them."""

import json
import shutil
import tomllib
from pathlib import Path

import pytest
from command_line import p2pkit

from p2pkit.errors import ConfigError, SourceError

TEACHER = ["--teacher", "resnet10t", "--layer", "2", "--weights", "random"]
STUDENT = [
    *("--preset", "cpu-small", "--set", "stream.sample.voxel_size=0.15"),
    *("--set", "stream.sample.pairs_per_frame=64", "--set", "holdout=4"),
]


@pytest.fixture(scope="module")
def store(room_recording: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("commands") / "rooms.store"
    options = ["--out", out, "--dataset", "posed-rgbd", "--shard-size", 4]
    result = p2pkit("extract", room_recording, *options, *TEACHER)
    assert result.stdout == f"{out}\n"
    assert "12/12" in result.stderr
    return out


def test_frames_that_failed_are_told_at_the_end(room_recording: Path, tmp_path: Path) -> None:
    recording, out = tmp_path / "recording", tmp_path / "rooms.store"
    shutil.copytree(room_recording, recording)
    image = sorted(recording.glob("**/*.color.*"))[1]
    image.write_bytes(image.read_bytes()[:100])
    options = ["--out", out, "--dataset", "posed-rgbd", "--teacher", "none"]
    result = p2pkit("extract", recording, *options)
    assert result.stdout == f"{out}\n"
    message = f"1 of 12 frames could not be used: {out}/failures.jsonl says why\n"
    assert result.stderr.endswith(message)


def test_weights_of_a_file_come_with_how_images_are_normalised(
    room_recording: Path, tmp_path: Path
) -> None:
    import torch

    from p2pkit.teachers.timm_network import timm

    weights = tmp_path / "mine.pth"
    torch.save(timm.create_model("resnet10t").state_dict(), weights)
    options = ["--dataset", "posed-rgbd", "--limit", 1, "--out", tmp_path / "store"]
    result = p2pkit("extract", room_recording, *options, *TEACHER[:-1], weights)
    [line] = [x for x in result.stderr.splitlines() if "images are normalised" in x]
    assert line.startswith(f"{weights}: images are normalised by the mean [0.485, 0.456, 0.406]")
    assert "of timm's resnet10t.c3_in1k; if the weights expect others" in line


@pytest.fixture(scope="module")
def run(store: Path) -> Path:
    out = store.parent / "run"
    result = p2pkit("train", store, "--out", out, *STUDENT, "--steps", 3)
    assert result.stdout == f"{out}\n"
    for message in ("loss=", "pairs/s=", "wait="):
        assert message in result.stderr
    return out


def test_a_complete_extraction_says_so(room_recording: Path, tmp_path: Path) -> None:
    again = (room_recording, "--dataset", "posed-rgbd", "--teacher", "none")
    first = p2pkit("extract", *again, "--out", tmp_path / "store")
    assert "already complete" not in first.stderr
    second = p2pkit("extract", *again, "--out", tmp_path / "store")
    assert "already complete: 12 frames" in second.stderr
    assert second.stdout == first.stdout


def test_verify_a_new_store(store: Path) -> None:
    assert p2pkit("shards", "verify", store, "--deep").stdout.startswith("ok: 6 shards")


def test_stop_after_and_resume_keep_the_schedule(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = ["train", store, "--out", out, *STUDENT, "--steps", 4]
    p2pkit(*first, "--stop-after", 1)
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-00000001"]
    p2pkit(*first, "--resume", "--stop-after", 1)
    p2pkit("train", "--out", out, "--resume")
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2, 3]
    assert json.loads((out / "config.json").read_text())["steps"] == 4


def test_a_resumed_run_keeps_its_settings(store: Path, run: Path) -> None:
    for changed in (["--steps", "9"], ["--set", "loss.temperature=0.1"], ["--preset", "paper"]):
        result = p2pkit("train", store, "--out", run, "--resume", *changed, code=1)
        assert isinstance(result.exception, ConfigError)
        assert "a resumed run keeps its settings" in str(result.exception)


def test_print_config_shows_what_would_run_and_runs_nothing(store: Path, tmp_path: Path) -> None:
    arguments = ["train", store, "--out", tmp_path / "run", *STUDENT, "--print-config"]
    config = tomllib.loads(p2pkit(*arguments).stdout)
    assert config["student"] == "Res16UNet14A"
    assert config["stream"]["sample"]["pairs_per_frame"] == 64
    assert not (tmp_path / "run").exists()


def test_a_printed_config_gives_the_same_run_again(store: Path, tmp_path: Path) -> None:
    arguments = ["--out", tmp_path / "run", "--print-config"]
    text = p2pkit("train", store, *STUDENT, "--preset", "slidr", *arguments).stdout
    file = tmp_path / "run.toml"
    file.write_text(text)
    assert p2pkit("train", "--config", file, *arguments).stdout == text
    changed = p2pkit("train", "--config", file, "--steps", 7, *arguments).stdout
    expected = {**tomllib.loads(text), "steps": 7}
    assert expected.pop("epochs") == 50  # which --steps replaces
    assert tomllib.loads(changed) == expected
    file.write_text(text.replace("temperature", "temprature"))
    refused = p2pkit("train", "--config", file, *arguments, code=1)
    assert "unknown setting 'loss.temprature'; did you mean loss.temperature?" in str(
        refused.exception
    )
    file.write_text("steps = ")
    assert "is not TOML" in str(p2pkit("train", "--config", file, *arguments, code=1).exception)
    absent = p2pkit("train", "--config", tmp_path / "no.toml", *arguments, code=1)
    assert "cannot be read: No such file" in str(absent.exception)


def test_an_unknown_setting_is_refused_with_the_nearest_name(store: Path, tmp_path: Path) -> None:
    options = ["--out", tmp_path / "run", "--set", "loss.temprature=0.1"]
    result = p2pkit("train", store, *options, code=1)
    assert "did you mean loss.temperature?" in str(result.exception)


def test_training_without_a_store_is_wrong_usage(tmp_path: Path) -> None:
    assert "name the STORE" in p2pkit("train", "--out", tmp_path / "run", code=2).stderr


def test_probe_prints_a_table_or_json(store: Path, run: Path) -> None:
    table = p2pkit("evaluate", run, "--preset", "probe", "--on", store).stdout
    assert all(kind in table for kind in ("pretrained", "random", "inputs+position"))
    report = json.loads(p2pkit("evaluate", run, "--preset", "probe", "--json").stdout)
    assert report == json.loads((run / "probe.json").read_text())
    assert f"{100 * report['scores']['pretrained']['miou']:.1f}" in table


def test_retrieval_prints_a_table_or_json(store: Path, run: Path) -> None:
    assert (
        "4 held-out frames, 64 candidates"
        in p2pkit(*("retrieval", run, store, "--pairs", 64)).stdout
    )
    report = json.loads(p2pkit("retrieval", run, store, "--pairs", 64, "--json").stdout)
    assert report["chance"] == 1 / 64


def test_a_second_teacher_by_the_command_line(
    room_recording: Path, store: Path, tmp_path: Path
) -> None:
    options = ["--dataset", "posed-rgbd", "--shard-size", 4, "--out", store]
    other = ["--teacher", "resnet10t", "--layer", "1", "--weights", "random"]
    p2pkit("extract", room_recording, *options, *other)
    summary = json.loads(p2pkit("shards", "info", store, "--json").stdout)
    assert [layer["samples"] for layer in summary["layers"]] == [12, 12, 12]
    assert p2pkit("train", store, "--out", tmp_path / "run", *STUDENT, code=1)
    names = [layer["name"] for layer in summary["layers"][1:]]
    chosen = ["--set", f"layer={names[1]}", "--steps", 1]
    p2pkit("train", store, "--out", tmp_path / "run", *STUDENT, *chosen)


def test_a_folder_without_calibration_prints_a_template(tmp_path: Path) -> None:
    (tmp_path / "rooms").mkdir()
    (tmp_path / "rooms" / "frame-000000.color.jpg").write_bytes(b"")
    options = ["--dataset", "posed-rgbd", "--out", tmp_path / "store"]
    result = p2pkit("extract", tmp_path / "rooms", *options, code=1)
    assert isinstance(result.exception, SourceError)
    assert '"depth_units_per_metre": 1000' in str(result.exception)
