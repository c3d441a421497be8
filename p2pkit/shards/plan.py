"""Which frames go into which shard."""

from collections.abc import Sequence

import xxhash

from p2pkit.errors import StoreError
from p2pkit.shards.model import Plan


def plan_shards(keys: Sequence[str], plan: Plan) -> list[list[str]]:
    """Permute the frame list by a seeded hash and cut it into runs of `plan.shard_size`.

    The order is that of xxh3-64 of `"<seed>:<key>"`, ties by key, so it does not depend on the
    order of `keys`, and reading shards one after the other is already as mixed as a global shuffle.

    Raises:
        StoreError: `keys` repeats a key or has another length than `plan.frames`.
    """
    if len(keys) != plan.frames:
        raise StoreError(f"the plan is for {plan.frames} frames; the frame list has {len(keys)}")
    if len(set(keys)) != len(keys):
        twice = sorted({key for key in keys if keys.count(key) > 1})[:3]
        raise StoreError(f"the frame list repeats keys, such as {twice}; each key names one sample")

    def position(key: str) -> tuple[int, str]:
        return xxhash.xxh3_64_intdigest(f"{plan.seed}:{key}".encode()), key

    order, size = sorted(keys, key=position), plan.shard_size
    return [order[first : first + size] for first in range(0, plan.frames, size)]
