"""The store against other formats on the same samples, in one run.

Samples of a realistic size: 30,000 points with colours, depth and pixel, and a 15 x 20 x 320 fp16
map. Page cache warm, local disk, one thread; CPU seconds (user + system) of this process, medians
over turns in which the formats take their place one after the other, so all share the machine's
load. First batch: wall seconds of a fresh process, its imports included.

Ours verifies the checksum of every field that is read; npz has zip's CRC-32. A peer that is not
installed is skipped with a message.

Example: python benchmarks/formats.py --samples 128 --turns 3
"""

import gc
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from p2pkit import open_zarr
from p2pkit.store.manifest import FieldSpec, LayerSpec, Manifest, Plan, Sample
from p2pkit.store.reading import open_store
from p2pkit.store.writing import create_or_open
from p2pkit.stream.order import epoch_order

POINTS = 30_000
SHARD = 64
FIELDS = ("colors", "depth", "map", "pixel")
CODED = {"pixel": "delta-shuffle-lz4", "depth": "delta-shuffle-lz4"}
Arrays = dict[str, np.ndarray]
Reader = Callable[[int], Arrays]


def make_samples(count: int) -> list[Sample]:
    """Frames at 640 x 480 with 30k points after voxel de-duplication and a 15 x 20 x 320 map."""
    generator = np.random.default_rng(0)
    samples: list[Sample] = []
    for number in range(count):
        pixel = np.sort(generator.choice(640 * 480, POINTS, replace=False)).astype(np.uint32)
        depth = 2000 + 500 * np.sin(pixel / 9000) + generator.normal(0, 3, POINTS)
        arrays = {
            "colors": generator.integers(0, 255, (POINTS, 3)).astype(np.uint8),
            "depth": depth.astype(np.uint16),
            "map": generator.normal(size=(1, 15, 20, 320)).astype(np.float16),
            "pixel": pixel,
        }
        samples.append(Sample(f"frame-{number:06d}", arrays, {"number": number}))
    return samples


def _write_store(root: Path, samples: list[Sample], storage: str, codecs: dict[str, str]) -> None:
    table = (
        ("colors", "|u1", ("points", "3")),
        ("depth", "<u2", ("points",)),
        ("map", "<f2", ("views", "height", "width", "channels")),
        ("pixel", "<u4", ("points",)),
    )
    fields = [
        FieldSpec(name, dtype, axes, "", codecs.get(name, "none")) for name, dtype, axes in table
    ]
    layer = LayerSpec("geometry", tuple(fields), {"codecs": codecs})
    plan = Plan(0, SHARD, len(samples))
    writer = create_or_open(root, Manifest({"name": "benchmark"}, plan, storage, (layer,)))
    for shard in range(plan.shards):
        writer.write("geometry", shard, samples[shard * SHARD : (shard + 1) * SHARD])


def _open_store(root: Path, count: int) -> Reader:
    store = open_store(root)
    return lambda i: store.read("geometry", *divmod(i, SHARD)).arrays


def _open_view(root: Path, count: int) -> Reader:
    """The tar shards through zarr: `p2pkit.open_zarr`."""
    import zarr

    samples: Any = zarr.open_group(open_zarr(root), mode="r")["geometry/samples"]
    keys = [key for shard in open_store(root).all_keys() for key in shard]
    arrays = [{name: samples[f"{key}/{name}"] for name in FIELDS} for key in keys]
    return lambda i: {name: np.array(stored[:]) for name, stored in arrays[i].items()}


def _write_memmap(root: Path, samples: list[Sample]) -> None:
    for name in FIELDS:
        np.stack([sample.arrays[name] for sample in samples]).tofile(root / name)


def _open_memmap(root: Path, count: int) -> Reader:
    shapes = {"colors": (POINTS, 3), "depth": (POINTS,), "map": (1, 15, 20, 320)}
    types = {"colors": np.uint8, "depth": np.uint16, "map": np.float16, "pixel": np.uint32}
    maps = {
        name: np.memmap(root / name, types[name], "r", shape=(count, *shapes.get(name, (POINTS,))))
        for name in FIELDS
    }
    return lambda i: {name: np.array(stored[i]) for name, stored in maps.items()}


def _write_webdataset(root: Path, samples: list[Sample]) -> None:
    from webdataset.writer import TarWriter

    for shard in range(0, len(samples), SHARD):
        with TarWriter(str(root / f"{shard // SHARD:06d}.tar")) as writer:
            for sample in samples[shard : shard + SHARD]:
                arrays = {f"{name}.npy": array for name, array in sample.arrays.items()}
                writer.write({"__key__": sample.key, "json": sample.meta, **arrays})


def _scan_webdataset(root: Path, count: int) -> Iterator[Arrays]:
    import webdataset

    urls = sorted(map(str, root.glob("*.tar")))
    for row in webdataset.WebDataset(urls, shardshuffle=False).decode():  # pyright: ignore[reportAttributeAccessIssue]
        yield {name: row[f"{name}.npy"] for name in FIELDS}


def _write_npz(root: Path, samples: list[Sample]) -> None:
    for number, sample in enumerate(samples):
        np.savez(root / f"{number:06d}.npz", **sample.arrays)  # pyright: ignore[reportArgumentType]


def _open_npz(root: Path, count: int) -> Reader:
    def read(number: int) -> Arrays:
        with np.load(root / f"{number:06d}.npz", allow_pickle=False) as file:
            return {name: file[name] for name in FIELDS}

    return read


def _write_arrow(root: Path, samples: list[Sample]) -> None:
    import pyarrow as pa

    schema = pa.schema([(name, pa.binary()) for name in FIELDS])
    with (
        pa.OSFile(str(root / "data.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        for sample in samples:
            columns = [_arrow_binary(sample.arrays[name]) for name in FIELDS]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def _arrow_binary(array: np.ndarray) -> Any:
    """One binary value that shares the array's memory."""
    import pyarrow as pa

    ends = pa.py_buffer(np.array([0, array.nbytes], np.int32))
    return pa.Array.from_buffers(pa.binary(), 1, [None, ends, pa.py_buffer(array)])


def _open_arrow(root: Path, count: int) -> Reader:
    import pyarrow as pa

    file = pa.ipc.open_file(pa.memory_map(str(root / "data.arrow")))

    def read(number: int) -> Arrays:
        batch = file.get_batch(number)
        columns = [np.frombuffer(batch.column(i)[0].as_buffer(), np.uint8) for i in range(4)]
        return _shaped(dict(zip(FIELDS, columns, strict=True)))

    return read


def _shaped(raw: Arrays) -> Arrays:
    """Arrays copied from raw bytes."""
    return {
        "colors": np.array(raw["colors"]).reshape(POINTS, 3),
        "depth": np.array(raw["depth"]).view(np.uint16),
        "map": np.array(raw["map"]).view(np.float16).reshape(1, 15, 20, 320),
        "pixel": np.array(raw["pixel"]).view(np.uint32),
    }


def _write_litdata(root: Path, samples: list[Sample]) -> None:
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(root), chunk_size=SHARD)
    for number, sample in enumerate(samples):
        writer[number] = dict(sample.arrays)
    writer.done()
    writer.merge()


def _open_litdata(root: Path, count: int) -> Reader:
    from litdata import StreamingDataset

    dataset = StreamingDataset(str(root), shuffle=False)

    def read(number: int) -> Arrays:
        row: Any = dataset[number]
        return {name: np.array(row[name]) for name in FIELDS}

    return read


def _write_mds(root: Path, samples: list[Sample]) -> None:
    from streaming import MDSWriter

    columns = dict.fromkeys(FIELDS, "ndarray")
    with MDSWriter(out=str(root), columns=columns, size_limit=1 << 26) as writer:
        for sample in samples:
            writer.write(sample.arrays)


def _open_mds(root: Path, count: int) -> Reader:
    from streaming import StreamingDataset

    dataset = StreamingDataset(local=str(root), shuffle=False, batch_size=1)
    return lambda i: dict(dataset[i])


@dataclass(frozen=True)
class Format:
    """One way to store samples.

    Args:
        write: writes samples into an empty folder.
        open: gives a reader of any sample; None if only a scan from the start is possible.
        scan: reads all samples in stored order; None reads them one by one.
        needs: the module that must be installed.
        install: the command that installs it.
    """

    write: Callable[[Path, list[Sample]], None]
    open: Callable[[Path, int], Reader] | None
    scan: Callable[[Path, int], Iterator[Arrays]] | None = None
    needs: str = "numpy"
    install: str = ""


BENCH = "pip install 'p2pkit[bench]'"
FORMATS = {
    "np.memmap": Format(_write_memmap, _open_memmap),
    "p2pkit tar": Format(lambda root, rows: _write_store(root, rows, "tar", {}), _open_store),
    "p2pkit tar, lz4": Format(
        lambda root, rows: _write_store(root, rows, "tar", CODED), _open_store
    ),
    "p2pkit zarr": Format(lambda root, rows: _write_store(root, rows, "zarr", {}), _open_store),
    "zarr view of tar": Format(lambda root, rows: _write_store(root, rows, "tar", {}), _open_view),
    "webdataset": Format(_write_webdataset, None, _scan_webdataset, "webdataset", BENCH),
    "npz": Format(_write_npz, _open_npz),
    "Arrow IPC": Format(_write_arrow, _open_arrow, needs="pyarrow", install=BENCH),
    "LitData": Format(_write_litdata, _open_litdata, needs="litdata", install=BENCH),
    "MosaicML MDS": Format(
        _write_mds,
        _open_mds,
        needs="streaming",
        install="not possible with this numpy and xxhash: mosaicml-streaming pins older ones",
    ),
}
"""In every format the reader copies what it reads: a training step changes its arrays."""


@dataclass
class Costs:
    """CPU seconds per sample of each turn, wall seconds to a first batch, and bytes per sample."""

    write: list[float] = field(default_factory=list)
    scan: list[float] = field(default_factory=list)
    random: list[float] = field(default_factory=list)
    first_s: float = 0.0
    bytes: float = 0.0


def cpu_each(work: Callable[[], object], count: int) -> float:
    """CPU seconds of one of `count`."""
    gc.collect()
    start = time.process_time()
    work()
    return (time.process_time() - start) / count


def _drain(rows: Iterable[object]) -> None:
    for _ in rows:
        pass


def one_turn(name: str, root: Path, samples: list[Sample], costs: Costs, turn: int) -> None:
    """Write, scan and read one format once; the folder of the last turn stays.

    A first writing is thrown away: a virtual machine's host must hand over memory for the page
    cache, which can cost more than everything else; later writers reuse that memory.
    """
    form, count, out = FORMATS[name], len(samples), root / f"{name} {turn}"
    with tempfile.TemporaryDirectory(dir=root) as thrown_away:
        form.write(Path(thrown_away), samples)
    out.mkdir()
    costs.write.append(cpu_each(lambda: form.write(out, samples), count))
    costs.bytes = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / count
    if form.scan is not None:
        scan = form.scan
        _drain(scan(out, count))
        costs.scan.append(cpu_each(lambda: _drain(scan(out, count)), count))
    if form.open is not None:
        read = form.open(out, count)
        order = np.random.default_rng(turn).permutation(count).tolist()
        _drain(read(i) for i in range(count))
        costs.scan.append(cpu_each(lambda: _drain(read(i) for i in range(count)), count))
        costs.random.append(cpu_each(lambda: _drain(read(i) for i in order), count))


def check(name: str, root: Path, samples: list[Sample]) -> None:
    """Stop if a format does not give back what was written."""
    form, count = FORMATS[name], len(samples)
    rows = form.scan(root, count) if form.scan else map(form.open(root, count), range(count))  # pyright: ignore
    for sample, arrays in zip(samples, rows, strict=True):
        if any(not np.array_equal(sample.arrays[field], arrays[field]) for field in FIELDS):
            raise SystemExit(f"{name} gives other values than were written for {sample.key}")


def first_batch_s(name: str, root: Path, count: int) -> float:
    """Wall seconds until a fresh process holds the first 24 samples of a random order."""
    began = time.perf_counter()
    command = [sys.executable, __file__, "--first-of", name, "--root", str(root)]
    subprocess.run([*command, "--samples", str(count)], check=True)
    return time.perf_counter() - began


def read_first(name: str, root: Path, count: int) -> None:
    """The child process of `first_batch_s`."""
    form = FORMATS[name]
    if form.open is None:
        assert form.scan is not None
        rows = form.scan(root, count)
        _drain(next(rows) for _ in range(min(24, count)))
        return
    read = form.open(root, count)
    order = random.Random(0).sample(range(count), min(24, count))
    _drain(read(i) for i in order)


def installed(names: Iterable[str]) -> list[str]:
    """The formats that can run here; prints why each other one is skipped."""
    found: list[str] = []
    for name in names:
        try:
            __import__(FORMATS[name].needs)
            found.append(name)
        except ImportError as error:
            print(f"{name} is skipped: {error}; to install: {FORMATS[name].install}")
    return found


def peak_mb() -> float:
    """Peak resident memory of this process so far (MB); Linux only.

    Not `ru_maxrss`: a child's starts at its parent's peak.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def memory_growth(root: Path, count: int) -> tuple[float, float]:
    """Growth of the peak memory (MB) while reading all samples once, and ten times more often."""
    script = (
        "import sys, json; sys.path.insert(0, sys.argv[3]); import formats as f; from pathlib "
        "import Path; n = int(sys.argv[2]); read = f._open_store(Path(sys.argv[1]), n)\n"
        "read(0); start = f.peak_mb(); f._drain(read(i) for i in range(n)); once = f.peak_mb()\n"
        "f._drain(read(i % n) for i in range(10 * n))\n"
        "print(json.dumps([once - start, f.peak_mb() - start]))"
    )
    command = [sys.executable, "-c", script, str(root), str(count), str(Path(__file__).parent)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    once, ten = json.loads(done.stdout)
    return once, ten


def order_s(samples: int = 10_000_000, shard: int = 128) -> float:
    """CPU seconds of the order of one epoch."""
    sizes = np.full(-(-samples // shard), shard, np.int64)
    return cpu_each(lambda: epoch_order(sizes, 0, 0), 1)


def table(costs: dict[str, Costs], megabytes: float) -> str:
    """The figures as a Markdown table; the ratios are to np.memmap and to webdataset."""

    def middle(values: list[float]) -> float:
        return statistics.median(values) if values else float("nan")

    base, peer = middle(costs["np.memmap"].random), costs.get("webdataset", Costs())
    lines = [
        "| format | write, MB/CPU s | × webdataset | in order, µs | × faster than webdataset | "
        "random, µs | ÷ memmap | first batch, s | MB/sample |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, cost in costs.items():
        write, scan, rand = middle(cost.write), middle(cost.scan), middle(cost.random)
        cells = [
            f"{megabytes / write:.0f}",
            f"{middle(peer.write) / write:.1f}",
            f"{1e6 * scan:.0f}",
            f"{middle(peer.scan) / scan:.1f}",
            f"{1e6 * rand:.0f}",
            f"{rand / base:.2f}",
            f"{cost.first_s:.2f}",
            f"{cost.bytes / 1e6:.3f}",
        ]
        lines.append("| " + " | ".join([name, *cells]).replace("nan", "–") + " |")
    return "\n".join(lines)


@click.command()
@click.option("--samples", default=128, show_default=True, type=click.IntRange(8))
@click.option("--turns", default=3, show_default=True, type=click.IntRange(1))
@click.option("--format", "names", multiple=True, type=click.Choice(list(FORMATS)))
@click.option("--first-of", hidden=True)
@click.option("--root", hidden=True, type=click.Path(path_type=Path))
def main(
    samples: int, turns: int, names: tuple[str, ...], first_of: str | None, root: Path | None
) -> None:
    """Print all figures."""
    if first_of is not None and root is not None:
        read_first(first_of, root, samples)
        return
    chosen = installed(dict.fromkeys(["np.memmap", *(names or FORMATS)]))
    rows = make_samples(samples)
    costs: dict[str, Costs] = {name: Costs() for name in chosen}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(turns):
            for name in chosen:
                one_turn(name, Path(folder), rows, costs[name], turn)
        for name in chosen:
            last = Path(folder) / f"{name} {turns - 1}"
            check(name, last, rows)
            costs[name].first_s = first_batch_s(name, last, samples)
        grown: dict[str, Any] = {
            name: memory_growth(Path(folder) / f"{name} {turns - 1}", samples)
            for name in chosen
            if name.startswith("p2pkit")
        }
    megabytes = sum(array.nbytes for array in rows[0].arrays.values()) / 1e6
    print(table(costs, megabytes))
    for name, (once, ten) in grown.items():
        print(f"peak memory, {name}: +{once:.1f} MB over all samples, +{ten:.1f} MB over 10 × them")
    print(f"order of 10,000,000 samples in shards of 128: {order_s():.2f} CPU s")


if __name__ == "__main__":
    main()
