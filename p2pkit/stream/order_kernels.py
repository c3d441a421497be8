"""The compiled loops of the order of samples; whole numbers only, so they agree everywhere."""

import numpy as np

from p2pkit.geometry.kernels.jit import kernel


@kernel
def shuffle(values: np.ndarray, draws: np.ndarray) -> None:
    """Fisher and Yates' shuffle of int64 `values` in place, from as many random uint64 `draws`.

    The upper half of a draw picks among `n` rows with a bias of n / 2**32 at most.
    """
    for last in range(values.size - 1, 0, -1):
        other = np.int64(((draws[last] >> np.uint64(32)) * np.uint64(last + 1)) >> np.uint64(32))
        kept = values[last]
        values[last] = values[other]
        values[other] = kept


@kernel
def shuffle_rows(
    shards: np.ndarray, starts: np.ndarray, sizes: np.ndarray, draws: np.ndarray, out: np.ndarray
) -> None:
    """Fill int64 `out` with the sample ids of `shards`, one shard after the other, each shuffled.

    `starts` and `sizes` are by shard; `draws` are as many random uint64 as `out` has rows.
    """
    first = 0
    for shard in shards:
        rows = out[first : first + sizes[shard]]
        for row in range(rows.size):
            rows[row] = starts[shard] + row
        shuffle(rows, draws[first : first + rows.size])
        first += rows.size


@kernel
def earliest_deadlines(weights: np.ndarray, source: np.ndarray, turn: np.ndarray) -> None:
    """Fill one period of a mixture: whose turn each position is, and how many it had before.

    Turn j (from 0) of a source of weight w in a period of W positions may come from position
    floor(j W / w) on and must come before ceil((j + 1) W / w). Of the sources that may, the one
    that must soonest goes first; this meets every deadline, because unit jobs whose times are whole
    numbers are always met by earliest-deadline-first where they can be met at all.
    """
    period = source.size
    taken = np.zeros(weights.size, np.int64)
    for position in range(period):
        chosen = -1
        soonest = period + 1
        for i in range(weights.size):
            if taken[i] * period // weights[i] <= position:
                deadline = ((taken[i] + 1) * period + weights[i] - 1) // weights[i]
                if deadline < soonest:
                    chosen = i
                    soonest = deadline
        source[position] = chosen
        turn[position] = taken[chosen]
        taken[chosen] += 1
