from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pkit.errors import ConfigError
from p2pkit.stream.order import Place, SampleOrder, epoch_order, locate

SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any)
SEEDS = st.integers(0, 2**64 - 1)
BATCH = st.integers(1, 13)


def order_of(sizes: list[int], seed: int, held: set[int] | None = None) -> SampleOrder:
    kept = np.array([sample for sample in range(sum(sizes)) if sample not in (held or set())])
    return SampleOrder(kept, sizes=np.array(sizes), seed=seed)


@settings(deadline=None, max_examples=50)
@given(SIZES, SEEDS, st.integers(0, 1000))
def test_an_epoch_holds_each_sample_once(sizes: list[int], seed: int, epoch: int) -> None:
    order = epoch_order(np.array(sizes), seed, epoch)
    assert sorted(order.tolist()) == list(range(sum(sizes)))


@settings(deadline=None, max_examples=50)
@given(SIZES, SEEDS)
def test_an_epoch_reads_one_shard_after_the_other(sizes: list[int], seed: int) -> None:
    shards = [locate(np.array(sizes), int(i))[0] for i in epoch_order(np.array(sizes), seed, 0)]
    changes = sum(a != b for a, b in pairwise(shards))
    assert changes == sum(size > 0 for size in sizes) - 1


def test_epochs_and_seeds_differ() -> None:
    sizes = np.array([20, 20, 20])
    orders = [epoch_order(sizes, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({order.tobytes() for order in orders}) == 4


@settings(deadline=None, max_examples=50)
@given(SIZES, SEEDS, BATCH, st.integers(1, 4))
def test_each_run_of_an_epochs_length_holds_each_sample_once(
    sizes: list[int], seed: int, batch_size: int, epochs: int
) -> None:
    order = order_of(sizes, seed)
    total = sum(sizes)
    steps = -(-epochs * total // batch_size)
    places = [place for step in range(steps) for place in order.batch(step, batch_size)]
    assert [place.position for place in places] == list(range(steps * batch_size))
    for epoch in range(epochs):
        mine = [place for place in places if place.epoch == epoch]
        assert Counter(place.sample for place in mine) == Counter(range(total))


@settings(deadline=None, max_examples=50)
@given(SIZES, SEEDS, BATCH, st.integers(0, 40), st.integers(1, 9))
def test_ranks_share_the_global_batch(
    sizes: list[int], seed: int, batch_size: int, step: int, ranks: int
) -> None:
    order = order_of(sizes, seed)
    parts = [order.batch(step, batch_size, rank=rank, ranks=ranks) for rank in range(ranks)]
    joined: list[Place] = [place for part in parts for place in part]
    assert joined == order.batch(step, batch_size)
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= 1


@settings(deadline=None, max_examples=50)
@given(SIZES, SEEDS, BATCH, st.lists(st.integers(0, 60), max_size=8))
def test_a_step_does_not_depend_on_the_steps_before(
    sizes: list[int], seed: int, batch_size: int, visited: list[int]
) -> None:
    used = order_of(sizes, seed)
    for step in visited:
        assert used.batch(step, batch_size) == order_of(sizes, seed).batch(step, batch_size)


@settings(deadline=None, max_examples=50)
@given(SIZES, SEEDS, st.data())
def test_held_out_samples_never_occur(sizes: list[int], seed: int, data: st.DataObject) -> None:
    total = sum(sizes)
    held = data.draw(st.sets(st.integers(0, total - 1), max_size=total - 1))
    order = order_of(sizes, seed, held)
    drawn = [place.sample for step in range(10) for place in order.batch(step, 5)]
    assert not held & set(drawn)
    assert order.samples_per_epoch == total - len(held)
    epoch = drawn[: order.samples_per_epoch]
    assert len(set(epoch)) == len(epoch)


def test_threads_see_one_order() -> None:
    order = order_of([7, 5, 9], seed=3)
    expected = [order_of([7, 5, 9], seed=3).batch(step, 4) for step in range(200)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda step: order.batch(step, 4), range(200))) == expected


@settings(deadline=None, max_examples=50)
@given(SIZES)
def test_locate_counts_through_the_shards(sizes: list[int]) -> None:
    expected = [(shard, row) for shard, size in enumerate(sizes) for row in range(size)]
    assert [locate(np.array(sizes), sample) for sample in range(sum(sizes))] == expected


def test_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(ConfigError, match="no sample to train on"):
        SampleOrder(np.zeros(0, dtype=np.int64), sizes=np.array([3]), seed=0)
