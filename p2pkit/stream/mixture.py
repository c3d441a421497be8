"""Mixing several stores: which store each sample of a batch comes from, by whole-number weights."""

from collections.abc import Sequence
from fractions import Fraction
from math import gcd, lcm
from zlib import crc32

import numpy as np

from p2pkit.errors import ConfigError
from p2pkit.stream import order_kernels
from p2pkit.stream.order import LONGEST_PERIOD, Place, SampleOrder


class MixtureOrder:
    """Which samples of which stores make up each global batch.

    Position p belongs to a store as `mixture_turns` says, repeated without end. At every prefix of
    the sequence each store's share is less than one sample away from its weight's.

    Args:
        orders: of each store.
        weights: whole number of turns of each store in a period.
    """

    def __init__(self, orders: Sequence[SampleOrder], weights: Sequence[int] = (1,)) -> None:
        self.orders = tuple(orders)
        self.weights = tuple(weights)
        if len(self.orders) != len(self.weights):
            raise ConfigError(
                f"expected one weight per store, found {len(weights)} for {len(orders)} stores"
            )
        self._source, self._turn = mixture_turns(self.weights)

    def batch(self, step: int, batch_size: int, *, rank: int = 0, ranks: int = 1) -> list[Place]:
        """The part of global batch `step` that `rank` of `ranks` works on.

        Args:
            step: global batch, counts from 0.
            batch_size: samples of the global batch, over all ranks.
            rank: this process.
            ranks: number of processes; the parts differ by at most one sample.
        """
        first, last = batch_size * rank // ranks, batch_size * (rank + 1) // ranks
        start = step * batch_size
        return [self._place(position) for position in range(start + first, start + last)]

    def digest(self, step: int, batch_size: int) -> str:
        """Eight hex digits of which frames of which stores global batch `step` holds, in order.

        Two trainings on the same stores whose digests agree have seen the same batches, whatever
        the number of processes and threads.
        """
        places = self.batch(step, batch_size)
        rows = np.array([(place.source, place.sample) for place in places], np.dtype("<i8"))
        return f"{crc32(rows.tobytes()):08x}"

    def epoch(self, step: int, batch_size: int) -> float:
        """Passes over the first store's frames up to the end of global batch `step`."""
        turns = (step + 1) * batch_size * self.weights[0] / sum(self.weights)
        return turns / self.orders[0].samples_per_epoch

    def steps_per_epoch(self, batch_size: int) -> float:
        """Global batches in a pass over the first store's frames."""
        return 1 / self.epoch(0, batch_size)

    def _place(self, position: int) -> Place:
        period, row = divmod(position, len(self._source))
        source = int(self._source[row])
        index = period * self.weights[source] + int(self._turn[row])
        epoch, sample = self.orders[source].at(index)
        return Place(position=position, epoch=epoch, sample=sample, source=source)


def mixture_turns(weights: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """One period of a mixture: of each position the store, and the store's turns before it.

    This is deficit round robin in its strict form: after any number n of positions a store of
    weight w has had floor(n w / W) or ceil(n w / W) of them, where W is the sum of all weights.

    Raises:
        ConfigError: a weight is below 1, or the weights' sum is too large for a table.
    """
    if not weights or min(weights) < 1 or sum(weights) > LONGEST_PERIOD:
        raise ConfigError(
            f"mixture weights are {list(weights)}; expected whole numbers of at least 1 with a "
            f"sum of at most {LONGEST_PERIOD}"
        )
    source = np.empty(sum(weights), np.uint16)
    turn = np.empty(sum(weights), np.int64)
    order_kernels.earliest_deadlines(np.array(weights, np.int64), source, turn)
    return source, turn


def whole_weights(weights: Sequence[float], samples: Sequence[int]) -> tuple[int, ...]:
    """Weights as the smallest whole numbers in the same proportions.

    Args:
        weights: one positive number per store, taken as the decimal that it prints as; none at all
            weighs each store by its samples, so that all epochs end together.
        samples: of each store, without held-out ones. Counts too large for a table of turns are
            rounded, to better than a millionth of the whole.

    Raises:
        ConfigError: another number of weights than of stores, one that is not positive, or
            proportions that need too large whole numbers.
    """
    if not weights:
        shrink = max(1, -(-sum(samples) // (LONGEST_PERIOD - len(samples))))
        return _lowest([max(1, round(count / shrink)) for count in samples])
    if len(weights) != len(samples):
        raise ConfigError(
            f"weights are {list(weights)} for {len(samples)} stores; give one for each store, or "
            "none to weight each by its number of frames"
        )
    if not all(0 < weight < float("inf") for weight in weights):
        raise ConfigError(f"weights are {list(weights)}; each must be a positive number")
    fractions = [Fraction(str(weight)) for weight in weights]
    common = lcm(*(fraction.denominator for fraction in fractions))
    whole = _lowest([int(fraction * common) for fraction in fractions])
    if sum(whole) > LONGEST_PERIOD:
        raise ConfigError(
            f"weights {list(weights)} are in the proportions {list(whole)}; their sum must be at "
            f"most {LONGEST_PERIOD}: round them to fewer digits"
        )
    return whole


def _lowest(numbers: Sequence[int]) -> tuple[int, ...]:
    divisor = gcd(*numbers)
    return tuple(number // divisor for number in numbers)
