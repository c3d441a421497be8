"""The order of samples as arithmetic: a pure function of seed, epoch and shard sizes.

The training sequence is the concatenation of all epochs. Global batch `g` of `G` samples is
`sequence[g * G : (g + 1) * G]`, whatever the number of ranks and threads, so resuming needs one
integer, and an epoch's tail is never dropped.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from p2pkit.errors import ConfigError


def epoch_order(
    sizes: Int64[np.ndarray, "shards"], seed: int, epoch: int
) -> Int64[np.ndarray, "samples"]:
    """All sample ids of one epoch: shards in random order, rows of each shard in random order.

    Shards are cut from a global permutation when a store is planned, so reading them one after
    another mixes as well as a global shuffle does, and stays local.

    Args:
        sizes: samples per shard. Sample id = (samples in earlier shards) + row.
        seed: of the run.
        epoch: counts from 0.
    """
    key = np.array([seed, epoch], dtype=np.uint64)
    random = np.random.Generator(np.random.Philox(key=key))
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    parts = [
        starts[shard] + random.permutation(sizes[shard]) for shard in random.permutation(len(sizes))
    ]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Place:
    """One position of the training sequence.

    Args:
        position: place in the sequence of all epochs; seeds the sample's augmentation.
        epoch: the epoch that the position falls into.
        sample: sample id.
    """

    position: int
    epoch: int
    sample: int


class SampleOrder:
    """Which samples make up each global batch.

    Args:
        samples: ids that may be drawn (a subset of the store, say without held-out frames).
        sizes: samples per shard of the whole store.
        seed: of the run.
    """

    def __init__(
        self, samples: Int64[np.ndarray, "kept"], *, sizes: Int64[np.ndarray, "shards"], seed: int
    ) -> None:
        total = int(sizes.sum())
        if len(samples) == 0:
            raise ConfigError("no sample to train on: the store is empty or all is held out")
        self._kept = np.zeros(total, dtype=bool)
        self._kept[samples] = True
        self._sizes = sizes
        self._seed = seed
        self._epochs: dict[int, np.ndarray] = {}
        self.samples_per_epoch = int(self._kept.sum())

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

    def _place(self, position: int) -> Place:
        epoch, index = divmod(position, self.samples_per_epoch)
        if epoch not in self._epochs:
            order = epoch_order(self._sizes, self._seed, epoch)
            kept = {key: self._epochs[key] for key in self._epochs if key >= epoch - 1}
            self._epochs = {**kept, epoch: order[self._kept[order]]}
        return Place(position=position, epoch=epoch, sample=int(self._epochs[epoch][index]))


def locate(sizes: Int64[np.ndarray, "shards"], sample: int) -> tuple[int, int]:
    """(shard, row) of a sample id."""
    ends = np.cumsum(sizes)
    shard = int(np.searchsorted(ends, sample, side="right"))
    return shard, sample - int(ends[shard] - sizes[shard])
