"""The evaluation: parts by scene, cells that are kept, figures that are paired with scratch."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes
from tiny_recording import TEACHER, recording_config, tiny_train_config, write_recording

from p2pkit.cli.main import commands
from p2pkit.errors import ConfigError, FingerprintError
from p2pkit.evaluation.label_sets import IGNORE
from p2pkit.layers.features import FeatureConfig
from p2pkit.layers.geometry import GeometryConfig
from p2pkit.pipelines.evaluate import features as frozen
from p2pkit.pipelines.evaluate.features import (
    Describe,
    FrozenConfig,
    FrozenFeatures,
    student_features,
)
from p2pkit.pipelines.evaluate.finetune import (
    FinetuneConfig,
    Segmentation,
    finetune,
    validation_steps,
)
from p2pkit.pipelines.evaluate.frames import (
    LabelledFrame,
    LabelledFrames,
    PartScores,
    open_labelled,
    with_test_store,
)
from p2pkit.pipelines.evaluate.run import EvaluateConfig, protocol, run
from p2pkit.pipelines.evaluate.split import SplitConfig
from p2pkit.pipelines.evaluate.weights import compared_weights
from p2pkit.pipelines.export import ExportConfig
from p2pkit.pipelines.export import run as export
from p2pkit.pipelines.extract import run as extract
from p2pkit.pipelines.held_out import spread
from p2pkit.pipelines.report.evaluation import evaluation_section, find_evaluation
from p2pkit.pipelines.train import run as train
from p2pkit.pipelines.train.checkpoints import latest_checkpoint
from p2pkit.settings.stream import AugmentConfig, SampleConfig
from p2pkit.store.reading import open_store
from p2pkit.stream.augmentation import NO_AUGMENTATION

NAMES = ["scratch", "inputs+position", "pretrained"]
QUICK = FinetuneConfig(steps=4, batch_size=2, validations=2, validation_frames=2)


def other_rooms(root: Path, frames: int) -> Path:
    """Two sequences of other names than those of `room_store`."""
    write_recording(root, frames, sequences=2)
    for folder in sorted(root.glob("scene-*")):
        folder.rename(root / folder.name.replace("scene", "other"))
    return root


@pytest.fixture(scope="module")
def data(room_store: Path) -> LabelledFrames:
    return open_labelled(
        open_store(room_store),
        label_set="stored",
        validation=0.3,
        test=0.3,
        sample=SampleConfig(inputs=("color",), voxel_size=0.15),
    )


@pytest.fixture(scope="module")
def pretrained(room_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny_train_config(room_store, steps=2, holdout=8)
    return train.run(config, tmp_path_factory.mktemp("run") / "pretrained")


@pytest.fixture
def config(room_store: Path, pretrained: Path, tmp_path: Path) -> EvaluateConfig:
    return EvaluateConfig(
        runs=(pretrained,),
        store=str(room_store),
        out=tmp_path / "out",
        fractions=(100.0,),
        seeds=2,
        validation=0.3,
        test=0.3,
        frozen=FrozenConfig(points_per_frame=50, statistics_frames=2),
        finetune=QUICK,
    )


def test_no_scene_is_in_two_parts(data: LabelledFrames) -> None:
    scenes = [set(data.scenes(part)) for part in ("train", "validation", "test")]
    assert all(scenes)
    assert len(set.union(*scenes)) == sum(map(len, scenes))
    assert sum(map(len, data.parts.values())) == len(data.scene_of)


def test_draws_are_of_whole_scenes_and_disjoint_while_they_fit(data: LabelledFrames) -> None:
    many = {sample: f"scene-{sample // 2}" for sample in range(44)}
    parts = {"train": np.arange(40), "validation": np.arange(40, 42), "test": np.arange(42, 44)}
    wide = replace(data, scene_of=many, parts=parts)
    assert [wide.scenes_of(percent) for percent in (0.1, 10.0, 50.0, 100.0)] == [1, 2, 10, 20]
    for count in (1, 2, 6, 10):
        draws = [set(wide.subset(count, seed).tolist()) for seed in range(20 // count)]
        assert all(len(draw) == 2 * count for draw in draws)
        assert all(sample ^ 1 in draw for draw in draws for sample in draw)
        assert len(set.union(*draws)) == sum(map(len, draws))
        assert set(wide.subset(count, 20 // count).tolist()) not in draws or count == 1
    assert len(wide.subset(20, 3)) == 40


def test_fine_tuning_sees_what_is_tested_where_pretraining_named_an_axis(
    data: LabelledFrames,
) -> None:
    named = AugmentConfig(up_axis=(0.0, -0.8, -0.6))
    sample = replace(data.sample, inputs=("height",), augment=named)
    tilted = replace(data, sample=sample)
    tested = tilted.frame(0)
    trained = tilted.frame(0, np.random.default_rng(0), NO_AUGMENTATION)
    assert np.array_equal(trained.inputs, tested.inputs)


def test_parts_with_something_in_common_are_refused(data: LabelledFrames) -> None:
    train, test = data.parts["train"], data.parts["test"]
    with pytest.raises(ConfigError, match="is in the train part and in the test part"):
        replace(data, parts={**data.parts, "test": np.append(test, train[0])})
    of_train = {**data.scene_of, int(test[0]): data.scene_of[int(train[0])]}
    with pytest.raises(ConfigError, match="scene scene-0 is in the train part and in the test"):
        replace(data, scene_of=of_train)


def test_points_take_their_voxels_prediction(data: LabelledFrames) -> None:
    frame = data.frame(int(data.parts["test"][0]))
    prediction = np.arange(len(frame.coordinates)) % 3
    naive = np.zeros((3, 3), np.int64)
    for voxel, label in zip(frame.voxel_of_point, frame.labels, strict=True):
        if label != IGNORE:
            naive[label, prediction[voxel]] += 1
    assert np.array_equal(data.confusion(frame, prediction), naive)
    for voxel in range(0, len(frame.coordinates), 7):
        counts = np.bincount(frame.labels[frame.voxel_of_point == voxel] + 1, minlength=4)[1:]
        expected = counts.argmax() if counts.any() else IGNORE
        assert frame.voxel_label[voxel] == expected


def test_one_scene_cannot_be_cut(tmp_path: Path) -> None:
    root = write_recording(tmp_path / "room", 4)
    features = FeatureConfig(teacher=replace(TEACHER, layer=1))
    store = open_store(extract.run(recording_config(root, tmp_path / "store", features=features)))
    with pytest.raises(ConfigError, match="train part is empty: 4 frames of 1 scenes"):
        open_labelled(
            store,
            label_set="stored",
            validation=0.2,
            test=0.2,
            sample=SampleConfig(inputs=("color",), voxel_size=0.1),
        )


def test_the_report_pairs_every_figure_with_scratch(config: EvaluateConfig) -> None:
    modes = ("linear", "knn", "finetune")
    path = run(replace(config, modes=modes))
    report = json.loads(path.read_text())
    assert set(report["tables"]) == set(modes)
    cells = report["cells"]
    for mode, rows in report["tables"].items():
        names = ["scratch", "pretrained"] if mode == "finetune" else NAMES
        assert [row["name"] for row in rows] == names
        ours = rows[-1]
        assert ours["seeds"] == 2
        best = max(rows[:-1], key=lambda row: row["miou"])
        assert ours["baseline"] == {"name": best["name"], "miou": best["miou"]}
        values = {
            name: [c["miou"] for c in cells if c["mode"] == mode and c["name"] == name]
            for name in ("scratch", "pretrained")
        }
        difference = np.mean(values["pretrained"]) - np.mean(values["scratch"])
        assert ours["difference"]["mean"] == pytest.approx(difference)
        assert ours["difference"]["pairs"] == 2
        assert ours["difference"]["low"] is None  # the labels of all scenes: one draw
        assert (config.out / f"{mode}.png").stat().st_size > 1000
    assert report["protocol"]["pretrained_on_test_frames"] == {"pretrained": 0}
    text = (config.out / "report.md").read_text()
    assert "fractions in percent of the training part's scenes" in text
    assert "With the labels of 1 of 1 scenes: pretrained " in text
    assert "no interval over scenes exists" in text
    assert "none: one scene" in text
    assert not any("counts" in cell for cell in cells)


def test_features_that_are_not_kept_give_the_same_scores(
    data: LabelledFrames, pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, settings = compared_weights([pretrained], {}), FrozenConfig(points_per_frame=50)
    found: list[list[float]] = []
    for kept in (frozen.KEPT_BYTES, 0):
        monkeypatch.setattr(frozen, "KEPT_BYTES", kept)
        describe = frozen.student_features(weights.student("pretrained", 0), data, settings)
        features = frozen.FrozenFeatures(describe, data, settings)
        train = data.parts["train"]
        found.append([features.scores("linear", train, s).scores.miou for s in (0, 0, 1)])
    assert found[0] == found[1]
    assert found[0][0] == found[0][1]


def test_cells_are_kept_and_more_seeds_are_added(config: EvaluateConfig) -> None:
    run(replace(config, seeds=1))
    before = {path: path.stat().st_mtime_ns for path in (config.out / "cells").iterdir()}
    assert len(before) == 3
    run(config)
    after = {path: path.stat().st_mtime_ns for path in (config.out / "cells").iterdir()}
    assert len(after) == 6
    assert {path: after[path] for path in before} == before


def test_later_draws_are_reported_alone(config: EvaluateConfig) -> None:
    run(replace(config, seeds=3))
    both = json.loads(run(replace(config, first_seed=1, seeds=2)).read_text())
    assert len(list((config.out / "cells").iterdir())) == 9
    assert {cell["seed"] for cell in both["cells"]} == {1, 2}
    scores = {cell["seed"]: cell["miou"] for cell in both["cells"] if cell["name"] == "pretrained"}
    assert both["tables"]["linear"][-1]["miou"] == pytest.approx(np.mean(list(scores.values())))


def test_runs_that_differ_in_their_seeds_alone_are_averaged_within_a_draw(
    config: EvaluateConfig, pretrained: Path, room_store: Path, tmp_path: Path
) -> None:
    plain = tiny_train_config(room_store, steps=2, holdout=8)
    again = train.run(replace(plain, seed=1, stream=replace(plain.stream, seed=1)), tmp_path / "b")
    longer = train.run(replace(plain, steps=3), tmp_path / "longer")
    report = json.loads(run(replace(config, runs=(pretrained, longer, again))).read_text())
    rows = {row["name"]: row for row in report["tables"]["linear"]}
    assert list(rows) == [*NAMES, "longer", "b", "mean of pretrained, b"]
    mean, members = rows["mean of pretrained, b"], (rows["pretrained"], rows["b"])
    assert mean["miou"] == pytest.approx(np.mean([row["miou"] for row in members]))
    draws = [
        [cell["miou"] for cell in report["cells"] if cell["name"] == n] for n in ("pretrained", "b")
    ]
    assert mean["miou_sd"] == pytest.approx(np.std(np.mean(draws, axis=0), ddof=1))
    assert mean["difference"]["pairs"] == 2
    difference = np.mean([row["difference"]["mean"] for row in members])
    assert mean["difference"]["mean"] == pytest.approx(difference)
    assert "| mean of pretrained, b |" in (config.out / "report.md").read_text()
    copy = shutil.copytree(pretrained, tmp_path / "copy")
    assert compared_weights([pretrained, copy], {}).repeated == ()
    saved = replace(plain, seed=2, keep_checkpoints=1)
    kept = train.run(saved, tmp_path / "kept")
    assert compared_weights([pretrained, kept, longer], {}).repeated == (("pretrained", "kept"),)


def test_cells_of_another_protocol_or_other_weights_are_refused(config: EvaluateConfig) -> None:
    run(replace(config, seeds=1))
    other = replace(config, frozen=FrozenConfig(points_per_frame=51, statistics_frames=2))
    with pytest.raises(FingerprintError, match=r"points_per_frame was 50, is now 51"):
        run(other)
    cell = config.out / "cells" / "linear-pretrained-1of1-0.json"
    cell.write_text(cell.read_text().replace('"weights": "', '"weights": "0'))
    done: list[str] = []
    with pytest.raises(
        FingerprintError, match=r"measured on other weights .*linear-pretrained-1of"
    ):
        run(replace(config, seeds=2), progress=done.append)
    assert not done


def test_a_checkpoint_that_does_not_exist_is_refused_before_anything_is_computed(
    config: EvaluateConfig, tmp_path: Path
) -> None:
    asked = replace(config, checkpoints={"published": tmp_path / "gone.pth"})
    with pytest.raises(ConfigError, match=r"published=.*gone\.pth does not exist"):
        run(asked)
    assert not config.out.exists()


def test_a_run_is_named_by_its_folder_wherever_one_stands(
    pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pretrained)
    assert compared_weights([Path()], {}).names == ["scratch", "pretrained"]


def test_runs_whose_heights_are_along_other_axes_are_not_compared(
    room_store: Path, tmp_path: Path
) -> None:
    plain = tiny_train_config(room_store, steps=1)
    runs: list[Path] = []
    for number, up in enumerate(((0.0, -1.0, 0.0), (0.0, 0.0, 1.0))):
        sample = replace(plain.stream.sample, inputs=("height",), augment=AugmentConfig(up_axis=up))
        named = replace(plain, stream=replace(plain.stream, sample=sample))
        runs.append(train.run(named, tmp_path / str(number)))
    with pytest.raises(ConfigError, match="must agree"):
        compared_weights(runs, {})
    file = export(ExportConfig(runs[0], tmp_path / "s.pth", form="safetensors"))
    assert "s" in compared_weights(runs[:1], {"s": file}).names
    with pytest.raises(ConfigError, match="must agree"):
        compared_weights(runs[1:], {"s": file})


def test_a_mode_that_is_named_twice_counts_once(config: EvaluateConfig) -> None:
    report = json.loads(run(replace(config, modes=("knn", "knn"), seeds=1)).read_text())
    assert len(report["cells"]) == 3


def test_a_cell_names_the_weights_that_it_measured(
    config: EvaluateConfig, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is trained on between reading the weights and writing the cell."""
    own = shutil.copytree(pretrained, tmp_path / "pretrained")
    path, plain = latest_checkpoint(own).path / "weights.safetensors", FrozenFeatures.scores
    read: list[str] = []

    def scores(self: FrozenFeatures, *asked: Any, **named: Any) -> PartScores:
        read.append(hashlib.sha256(path.read_bytes()).hexdigest())
        path.write_bytes(safetensors_bytes(load_file(path), metadata={"cell": str(len(read))}))
        return plain(self, *asked, **named)

    monkeypatch.setattr(FrozenFeatures, "scores", scores)
    changed = replace(config, runs=(own,), seeds=1, fractions=(100.0,), modes=("linear",))
    with pytest.raises(FingerprintError, match="measured on other weights"):
        run(changed)
    cell = json.loads((config.out / "cells" / "linear-pretrained-1of1-0.json").read_text())
    assert len(set(read)) == 3
    assert cell["weights"] == read[2]


def test_a_networks_features_are_computed_once_for_all_cells(
    config: EvaluateConfig, data: LabelledFrames, monkeypatch: pytest.MonkeyPatch
) -> None:
    described: list[int] = []

    def counted(*given: Any) -> Describe:
        describe, number = student_features(*given), len(described)
        described.append(0)

        def count(frame: LabelledFrame) -> np.ndarray:
            described[number] += 1
            return describe(frame)

        return count

    monkeypatch.setattr("p2pkit.pipelines.evaluate.run.student_features", counted)
    run(replace(config, seeds=2, fractions=(50.0, 100.0), modes=("linear", "knn")))
    # Two draws of scratch, which is another network each, and the pretrained one.
    assert described == [len(data.parts["train"]) + len(data.parts["test"])] * 3


@pytest.mark.slow
def test_several_processes_find_the_same(config: EvaluateConfig, tmp_path: Path) -> None:
    config = replace(config, seeds=1)
    alone, together = (
        json.loads(run(replace(config, out=tmp_path / str(n), workers=n)).read_text())
        for n in (1, 2)
    )
    assert alone["cells"] == together["cells"]


def test_published_weights_are_compared_by_name(config: EvaluateConfig, pretrained: Path) -> None:
    import torch

    from p2pkit.networks.pretrained import read_weights

    weights = read_weights(latest_checkpoint(pretrained).path / "weights.safetensors")
    student = {
        name.removeprefix("student."): value
        for name, value in weights.items()
        if name.startswith("student.")
    }
    file = config.out.parent / "published.pth"
    torch.save({"model_points": student}, file)
    found = compared_weights(config.runs, {"published": file})
    a, b = (found.student(name, 0).state_dict() for name in ("published", "pretrained"))
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    random = [found.student("scratch", seed).state_dict() for seed in (0, 0, 1)]
    torch.testing.assert_close(random[0], random[1], rtol=0, atol=0)
    assert any(not torch.equal(random[0][name], random[2][name]) for name in random[0])
    with pytest.raises(ConfigError, match="give each a different name"):
        compared_weights(config.runs, {"scratch": file})


@pytest.mark.parametrize(
    "other",
    [
        {"inputs": ["position"]},
        {"voxel_size_m": 0.3},
        {"grid": "cylindrical", "cylindrical_size": [0.1, 1.0, 0.1]},
        {"student": "SpUNet"},
        {"conv1_kernel_size": 5},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_file_that_says_it_is_another_student_is_not_compared(
    pretrained: Path, tmp_path: Path, other: dict[str, Any]
) -> None:
    import torch

    file = export(ExportConfig(pretrained, tmp_path / "s.pth", form="pointcontrast"))
    assert "s" in compared_weights([pretrained], {"s": file}).names
    content = torch.load(file, weights_only=True)
    content["p2pkit"] |= other
    torch.save(content, file)
    with pytest.raises(ConfigError, match=r"s\.pth has the student .*inputs must agree"):
        compared_weights([pretrained], {"s": file})
    del content["p2pkit"]
    torch.save(content, file)
    assert "s" in compared_weights([pretrained], {"s": file}).names


def test_fine_tuning_learns_the_rooms(data: LabelledFrames, pretrained: Path) -> None:
    """It must beat a network that was hardly trained, on frames of another room."""
    weights = compared_weights([pretrained], {})
    scores = [
        finetune(
            weights.student("scratch", 0),
            data,
            data.parts["train"],
            replace(QUICK, steps=steps, augment=NO_AUGMENTATION),
            seed=0,
            task=Segmentation(data),
        ).tested.scores.miou
        for steps in (1, 40)
    ]
    assert scores[1] > scores[0] + 0.05


def test_the_best_look_or_the_last_step_is_tested(data: LabelledFrames, pretrained: Path) -> None:
    weights, samples = compared_weights([pretrained], {}), data.parts["train"]
    settings = replace(QUICK, steps=6, validations=3)
    best, once, last = (
        finetune(
            weights.student("scratch", 0), data, samples, chosen, seed=0, task=Segmentation(data)
        )
        for chosen in (settings, replace(settings, validations=1), replace(settings, choose="last"))
    )
    assert list(best.validated) == [2, 4, 6]
    top = max(best.validated.values())
    assert best.step == max(step for step, miou in best.validated.items() if miou == top)
    assert (once.step, list(once.validated)) == (6, [6])
    assert (last.step, last.validated) == (6, {})
    ious = [found.tested.scores.iou for found in (once, last)]
    assert np.array_equal(*ious, equal_nan=True)


@pytest.mark.parametrize(
    ("steps", "validations", "expected"),
    [(200, 5, {40, 80, 120, 160, 200}), (2, 5, {1, 2}), (1, 3, {1}), (7, 2, {4, 7})],
)
def test_the_last_look_is_after_the_last_step(
    steps: int, validations: int, expected: set[int]
) -> None:
    assert validation_steps(FinetuneConfig(steps=steps, validations=validations)) == expected


def test_validation_frames_are_spread_over_the_scenes(data: LabelledFrames) -> None:
    """Of scenes of equal length each gives as many, wherever its frames are stored."""
    frames = np.random.default_rng(0).permutation(60)
    chosen = spread(frames, 12)
    scenes = np.flatnonzero(np.isin(frames, chosen)) // 10
    assert np.array_equal(np.bincount(scenes), [2, 2, 2, 2, 2, 2])
    assert np.array_equal(spread(frames, 100), frames)


def test_the_report_says_which_weights_are_tested(config: EvaluateConfig) -> None:
    tuned = replace(config, modes=("finetune",), seeds=1)
    report = json.loads(run(tuned).read_text())
    text = (config.out / "report.md").read_text()
    assert "best mIoU on 2 of the 4 validation frames, from 2 validations in 4 steps." in text
    for cell in report["cells"]:
        assert set(cell["validation_miou"]) == {"2", "4"}
        assert f"{cell['name']} {cell['tested_step']} (1 ×)" in text
    assert report["protocol"]["settings"]["finetune"]["choose"] == "best"
    found = find_evaluation(config.runs[0], config.out)
    assert found is not None
    notes = " ".join(evaluation_section(found).modes[0].notes)
    assert "from 2 validations in 4 steps." in notes
    assert "Steps whose weights were tested: scratch" in notes
    last = replace(tuned, finetune=replace(QUICK, choose="last"), out=config.out / "last")
    report = json.loads(run(last).read_text())
    text = (last.out / "report.md").read_text()
    assert "The weights of the last of 4 steps were tested; no validation frame was used" in text
    assert report["protocol"]["settings"]["finetune"]["choose"] == "last"
    with pytest.raises(FingerprintError, match=r"finetune\.choose"):
        run(replace(last, out=config.out))


def test_other_modes_do_not_mind_settings_of_fine_tuning(config: EvaluateConfig) -> None:
    run(replace(config, seeds=1))
    changed = replace(config, seeds=1, finetune=replace(QUICK, validation_frames=3))
    run(changed)
    with pytest.raises(FingerprintError, match=r"validation_frames was 2, is now 3"):
        run(replace(changed, modes=("finetune",)))


def test_one_recording_is_cut_by_time_and_every_figure_says_so(
    config: EvaluateConfig, tmp_path: Path
) -> None:
    """It is refused unless asked for; then card, table and report tell what it does not show."""
    root = write_recording(tmp_path / "one-room", 16)
    store = extract.run(recording_config(root, tmp_path / "one.store", features=None))
    by_scene = replace(config, store=str(store), validation=0.15, test=0.25)
    with pytest.raises(ConfigError, match=r"16 frames of 1 scenes.*--split-unit time-block"):
        run(by_scene)
    arguments = ["evaluate", str(config.runs[0]), "--on", str(store), "--out", str(config.out)]
    arguments += ["--fractions", "50,100", "--seeds", "2", "--split-unit", "time-block"]
    done = CliRunner().invoke(commands, arguments)
    assert done.exit_code == 0, done.output
    for message in (
        "Not a split by scene: all parts are runs of frames of the same recording",
        "train 7 frames of 4 time blocks, validation 2 frames",
        "labels, % (time blocks, one place)",
    ):
        assert message in done.output
        assert message in (config.out / "report.md").read_text()
    report = json.loads((config.out / "report.json").read_text())
    assert report["protocol"]["split"]["unit"] == "time-block"
    assert "same place" in report["protocol"]["warning"]
    ours = [row for row in report["tables"]["linear"] if row["name"] == "pretrained"]
    assert [row["difference"]["pairs"] for row in ours] == [2, 2]
    assert ours[1]["frames"] == [7, 7]
    with pytest.raises(FingerprintError, match=r"protocol\.split"):
        run(replace(by_scene, split=SplitConfig(unit="time-block", gap_frames=1)))


def test_blank_inputs_are_part_of_the_protocol(
    config: EvaluateConfig, data: LabelledFrames, pretrained: Path
) -> None:
    grey = replace(config, seeds=1, blank=("color",), modes=("linear", "finetune"))
    report = json.loads(run(grey).read_text())
    assert report["protocol"]["blank"] == ["color"]
    assert "on color (color blank) in voxels" in (config.out / "report.md").read_text()
    with pytest.raises(FingerprintError, match=r"protocol\.blank was \['color'\]"):
        run(replace(grey, blank=()))
    with pytest.raises(ConfigError, match=r"names range, .* not have; its inputs are color"):
        run(replace(grey, blank=("range",)))
    # The student gets the same from a store without colours.
    blank, sample = replace(data, blank=("color",)), int(data.parts["train"][0])
    assert not blank.frame(sample, np.random.default_rng(0), QUICK.augment).inputs.any()
    assert data.frame(sample).inputs.any()
    np.testing.assert_array_equal(blank.frame(sample).labels, data.frame(sample).labels)


def test_frames_for_testing_are_blank_too_and_may_lack_the_input(
    data: LabelledFrames, tmp_path: Path
) -> None:
    root = other_rooms(tmp_path / "two", 2)
    other = open_store(extract.run(recording_config(root, tmp_path / "two.store", features=None)))
    sample = replace(data.sample, inputs=("color", "intensity"))
    asked: dict[str, Any] = {"label_set": "stored", "validation": 0.3, "test": 0.0}
    with pytest.raises(ConfigError, match=r"name intensity, which .* lacks; it has color"):
        open_labelled(data.store, sample=sample, **asked)
    cut = open_labelled(data.store, sample=sample, blank=("intensity",), **asked)
    joined = with_test_store(cut, other)
    for part in ("train", "test"):
        inputs = joined.frame(int(joined.parts[part][0])).inputs
        assert inputs[:, :3].any()
        assert not inputs[:, 3].any()


def test_percents_that_come_to_as_many_scenes_are_one_row(config: EvaluateConfig) -> None:
    report = json.loads(run(replace(config, seeds=1, fractions=(1.0, 5.0, 100.0))).read_text())
    assert [row["name"] for row in report["tables"]["linear"]] == NAMES
    assert report["tables"]["linear"][0]["asked"] == [1.0, 5.0, 100.0]
    assert [row["percent"] for row in report["tables"]["linear"]] == [100.0] * 3
    assert "| 100 (1) | 4 | inputs+position |" in (config.out / "report.md").read_text()


@pytest.mark.slow
def test_the_rate_is_chosen_on_the_validation_part(
    config: EvaluateConfig, data: LabelledFrames, pretrained: Path
) -> None:
    """A rate at which nothing is learned loses, for scratch and pretrained weights alike."""
    rates = (1e-9, 1e-2)
    settings = replace(QUICK, steps=12, rates=rates, augment=NO_AUGMENTATION)
    train = data.parts["train"]
    chosen, alone = (
        finetune(
            compared_weights([pretrained], {}).student("scratch", 0),
            data,
            train,
            it,
            seed=0,
            task=Segmentation(data),
        )
        for it in (settings, replace(settings, rates=rates[1:]))
    )
    assert chosen.rate == alone.rate == 1e-2
    assert chosen.validated == alone.validated
    assert np.array_equal(chosen.tested.scores.iou, alone.tested.scores.iou, equal_nan=True)
    report = json.loads(
        run(replace(config, modes=("finetune",), seeds=1, finetune=settings)).read_text()
    )
    assert report["protocol"]["finetune_rates"] == {
        "scratch": {"0.01": 1},
        "pretrained": {"0.01": 1},
    }
    assert "scratch 0.01 (1 ×); pretrained 0.01 (1 ×)." in (config.out / "report.md").read_text()
    with pytest.raises(ConfigError, match="compared on the validation part"):
        replace(settings, choose="last")
    with pytest.raises(ConfigError, match=r"rates.0.* greater than 0"):
        replace(settings, rates=(0.0,))


@pytest.mark.slow
def test_scratch_may_have_a_rate_of_its_own(config: EvaluateConfig) -> None:
    settings, asked = replace(QUICK, trunk_rate=1e-9), replace(config, modes=("finetune",), seeds=1)
    cells: list[list[dict[str, Any]]] = []
    for rates in ({}, {"scratch_rate": 1e-2}, {"trunk_rate": 1e-2}):
        tuned = replace(
            asked, out=config.out / str(len(cells)), finetune=replace(settings, **rates)
        )
        cells.append(json.loads(run(tuned).read_text())["cells"])
    plain, own, higher = cells
    assert [cell["tested_rate"] for cell in own] == [1e-2, 1e-9]
    assert own[0]["iou"] == higher[0]["iou"] != plain[0]["iou"]
    assert own[1] == plain[1]
    with pytest.raises(ConfigError, match=r"scratch_rate is 0.01, but finetune.rates \(0.1,\) are"):
        replace(settings, scratch_rate=1e-2, rates=(0.1,))


def test_another_store_tests(
    config: EvaluateConfig,
    data: LabelledFrames,
    tmp_path: Path,
    room_recording: Path,
    room_store: Path,
) -> None:
    root = other_rooms(tmp_path / "two", 4)
    other = extract.run(recording_config(root, tmp_path / "two.store", features=None))
    asked = replace(config, seeds=1, test_store=str(other))
    card = json.loads(run(asked).read_text())["protocol"]
    assert card["frames"] == {"train": 8, "validation": 4, "test": 4}
    assert card["scenes"] == {"train": 2, "validation": 1, "test": 2}
    assert card["pretrained_on_test_frames"] == {"pretrained": None}
    one_room = extract.run(
        recording_config(
            write_recording(tmp_path / "one", 8), tmp_path / "one.store", features=None
        )
    )
    by_time = SplitConfig(unit="time-block", block_frames=2, gap_frames=1)
    trained = replace(asked, store=str(one_room), out=tmp_path / "by-time", split=by_time)
    card = json.loads(run(trained).read_text())["protocol"]
    assert card["frames"] == {"train": 5, "validation": 2, "test": 4}
    assert "warning" not in card
    cut = open_labelled(
        data.store, label_set="stored", validation=0.3, test=0.0, sample=data.sample
    )
    joined, alone = with_test_store(cut, open_store(other)), open_store(other)
    assert joined.test_keys == [key for keys in alone.all_keys() for key in sorted(keys)]
    frame = joined.frame(int(joined.parts["test"][0]))
    assert joined.other is not None
    first = joined.other.frame(int(joined.other.parts["test"][0]))
    assert np.array_equal(frame.coordinates, first.coordinates)
    with pytest.raises(ConfigError, match="holds 12 frames of the training store"):
        run(replace(asked, test_store=str(room_store)))
    fine = GeometryConfig(voxel_size=0.01)
    again = recording_config(room_recording, tmp_path / "fine.store", geometry=fine, features=None)
    with pytest.raises(ConfigError, match=r"holds 12 frames of the training store .*scene-0_frame"):
        run(replace(asked, test_store=str(extract.run(again))))
    few = recording_config(room_recording, tmp_path / "few.store", limit=3, features=None)
    with pytest.raises(ConfigError, match="holds 3 frames of the training store"):
        run(replace(asked, test_store=str(extract.run(few))))
    with pytest.raises(ConfigError, match="omit the test scenes"):
        replace(asked, split=SplitConfig(test_scenes=("scene-0",)))


def test_a_usual_protocol_has_no_entries_of_unusual_ones(
    config: EvaluateConfig, data: LabelledFrames
) -> None:
    card = protocol(config, compared_weights(config.runs, {}), data)
    assert {"split", "warning", "up_axis"}.isdisjoint(card)


def test_on_the_command_line(config: EvaluateConfig) -> None:
    arguments = ["evaluate", str(config.runs[0]), "--on", config.store, "--out", str(config.out)]
    arguments += ["--fractions", "100", "--seeds", "1", "--set", "test=0.3", "--set"]
    done = CliRunner().invoke(commands, [*arguments, "validation=0.3"])
    assert done.exit_code == 0, done.output
    assert "## linear" in done.output
    assert str(config.out / "report.json") in done.stdout
    wrong = CliRunner().invoke(commands, [*arguments, "validation=0.3", "--mode", "svm"])
    assert isinstance(wrong.exception, ConfigError)
