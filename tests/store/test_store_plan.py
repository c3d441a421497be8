import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from p2pkit.errors import StoreError
from p2pkit.store.manifest import Plan, plan_shards

KEYS = st.lists(st.from_regex(r"[A-Za-z0-9_-]{1,8}", fullmatch=True), unique=True, max_size=60)


@given(KEYS, st.integers(0, 9), st.integers(1, 9), st.randoms())
def test_plan_is_a_permutation_that_does_not_depend_on_the_order(keys, seed, size, random):
    plan = Plan(seed, size, len(keys))
    shards = plan_shards(keys, plan)
    assert sorted(key for shard in shards for key in shard) == sorted(keys)
    assert len(shards) == plan.shards
    assert [len(shard) for shard in shards] == [plan.planned(i) for i in range(plan.shards)]
    random.shuffle(keys)
    assert plan_shards(keys, plan) == shards


def test_order_is_that_of_the_documented_hash():
    keys = [f"k{number}" for number in range(50)]
    [order] = plan_shards(keys, Plan(3, 50, 50))
    hashes = [xxhash.xxh3_64_intdigest(f"3:{key}".encode()) for key in order]
    assert hashes == sorted(hashes)
    assert order != keys


def test_seeds_differ_and_scenes_mix():
    keys = [f"scene{scene}-{frame}" for scene in range(10) for frame in range(64)]
    first, second = (plan_shards(keys, Plan(seed, 64, 640)) for seed in (0, 1))
    assert first != second
    for shard in first:
        assert len({key.split("-")[0] for key in shard}) == 10


def test_wrong_frame_list():
    with pytest.raises(StoreError, match="the plan is for 3 frames; the frame list has 2"):
        plan_shards(["a", "b"], Plan(0, 2, 3))
    with pytest.raises(StoreError, match=r"repeats keys, such as \['a'\]"):
        plan_shards(["a", "b", "a"], Plan(0, 2, 3))


@pytest.mark.parametrize("values", [(-1, 1, 1), (0, 0, 1), (0, 1, -1)])
def test_plan_values(values: tuple[int, int, int]):
    with pytest.raises(StoreError, match="at least"):
        Plan(*values)
