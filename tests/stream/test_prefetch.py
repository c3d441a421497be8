import threading
import time
from collections.abc import Iterator
from itertools import count, islice

import pytest

from p2pkit.stream.prefetch import ordered_map


def slow_if_even(item: int) -> int:
    time.sleep(0.004 if item % 2 == 0 else 0)
    return item * item


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("ahead", [1, 4, 100])
def test_results_come_in_the_order_of_the_items(threads: int, ahead: int) -> None:
    results = ordered_map(slow_if_even, range(30), threads=threads, ahead=ahead)
    assert list(results) == [item * item for item in range(30)]


def test_no_items_give_nothing() -> None:
    assert list(ordered_map(slow_if_even, [], threads=2, ahead=3)) == []


@pytest.mark.parametrize("ahead", [1, 3])
def test_endless_items_are_taken_only_a_little_ahead(ahead: int) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in count():
            taken.append(item)
            yield item

    results = ordered_map(lambda item: item, items(), threads=2, ahead=ahead)
    for asked in range(1, 20):
        next(results)
        assert len(taken) <= asked + ahead
    results.close()


def test_work_goes_on_while_nobody_asks() -> None:
    done = threading.Event()
    results = ordered_map(
        lambda item: done.set() if item == 3 else None, count(), threads=2, ahead=3
    )
    next(results)
    assert done.wait(5)
    results.close()


def test_an_exception_comes_at_its_items_turn() -> None:
    def fail_at_three(item: int) -> int:
        if item == 3:
            raise KeyError("three")
        return item

    results = ordered_map(fail_at_three, range(10), threads=2, ahead=6)
    assert list(islice(results, 3)) == [0, 1, 2]
    with pytest.raises(KeyError, match="three"):
        next(results)


def test_an_exception_of_the_items_comes_through() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        list(ordered_map(lambda item: item, items(), threads=1, ahead=2))


def test_closing_drops_what_has_not_begun() -> None:
    begun: list[int] = []
    gate = threading.Event()

    def wait(item: int) -> int:
        begun.append(item)
        if item:
            gate.wait(5)
        return item

    results = ordered_map(wait, range(50), threads=1, ahead=40)
    assert next(results) == 0
    threading.Timer(0.05, gate.set).start()
    results.close()
    assert len(begun) <= 2
    names = [thread.name for thread in threading.enumerate()]
    assert not any(name.startswith("p2pkit-prefetch") for name in names)
