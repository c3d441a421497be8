"""How much of the teacher's and the student's speed remains with p2pkit's work around them.

Extraction, against the bare teacher on the same images, decoded before the clock starts; training,
against the same steps on batches that are held in memory. Each pair alternates in one process, so
both sides share the machine's load; wall time and CPU time are given, medians over the turns.

Example: python benchmarks/throughput.py --frames 64 --steps 12 --repeat 3
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from p2pkit.datasets.frame import SourceOptions
from p2pkit.datasets.registry import open_source
from p2pkit.pipelines.extract import run as extract
from p2pkit.pipelines.train.distributed import Ranks
from p2pkit.pipelines.train.model import build_model
from p2pkit.pipelines.train.presets import preset
from p2pkit.pipelines.train.run_folder import feature_layer
from p2pkit.pipelines.train.settings import TrainConfig
from p2pkit.pipelines.train.step import Trainer
from p2pkit.settings import with_settings
from p2pkit.store.reading import open_store
from p2pkit.stream.batches import Batch, BatchStream, StreamSource
from p2pkit.teachers import TeacherOptions, open_teacher

DATA = Path(os.environ.get("P2PKIT_DATA", Path(__file__).parents[2] / "shared" / "data"))
SIMULATED_STEP_S = 0.02


@dataclass(frozen=True)
class Cost:
    """Wall and CPU seconds of one piece of work, per frame or step."""

    wall_s: float
    cpu_s: float


def timed(work: Callable[[], object], count: int) -> Cost:
    """Run once; cost per one of `count`."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Cost((time.perf_counter() - wall) / count, (time.process_time() - cpu) / count)


def medians(costs: list[Cost]) -> Cost:
    """Median of each."""
    return Cost(
        statistics.median(cost.wall_s for cost in costs),
        statistics.median(cost.cpu_s for cost in costs),
    )


def recording() -> tuple[str, Path | None]:
    """Dataset and folder: RedKitchen if available, else generated rooms."""
    folder = DATA / "7scenes_redkitchen"
    return ("posed-rgbd", folder) if folder.is_dir() else ("demo-scene", None)


def extraction(frames: int, repeat: int, work: Path) -> tuple[dict[str, Cost], Path]:
    """Cost per frame of `extract` and of the bare teacher; and the last store."""
    dataset, root = recording()
    source = open_source(dataset, SourceOptions(root=root, limit=frames))
    keys = source.keys()
    images = [source.load(key).views[0].image for key in keys]
    teacher = open_teacher(TeacherOptions())
    teacher.features(images[:2])
    costs: dict[str, list[Cost]] = {"bare teacher": [], "extract": []}
    store = work / "warm-up"
    extract.run(extract.ExtractConfig(dataset=dataset, root=root, out=store, limit=4))
    for turn in range(repeat):
        costs["bare teacher"].append(timed(lambda: teacher.features(images), len(images)))
        store = work / f"store-{turn}"
        config = extract.ExtractConfig(dataset=dataset, root=root, out=store, limit=frames)
        costs["extract"].append(timed(lambda c=config: extract.run(c), len(images)))
    return {name: medians(rows) for name, rows in costs.items()}, store


def opening(work: Path) -> float:
    """Seconds that `extract` takes before its first frame: model, weights, grid, manifest."""
    dataset, root = recording()
    config = extract.ExtractConfig(dataset=dataset, root=root, out=work / "one", limit=1)
    return timed(lambda: extract.run(config), 1).wall_s


def training(steps: int, repeat: int, store: Path) -> dict[str, Cost]:
    """Cost per step of streaming from the store and of the same batches held in memory."""
    config = with_settings(preset("cpu-small", store), (f"steps={steps * repeat}",))
    opened = open_store(store)
    layer = feature_layer(opened, None)
    samples = np.arange(opened.samples)
    costs: dict[str, list[Cost]] = {"in memory": [], "streamed": []}

    def batches(turn: int) -> Iterator[Batch]:
        stream = BatchStream([StreamSource(opened, layer, samples)], config=config.stream)
        return stream.batches(turn * steps, (turn + 1) * steps)

    channels = int(opened.layer(layer).details["channels"])
    train = _Trainer(config, channels)
    for batch in batches(0):
        train(batch)
    for turn in range(repeat):
        held = list(batches(turn))
        costs["in memory"].append(timed(lambda h=held: [train(batch) for batch in h], steps))
        costs["streamed"].append(
            timed(lambda t=turn: [train(batch) for batch in batches(t)], steps)
        )
    return {name: medians(rows) for name, rows in costs.items()}


def waiting(steps: int, step_s: float, store: Path) -> float:
    """Share of time that a consumer waits if its steps take `step_s` and no CPU time."""
    config = preset("cpu-small", store)
    opened = open_store(store)
    source = StreamSource(opened, feature_layer(opened, None), np.arange(opened.samples))
    stream = BatchStream([source], config=config.stream)
    waits: list[float] = []
    # Any consumer waits for the first batches: there is nothing to do meanwhile.
    for batch in stream.batches(0, steps + config.stream.ahead):
        waits.append(batch.wait_s)
        time.sleep(step_s)
    steady = waits[config.stream.ahead :]
    return sum(steady) / (sum(steady) + len(steady) * step_s)


class _Trainer:
    """A model that takes one training step per call."""

    def __init__(self, config: TrainConfig, channels: int) -> None:
        model = build_model(config, channels, seed=0).train()
        self._trainer = Trainer(model, config, model, Ranks())

    def __call__(self, batch: Batch) -> None:
        self._trainer.step([batch], 1e-3)


def share(costs: dict[str, Cost], ideal: str, real: str) -> dict[str, float]:
    """Rate of `real` as a fraction of the rate of `ideal`."""
    return {
        "wall": costs[ideal].wall_s / costs[real].wall_s,
        "cpu": costs[ideal].cpu_s / costs[real].cpu_s,
    }


@click.command()
@click.option("--frames", default=64, show_default=True, type=click.IntRange(8))
@click.option("--steps", default=12, show_default=True, type=click.IntRange(2))
@click.option("--repeat", default=3, show_default=True, type=click.IntRange(1))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(frames: int, steps: int, repeat: int, as_json: bool) -> None:
    """Print both rates as fractions of their ideal."""
    with tempfile.TemporaryDirectory() as folder:
        extracted, store = extraction(frames, repeat, Path(folder))
        start_s = opening(Path(folder))
        trained = training(steps, repeat, store)
        simulated = waiting(10 * steps, SIMULATED_STEP_S, store)
    results = {
        "extract / bare teacher": share(extracted, "bare teacher", "extract"),
        "streamed / in memory": share(trained, "in memory", "streamed"),
    }
    if as_json:
        costs = {name: vars(cost) for name, cost in (extracted | trained).items()}
        print(
            json.dumps({"costs": costs, "opening_s": start_s, "rates": results, "wait": simulated})
        )
        return
    for name, cost in (extracted | trained).items():
        print(f"{name:<24}{1e3 * cost.wall_s:9.1f} ms wall{1e3 * cost.cpu_s:9.1f} ms CPU")
    print(f"{'extract of one frame':<24}{1e3 * start_s:9.1f} ms wall, start included")
    for name, rates in results.items():
        print(f"{name:<24}{rates['wall']:9.2f} by wall {rates['cpu']:9.2f} by CPU time")
    print(f"waiting for data with steps of {1e3 * SIMULATED_STEP_S:.0f} ms: {simulated:.1%}")


if __name__ == "__main__":
    main()
