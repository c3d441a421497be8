"""Training from a store compared with the teacher in the loop, on the same batches.

In the loop, as in SLidR's public code, each sample's images are read from the recording and the
teacher runs on them at every epoch; back-projection is repeated, too. Student, order,
augmentation and pairs are the same, and so are the batches, which is checked to the bit. Turns of
both alternate in one process; medians.

Example: python benchmarks/offline_vs_online.py --frames 32 --steps 8 --repeat 3
"""

import json
import statistics
import tempfile
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from throughput import recording

from p2pkit.datasets.frame import Frame
from p2pkit.layers.features import FeatureConfig
from p2pkit.pipelines.extract import run as extract
from p2pkit.pipelines.extract.job import Job, open_job
from p2pkit.pipelines.train.distributed import Ranks
from p2pkit.pipelines.train.model import build_model
from p2pkit.pipelines.train.presets import preset
from p2pkit.pipelines.train.run_folder import feature_layer
from p2pkit.pipelines.train.step import Trainer
from p2pkit.settings import with_settings
from p2pkit.store.manifest import GEOMETRY, Sample
from p2pkit.store.reading import Store, open_store
from p2pkit.stream.batches import BatchStream, StreamSource
from p2pkit.teachers import TeacherOptions

EPOCHS = (1, 5, 20)


class TeacherInTheLoop(Store):
    """A store that recomputes each sample from the recording when it is read."""

    def __init__(self, store: Store, job: Job) -> None:
        super().__init__(store.root, store.manifest)
        self._job = job
        self._last = threading.local()

    def read(
        self, layer: str, shard: int, row: int, fields: Collection[str] | None = None
    ) -> Sample:
        """Geometry first, then the features of the same frame in the same thread."""
        key = self.keys(shard)[row]
        if layer == GEOMETRY:
            frame = self._job.worker.recording.load(key)
            sample = self._job.worker.layers[0].encode(frame, {})
            self._last.made = (frame, sample)
            return sample
        made: tuple[Frame, Sample] = self._last.made
        if made[0].key != key:
            raise RuntimeError(f"the geometry of {key} was not read before its features")
        return self._job.worker.layers[1].encode(made[0], {GEOMETRY: made[1]})


def prepared(frames: int, teacher: TeacherOptions, work: Path) -> tuple[Store, Store, float]:
    """The extracted store, the same with the teacher in the loop, and extraction's seconds."""
    dataset, root = recording()
    features = FeatureConfig(teacher=teacher)
    config = extract.ExtractConfig(dataset, root, work / "store", features=features, limit=frames)
    began = time.perf_counter()
    extract.run(config)
    extraction_s = time.perf_counter() - began
    job = open_job(config)
    store = open_store(config.out)
    return store, TeacherInTheLoop(store, job), extraction_s


def measured(
    stores: dict[str, Store], *, steps: int, repeat: int, settings: tuple[str, ...]
) -> tuple[dict[str, float], int]:
    """Seconds per step of each, and frames per batch."""
    first = next(iter(stores.values()))
    config = with_settings(preset("cpu-small", str(first.root)), settings)
    layer = feature_layer(first, None)
    samples = np.arange(first.samples)
    streams = {
        name: BatchStream([StreamSource(store, layer, samples)], config=config.stream)
        for name, store in stores.items()
    }
    model = build_model(config, int(first.layer(layer).details["channels"]), seed=0).train()
    trainer = Trainer(model, config, model, Ranks())
    both = [next(iter(stream.batches(0, 1))) for stream in streams.values()]
    for name in ("coordinates", "inputs", "pair_voxel", "pair_feature", "pair_cell"):
        if not torch.equal(*(getattr(batch, name) for batch in both)):
            raise RuntimeError(f"the two ways make different batches: {name} differs")
    trainer.step([both[0]], 1e-3)
    times: dict[str, list[float]] = {name: [] for name in stores}
    for turn in range(repeat):
        for name, stream in streams.items():
            began = time.perf_counter()
            for batch in stream.batches(turn * steps, (turn + 1) * steps):
                trainer.step([batch], 1e-3)
            times[name].append((time.perf_counter() - began) / steps)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return medians, config.stream.batch_size


@click.command()
@click.option("--frames", default=32, show_default=True, type=click.IntRange(8))
@click.option("--steps", default=8, show_default=True, type=click.IntRange(2))
@click.option("--repeat", default=3, show_default=True, type=click.IntRange(1))
@click.option("--teacher", default=TeacherOptions().name, show_default=True)
@click.option("--weights", default="default", show_default=True, help="Weights of the teacher.")
@click.option("--input-size", nargs=2, type=int, help="Input size of the teacher (px).")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Setting of the training."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(
    frames: int, steps: int, repeat: int, settings: tuple[str, ...], as_json: bool, **asked: Any
) -> None:
    """Print time per step, and totals over some epochs with the extraction in them."""
    teacher = TeacherOptions(
        name=asked["teacher"], weights=asked["weights"], input_size=asked["input_size"]
    )
    with tempfile.TemporaryDirectory() as folder:
        store, live, extraction_s = prepared(frames, teacher, Path(folder))
        stores = {"from the store": store, "teacher in the loop": live}
        step_s, batch = measured(stores, steps=steps, repeat=repeat, settings=settings)
    per_epoch = frames / batch
    offline, online = step_s["from the store"], step_s["teacher in the loop"]
    totals = {
        epochs: (extraction_s + epochs * per_epoch * offline, epochs * per_epoch * online)
        for epochs in EPOCHS
    }
    if as_json:
        print(json.dumps({"extraction_s": extraction_s, "step_s": step_s, "totals_s": totals}))
        return
    print(f"{frames} frames, {batch} to a batch; extraction {extraction_s:.1f} s, start included")
    for name, value in step_s.items():
        print(f"{name:<22}{1e3 * value:9.1f} ms a step, x {value / offline:.2f}")
    for epochs, (ours, theirs) in totals.items():
        print(
            f"{epochs:3} epochs: {ours:8.1f} s with extraction, {theirs:8.1f} s with the teacher "
            f"in the loop, x {theirs / ours:.2f}"
        )


if __name__ == "__main__":
    main()
