"""Random-order verified reads against np.memmap, and writing against webdataset's TarWriter.

Generated samples of a realistic size, page cache warm, CPU seconds (user + system) of this process,
all in one run: `python benchmarks/reading.py`.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from p2pkit.shards import FieldSpec, LayerSpec, Manifest, Plan, Sample, create_or_open, open_store

POINTS = 30_000
CODED = {"pixel": "delta-shuffle-lz4", "depth": "delta-shuffle-lz4"}


def cpu_seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Least CPU time of a few runs (s)."""
    times: list[float] = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def layer(codecs: dict[str, str]) -> LayerSpec:
    """RGB-D geometry and the feature map of a small teacher, together in one layer."""
    table = (
        ("colors", "|u1", ("points", "3")),
        ("depth", "<u2", ("points",)),
        ("map", "<f2", ("views", "height", "width", "channels")),
        ("pixel", "<u4", ("points",)),
    )
    fields = [
        FieldSpec(name, dtype, axes, "", codecs.get(name, "none")) for name, dtype, axes in table
    ]
    return LayerSpec("geometry", tuple(fields), {"codecs": codecs})


def make_samples(count: int) -> list[Sample]:
    """Frames at 640 x 480 with 30k points after voxel de-duplication and a 15 x 20 x 320 map."""
    random = np.random.default_rng(0)
    samples: list[Sample] = []
    for number in range(count):
        pixel = np.sort(random.choice(640 * 480, POINTS, replace=False)).astype(np.uint32)
        depth = 2000 + 500 * np.sin(pixel / 9000) + random.normal(0, 3, POINTS)
        arrays = {
            "colors": random.integers(0, 255, (POINTS, 3)).astype(np.uint8),
            "depth": depth.astype(np.uint16),
            "map": random.normal(size=(1, 15, 20, 320)).astype(np.float16),
            "pixel": pixel,
        }
        samples.append(Sample(f"frame-{number:06d}", arrays, {"number": number}))
    return samples


def write_store(root: Path, samples: list[Sample], codecs: dict[str, str], storage: str) -> None:
    """Write all samples into shards of 64."""
    plan = Plan(0, 64, len(samples))
    writer = create_or_open(root, Manifest({"name": "benchmark"}, plan, storage, (layer(codecs),)))
    for shard in range(plan.shards):
        writer.write("geometry", shard, samples[shard * 64 : (shard + 1) * 64])


def write_memmaps(root: Path, samples: list[Sample]) -> dict[str, np.memmap]:
    """One raw file per field, as a reader without any format would have."""
    maps: dict[str, np.memmap] = {}
    for name in samples[0].arrays:
        stacked = np.stack([sample.arrays[name] for sample in samples])
        stacked.tofile(root / name)
        maps[name] = np.memmap(root / name, stacked.dtype, "r", shape=stacked.shape)
    return maps


def write_webdataset(path: Path, samples: list[Sample]) -> None:
    """The same members by webdataset's own writer."""
    from webdataset.writer import TarWriter

    with TarWriter(str(path)) as writer:
        for sample in samples:
            arrays = {f"{name}.npy": array for name, array in sample.arrays.items()}
            writer.write({"__key__": sample.key, "json": sample.meta, **arrays})


def reading(root: Path, samples: list[Sample], storages: list[str]) -> None:
    """Print the cost of reading every sample once in random order."""
    order = np.random.default_rng(1).permutation(len(samples))
    maps = write_memmaps(root, samples)
    base = cpu_seconds(lambda: [[np.array(m[i]) for m in maps.values()] for i in order])
    each = 1e6 / len(samples)
    print(f"read, np.memmap, copied out              {base * each:8.0f} us/sample      1.00 x")
    for storage in storages:
        for label, codecs in (("plain", {}), ("pixel and depth by lz4", CODED)):
            write_store(root / f"{storage}-{label}", samples, codecs, storage)
            store = open_store(root / f"{storage}-{label}")
            places = [divmod(int(i), 64) for i in order]
            took = cpu_seconds(lambda: [store.read("geometry", *p) for p in places])  # noqa: B023
            title = f"read, {storage}, verified, {label}"
            print(f"{title:<40} {took * each:8.0f} us/sample  {took / base:8.2f} x")


def writing(root: Path, samples: list[Sample], storages: list[str]) -> None:
    """Print the rate of writing all samples, in MB of arrays per CPU second."""
    megabytes = sum(array.nbytes for sample in samples for array in sample.arrays.values()) / 1e6
    base = cpu_seconds(lambda: write_webdataset(root / "webdataset.tar", samples))
    print(f"write, webdataset TarWriter              {megabytes / base:8.0f} MB/CPU-s       1.00 x")
    for storage in storages:
        folder = root / f"write-{storage}"
        took = cpu_seconds(lambda: write_store(folder, samples, {}, storage))  # noqa: B023
        title = f"write, {storage}"
        print(f"{title:<40} {megabytes / took:8.0f} MB/CPU-s   {base / took:8.2f} x")


def main() -> None:
    """Run both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--storage", nargs="+", default=["tar"])
    options = parser.parse_args()
    samples = make_samples(options.samples)
    with tempfile.TemporaryDirectory() as folder:
        reading(Path(folder), samples, options.storage)
        writing(Path(folder), samples, options.storage)


if __name__ == "__main__":
    main()
