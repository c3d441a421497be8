"""Time and peak memory of both sparse engines on real voxels, in one run.

Each measurement runs in a fresh process: forward and backward of one student on frames of a store
(`p2pkit extract`), one thread, medians over repetitions after one for warm-up. Memory is
the growth of the process's peak (VmHWM); CPU time is user + system. The arithmetic is that of the
convolutions alone, 2 operations for each pair of voxels, input and output channel forward and twice
as many backward; the peer is torch's matrix product in the same precision, 8192 x 128 by 128 x 128.

Example: python benchmarks/engines.py rooms.store --student Res16UNet14A --frames 4
"""

import json
import statistics
import subprocess
import sys
import time
from typing import Any

import click
from losses import peak_mb

from p2pkit.networks import STUDENTS

VARIANTS = (("minkowski", "float32"), ("torch", "float32"), ("torch", "bfloat16"))
"""Engine and precision of each row. MinkowskiEngine knows float32 only; float16 is for GPUs."""


def product_rate(precision: str) -> float:
    """GFLOP/s of torch's matrix product, the best of some repetitions."""
    import torch

    dtype = getattr(torch, precision)
    rows, matrix = torch.randn(8192, 128, dtype=dtype), torch.randn(128, 128, dtype=dtype)
    best = float("inf")
    for _ in range(20):
        began = time.perf_counter()
        torch.mm(rows, matrix)
        best = min(best, time.perf_counter() - began)
    return 2 * 8192 * 128 * 128 / best / 1e9


def operations(network: Any, coordinates: Any, inputs: Any) -> int:
    """Of the convolutions, forward and backward, counted on the torch engine's kernel maps."""
    import torch

    from p2pkit.networks.engines.torch_engine import Convolution, Upsampling

    total = 0

    def count(module: Any, arguments: tuple[Any, ...], _: Any) -> None:
        nonlocal total
        (x,) = arguments
        *_, wide, narrow = module.kernel.shape
        if module.kernel.ndim == 2:
            pairs = len(x.rows)
        elif isinstance(module, Upsampling):
            maps = x.maps.kernel_map(x.stride // 2, 2, 2)
            pairs = sum(len(pair[0]) for pair in maps.pairs)
        else:
            maps = x.maps.kernel_map(x.stride, module.kernel_size, module.stride)
            pairs = sum(maps.inputs if pair is None else len(pair[0]) for pair in maps.pairs)
        total += 2 * pairs * wide * narrow

    layers = [m for m in network.modules() if isinstance(m, Convolution | Upsampling)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        network(coordinates, inputs)
    for hook in hooks:
        hook.remove()
    return 3 * total


SPARSE = [name for name in STUDENTS if not name.startswith(("PTv3", "WaffleIron"))]
"""Students that an engine computes; the others are plain torch."""


def first_frames(store: str, frames: int, voxel_size: float) -> tuple[Any, Any]:
    """(batch, x, y, z) and colours of the voxels of a store's first frames."""
    import numpy as np
    import torch

    from p2pkit.geometry.voxelize import voxel_deduplicate
    from p2pkit.pipelines.evaluate.inference import read_cloud
    from p2pkit.store.reading import open_store

    coordinates, inputs = [], []
    for index in range(frames):
        cloud = read_cloud(open_store(store), index)
        voxels = voxel_deduplicate(cloud.points, voxel_size)
        coordinates.append(np.insert(voxels.coordinates, 0, index, axis=1))
        inputs.append(cloud.colors[voxels.keep] / np.float32(127.5) - np.float32(1))
    return torch.from_numpy(np.concatenate(coordinates)), torch.from_numpy(np.concatenate(inputs))


def shares_by_operator(batch: tuple[Any, Any], student: str, repeat: int) -> dict[str, float]:
    """Share of the torch engine's CPU time in each of torch's operators, forward and backward."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from p2pkit.networks import build_student

    torch.set_num_threads(1)
    network = build_student(student, in_channels=3, engine="torch")
    network(*batch).square().mean().backward()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(repeat):
            network.zero_grad()
            network(*batch).square().mean().backward()
    times = {event.key: event.self_cpu_time_total for event in found.key_averages()}
    total = sum(times.values())
    return {name: times[name] / total for name in sorted(times, key=lambda key: -times[key])}


def measure(
    variant: str, store: str, student: str, *, frames: int, voxel_size: float, repeat: int
) -> dict[str, float]:
    """Forward and backward passes in this process."""
    import torch

    from p2pkit.networks import build_student

    torch.set_num_threads(1)
    batch = first_frames(store, frames, voxel_size)
    engine, precision = variant.split("-")
    torch.manual_seed(0)
    network = build_student(student, in_channels=3, engine=engine)
    half = None if precision == "float32" else getattr(torch, precision)
    before, times, value = peak_mb(), [], 0.0
    for _ in range(repeat + 1):
        network.zero_grad()
        began = time.process_time()
        with torch.autocast("cpu", half, enabled=half is not None):
            found = network(*batch)
        loss = found.float().square().mean()
        loss.backward()
        times.append(time.process_time() - began)
        value = loss.item()
    peak = peak_mb() - before
    counted = build_student(student, in_channels=3, engine="torch")
    rate = operations(counted, *batch) / statistics.median(times[1:]) / 1e9
    return {
        "voxels": len(batch[0]),
        "cpu_s": statistics.median(times[1:]),
        "mb": peak,
        "gflops": rate,
        "of_product": rate / product_rate(precision),
        "loss": value,
    }


@click.command()
@click.argument("store")
@click.option("--student", default="Res16UNet34C", type=click.Choice(SPARSE))
@click.option("--frames", default=2, type=click.IntRange(1))
@click.option("--voxel-size", default=0.025, help="Metres.")
@click.option("--repeat", default=3, type=click.IntRange(1))
@click.option("--profile", is_flag=True, help="Print the torch engine's time by operator instead.")
@click.option("--only", hidden=True)
def main(
    store: str,
    student: str,
    frames: int,
    voxel_size: float,
    repeat: int,
    *,
    profile: bool,
    only: str | None,
) -> None:
    """Print the table, with ratios to MinkowskiEngine."""
    if profile:
        batch = first_frames(store, frames, voxel_size)
        for name, share in list(shares_by_operator(batch, student, repeat).items())[:12]:
            click.echo(f"{share:6.1%}  {name}")
        return
    if only is not None:
        found = measure(only, store, student, frames=frames, voxel_size=voxel_size, repeat=repeat)
        click.echo(json.dumps(found))
        return
    rows = {}
    for variant in ("-".join(pair) for pair in VARIANTS):
        command = [sys.executable, "-W", "ignore", __file__, *sys.argv[1:], "--only", variant]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows[variant] = json.loads(done.stdout)
    base, plain = rows["minkowski-float32"], rows["torch-float32"]
    click.echo(
        "| engine | precision | voxels | CPU s | x minkowski | peak MB | x torch float32 "
        "| GFLOP/s | share of a matrix product | loss |"
    )
    click.echo("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for variant, row in rows.items():
        engine, precision = variant.split("-")
        click.echo(
            f"| {engine} | {precision} | {row['voxels']} | {row['cpu_s']:.2f} "
            f"| {row['cpu_s'] / base['cpu_s']:.2f} | {row['mb']:.0f} "
            f"| {row['mb'] / plain['mb']:.2f} | {row['gflops']:.1f} | {row['of_product']:.2f} "
            f"| {row['loss']:.6f} |"
        )


if __name__ == "__main__":
    main()
