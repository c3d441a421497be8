from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_recording import TEACHER, recording_config, write_recording

from p2pkit.errors import ConfigError
from p2pkit.layers.features import FeatureConfig
from p2pkit.pipelines.check.stored import StoreSource
from p2pkit.pipelines.extract.run import run
from p2pkit.pipelines.held_out import all_keys, holdout_split, samples_in_key_order, scene_split
from p2pkit.store.reading import open_store

KEYS = [f"scene-{scene}_frame-{frame:06d}" for scene in range(3) for frame in range(4)]


def test_sample_ids_in_key_order(room_store: Path) -> None:
    store = open_store(room_store)
    keys = all_keys(store)
    assert keys != KEYS
    assert [keys[sample] for sample in samples_in_key_order(store)] == KEYS


@settings(deadline=None)
@given(count=st.integers(0, 11))
def test_the_holdout_is_the_end_of_the_recording(room_store: Path, count: int) -> None:
    store = open_store(room_store)
    keys = all_keys(store)
    kept, held = holdout_split(store, count)
    assert [keys[sample] for sample in np.concatenate([kept, held])] == KEYS
    assert len(held) == count


def test_scenes_are_held_out_besides_the_end(room_store: Path) -> None:
    store = open_store(room_store)
    keys = all_keys(store)
    kept, held = holdout_split(store, 2, ("scene-1",))
    assert [keys[sample] for sample in held] == [*KEYS[4:8], *KEYS[10:]]
    assert [keys[sample] for sample in kept] == [*KEYS[:4], *KEYS[8:10]]
    with pytest.raises(ConfigError, match="no scene matches 'scene-9'"):
        holdout_split(store, 0, ("scene-9",))
    with pytest.raises(ConfigError, match="posed-rgbd has no official test part; these have one"):
        holdout_split(store, 0, ("official",))


@pytest.mark.parametrize("count", [12, 13])
def test_a_holdout_of_everything_is_refused(room_store: Path, count: int) -> None:
    with pytest.raises(ConfigError, match=f"holdout is {count}, but the store has only 12 frames"):
        holdout_split(open_store(room_store), count)


@pytest.mark.parametrize(
    ("fraction", "test_scenes"),
    [(0.05, {2}), (0.3, {2}), (0.45, {2}), (0.6, {1, 2}), (0.99, {1, 2})],
)
def test_no_sequence_is_on_both_sides(
    room_store: Path, fraction: float, test_scenes: set[int]
) -> None:
    store = open_store(room_store)
    keys = all_keys(store)
    split = scene_split(store, fraction)
    train, test = split.train, split.test
    assert [keys[sample] for sample in np.concatenate([train, test])] == KEYS
    assert {int(keys[sample][6]) for sample in test} == test_scenes
    assert {int(keys[sample][6]) for sample in train} == {0, 1, 2} - test_scenes


def test_numbers_without_leading_zeros_keep_the_order_of_the_recording(tmp_path: Path) -> None:
    root = write_recording(tmp_path / "room", 4)
    for path in root.glob("frame-*"):
        number, _, rest = path.name.removeprefix("frame-").partition(".")
        path.rename(root / f"frame-{int(number) + 8}.{rest}")
    store = open_store(run(recording_config(root, tmp_path / "store")))
    expected = ["frame-8", "frame-9", "frame-10", "frame-11"]
    keys = all_keys(store)
    assert [keys[sample] for sample in samples_in_key_order(store)] == expected
    assert StoreSource(store).keys() == expected


def test_one_sequence_is_cut_where_the_fraction_says(tmp_path: Path) -> None:
    root = write_recording(tmp_path / "room", 4)
    features = FeatureConfig(teacher=replace(TEACHER, layer=1))
    store = open_store(run(recording_config(root, tmp_path / "store", features=features)))
    keys = all_keys(store)
    split = scene_split(store, 0.25)
    train, test = split.train, split.test
    assert [keys[sample] for sample in train] == [f"frame-{number:06d}" for number in range(3)]
    assert [keys[sample] for sample in test] == ["frame-000003"]
    assert len(scene_split(store, 0.05).test) == 1
    for fraction in (0.0, 1.0):
        with pytest.raises(ConfigError, match=f"test_fraction is {fraction}; expected a value"):
            scene_split(store, fraction)
