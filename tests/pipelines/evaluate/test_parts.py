"""Parts by scene, by named scenes, and of one recording by time."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from p2pkit.errors import ConfigError
from p2pkit.pipelines.evaluate.settings import BY_SCENE, SplitConfig
from p2pkit.pipelines.evaluate.split import (
    PARTS,
    Parts,
    check_disjoint,
    cut_at_scenes,
    cut_frames,
    drawn_scenes,
    place_of,
    same_place,
    shared_scenes,
)

AREAS = [f"Area_{area}_{room}" for area in range(1, 7) for room in ("hallway_1", "office_1")]
BY_TIME = SplitConfig(unit="time-block")


def cut(
    scenes: list[str], split: SplitConfig, validation: float = 0.15, test: float = 0.25
) -> Parts:
    return cut_frames(scenes, validation=validation, test=test, split=split)


def counts(parts: Parts) -> list[int]:
    return [len(parts.rows[name]) for name in PARTS]


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=3, max_size=9))
def test_no_scene_is_in_two_parts(sizes: list[int]) -> None:
    scenes = [f"scene-{i}" for i, size in enumerate(sizes) for _ in range(size)]
    parts = cut(scenes, BY_SCENE)
    seen = [{parts.units[row] for row in parts.rows[name]} for name in PARTS]
    assert sum(map(len, seen)) == len(sizes)
    assert np.array_equal(np.concatenate([parts.rows[name] for name in PARTS]), range(len(scenes)))


def test_a_scene_that_comes_back_stays_in_one_part() -> None:
    scenes = list("aabbaccbdd")
    parts = cut(scenes, BY_SCENE, 0.2, 0.2)
    assert {name: parts.rows[name].tolist() for name in PARTS} == {
        "train": [0, 1, 2, 3, 4, 7],
        "validation": [5, 6],
        "test": [8, 9],
    }


@settings(deadline=None)
@given(
    scenes=st.lists(st.sampled_from("abcdef"), min_size=3, max_size=30),
    shares=st.tuples(st.floats(0.05, 0.45), st.floats(0.05, 0.45)),
)
def test_parts_have_no_scene_in_common_in_any_order(
    scenes: list[str], shares: tuple[float, float]
) -> None:
    parts = cut_at_scenes(scenes, shares)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(scenes)))
    found = [{scenes[row] for row in part} for part in parts]
    assert sum(map(len, found)) == len(set(scenes))
    assert all(found) or len(set(scenes)) < 3


def test_parts_that_overlap_are_refused() -> None:
    check_disjoint({"train": ["a", "a"], "test": ["b"]}, "scene")
    with pytest.raises(ConfigError, match="scene a is in the train part and in the test part"):
        check_disjoint({"train": ["a", "c"], "test": ["b", "a"]}, "scene")


@pytest.mark.parametrize(("total", "count"), [(68, 7), (20, 1), (5, 3), (4, 4)])
def test_draws_are_dealt_out(total: int, count: int) -> None:
    hands = [drawn_scenes(total, count, draw).tolist() for draw in range(2 * (total // count))]
    for shuffle in (hands[: total // count], hands[total // count :]):
        rows = [row for hand in shuffle for row in hand]
        assert len(set(rows)) == len(rows) == count * (total // count)
    assert np.array_equal(shared_scenes([["a", "b"], ["b", "c"]]), [[1, 0.5], [0.5, 1]])


def test_named_scenes_test_and_the_last_of_the_others_validate() -> None:
    parts = cut(AREAS, SplitConfig(test_scenes=("Area_5_*",)))
    assert [AREAS[row] for row in parts.rows["test"]] == AREAS[8:10]
    assert [AREAS[row] for row in parts.rows["validation"]] == AREAS[10:]
    assert [AREAS[row] for row in parts.rows["train"]] == AREAS[:8]
    several = cut(AREAS, SplitConfig(test_scenes=("Area_5_office_1", "Area_?_hallway_1")))
    assert counts(several) == [3, 2, 7]


def test_names_that_fit_no_scene_or_leave_none() -> None:
    with pytest.raises(ConfigError, match=r"no scene matches 'Area_9\*'; found 12: Area_1_h"):
        cut(AREAS, SplitConfig(test_scenes=("Area_5*", "Area_9*")))
    with pytest.raises(ConfigError, match="train part is empty: 12 frames of 12 scenes"):
        cut(AREAS, SplitConfig(test_scenes=("*",)))
    with pytest.raises(ConfigError, match=r"train part is empty: .* --split-unit time-block"):
        cut(["002"] * 16, BY_SCENE)


def test_time_blocks_of_one_recording() -> None:
    parts = cut(["002"] * 16, BY_TIME)
    assert [parts.rows[name].tolist() for name in PARTS] == [
        [0, 1, 2, 3, 4, 5, 6],
        [9, 10],
        [13, 14, 15],
    ]
    assert parts.units[:5] == [f"002, block {block}" for block in (0, 0, 1, 1, 2)]
    message = same_place(["002"] * 16, BY_TIME)
    assert message is not None
    assert "same recording (002), with 2 frames left out" in message
    assert same_place(["002"], BY_SCENE) is None


@settings(deadline=None)
@given(
    frames=st.integers(1, 60),
    gap=st.integers(1, 6),
    block=st.integers(1, 5),
    validation=st.floats(0.01, 0.45),
    test=st.floats(0.01, 0.45),
)
@example(frames=8, gap=1, block=1, validation=0.4375, test=0.4375)
def test_blocks_are_apart_by_the_gap(
    frames: int, gap: int, block: int, validation: float, test: float
) -> None:
    split = SplitConfig("time-block", block_frames=block, gap_frames=gap)
    try:
        parts = cut(["a"] * frames, split, validation, test)
    except ConfigError as error:
        assert "a smaller gap than" in str(error)  # noqa: PT017
        assert frames <= 2 * gap + 4
        return
    train, validated, tested = (parts.rows[name] for name in PARTS)
    assert validated[0] - train[-1] == gap + 1
    assert tested[0] - validated[-1] == gap + 1
    assert (train[0], tested[-1]) == (0, frames - 1)
    for rows in (train, validated, tested):
        assert (np.diff(rows) == 1).all()


def test_time_blocks_are_for_what_cannot_be_cut_by_scene() -> None:
    with pytest.raises(ConfigError, match="has 3 scenes, so it can be cut by scene"):
        cut(["a", "a", "b", "b", "c", "c"], BY_TIME)
    two = cut(["a"] * 10 + ["b"] * 10, BY_TIME)
    assert counts(two) == [10, 2, 4]
    assert two.units[9:12] == ["a, block 4", "b, block 0", "b, block 0"]
    with pytest.raises(ConfigError, match="time blocks share one scene"):
        SplitConfig(unit="time-block", test_scenes=("a",))
    with pytest.raises(ConfigError, match="gap_frames is 0; must be at least 1"):
        SplitConfig(unit="time-block", gap_frames=0)


def test_scans_of_one_room_are_one_place() -> None:
    assert place_of("scannet", "scene0000_01") == "scene0000"
    assert place_of("scannet200", "scene00*_??") == "scene00*"
    assert place_of("scannet", "office") == "office"
    assert place_of("arkitscenes+scannet", "scene0000_01") == "scene0000"
    assert place_of("nuscenes", "scene-0061") == "scene-0061"
    assert place_of("posed-rgbd", "scene0000_01") == "scene0000_01"
