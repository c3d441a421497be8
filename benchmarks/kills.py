"""kill -9 at random moments of `p2pkit extract` and `p2pkit train`: what is left.

Each run is a fresh process on one CPU thread, since only then training is bit-identical.
The moment is drawn uniformly over the duration of an undisturbed run, start-up included; then the
same command (with --resume for train) continues, and its result is compared with the undisturbed
one.

Example: python benchmarks/kills.py --moments 10
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click

EXTRACT = ("extract", "--dataset", "demo-scene", "--limit", "24", "--shard-size", "4")
TRAIN = ("--preset", "cpu-small", "--steps", "12", "--set", "checkpoint_every=3")
VOXELS = ("--set", "stream.sample.voxel_size=0.1", "--set", "stream.batch_size=2")


@dataclass(frozen=True)
class Outcome:
    """One kill.

    Args:
        at_s: seconds after the start of the process.
        finished: the run ended before it could be killed.
        kept: what was complete at that moment: records, or the newest checkpoint's step.
        equal: whether the result is byte-identical with that of the undisturbed run.
    """

    at_s: float
    finished: bool
    kept: int
    equal: bool


def p2pkit(*arguments: str) -> list[str]:
    """The command line of a fresh process."""
    return [sys.executable, "-m", "p2pkit.cli.main", *arguments]


def environment() -> dict[str, str]:
    """The environment: one CPU thread; this checkout first."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}


def run(command: list[str]) -> float:
    """Run to the end; return the seconds."""
    began = time.perf_counter()
    subprocess.run(command, env=environment(), check=True, capture_output=True)
    return time.perf_counter() - began


def run_killed(command: list[str], at_s: float) -> bool:
    """Start, kill after `at_s`; return whether it had ended by then."""
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, env=environment(), stdout=quiet, stderr=quiet) as process:
        try:
            process.wait(timeout=at_s)
            return True
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            return False


def files(root: Path, patterns: tuple[str, ...]) -> dict[str, bytes]:
    """The files that must be equal, by relative path."""
    found = sorted({path for pattern in patterns for path in root.glob(pattern) if path.is_file()})
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


STORE_FILES = ("p2pkit.json", "failures.jsonl", "geometry/*", "features/*/*")
RUN_FILES = ("checkpoints/step-*/weights.safetensors",)


def kill_extract(folder: Path, moments: int, draw: random.Random) -> list[Outcome]:
    """Kill extractions; `kept` counts complete shards, over both layers."""
    whole = folder / "whole.store"
    duration = run(p2pkit(*EXTRACT, "--out", str(whole)))
    expected = files(whole, STORE_FILES)
    outcomes: list[Outcome] = []
    for number in range(moments):
        out, at_s = folder / f"{number}.store", draw.uniform(0, duration)
        command = p2pkit(*EXTRACT, "--out", str(out))
        finished = run_killed(command, at_s)
        kept = len([*out.glob("geometry/*.json"), *out.glob("features/*/*.json")])
        run(command)
        outcomes.append(Outcome(at_s, finished, kept, files(out, STORE_FILES) == expected))
        shutil.rmtree(out)
    return outcomes


def kill_train(folder: Path, moments: int, draw: random.Random) -> list[Outcome]:
    """Kill trainings; `kept` is the step of the newest checkpoint."""
    store, whole = str(folder / "whole.store"), folder / "whole"
    duration = run(p2pkit("train", store, "--out", str(whole), *TRAIN, *VOXELS))
    expected = files(whole, RUN_FILES)
    outcomes: list[Outcome] = []
    for number in range(moments):
        out, at_s = folder / f"run-{number}", draw.uniform(0, duration)
        command = p2pkit("train", store, "--out", str(out), *TRAIN, *VOXELS)
        finished = run_killed(command, at_s)
        steps = [int(path.name[5:]) for path in out.glob("checkpoints/step-*")]
        run([*command, "--resume"])
        equal = files(out, RUN_FILES) == expected
        outcomes.append(Outcome(at_s, finished, max(steps, default=0), equal))
        shutil.rmtree(out)
    return outcomes


def show(title: str, unit: str, outcomes: list[Outcome]) -> None:
    """Print one table."""
    print(f"{title}\n{'killed after':>14}{unit:>26}  result")
    for outcome in sorted(outcomes, key=lambda row: row.at_s):
        result = "byte-identical" if outcome.equal else "DIFFERS"
        ended = " (had finished)" if outcome.finished else ""
        print(f"{outcome.at_s:12.2f} s{outcome.kept:>26}  {result}{ended}")


@click.command()
@click.option("--moments", default=10, show_default=True, type=click.IntRange(1))
@click.option("--seed", default=0, show_default=True)
def main(moments: int, seed: int) -> None:
    """Print both tables; exit with 1 if any result differs."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        extracted = kill_extract(Path(folder), moments, draw)
        show("extract", "complete shards kept", extracted)
        trained = kill_train(Path(folder), moments, draw)
        show("train", "newest checkpoint's step", trained)
    sys.exit(not all(outcome.equal for outcome in (*extracted, *trained)))


if __name__ == "__main__":
    main()
