import itertools
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from itertools import pairwise
from math import ceil, floor
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pkit.errors import ConfigError
from p2pkit.stream.mixture import MixtureOrder, mixture_turns, whole_weights
from p2pkit.stream.order import Place, SampleOrder, epoch_order, locate

SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any)
SEEDS = st.integers(0, 2**64 - 1)
BATCH = st.integers(1, 13)


def order_of(sizes: list[int], seed: int, held: set[int] | None = None) -> MixtureOrder:
    kept = np.array([sample for sample in range(sum(sizes)) if sample not in (held or set())])
    return MixtureOrder([SampleOrder(kept, sizes=np.array(sizes), seed=seed)])


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
    assert order.orders[0].samples_per_epoch == total - len(held)
    epoch = drawn[: order.orders[0].samples_per_epoch]
    assert len(set(epoch)) == len(epoch)


def test_threads_see_one_order() -> None:
    order = order_of([7, 5, 9], seed=3)
    expected = [order_of([7, 5, 9], seed=3).batch(step, 4) for step in range(200)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda step: order.batch(step, 4), range(200))) == expected


def test_between_any_two_lines_another_thread_may_be_epochs_ahead() -> None:
    """As the loader is of the log, where a store is small beside the batches read ahead."""
    order, far = order_of([3], seed=3).orders[0], itertools.count(1000, 10)

    def interrupted(frame: FrameType, event: str, argument: object) -> Any:
        if (frame.f_code.co_name, Path(frame.f_code.co_filename).name) != ("at", "order.py"):
            return None
        order.at(next(far))
        return interrupted

    before = sys.gettrace()
    sys.settrace(interrupted)
    try:
        found = [order.at(index) for index in range(9)]
    finally:
        sys.settrace(before)
    assert next(far) > 1000 + 9 * 10
    assert found == [order_of([3], seed=3).orders[0].at(index) for index in range(9)]


@settings(deadline=None, max_examples=50)
@given(SIZES)
def test_locate_counts_through_the_shards(sizes: list[int]) -> None:
    expected = [(shard, row) for shard, size in enumerate(sizes) for row in range(size)]
    assert [locate(np.array(sizes), sample) for sample in range(sum(sizes))] == expected


def test_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(ConfigError, match="no sample to train on"):
        SampleOrder(np.zeros(0, dtype=np.int64), sizes=np.array([3]), seed=0)


def test_ten_million_samples_are_ordered_in_under_a_second() -> None:
    """CPU time at the best of three tries, with the compiled loops warm."""
    sizes = np.full(10_000_000 // 64, 64)
    epoch_order(sizes[:2], 0, 0)

    def cpu_seconds(epoch: int) -> float:
        began = time.process_time()
        order = epoch_order(sizes, 0, epoch)
        took = time.process_time() - began
        assert np.bincount(order, minlength=10_000_000).max() == 1
        return took

    assert min(map(cpu_seconds, range(3))) < 1.0


def test_a_shard_is_shuffled_evenly() -> None:
    """Each of the 24 orders of four rows comes about as often as the others."""
    orders = epoch_order(np.full(24_000, 4), 3, 0).reshape(-1, 4) % 4
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    assert np.abs(counts - 1000).max() < 150


WEIGHTS = st.lists(st.integers(1, 40), min_size=1, max_size=7)
STORES = st.lists(st.tuples(SIZES, st.integers(1, 9)), min_size=1, max_size=4)


def mixture(stores: list[tuple[list[int], int]], seed: int) -> MixtureOrder:
    orders = [
        SampleOrder(np.arange(sum(sizes)), sizes=np.array(sizes), seed=seed, source=number)
        for number, (sizes, _) in enumerate(stores)
    ]
    return MixtureOrder(orders, [weight for _, weight in stores])


@settings(deadline=None, max_examples=200)
@given(WEIGHTS)
def test_every_prefix_of_a_mixture_is_within_one_sample_of_the_weights(weights: list[int]) -> None:
    source, turn = mixture_turns(weights)
    total = sum(weights)
    counts = [0] * len(weights)
    for position in range(total):
        assert turn[position] == counts[source[position]]
        counts[source[position]] += 1
        for weight, count in zip(weights, counts, strict=True):
            ideal = Fraction((position + 1) * weight, total)
            assert floor(ideal) <= count <= ceil(ideal)
    assert counts == weights


@settings(deadline=None, max_examples=50)
@given(STORES, SEEDS, st.integers(1, 13), st.integers(1, 300))
def test_each_epoch_of_each_store_of_a_mixture_is_a_permutation(
    stores: list[tuple[list[int], int]], seed: int, batch_size: int, positions: int
) -> None:
    order = mixture(stores, seed)
    steps = -(-positions // batch_size)
    places = [place for step in range(steps) for place in order.batch(step, batch_size)]
    assert [place.position for place in places] == list(range(steps * batch_size))
    for number, (sizes, _) in enumerate(stores):
        mine = [place for place in places if place.source == number]
        everything = Counter(range(sum(sizes)))
        epochs = [place.epoch for place in mine]
        assert epochs == sorted(epochs)
        for epoch in set(epochs):
            drawn = Counter(place.sample for place in mine if place.epoch == epoch)
            whole = epoch < max(epochs)
            assert drawn == everything if whole else drawn <= everything


@settings(deadline=None, max_examples=50)
@given(STORES, SEEDS, st.integers(1, 40), st.integers(0, 30), st.integers(1, 9), st.integers(1, 9))
def test_resuming_on_other_ranks_gives_the_same_multiset_of_samples(
    stores: list[tuple[list[int], int]],
    seed: int,
    batch_size: int,
    stopped: int,
    before: int,
    after: int,
) -> None:
    def global_batch(order: MixtureOrder, step: int, ranks: int) -> list[Place]:
        parts = [order.batch(step, batch_size, rank=rank, ranks=ranks) for rank in range(ranks)]
        return [place for part in parts for place in part]

    uninterrupted = mixture(stores, seed)
    expected = [global_batch(uninterrupted, step, 1) for step in range(stopped + 4)]
    first = mixture(stores, seed)
    found = [global_batch(first, step, before) for step in range(stopped)]
    resumed = mixture(stores, seed)
    found += [global_batch(resumed, step, after) for step in range(stopped, stopped + 4)]
    assert found == expected
    drawn = Counter((place.source, place.epoch, place.sample) for row in found for place in row)
    assert max(drawn.values()) == 1


def test_equal_stores_differ_in_order() -> None:
    order = mixture([([5, 5], 1), ([5, 5], 1)], 0)
    places = order.batch(0, 20)
    samples = [[place.sample for place in places if place.source == i] for i in (0, 1)]
    assert sorted(samples[0]) == sorted(samples[1])
    assert samples[0] != samples[1]


@pytest.mark.parametrize(
    ("weights", "samples", "whole"),
    [
        ((), (12,), (1,)),
        ((), (12, 18), (2, 3)),
        ((0.7, 0.3), (5, 5), (7, 3)),
        ((0.5, 1.0, 2.0), (5, 5, 5), (1, 2, 4)),
        ((3.0,), (5,), (1,)),
    ],
)
def test_weights_become_the_smallest_whole_numbers(
    weights: tuple[float, ...], samples: tuple[int, ...], whole: tuple[int, ...]
) -> None:
    assert whole_weights(weights, samples) == whole


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=6))
def test_weights_by_size_always_fit_a_table(samples: list[int]) -> None:
    weights = whole_weights((), samples)
    assert sum(weights) <= 1 << 20
    for weight, count in zip(weights, samples, strict=True):
        assert abs(weight / sum(weights) - count / sum(samples)) < 1e-5


@pytest.mark.parametrize(
    ("weights", "named"),
    [
        ((1.0, 2.0), r"\[1.0, 2.0\] for 3 stores"),
        ((1.0, 0.0, 2.0), "must be a positive number"),
        ((1.0, float("nan"), 2.0), "must be a positive number"),
        ((1.0, float("inf"), 2.0), "must be a positive number"),
        ((0.1234567, 1.0, 1.0), "round them to fewer digits"),
    ],
)
def test_impossible_weights_are_refused(weights: tuple[float, ...], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        whole_weights(weights, (5, 5, 5))


@pytest.mark.parametrize("weights", [(), (0, 1), (1 << 20, 1)])
def test_impossible_turns_are_refused(weights: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="mixture weights are"):
        mixture_turns(weights)


def test_each_store_needs_a_weight() -> None:
    with pytest.raises(ConfigError, match="found 2 for 1 stores"):
        MixtureOrder([SampleOrder(np.arange(3), sizes=np.array([3]), seed=0)], (1, 1))


def test_the_digest_tells_batches_apart_and_the_epoch_counts_passes() -> None:
    def mixed(seed: int) -> MixtureOrder:
        orders = [
            SampleOrder(np.arange(count), sizes=np.array([count]), seed=seed, source=source)
            for source, count in enumerate((10, 20))
        ]
        return MixtureOrder(orders, [1, 2])

    order, again, other = mixed(0), mixed(0), mixed(1)
    found = [order.digest(step, 6) for step in range(10)]
    assert found[::-1] == [again.digest(step, 6) for step in reversed(range(10))]
    assert len(set(found) | {other.digest(step, 6) for step in range(10)}) == 20
    assert order.epoch(4, 6) == pytest.approx(1.0)
    assert {place.epoch for place in order.batch(4, 6)} == {0}
    assert {place.epoch for place in order.batch(5, 6)} == {1}
