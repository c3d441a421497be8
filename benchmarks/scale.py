"""What large recordings cost: per frame, per byte, and in the metadata of stores of many samples.

`frames`: CPU seconds and bytes per frame of real recordings, the teacher's share given separately,
because only that share runs on a GPU. `metadata`: stores of many samples whose records are real
except for their numbers (a real shard's record, once for each planned shard; the shards do not
exist), so that what scales with the number of shards can be measured without terabytes.

Example: python benchmarks/scale.py --samples 1000 --samples 100000
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np

from p2pkit.files import canonical_json
from p2pkit.layers.features import FeatureLayer, frame_maps
from p2pkit.pipelines.evaluate.inference import read_cloud
from p2pkit.pipelines.extract import run as extract
from p2pkit.pipelines.extract.job import open_job, take
from p2pkit.store.location import MANIFEST, record_path
from p2pkit.store.manifest import GEOMETRY, Plan, plan_shards
from p2pkit.store.reading import open_store
from p2pkit.store.records import ShardRecord
from p2pkit.store.strict_json import sealed
from p2pkit.stream.order import epoch_order

T = TypeVar("T")
DATA = Path(os.environ.get("P2PKIT_DATA", Path(__file__).parents[2] / "shared" / "data"))
RECORDINGS = {
    "7-Scenes RedKitchen": ("posed-rgbd", "7scenes_redkitchen"),
    "PandaSet 002": ("pandaset", "pandaset"),
}


@dataclass(frozen=True)
class FrameCost:
    """Means over the frames of one recording.

    Args:
        images: per frame.
        points: of the cloud, per frame.
        own_cpu_s: reading, geometry, codecs and writing.
        loading_cpu_s: the part of `own_cpu_s` that reads the recording.
        teacher_cpu_s: the teacher, on the CPU.
        geometry_bytes, feature_bytes: of the shards, all their tables included.
    """

    images: float
    points: float
    own_cpu_s: float
    loading_cpu_s: float
    teacher_cpu_s: float
    geometry_bytes: float
    feature_bytes: float


@dataclass(frozen=True)
class Metadata:
    """Costs of one store.

    Args:
        shards: of one layer.
        records_bytes: of one layer's records.
        index_bytes: of the tables in the shards, of both layers.
        plan_s: dividing the list of frames into shards.
        open_s: manifest and all records of one layer, read for the first time by this process.
        order_s: one epoch's order.
        opened: files that were opened for it.
        listed: folders that were listed for it.
    """

    shards: int
    records_bytes: int
    index_bytes: float
    plan_s: float
    open_s: float
    order_s: float
    opened: int
    listed: int


class Watch:
    """Counts files opened and folders listed beneath a folder."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.opened = self.listed = 0
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None or event not in ("open", "os.listdir", "os.scandir"):
            return
        if str(arguments[0]).startswith(self.folder):
            self.opened += event == "open"
            self.listed += event != "open"


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """The result of a call, and its wall seconds."""
    began = time.perf_counter()
    result = work()
    return result, time.perf_counter() - began


def frame_cost(dataset: str, root: Path | None, frames: int, out: Path) -> FrameCost:
    """Run the teacher over the first frames, then extract them with its cached maps."""
    config = extract.ExtractConfig(dataset=dataset, root=root, out=out, limit=frames)
    extract.run(replace(config, limit=2, out=out.with_suffix(".warm")))
    job = open_job(config)
    features = job.worker.layers[1]
    assert isinstance(features, FeatureLayer)
    keys = [key for shard in job.shards for key in shard]
    began = time.process_time()
    loaded = {key: job.worker.recording.load(key) for key in keys}
    loading = time.process_time() - began
    began = time.process_time()
    features.maps.update((key, frame_maps(features.teacher, loaded[key])) for key in keys)
    teacher = time.process_time() - began
    began = time.process_time()
    for shard in range(len(job.shards)):
        take(job, shard)
    own = time.process_time() - began
    store = open_store(out)
    sizes = {x.name: sum(r.bytes for r in store.records(x.name)) for x in store.manifest.layers}
    points = [len(read_cloud(store, sample).points) for sample in range(store.samples)]
    return FrameCost(
        images=statistics.mean(len(frame.views) for frame in loaded.values()),
        points=statistics.mean(points),
        own_cpu_s=own / len(keys),
        loading_cpu_s=loading / len(keys),
        teacher_cpu_s=teacher / len(keys),
        geometry_bytes=sizes[GEOMETRY] / store.samples,
        feature_bytes=sizes[store.feature_layers[0]] / store.samples,
    )


def metadata(samples: int, shard_size: int, model: Path, root: Path, watch: Watch) -> Metadata:
    """A store of `samples` samples with the records, but not the shards, of a real one."""
    real = open_store(model)
    plan = Plan(seed=0, shard_size=shard_size, frames=samples)
    manifest = replace(real.manifest, plan=plan)
    keys = [f"scene0000_00-{number:08d}" for number in range(samples)]
    shards, plan_s = timed(lambda: plan_shards(keys, plan))
    root.mkdir()
    (root / MANIFEST).write_text(canonical_json(sealed(manifest.to_json())))
    record = real.record(GEOMETRY, 0)
    (root / GEOMETRY).mkdir()
    written = sum(_write_record(root, n, keys, record) for n, keys in enumerate(shards))
    watch.folder, watch.opened, watch.listed = str(root), 0, 0
    sizes, open_s = timed(lambda: open_store(root).sizes())
    watch.folder = None
    epoch_order(sizes[:1], seed=0, epoch=0)  # compiles it
    order, order_s = timed(lambda: epoch_order(sizes, seed=0, epoch=1))
    if len(order) != samples:
        raise RuntimeError(f"the order has {len(order)} of {samples} samples")
    tables = (member.length for x in real.manifest.layers for member in _tables(real, x.name))
    return Metadata(
        shards=len(shards),
        records_bytes=written,
        index_bytes=sum(tables) / real.samples * samples,
        plan_s=plan_s,
        open_s=open_s,
        order_s=order_s,
        opened=watch.opened,
        listed=watch.listed,
    )


def _tables(store: Any, layer: str) -> list[Any]:
    return [member for row in store.records(layer) for member in row.members.values()]


def _write_record(root: Path, shard: int, keys: list[str], like: ShardRecord) -> int:
    """As `ShardRecord.write`, without waiting for the disk; the number of bytes."""
    record = replace(like, samples=len(keys), first_key=keys[0], last_key=keys[-1], failures=())
    value = {**asdict(record), "failures": [], "format_version": 1}
    return record_path(root, GEOMETRY, shard).write_text(canonical_json(sealed(value)))


@click.command()
@click.option("--frames", default=32, show_default=True, type=click.IntRange(8))
@click.option("--samples", multiple=True, type=click.IntRange(1), default=(1000, 10_000, 100_000))
@click.option("--shard-size", default=64, show_default=True, type=click.IntRange(1))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(frames: int, samples: tuple[int, ...], shard_size: int, as_json: bool) -> None:
    """Print both tables."""
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        costs: dict[str, FrameCost] = {}
        for number, (title, (dataset, path)) in enumerate(RECORDINGS.items()):
            if (DATA / path).is_dir():
                cost = frame_cost(dataset, DATA / path, frames, work / f"{number}.store")
                costs[title] = cost
        if not costs:
            costs["demo-scene"] = frame_cost("demo-scene", None, frames, work / "0.store")
        stores = {
            count: metadata(count, shard_size, work / "0.store", work / f"simulated-{count}", watch)
            for count in samples
        }
    if as_json:
        rows = {"frames": costs, "metadata": stores}
        print(json.dumps({k: {n: asdict(v) for n, v in x.items()} for k, x in rows.items()}))
        return
    for title, cost in costs.items():
        print(f"{title}: {np.round(cost.images, 1)} images and {cost.points:.0f} points a frame")
        print(
            f"  CPU s: {cost.own_cpu_s:.3f} own, {cost.loading_cpu_s:.3f} of it reading; "
            f"{cost.teacher_cpu_s:.3f} teacher"
        )
        print(f"  kB: {cost.geometry_bytes / 1e3:.0f} geometry, {cost.feature_bytes / 1e3:.0f} map")
    print("  samples  shards  records MB  tables MB  plan s  open s  order s  opened  listed")
    for count, row in stores.items():
        print(
            f"{count:9}{row.shards:8}{row.records_bytes / 1e6:12.2f}{row.index_bytes / 1e6:11.1f}"
            f"{row.plan_s:8.2f}{row.open_s:8.2f}{row.order_s:9.3f}{row.opened:8}{row.listed:8}"
        )


if __name__ == "__main__":
    main()
