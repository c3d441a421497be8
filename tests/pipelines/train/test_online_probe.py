"""The probe of a run in training: changes nothing, keeps the best, leaves test frames alone."""

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from tiny_recording import tiny_train_config

from p2pkit.cli.main import commands
from p2pkit.errors import ConfigError, StoreError, TrainingError
from p2pkit.evaluation.label_sets import IGNORE
from p2pkit.networks.res16unet import Res16UNet
from p2pkit.pipelines.evaluate.frames import LabelledFrame, LabelledFrames, open_labelled
from p2pkit.pipelines.evaluate.probe import ProbeStageConfig
from p2pkit.pipelines.evaluate.probe import run as probe
from p2pkit.pipelines.evaluate.weights import compared_weights
from p2pkit.pipelines.export import ExportConfig
from p2pkit.pipelines.export import run as export
from p2pkit.pipelines.train import run as train
from p2pkit.pipelines.train.checkpoints import (
    chosen_checkpoint,
    latest_checkpoint,
    read_best,
    save_best,
)
from p2pkit.pipelines.train.logs import read_metrics
from p2pkit.pipelines.train.model import build_model, load_weights
from p2pkit.pipelines.train.online_probe import OnlineProbe
from p2pkit.pipelines.train.settings import OnlineProbeConfig, TrainConfig
from p2pkit.settings.stream import SampleConfig
from p2pkit.store.manifest import Sample
from p2pkit.store.reading import Store, open_store

PROBE = OnlineProbeConfig(every=2, frames=4, points_per_frame=50, validation=0.3, test=0.3)


@pytest.fixture(scope="module")
def config(room_store: Path) -> TrainConfig:
    return tiny_train_config(room_store, probe=PROBE)


@pytest.fixture(scope="module")
def probed(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps that was probed after every second; not to be written."""
    return train.run(config, tmp_path_factory.mktemp("run") / "probed")


def logged(run: Path) -> dict[int, dict[str, float]]:
    """Scores by the number of steps that the weights had seen."""
    return {
        row["step"] + 1: {kind: row[f"probe_{kind}_miou"] for kind in ("linear", "knn")}
        for row in read_metrics(run)
        if "probe_linear_miou" in row
    }


def test_the_log_has_scores_at_every_second_step(probed: Path) -> None:
    scores = logged(probed)
    assert list(scores) == [2, 4, 6]
    assert all(0 < value <= 1 for row in scores.values() for value in row.values())


def test_the_best_weights_are_those_of_the_highest_score(config: TrainConfig, probed: Path) -> None:
    scores, best = logged(probed), read_best(probed)
    assert best["scores"] == scores[best["step"]]
    assert best["scores"]["linear"] == max(row["linear"] for row in scores.values())
    channels = train.open_sources(config)[0].channels
    model = build_model(config, channels, seed=7)
    load_weights(model, chosen_checkpoint(probed, "best").path)
    assert OnlineProbe(config, probed).scores(model.student) == pytest.approx(best["scores"])
    assert model.student.training


def test_a_probed_run_has_the_weights_of_one_that_was_not(
    config: TrainConfig, probed: Path, tmp_path: Path
) -> None:
    plain = train.run(replace(config, probe=OnlineProbeConfig()), tmp_path / "plain")
    assert not (plain / "best").exists()
    ours, theirs = (
        load_file(latest_checkpoint(run).path / "weights.safetensors") for run in (probed, plain)
    )
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-5, atol=1e-6)


def test_frames_of_the_test_part_are_not_read(
    config: TrainConfig, room_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, seen = open_store(room_store), set[str]()
    plain_read = Store.read

    def watched(
        self: Store, layer: str, shard: int, row: int, fields: Collection[str] | None = None
    ) -> Sample:
        sample = plain_read(self, layer, shard, row, fields)
        if fields is None:
            seen.add(sample.meta["sequence"])
        return sample

    monkeypatch.setattr(Store, "read", watched)
    probe = OnlineProbe(config, tmp_path)
    probe.scores(build_model(config, 8, seed=0).student)
    monkeypatch.undo()
    data = open_labelled(
        store,
        label_set="stored",
        validation=0.3,
        test=0.3,
        sample=SampleConfig(inputs=("color",), voxel_size=0.15),
    )
    assert seen == {*data.scenes("train"), *data.scenes("validation")}
    assert seen.isdisjoint(data.scenes("test"))


def test_worse_weights_do_not_replace_better_ones(config: TrainConfig, tmp_path: Path) -> None:
    model = build_model(config, 8, seed=0)
    scores = [{"linear": value, "knn": 1 - value} for value in (0.5, 0.4, 0.5, 0.6)]
    kept = [
        save_best(tmp_path, model, step=step, by="linear", scores=row)
        for step, row in enumerate(scores)
    ]
    assert kept == [True, False, False, True]
    found = read_best(tmp_path)
    assert (found["by"], found["scores"], found["step"]) == ("linear", scores[3], 3)
    assert found["inputs"] == ["color"]


def test_other_stages_take_the_best_where_asked(
    probed: Path, room_store: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train.resume(_copied(probed, run))
    best = load_file(probed / "best" / "weights.safetensors")
    exported = load_file(export(ExportConfig(run, tmp_path / "best.safetensors", which="best")))
    name = "conv0p1s1.kernel"
    assert torch.equal(exported[name], best[f"student.{name}"])
    settings: dict[str, Any] = {"test_fraction": 0.3, "points_per_frame": 50, "which": "best"}
    report = json.loads(probe(ProbeStageConfig(run, str(room_store), **settings)).read_text())
    assert report["checkpoint_step"] == read_best(run)["step"]
    student = compared_weights([run], {}, "best").student("run", 0)
    assert torch.equal(student.state_dict()[name], best[f"student.{name}"])


def test_a_run_without_a_best_says_so(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"no best checkpoint; train with --set probe\.every"):
        chosen_checkpoint(tmp_path, "best")
    with pytest.raises(
        TrainingError, match="unknown checkpoint 'newest'; choose one of latest, best"
    ):
        chosen_checkpoint(tmp_path, "newest")
    save_best(tmp_path, build_model(config, 8, seed=0), step=1, by="knn", scores={"knn": 0.1})
    path = tmp_path / "best" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(TrainingError, match="damaged"):
        chosen_checkpoint(tmp_path, "best")


def test_a_store_without_labels_is_refused_before_the_run_exists(
    config: TrainConfig, tmp_path: Path
) -> None:
    from tiny_recording import recording_config, write_recording

    from p2pkit.pipelines.extract import run as extract

    folder = write_recording(tmp_path / "rooms", 6, sequences=3, labels=False)
    store = extract.run(recording_config(folder, tmp_path / "store"))
    with pytest.raises(StoreError, match="no labels for evaluation"):
        train.run(replace(config, store=str(store)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unlabelled_validation_part_is_refused_before_the_run_exists(
    config: TrainConfig, room_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_labelled(
        open_store(room_store),
        label_set="stored",
        validation=0.3,
        test=0.3,
        sample=SampleConfig(inputs=("color",), voxel_size=0.15),
    )
    void, plain = set(data.parts["validation"].tolist()), LabelledFrames.frame

    def unlabelled(self: LabelledFrames, sample: int) -> LabelledFrame:
        frame = plain(self, sample)
        labels = np.full_like(frame.labels, IGNORE) if sample in void else frame.labels
        return replace(frame, labels=labels)

    monkeypatch.setattr(LabelledFrames, "frame", unlabelled)
    with pytest.raises(ConfigError, match=r"of the validation part .* no labelled point"):
        train.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_probe_that_fails_loses_nothing(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: OnlineProbe, student: Res16UNet) -> dict[str, float]:
        raise StoreError("the probe's store is gone")

    monkeypatch.setattr(OnlineProbe, "scores", fail)
    out = tmp_path / "run"
    with pytest.raises(StoreError, match="is gone"):
        train.run(replace(config, checkpoint_every=2), out)
    assert latest_checkpoint(out).step == 2
    assert [row["step"] for row in read_metrics(out)] == [0, 1]
    monkeypatch.undo()
    assert latest_checkpoint(train.resume(out)).step == 6
    assert [row["step"] for row in read_metrics(out)] == list(range(6))


@pytest.mark.parametrize("change", [{"every": -1}, {"frames": 0}, {"test": 0.9}])
def test_impossible_probes_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(change))} is|positive shares"):
        replace(PROBE, **change)


def test_a_run_goes_on_where_the_probes_store_has_moved(
    probed: Path, room_store: Path, tmp_path: Path
) -> None:
    out = _copied(probed, tmp_path / "run")
    begun = json.loads((out / "config.json").read_text())
    gone = {**begun["probe"], "store": str(tmp_path / "gone.store")}
    (out / "config.json").write_text(json.dumps({**begun, "probe": gone}))
    arguments = ["train", "--out", str(out), "--resume"]
    moved = CliRunner().invoke(commands, [*arguments, "--set", f"probe.store={room_store}"])
    assert moved.exit_code == 0, moved.exception
    none = CliRunner().invoke(commands, [*arguments, "--set", "probe.store=null"])
    assert "probe is" in str(none.exception)


def _copied(run: Path, out: Path) -> Path:
    import shutil

    shutil.copytree(run, out)
    return out
