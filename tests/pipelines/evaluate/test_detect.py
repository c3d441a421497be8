"""Detection as a mode of evaluate: frames, training, figures that are paired with scratch."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from box_points import points_in_boxes
from click.testing import CliRunner
from made_once import shared_folder
from tiny_recording import tiny_train_config

from p2pkit.cli.main import commands
from p2pkit.errors import ConfigError, StoreError
from p2pkit.evaluation.detection import mean_average_precision
from p2pkit.geometry.boxes import Upright
from p2pkit.layers.boxes import StoredBoxes
from p2pkit.layers.features import FeatureConfig
from p2pkit.networks import build_student
from p2pkit.pipelines.evaluate import detect
from p2pkit.pipelines.evaluate.detect import (
    Detection,
    DetectionNetwork,
    box_frame,
    read_boxes,
    stored_matches,
    upright_from_network,
)
from p2pkit.pipelines.evaluate.finetune import FinetuneConfig, finetune
from p2pkit.pipelines.evaluate.frames import BOXES, LabelledFrames, open_labelled, with_test_store
from p2pkit.pipelines.evaluate.run import run
from p2pkit.pipelines.evaluate.settings import DetectConfig, EvaluateConfig
from p2pkit.pipelines.extract import run as extract
from p2pkit.pipelines.extract.settings import ExtractConfig
from p2pkit.pipelines.report.evaluation import evaluation_section, find_evaluation
from p2pkit.pipelines.train import run as train
from p2pkit.settings.layers import GeometryConfig
from p2pkit.settings.stream import AugmentConfig, SampleConfig
from p2pkit.store.reading import Store, open_store
from p2pkit.teachers import TeacherOptions

QUICK = FinetuneConfig(
    steps=2, batch_size=2, validations=1, validation_frames=1, augment=AugmentConfig()
)
VOXEL_M = 0.1
SEEN = SampleConfig(inputs=("color",), voxel_size=VOXEL_M)


@pytest.fixture(scope="module")
def boxed_rooms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One frame of each of four generated rooms, with boxes; not to be written."""
    teacher = TeacherOptions(name="resnet10t", layer=2, weights="random", input_size=(80, 60))
    features = FeatureConfig(teacher=teacher)
    geometry = GeometryConfig(voxel_size=0.04)

    def make(out: Path) -> Path:
        config = ExtractConfig(
            "demo-scene", None, out, geometry=geometry, features=features, every=12
        )
        return extract.run(config)

    yield from shared_folder(tmp_path_factory, "boxed-rooms.store", make)


@pytest.fixture(scope="module")
def pretrained(boxed_rooms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny_train_config(boxed_rooms, steps=1, checkpoint_every=1)
    return train.run(config, tmp_path_factory.mktemp("run") / "pretrained")


@pytest.fixture(scope="module")
def data(boxed_rooms: Path) -> LabelledFrames:
    return open_labelled(
        open_store(boxed_rooms), label_set=BOXES, validation=0.25, test=0.25, sample=SEEN
    )


@pytest.fixture
def config(boxed_rooms: Path, pretrained: Path, tmp_path: Path) -> EvaluateConfig:
    return EvaluateConfig(
        runs=(pretrained,),
        store=str(boxed_rooms),
        out=tmp_path / "out",
        modes=("detect",),
        fractions=(50.0,),
        seeds=1,
        validation=0.25,
        test=0.25,
        finetune=QUICK,
    )


def test_points_stay_in_their_boxes_however_a_frame_is_augmented(data: LabelledFrames) -> None:
    sample = int(data.parts["train"][0])
    upright = upright_from_network(data.up_axis)

    def share(random: np.random.Generator | None, augment: AugmentConfig | None) -> float:
        frame = box_frame(data, sample, random, augment)
        points = (frame.coordinates + 0.5) * VOXEL_M @ upright.T
        boxes = frame.boxes
        inside = points_in_boxes(points, Upright(boxes.center, boxes.size + VOXEL_M, boxes.yaw))
        return float(inside.any(axis=1).mean())

    plain = share(None, None)
    assert plain > 0.2
    augment = AugmentConfig(scale=(0.7, 1.3), flip_x=0.5, jitter_m=0.002, tilt_deg=20)
    for seed in range(4):
        assert share(np.random.default_rng(seed), augment) == pytest.approx(plain, abs=0.1)
    assert not box_frame(replace(data, blank=("color",)), sample).inputs.any()
    away = box_frame(data, sample)
    boxes = away.boxes
    points = (away.coordinates + 0.5) * VOXEL_M @ upright.T
    turned = points_in_boxes(points, Upright(boxes.center, boxes.size + VOXEL_M, boxes.yaw + 1.0))
    assert turned.any(axis=1).mean() < plain


@pytest.mark.realdata
def test_only_what_the_camera_sees_counts_where_only_that_was_annotated(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KITTI's boxes are of what image_2 shows; most points of a sweep lie beside it."""
    root = data_root / "kitti_object"
    config = ExtractConfig("kitti-object", root, tmp_path / "kitti.store", features=None, limit=3)
    store = open_store(extract.run(config))
    sample = SampleConfig(inputs=("intensity",), voxel_size=0.2)
    frames = open_labelled(store, label_set=BOXES, validation=0.3, test=0.3, sample=sample)
    seen = [box_frame(frames, row) for row in range(store.samples)]
    monkeypatch.setattr(detect, "annotated_in_view", lambda store: False)
    for row, frame in enumerate(seen):
        x, y, _ = frame.coordinates.T
        assert np.abs(np.degrees(np.arctan2(y, x))).max() < 50
        assert 0.05 < len(x) / len(box_frame(frames, row).coordinates) < 0.4
        assert len(frame.boxes.center) == len(read_boxes(store, row).center)


@pytest.mark.slow
def test_training_finds_the_boxes_of_the_frame_that_it_learns(data: LabelledFrames) -> None:
    torch.manual_seed(0)
    one = data.parts["train"][:1]
    same = replace(data, parts={"train": one, "validation": one[:0], "test": one[:0]})
    task = Detection(same, DetectConfig())
    settings = FinetuneConfig(
        steps=36,
        batch_size=1,
        choose="last",
        augment=AugmentConfig(rotation_deg=0, scale=(1, 1), elastic=()),
    )

    def after(steps: int) -> float:
        student = build_student("Res16UNet14A", in_channels=3, engine="torch")
        tuned = finetune(
            student, same, one, replace(settings, steps=steps), seed=0, task=_OnTraining(task, one)
        )
        return tuned.tested.value

    assert after(1) < 0.05
    assert after(36) > 0.3


class _OnTraining(Detection):
    """Tests on the training frame."""

    def __init__(self, task: Detection, samples: np.ndarray) -> None:
        super().__init__(task.data, task.config)
        object.__setattr__(self, "_samples", samples)

    def scores(self, network, samples):  # pyright: ignore
        return super().scores(network, self._samples)  # pyright: ignore


def test_students_without_a_decoder_are_refused_by_name() -> None:
    student = build_student("PTv3-small", in_channels=3)
    with pytest.raises(ConfigError, match="which PTv3 does not give; evaluate a run of a Res16U"):
        DetectionNetwork(student, 2, VOXEL_M, (0.0, 0.0, 1.0))


def test_a_store_without_boxes_and_mixed_modes_are_refused(
    config: EvaluateConfig, room_store: Path
) -> None:
    with pytest.raises(StoreError, match="no layer of boxes"):
        run(replace(config, store=str(room_store)))
    with pytest.raises(ConfigError, match="detect has the classes of the store's boxes"):
        replace(config, modes=("linear", "detect"))
    with pytest.raises(ConfigError, match="without other modes or --labels"):
        replace(config, labels="nyu13")


def test_the_report_pairs_detection_with_scratch(config: EvaluateConfig, pretrained: Path) -> None:
    report = json.loads(run(config).read_text())
    card = report["protocol"]
    assert card["label_set"] == "boxes"
    assert card["classes"][:2] == ["table", "chair"]
    assert "3D IoU 0.25 and 0.5" in card["metric"]
    assert card["boxes"] > 20
    assert card["boxes_left_out"] == [{}]
    rows = report["tables"]["detect"]
    assert [row["name"] for row in rows] == ["scratch", "pretrained"]
    assert rows[1]["baseline"] == {"name": "scratch", "map25": rows[0]["map25"]}
    assert rows[1]["difference"]["pairs"] == 1
    cells = [json.loads(path.read_text()) for path in (config.out / "cells").glob("*.json")]
    assert len(cells) == 2
    for cell in cells:
        means = mean_average_precision(stored_matches(cell))[:, 0]
        assert [cell["map25"], cell["map50"]] == means.tolist()
        assert set(cell["validation_map25"]) == {"2"}
    text = (config.out / "report.md").read_text()
    assert "mAP at IoU 0.25, %" in text
    assert (config.out / "detect.png").is_file()
    found = find_evaluation(pretrained, config.out)
    assert found is not None
    assert "mAP at IoU 0.5, %" in evaluation_section(found).modes[0].header


def test_tested_on_another_store(data: LabelledFrames, tmp_path: Path) -> None:
    other = extract.run(
        ExtractConfig("demo-scene", None, tmp_path / "other", features=None, limit=1, seed=7)
    )
    train_only = open_labelled(data.store, label_set=BOXES, validation=0.25, test=0.0, sample=SEEN)
    both = with_test_store(train_only, open_store(other))
    student = build_student("Res16UNet14A", in_channels=3, engine="torch")
    task = Detection(both, DetectConfig())
    found = task.scores(task.network(student).eval(), both.parts["test"])
    assert found.scenes == ("test store, room-0",)
    assert found.matches.boxes.sum() == len(box_frame(both, int(both.parts["test"][0])).boxes.yaw)


def test_settings_of_detection_are_refused_for_other_modes(pretrained: Path) -> None:
    words = ["evaluate", str(pretrained), "--on", "x", "--out", "y", "--set", "detect.overlap=0.5"]
    done = CliRunner().invoke(commands, words)
    assert done.exit_code == 2
    assert "would be ignored: give --mode detect" in done.output


def test_frames_that_nobody_annotated_neither_teach_nor_test(
    data: LabelledFrames, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unannotated(store: Store, sample: int) -> StoredBoxes:
        return replace(read_boxes(store, sample), annotated=sample % 2 == 0)

    monkeypatch.setattr(detect, "read_boxes", unannotated)
    task = Detection(data, DetectConfig())
    student = build_student("Res16UNet14A", in_channels=3, engine="torch")
    network, random = task.network(student).eval(), np.random.default_rng(0)
    odd, both = np.array([1]), np.array([1, 2])
    assert task.loss(network, odd, random, AugmentConfig()) is None
    found = task.scores(network, both)
    assert found.matches.boxes.sum() == len(box_frame(data, 2).boxes.yaw)
    assert found.scenes == (data.scene_of[2],)
    assert task.scores(network, odd).value == 0
