"""What fault tests do in processes of their own; a script: `in_folder.py WHAT STORE [LIMIT]`."""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny_store import FAILED, FEATURES, KEYS, feature_sample, geometry_sample, manifest, write_all

from p2pkit.errors import StoreError
from p2pkit.store.manifest import plan_shards
from p2pkit.store.reading import open_store
from p2pkit.store.verifying import verify_store
from p2pkit.store.writing import create_or_open


def write_shared(root: Path, storage: str = "tar") -> None:
    """Take free shards until all are written, like a worker of `extract`."""
    writer = create_or_open(root, manifest(storage))
    shards = plan_shards(KEYS, writer.manifest.plan)
    left = set(range(len(shards)))
    while left:
        for shard in sorted(left):
            if writer.is_done("geometry", shard) and writer.is_done(FEATURES, shard):
                left.discard(shard)
                continue
            claim = writer.claim("extract", shard)
            if claim is None:
                continue
            with claim:
                good = [key for key in shards[shard] if key != FAILED]
                failed = [key for key in shards[shard] if key == FAILED]
                rows = [{"key": key, "stage": "load", "reason": "cut"} for key in failed]
                if not writer.is_done("geometry", shard):
                    writer.write("geometry", shard, map(geometry_sample, good), rows)
                if not writer.is_done(FEATURES, shard):
                    writer.write(FEATURES, shard, map(feature_sample, good))
        time.sleep(0.002)
    writer.write_failures()


def read_all(root: Path) -> None:
    """Read and verify everything."""
    assert verify_store(root, deep=True).ok
    store = open_store(root)
    for shard in range(store.manifest.plan.shards):
        for row in range(len(store.keys(shard))):
            store.read("geometry", shard, row)
            store.read(FEATURES, shard, row)


def print_refusal(root: Path) -> None:
    """Print the StoreError of writing, and fail without one."""
    try:
        write_all(root)
    except StoreError as error:
        print(error)
        return
    sys.exit("writing did not fail")


def main() -> None:
    """Do what the arguments say."""
    what, root = sys.argv[1], Path(sys.argv[2])
    if what == "write":
        write_shared(root)
    elif what == "refused":
        print_refusal(root)
    elif what == "read":
        read_all(root)
    elif what == "hold":
        claim = create_or_open(root, manifest()).claim("extract", 0)
        print("held" if claim else "refused", flush=True)
        time.sleep(60)
    print(os.uname().nodename)


if __name__ == "__main__":
    main()
