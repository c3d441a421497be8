"""The order of samples as arithmetic: a pure function of seed, epoch, shard sizes and weights.

Each store's own sequence is the concatenation of its epochs. A mixture gives every position of the
training sequence to one of the stores, in fixed proportions, and takes that store's next sample.
Global batch `g` of `G` samples is `sequence[g * G : (g + 1) * G]`, whatever the number of ranks and
threads, so resuming needs one integer, and an epoch's tail is never dropped.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from p2pkit.errors import ConfigError
from p2pkit.stream import order_kernels

LONGEST_PERIOD = 1 << 20
"""Largest sum of a mixture's whole weights: its table of turns then has 9 MB."""


def epoch_order(
    sizes: Int64[np.ndarray, " shards"], seed: int, epoch: int, *, source: int = 0
) -> Int64[np.ndarray, " samples"]:
    """All sample ids of one epoch: shards in random order, rows of each shard in random order.

    Shards are cut from a global permutation when a store is planned, so reading them one after
    another mixes as well as a global shuffle does, and stays local. Only the raw output of the
    Philox generator is used, which numpy keeps the same in all versions.

    Args:
        sizes: samples per shard. Sample id = (samples in earlier shards) + row.
        seed: of the run.
        epoch: counts from 0.
        source: number of the store in its mixture, so that equal stores differ in order.
    """
    key = np.array([seed, epoch + (source << 40)], dtype=np.uint64)
    random = np.random.Philox(key=key)
    starts = np.cumsum(sizes) - sizes
    shards = np.arange(len(sizes), dtype=np.int64)
    order_kernels.shuffle(shards, random.random_raw(len(sizes)))
    order = np.empty(int(sizes.sum()), dtype=np.int64)
    order_kernels.shuffle_rows(shards, starts, sizes, random.random_raw(len(order)), order)
    return order


@dataclass(frozen=True)
class Place:
    """One position of the training sequence.

    Args:
        position: place in the sequence; seeds the sample's augmentation.
        epoch: the epoch of its store that the position falls into.
        sample: sample id in its store.
        source: number of its store in the mixture.
    """

    position: int
    epoch: int
    sample: int
    source: int = 0


class SampleOrder:
    """The endless sequence of one store's samples.

    Args:
        samples: ids that may be drawn (a subset of the store, say without held-out frames).
        sizes: samples per shard of the whole store.
        seed: of the run.
        source: number of the store in its mixture.
    """

    def __init__(
        self,
        samples: Int64[np.ndarray, " kept"],
        *,
        sizes: Int64[np.ndarray, " shards"],
        seed: int,
        source: int = 0,
    ) -> None:
        total = int(sizes.sum())
        if len(samples) == 0:
            raise ConfigError("no sample to train on: the store is empty or all is held out")
        self._kept = np.zeros(total, dtype=bool)
        self._kept[samples] = True
        self._sizes, self._ends = sizes, np.cumsum(sizes)
        self._seed, self._source = seed, source
        self._epochs: dict[int, np.ndarray] = {}
        self.samples_per_epoch = int(self._kept.sum())

    def at(self, index: int) -> tuple[int, int]:
        """(epoch, sample id) of one place in the sequence of all epochs."""
        epoch, row = divmod(index, self.samples_per_epoch)
        # Another thread may replace the dictionary at any time, and it is never changed in place.
        known = self._epochs
        if epoch not in known:
            order = epoch_order(self._sizes, self._seed, epoch, source=self._source)
            recent = {key: known[key] for key in known if key >= epoch - 1}
            known = {**recent, epoch: order[self._kept[order]]}
            self._epochs = known
        return epoch, int(known[epoch][row])

    def locate(self, sample: int) -> tuple[int, int]:
        """(shard, row) of a sample id."""
        return _locate(self._sizes, self._ends, sample)


def locate(sizes: Int64[np.ndarray, " shards"], sample: int) -> tuple[int, int]:
    """(shard, row) of a sample id."""
    return _locate(sizes, np.cumsum(sizes), sample)


def _locate(
    sizes: Int64[np.ndarray, " shards"], ends: Int64[np.ndarray, " shards"], sample: int
) -> tuple[int, int]:
    shard = int(np.searchsorted(ends, sample, side="right"))
    return shard, sample - int(ends[shard] - sizes[shard])
