import numpy as np
import pytest

from p2pkit.errors import ConfigError
from p2pkit.evaluation import neighbours
from p2pkit.evaluation.neighbours import (
    chance_agreement,
    nearest_by_frame,
    neighbour_agreement,
)

RANDOM = np.random.default_rng(0)
FEATURES = RANDOM.normal(size=(40, 6)).astype(np.float32) * RANDOM.uniform(1, 9, (40, 1))
FRAME = np.arange(40) // 8
SCENE = FRAME // 2
LABEL = RANDOM.integers(0, 3, 40)


def cosine(i: int, j: int) -> float:
    a, b = FEATURES[i].astype(float), FEATURES[j].astype(float)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_each_frame_of_other_scenes_gives_its_most_similar_row() -> None:
    found = nearest_by_frame(FEATURES, 9, frame=FRAME, scene=SCENE, count=5)
    by_hand = [
        max((cosine(9, j), j) for j in range(40) if FRAME[j] == frame)
        for frame in range(5)
        if frame // 2 != SCENE[9]
    ]
    assert [row for row, _ in found] == [row for _, row in sorted(by_hand, reverse=True)]
    assert found[0][1] == pytest.approx(max(by_hand)[0], abs=1e-6)
    assert nearest_by_frame(FEATURES, 9, frame=FRAME, scene=SCENE, count=1) == found[:1]


@pytest.mark.parametrize("at_once", [50, 2**24])
def test_agreement_equals_the_definition(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "SIMILARITIES_AT_ONCE", at_once)
    queries = np.arange(0, 40, 3)
    hits = [
        LABEL[max((cosine(q, j), j) for j in range(40) if SCENE[j] != SCENE[q])[1]] == LABEL[q]
        for q in queries
    ]
    found = neighbour_agreement(FEATURES, LABEL, queries=queries, scene=SCENE)
    assert found == pytest.approx(np.mean(hits))
    assert 0 < found < 1


def test_chance_is_what_random_rows_score() -> None:
    queries = np.arange(40)
    chance = chance_agreement(LABEL, queries=queries, scene=SCENE)
    draws = [
        neighbour_agreement(
            np.random.default_rng(seed).normal(size=(40, 4)), LABEL, queries=queries, scene=SCENE
        )
        for seed in range(200)
    ]
    assert chance == pytest.approx(float(np.mean(draws)), abs=0.02)


def test_one_scene_has_no_neighbours() -> None:
    with pytest.raises(ConfigError, match="at least two scenes"):
        neighbour_agreement(FEATURES, LABEL, queries=np.arange(3), scene=np.zeros(40, np.int64))
    assert nearest_by_frame(FEATURES, 0, frame=FRAME, scene=np.zeros(40, np.int64), count=3) == []
