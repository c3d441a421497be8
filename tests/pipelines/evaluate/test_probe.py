import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_recording import NAMES, recording_config, tiny_train_config, write_recording

from p2pkit.cli.commands.evaluate import pretrained_frames_text
from p2pkit.cli.main import commands
from p2pkit.errors import ConfigError, StoreError, TrainingError
from p2pkit.evaluation.linear_probe import ProbeConfig
from p2pkit.pipelines.evaluate import probe
from p2pkit.pipelines.evaluate.inference import point_features, read_cloud, with_batch_statistics
from p2pkit.pipelines.extract import run as extract
from p2pkit.pipelines.report import run_page as make_report
from p2pkit.pipelines.train import run as train
from p2pkit.pipelines.train.model import build_model
from p2pkit.store.manifest import Sample
from p2pkit.store.reading import Store, open_store


@pytest.fixture(scope="module")
def tiny_run(room_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps that held out the last two frames; not to be written."""
    config = tiny_train_config(room_store, steps=2, holdout=2)
    return train.run(config, tmp_path_factory.mktemp("run") / "run")


def probe_config(run: Path, store: Path, **changes: Any) -> probe.ProbeStageConfig:
    settings: dict[str, Any] = {"points_per_frame": 100, "statistics_frames": 4}
    return probe.ProbeStageConfig(run=run, store=str(store), **{**settings, **changes})


@pytest.fixture(scope="module")
def report(tiny_run: Path, room_store: Path) -> dict[str, Any]:
    path = probe.run(probe_config(tiny_run, room_store, random_seeds=2))
    assert path == tiny_run / "probe.json"
    return json.loads(path.read_text())


def test_scores_lie_in_range_and_cover_every_class(report: dict[str, Any]) -> None:
    assert set(report["scores"]) == {"pretrained", "random", "inputs+position"}
    assert report["checkpoint_step"] == 2
    for scores in report["scores"].values():
        assert set(scores["iou"]) == set(NAMES) - {"void"}
        figures = [scores["miou"], scores["accuracy"], scores["class_accuracy"]]
        assert all(0 <= figure <= 1 for figure in (*figures, *scores["iou"].values()))
        np.testing.assert_allclose(scores["miou"], np.mean(list(scores["iou"].values())))
    assert len(report["scores"]["random"]["miou_of_each"]) == 2


def test_position_tells_wall_and_floor_apart(report: dict[str, Any]) -> None:
    assert report["scores"]["inputs+position"]["accuracy"] > 0.8


def test_the_protocol_names_the_split(report: dict[str, Any]) -> None:
    protocol = report["protocol"]
    assert (protocol["train_frames"], protocol["test_frames"]) == (8, 4)
    assert protocol["test_first_key"] == "scene-2_frame-000000"
    assert protocol["test_sequences"] == ["scene-2"]
    assert protocol["test_frames_pretrained_on_without_labels"] == 2
    assert protocol["settings"]["probe"] == vars(ProbeConfig())


def test_nothing_is_claimed_of_a_store_that_the_run_does_not_know(
    tiny_run: Path, tmp_path: Path
) -> None:
    root = write_recording(tmp_path / "other", 4)
    store = extract.run(recording_config(root, tmp_path / "store"))
    run = shutil.copytree(tiny_run, tmp_path / "run")
    protocol = json.loads(probe.run(probe_config(run, store)).read_text())["protocol"]
    assert protocol["test_frames_pretrained_on_without_labels"] is None
    assert "of a store that the run was not trained on" in pretrained_frames_text(protocol)


def test_probing_again_gives_the_same_report(
    tiny_run: Path, room_store: Path, report: dict[str, Any]
) -> None:
    again = probe.run(probe_config(tiny_run, room_store, random_seeds=2))
    assert (
        json.loads(again.read_text())["scores"]["inputs+position"]
        == (report["scores"]["inputs+position"])
    )


def test_a_probe_of_blank_inputs_says_so(
    tiny_run: Path, room_store: Path, report: dict[str, Any], tmp_path: Path
) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    words = ["evaluate", str(run), "--preset", "probe", "--on", str(room_store)]
    words += ["--set", 'blank=["color"]', "--set", "points_per_frame=100"]
    words += ["--set", "statistics_frames=4"]
    done = CliRunner().invoke(commands, words)
    assert done.exit_code == 0, done.output
    assert "; color blank in all frames" in done.output
    grey = json.loads((run / "probe.json").read_text())
    assert (grey["protocol"]["inputs"], grey["protocol"]["blank"]) == (["color"], ["color"])
    assert "blank" not in report["protocol"]
    assert grey["scores"]["pretrained"]["iou"] != report["scores"]["pretrained"]["iou"]
    page = tmp_path / "report.html"
    make_report.run(make_report.ReportConfig(run=run, store=str(room_store), out=page, frames=1))
    assert "; color blank in all frames. Metric" in page.read_text()
    with pytest.raises(ConfigError, match="blank names range, which the student does not have"):
        probe.run(probe_config(run, room_store, blank=("range",)))


def test_a_store_without_labels_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    root = write_recording(tmp_path / "rooms", 4, labels=False)
    store = extract.run(recording_config(root, tmp_path / "store"))
    with pytest.raises(StoreError, match="has no labels, so it cannot be probed"):
        probe.run(probe_config(tiny_run, store))


def test_what_is_no_run_is_refused(room_store: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="holds no run"):
        probe.run(probe_config(tmp_path, room_store))


def test_an_empty_side_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    root = write_recording(tmp_path / "rooms", 2)
    store = extract.run(recording_config(root, tmp_path / "store"))
    with pytest.raises(
        ConfigError, match=r"2 frames cannot be cut into a part for training and 0\.9"
    ):
        probe.run(probe_config(tiny_run, store, test_fraction=0.9))


def test_points_of_one_voxel_share_its_features(room_store: Path) -> None:
    config = tiny_train_config(room_store)
    clouds = [read_cloud(open_store(room_store), sample) for sample in range(3)]
    model = build_model(config, 8, seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ready = with_batch_statistics(model, clouds, config)
    features = point_features(ready, clouds[0], config)
    assert features.shape == (len(clouds[0].points), 96)
    _, voxel = np.unique(
        np.floor(clouds[0].points.astype(np.float64) / 0.15), axis=0, return_inverse=True
    )
    for number in range(0, voxel.max(), 9):
        assert len(np.unique(features[voxel.ravel() == number], axis=0)) == 1
    assert not ready.training
    assert ready is model
    kept = {name for name in before if "running_" not in name and "num_batches" not in name}
    assert kept >= {name for name, _ in model.named_parameters()}
    assert all((model.state_dict()[name] == before[name]).all() for name in kept)


def test_batch_statistics_are_those_of_the_frames_given(room_store: Path) -> None:
    config = tiny_train_config(room_store)
    clouds = [read_cloud(open_store(room_store), sample) for sample in range(2)]
    model = build_model(config, 8, seed=0)
    name = next(name for name in model.state_dict() if name.endswith("running_mean"))
    once, twice, other = (
        with_batch_statistics(model, frames, config).state_dict()[name].numpy().copy()
        for frames in (clouds, clouds + clouds, clouds[:1])
    )
    np.testing.assert_allclose(once, twice, rtol=1e-4, atol=1e-6)
    assert not np.allclose(once, other)


def test_fewer_statistics_frames_than_asked_for_are_fine(
    tiny_run: Path, room_store: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    config = probe_config(run, room_store, statistics_frames=50)
    assert json.loads(probe.run(replace(config, seed=3)).read_text())["scores"]


@pytest.mark.parametrize("fraction", [0.0, 1.0, 2.0, -1.0, float("nan")])
def test_a_share_that_is_none_is_refused(tiny_run: Path, room_store: Path, fraction: float) -> None:
    with pytest.raises(ConfigError, match=r"test_fraction is .*; must be "):
        probe.run(probe_config(tiny_run, room_store, test_fraction=fraction))


def test_a_named_device_must_be_usable(tiny_run: Path, room_store: Path) -> None:
    with pytest.raises(ConfigError, match="device 'tpu' cannot be used"):
        probe.run(probe_config(tiny_run, room_store, device="tpu"))


def test_sequences_are_read_once(
    tiny_run: Path, room_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[int, int]] = []
    plain = Store.read

    def counted(self: Store, layer: str, shard: int, row: int, fields: Any = None) -> Sample:
        if fields == ():
            read.append((shard, row))
        return plain(self, layer, shard, row, fields)

    monkeypatch.setattr(Store, "read", counted)
    probe.run(probe_config(tiny_run, room_store, points_per_frame=10, statistics_frames=1))
    assert len(read) == len(set(read)) == open_store(room_store).samples
