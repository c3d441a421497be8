"""The log at Weights & Biases, written offline by runs of their own and read by wandb's reader."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_recording import tiny_train_config

from p2pkit.errors import MissingDependencyError
from p2pkit.pipelines.train import run as train
from p2pkit.pipelines.train.logs import figures, read_metrics, wandb_log
from p2pkit.pipelines.train.settings import WandbConfig

pytest.importorskip("wandb")

SLIM = [
    *("--preset", "cpu-small", "--set", "student=Res16UNet14A", "--set", "stream.batch_size=2"),
    *("--set", "stream.sample.voxel_size=0.15", "--set", "stream.sample.pairs_per_frame=64"),
]


def in_process(folder: Path, *command: str, code: int = 0, **environment: str) -> str:
    """Run a module in a process whose home, and all that wandb keeps, is in the folder."""
    hidden = [name for name in os.environ if name.startswith("WANDB_")]
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    own = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "WANDB_DIR": str(folder)}
    result = subprocess.run(
        [sys.executable, "-m", *command],
        env={**kept, **own, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == code, (result.stdout, result.stderr)
    return result.stdout if code == 0 else result.stderr


def records(folder: Path, log: Path) -> list[dict[str, Any]]:
    """What wandb itself reads in an offline run."""
    message = in_process(
        folder, "wandb", "leet", "inspect", "--json", str(log), WANDB_MODE="offline"
    )
    return [json.loads(line) for line in message.splitlines() if line.startswith("{")]


@pytest.mark.slow
def test_an_offline_run_holds_the_metrics_and_goes_on_after_a_stop(
    room_store: Path, tmp_path: Path
) -> None:
    run = tmp_path / "first-run"
    train_it = ["p2pkit.cli.main", "train", "--out", str(run)]
    project = ["--set", "wandb.project=rooms", "--steps", "4", "--stop-after", "3"]
    in_process(tmp_path, *train_it, str(room_store), *SLIM, *project, WANDB_MODE="offline")
    in_process(tmp_path, *train_it, "--resume", WANDB_MODE="offline")
    logs = sorted((run / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_mtime)
    rows = read_metrics(run)
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    run_id = json.loads((run / "wandb.json").read_text())["id"]
    for log, expected in zip(logs, (rows[:3], rows[3:]), strict=True):
        found = records(tmp_path, log)
        [begun] = [record["run"] for record in found if record["type"] == "run"]
        assert begun["run_id"] == run_id
        assert (begun["project"], begun["display_name"]) == ("rooms", "first-run")
        assert begun["config"]["update"]["student"] == "Res16UNet14A"
        history = [record["history"] for record in found if record["type"] == "history"]
        assert [entry["step"].get("num", 0) for entry in history] == [r["step"] for r in expected]
        for entry, row in zip(history, expected, strict=True):
            values = {key: entry["item"][f"train/{key}"] for key in figures(row)}
            assert values == pytest.approx(figures(row))
            assert {"loss", "epoch", "wait_s"} <= values.keys()
        [end] = [record["exit"] for record in found if record["type"] == "exit"]
        assert end.get("exit_code", 0) == 0


def test_a_run_that_fails_is_logged_as_failed(tmp_path: Path) -> None:
    code = """
from p2pkit.pipelines.train.settings import TrainConfig, WandbConfig
from p2pkit.pipelines.train.logs import wandb_log
from pathlib import Path
Path("run").mkdir()
with wandb_log(TrainConfig("none", wandb=WandbConfig("rooms", name="other")), Path("run")) as add:
    add({"step": 0, "loss": 1.5})
    raise KeyError("stop")
"""
    (tmp_path / "failing.py").write_text(code)
    message = in_process(tmp_path, "failing", code=1, WANDB_MODE="offline")
    assert message.rstrip().endswith("KeyError: 'stop'")
    [log] = (tmp_path / "run" / "wandb").glob("offline-run-*")
    found = {record["type"]: record for record in records(tmp_path, log)}
    assert found["history"]["history"]["item"]["train/loss"] == 1.5
    assert found["run"]["run"]["display_name"] == "other"
    assert found["exit"]["exit"]["exit_code"] == 1


@pytest.mark.slow
def test_a_missing_login_says_what_to_do(room_store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["p2pkit.cli.main", "train", str(room_store), "--out", str(run), *SLIM]
    project = ["--set", "wandb.project=rooms", "--steps", "1"]
    nowhere = {"WANDB_MODE": "online", "WANDB_BASE_URL": "http://127.0.0.1:9"}
    message = in_process(tmp_path, *arguments, *project, code=1, **nowhere)
    assert "wandb cannot start" in message
    assert f"WANDB_MODE=offline, and continue with `p2pkit train --out {run} --resume`" in message
    assert "Traceback" not in message


def test_a_missing_package_is_told_before_anything_is_done(
    room_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = tiny_train_config(room_store, wandb=WandbConfig("rooms"))
    with pytest.raises(MissingDependencyError, match=r"pip install 'p2pkit\[wandb\]'"):
        train.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("project", "write"), [("", True), ("rooms", False)])
def test_without_a_project_and_on_other_ranks_nothing_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project: str, write: bool
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # its import would fail
    config = tiny_train_config("none", wandb=WandbConfig(project))
    with wandb_log(config, tmp_path, write=write) as add:
        add({"step": 0, "loss": 1.0})
    assert list(tmp_path.iterdir()) == []
