"""Recordings of which only some frames have labels."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_recording import recording_config, tiny_train_config, write_recording

from p2pkit.errors import NoLabelsError
from p2pkit.pipelines.evaluate.features import FrozenConfig
from p2pkit.pipelines.evaluate.finetune import FinetuneConfig
from p2pkit.pipelines.evaluate.run import EvaluateConfig, run
from p2pkit.pipelines.evaluate.settings import SplitConfig
from p2pkit.pipelines.extract import run as extract
from p2pkit.pipelines.train import run as train


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> EvaluateConfig:
    """Six scenes of two frames, of which 1, 3, 4 and 5 have labels; a run on all of them."""
    folder = tmp_path_factory.mktemp("partly")
    root = write_recording(folder / "rooms", 12, sequences=6)
    for scene in (0, 2):
        for path in (root / f"scene-{scene}").glob("*.label.png"):
            path.unlink()
    store = extract.run(recording_config(root, folder / "rooms.store"))
    pretrained = train.run(tiny_train_config(store, steps=1), folder / "run")
    return EvaluateConfig(
        runs=(pretrained,),
        store=str(store),
        out=folder / "out",
        fractions=(50.0, 100.0),
        seeds=3,
        modes=("linear",),
        validation=0.15,
        test=0.15,
        frozen=FrozenConfig(points_per_frame=20, statistics_frames=2),
        finetune=FinetuneConfig(steps=1, batch_size=1, validations=1),
    )


def test_draws_are_of_scenes_with_labels(config: EvaluateConfig) -> None:
    report = json.loads(run(config).read_text())
    card = report["protocol"]
    assert card["training_scenes_without_labels"] == ["scene-0", "scene-2"]
    assert card["scenes"] == {"train": 2, "validation": 1, "test": 1}
    drawn = {name for cell in report["cells"] for name in cell["drawn"]}
    assert drawn == {"scene-1", "scene-3"}


@pytest.mark.parametrize(
    ("test_scenes", "validation", "mode", "part"),
    [
        (("scene-2",), 0.15, "linear", "test"),
        (("scene-3", "scene-4", "scene-5"), 0.15, "finetune", "validation"),
        (("scene-1", "scene-3", "scene-4"), 0.15, "linear", "train"),
    ],
)
def test_a_part_without_labels_is_named_before_anything_is_computed(
    config: EvaluateConfig,
    tmp_path: Path,
    test_scenes: tuple[str, ...],
    validation: float,
    mode: str,
    part: str,
) -> None:
    asked = replace(
        config,
        out=tmp_path / "out",
        modes=(mode,),
        validation=validation,
        split=SplitConfig(test_scenes=test_scenes),
    )
    done: list[str] = []
    with pytest.raises(NoLabelsError, match=f"no frame of the {part} part is labelled"):
        run(asked, progress=done.append)
    assert not done


def test_weights_of_the_last_step_need_no_labels_to_validate(
    config: EvaluateConfig, tmp_path: Path
) -> None:
    """Of scenes 0, 1 and 2 the last one validates, and has no labels."""
    asked = replace(
        config,
        out=tmp_path / "out",
        modes=("finetune",),
        seeds=1,
        fractions=(100.0,),
        finetune=replace(config.finetune, choose="last"),
        split=SplitConfig(test_scenes=("scene-3", "scene-4", "scene-5")),
    )
    assert run(asked).is_file()
