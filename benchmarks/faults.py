"""Kill three writers of one store at random moments, round after round: nothing may be lost.

Each round starts a store with three workers and kills each just before a random fsync or rename,
checks that every record stands for a whole shard, lets one worker finish, and compares the store
with an uninterrupted one, byte by byte. Small stores by StoreWriter and claims, in both storages,
and the `extract` stage on a tiny recording.

Example: python benchmarks/faults.py --rounds 20 --extract-rounds 20
"""

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS / name) for name in ("faults", "pipelines", ".")]

from in_folder import write_shared  # noqa: E402  (the tests' folders are put on the path above)
from killed_at import fork, wait  # noqa: E402
from tiny_recording import recording_config, write_recording  # noqa: E402

from p2pkit.pipelines.extract import run as extract  # noqa: E402
from p2pkit.store.reading import open_store  # noqa: E402
from p2pkit.store.verifying import verify_store  # noqa: E402

WORKERS = 3
LAST_COMMIT = {"tar by claims": 30, "zarr by claims": 400, "extract": 30}
"""About as many fsyncs and renames as a single worker makes."""

Work = Callable[[Path], object]


def dies_at(work: Work, root: Path, number: int) -> Callable[[], None]:
    """`work` with its process killed just before the fsync or rename of that number."""
    left = [number]

    def count(call: Callable[..., object]) -> Callable[..., object]:
        def counted(*arguments: object) -> object:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments)

        return counted

    def patched() -> None:
        os.fsync, os.replace, os.rename = map(count, (os.fsync, os.replace, os.rename))
        work(root)

    return patched


def content(root: Path) -> dict[str, bytes]:
    """Every file of a store but the claims."""
    files = [path for path in root.rglob("*") if path.is_file() and ".claims" not in path.parts]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def half_done_shards(root: Path) -> list[str]:
    """What is wrong with shards whose record exists; missing records are not a fault."""
    if not (root / "p2pkit.json").exists():
        return []
    store = open_store(root)
    recorded = {
        (layer.name, shard)
        for layer in store.manifest.layers
        for shard in range(store.manifest.plan.shards)
        if (root / layer.name / f"{shard:06d}.json").exists()
    }
    return [
        problem.reason
        for problem in verify_store(root, deep=True).problems
        if (problem.layer, problem.shard) in recorded and "is incomplete" not in problem.reason
    ]


def check(good: bool, message: str) -> None:
    if not good:
        raise SystemExit(message)


def killed_rounds(
    work: Work, folder: Path, rounds: int, *, seed: int, last: int
) -> tuple[int, int, float]:
    """Kill and compare; (workers killed, shards complete before the last run, seconds)."""
    check(wait(fork(lambda: work(folder / "whole"))) == 0, "the uninterrupted run failed")
    whole, began = content(folder / "whole"), time.monotonic()
    draw, killed, stood = random.Random(seed), 0, 0
    for number in range(rounds):
        root = folder / f"round-{number}"
        moments = [draw.randint(1, last) for _ in range(WORKERS)]
        workers = [fork(dies_at(work, root, moment)) for moment in moments]
        codes = [wait(worker) for worker in workers]
        check(set(codes) <= {0, -signal.SIGKILL}, f"round {number}: exit codes {codes}")
        killed += sum(code != 0 for code in codes)
        stood += len(list(root.glob("geometry/*.json")))
        wrong = half_done_shards(root)
        check(not wrong, f"round {number}: {wrong}")
        check(wait(fork(lambda r=root: work(r))) == 0, f"round {number}: the last run failed")
        check(content(root) == whole, f"round {number}: other bytes than without a kill")
    return killed, stood, time.monotonic() - began


def write_zarr_shared(root: Path) -> None:
    """`write_shared` into a zarr store."""
    write_shared(root, "zarr")


@click.command()
@click.option("--rounds", default=20, show_default=True, type=click.IntRange(0))
@click.option("--extract-rounds", default=5, show_default=True, type=click.IntRange(0))
@click.option("--seed", default=0, show_default=True)
def main(rounds: int, extract_rounds: int, seed: int) -> None:
    """Print a table; stop at the first store that differs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recording = write_recording(folder / "recording", 12, sequences=3)

        def extracted(root: Path) -> None:
            extract.run(recording_config(recording, root))

        works: dict[str, tuple[Work, int]] = {
            "tar by claims": (write_shared, rounds),
            "zarr by claims": (write_zarr_shared, rounds),
            "extract": (extracted, extract_rounds),
        }
        print(f"{'work':<16}{'rounds':>8}{'killed':>8}{'shards kept':>13}{'seconds':>9}  result")
        for title, (work, count) in works.items():
            if count:
                killed, stood, took = killed_rounds(
                    work, folder / title, count, seed=seed, last=LAST_COMMIT[title]
                )
                row = f"{title:<16}{count:>8}{killed:>8}{stood:>13}{took:>9.1f}"
                print(f"{row}  equal to the byte", flush=True)


if __name__ == "__main__":
    main()
