"""Time p2pkit's geometry kernels against numpy, torch and open3d: one run, one core for all.

CPU time is taken, which on one core is wall time without what other processes take away.

Example: python benchmarks/geometry.py --repeat 10
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if hasattr(os, "sched_setaffinity"):  # before the imports: thread pools are sized by it
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import click
import numpy as np
import torch
from PIL import Image

from p2pkit.geometry.backproject import back_project
from p2pkit.geometry.camera import Camera
from p2pkit.geometry.kernels import occlusion as occlusion_kernels
from p2pkit.geometry.maps.sample_map import sample_map
from p2pkit.geometry.project import project, visible_after_occlusion
from p2pkit.geometry.voxelize import voxel_deduplicate

CAMERA = Camera(width=640, height=480, fx=585.0, fy=585.0, cx=320.0, cy=240.0)
UNITS_PER_METRE = 1000.0
VOXEL_SIZE = 0.025
MARGIN_M = 0.05
RUNS_PER_TURN = 5
SIDES_REACH = 6

Peers = dict[str, Callable[[], Any]]


@dataclass(frozen=True)
class Scene:
    """The input of all contenders: a frame, its points, a teacher's map, and pairs to sample."""

    source: str
    depth: np.ndarray
    image: np.ndarray
    points: np.ndarray
    feature_map: np.ndarray
    cell_uv: np.ndarray


def load_scene() -> Scene:
    """A frame of RedKitchen under $P2PKIT_DATA, else a generated slope with boxes and noise."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("P2PKIT_DATA", default)) / "7scenes_redkitchen"
    random = np.random.default_rng(0)
    if folder.is_dir():
        source = "7-Scenes RedKitchen, frame 0"
        with Image.open(folder / "frame-000000.depth.png") as opened:
            depth = np.asarray(opened).astype(np.uint16)
        with Image.open(folder / "frame-000000.color.jpg") as opened:
            image = np.asarray(opened)
    else:
        source = "generated"
        slope = np.linspace(4000, 1000, 480)[:, None] + np.zeros(640)
        for u in range(0, 640, 80):
            slope[100 : 200 + u // 4, u : u + 40] = 900 + u
        depth = (slope + random.integers(-5, 6, slope.shape)).astype(np.uint16)
        depth[random.random(depth.shape) < 0.1] = 0
        image = random.integers(0, 256, (480, 640, 3)).astype(np.uint8)
    points = back_project(depth, CAMERA, units_per_metre=UNITS_PER_METRE).points
    feature_map = random.normal(size=(15, 20, 320)).astype(np.float16)
    cell_uv = random.uniform((0, 0), (19, 14), (4096, 2))
    return Scene(source, depth, image, points, feature_map, cell_uv)


def back_projection(scene: Scene, open3d: Any) -> Peers:
    """Points and pixel index. open3d gives no index, so it does less."""
    tensor = torch.from_numpy(scene.depth.astype(np.int32))

    def by_numpy() -> Any:
        v, u = np.nonzero(scene.depth)
        z = scene.depth[v, u] / UNITS_PER_METRE
        x, y = (u - CAMERA.cx) / CAMERA.fx * z, (v - CAMERA.cy) / CAMERA.fy * z
        points = np.stack([x, y, z], axis=1).astype(np.float32)
        return points, (v * CAMERA.width + u).astype(np.uint32)

    def by_torch() -> Any:
        v, u = torch.nonzero(tensor, as_tuple=True)
        z = tensor[v, u].double() / UNITS_PER_METRE
        x, y = (u - CAMERA.cx) / CAMERA.fx * z, (v - CAMERA.cy) / CAMERA.fy * z
        return torch.stack([x, y, z], dim=1).float(), v * CAMERA.width + u

    def by_p2pkit() -> Any:
        return back_project(scene.depth, CAMERA, units_per_metre=UNITS_PER_METRE)

    peers: Peers = {"p2pkit": by_p2pkit, "numpy": by_numpy, "torch": by_torch}
    if open3d:
        depth = open3d.t.geometry.Image(scene.depth)
        cloud = open3d.t.geometry.PointCloud
        options = {"depth_scale": UNITS_PER_METRE, "depth_max": 100.0}
        matrix = CAMERA.matrix()
        peers["open3d"] = lambda: cloud.create_from_depth_image(depth, matrix, **options)
    return peers


def colored_back_projection(scene: Scene, open3d: Any) -> Peers:
    """The same, with the colour of each point."""
    plain = back_projection(scene, None)
    colors = np.ascontiguousarray(scene.image).reshape(-1, 3)
    tensor = torch.from_numpy(colors.copy())

    def by_p2pkit() -> Any:
        return back_project(scene.depth, CAMERA, units_per_metre=UNITS_PER_METRE, image=scene.image)

    peers: Peers = {
        "p2pkit": by_p2pkit,
        "numpy": lambda: [(found := plain["numpy"]()), colors[found[1]]],
        "torch": lambda: [(found := plain["torch"]()), tensor[found[1]]],
    }
    if open3d:
        image = open3d.t.geometry.RGBDImage(
            open3d.t.geometry.Image(np.ascontiguousarray(scene.image)),
            open3d.t.geometry.Image(scene.depth),
        )
        cloud = open3d.t.geometry.PointCloud
        options = {"depth_scale": UNITS_PER_METRE, "depth_max": 100.0}
        matrix = CAMERA.matrix()
        peers["open3d"] = lambda: cloud.create_from_rgbd_image(image, matrix, **options)
    return peers


def voxel_deduplication(scene: Scene, open3d: Any) -> Peers:
    """First point and link of each voxel. open3d averages and gives no links."""
    tensor = torch.from_numpy(scene.points)

    def by_numpy() -> Any:
        voxel = np.floor(scene.points.astype(np.float64) / VOXEL_SIZE).astype(np.int64)
        x, y, z = (voxel - voxel.min(axis=0)).T
        key = (x << 42) | (y << 21) | z  # ten times faster than np.unique over rows
        return np.unique(key, return_index=True, return_inverse=True)[1:]

    def by_torch() -> Any:
        voxel = torch.floor(tensor.double() / VOXEL_SIZE).long()
        x, y, z = (voxel - voxel.amin(0)).unbind(1)
        unique, inverse = torch.unique((x << 42) | (y << 21) | z, return_inverse=True)
        rows = torch.arange(len(inverse))
        first = torch.full((len(unique),), len(inverse)).scatter_reduce(0, inverse, rows, "amin")
        return first, inverse

    peers: Peers = {
        "p2pkit": lambda: voxel_deduplicate(scene.points, VOXEL_SIZE),
        "numpy": by_numpy,
        "torch": by_torch,
    }
    if open3d:
        cloud = open3d.t.geometry.PointCloud(open3d.core.Tensor(scene.points))
        peers["open3d"] = lambda: cloud.voxel_down_sample(VOXEL_SIZE)
    return peers


def occluded_projection(scene: Scene, open3d: Any) -> Peers:
    """Project, splat 3 x 3, keep the nearest. open3d makes a depth image without splat."""
    tensor = torch.from_numpy(scene.points)
    width, height = CAMERA.width, CAMERA.height

    def by_p2pkit() -> Any:
        projection = project(scene.points, CAMERA)
        return visible_after_occlusion(projection, CAMERA, margin_relative=0.0)

    def by_numpy() -> Any:
        x, y, z = scene.points.T
        u = np.floor(CAMERA.fx * x / z + CAMERA.cx + 0.5).astype(np.int64)
        v = np.floor(CAMERA.fy * y / z + CAMERA.cy + 0.5).astype(np.int64)
        inside = (z > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
        nearest = np.full((height + 2, width + 2), np.inf, np.float32)
        u, v = np.where(inside, u, 0), np.where(inside, v, 0)
        np.minimum.at(nearest, (v + 1, u + 1), np.where(inside, z, np.float32(np.inf)))
        across = np.minimum(np.minimum(nearest[:, :-2], nearest[:, 1:-1]), nearest[:, 2:])
        around = np.minimum(np.minimum(across[:-2], across[1:-1]), across[2:])
        return inside & (z - around[v, u] <= MARGIN_M)

    def by_torch() -> Any:
        x, y, z = tensor.unbind(1)
        u = torch.floor(CAMERA.fx * x / z + CAMERA.cx + 0.5).long()
        v = torch.floor(CAMERA.fy * y / z + CAMERA.cy + 0.5).long()
        inside = (z > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
        cell = torch.where(inside, v * width + u, 0)
        negative = torch.full((height * width,), -torch.inf)
        negative.scatter_reduce_(0, cell, torch.where(inside, -z, -torch.inf), "amax")
        image = negative.view(1, 1, height, width)
        around = -torch.nn.functional.max_pool2d(image, 3, stride=1, padding=1).view(-1)
        return inside & (z - around[cell] <= MARGIN_M)

    peers: Peers = {"p2pkit": by_p2pkit, "numpy": by_numpy, "torch": by_torch}
    if open3d:
        cloud = open3d.t.geometry.PointCloud(open3d.core.Tensor(scene.points))
        matrix = CAMERA.matrix()
        peers["open3d"] = lambda: cloud.project_to_depth_image(width, height, matrix)
    return peers


def sparse_occlusion(scene: Scene, open3d: Any) -> Peers:
    """How far sparse points are behind nearer ones on two opposite sides; z-buffer given."""
    projection = project(scene.points[::7], CAMERA)
    rows, columns = CAMERA.height // 2, CAMERA.width // 2
    u, v = np.floor(projection.pixel_uv.T / 2 + 0.5).astype(np.int64)
    inside = projection.visible & (u >= 0) & (u < columns) & (v >= 0) & (v < rows)
    cells = np.where(inside, v * columns + u, -1)
    depth = np.ascontiguousarray(projection.depth_m)
    nearest = np.full((rows, columns), np.inf, np.float32)
    np.minimum.at(nearest.reshape(-1), cells[inside], depth[inside])
    behind = np.empty(len(cells))

    def by_p2pkit() -> Any:
        blockers = occlusion_kernels.side_blockers(nearest, SIDES_REACH)
        occlusion_kernels.depth_behind(cells, depth, blockers.ravel(), behind)
        return behind

    def by_numpy() -> Any:
        padded = np.pad(nearest, SIDES_REACH, constant_values=np.inf)
        row, column = np.divmod(np.where(inside, cells, 0), columns)
        row, column = row + SIDES_REACH, column + SIDES_REACH
        sides = np.full((4, len(cells)), np.inf, np.float32)
        for dv in range(-SIDES_REACH, SIDES_REACH + 1):
            for du in range(-SIDES_REACH, SIDES_REACH + 1):
                if (dv, du) == (0, 0) or (dv != 0 and abs(du) > abs(dv)):
                    continue
                side = (0 if dv < 0 else 1) if dv else (2 if du < 0 else 3)
                np.minimum(sides[side], padded[row + dv, column + du], out=sides[side])
        blocker = np.minimum(np.maximum(sides[0], sides[1]), np.maximum(sides[2], sides[3]))
        blocker = np.minimum(blocker, padded[row, column])
        return np.where(inside, np.maximum(depth.astype(np.float64) - blocker, 0.0), 0.0)

    assert np.array_equal(by_p2pkit(), by_numpy())
    return {"p2pkit": by_p2pkit, "numpy": by_numpy}


def map_sampling(scene: Scene, open3d: Any) -> Peers:
    """4096 pairs in a 20 x 15 map of 320 channels, float16 in and float32 out."""
    height, width, _ = scene.feature_map.shape
    tensor, cell_uv = torch.from_numpy(scene.feature_map), torch.from_numpy(scene.cell_uv)
    size = torch.tensor([width - 1, height - 1])

    def by_numpy() -> Any:
        values = scene.feature_map.astype(np.float32)
        u, v = np.clip(scene.cell_uv, 0, (width - 1, height - 1)).T
        left, top = u.astype(np.int64), v.astype(np.int64)
        right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
        a, b = ((u - left).astype(np.float32)[:, None], (v - top).astype(np.float32)[:, None])
        upper = (1 - a) * values[top, left] + a * values[top, right]
        lower = (1 - a) * values[bottom, left] + a * values[bottom, right]
        return (1 - b) * upper + b * lower

    def by_torch() -> Any:
        grid = (2 * cell_uv / size - 1).float()[None, None]
        image = tensor.float().permute(2, 0, 1)[None]
        sampled = torch.nn.functional.grid_sample(
            image, grid, padding_mode="border", align_corners=True
        )
        return sampled[0, :, 0].T.contiguous()

    return {
        "p2pkit": lambda: sample_map(scene.feature_map, scene.cell_uv),
        "numpy": by_numpy,
        "torch": by_torch,
    }


TASKS: dict[str, Callable[[Scene, Any], Peers]] = {
    "back-projection + pixel index": back_projection,
    "back-projection + index + colours": colored_back_projection,
    "voxel de-duplication": voxel_deduplication,
    "z-buffered projection": occluded_projection,
    "occlusion of sparse points": sparse_occlusion,
    "sampling of the map": map_sampling,
}


def import_open3d() -> Any:
    """The module, or None with a line on stderr if it is missing or cannot be imported."""
    try:
        import open3d
    except (ImportError, OSError) as error:
        print(f"open3d is skipped: {error}", file=sys.stderr)
        return None
    return open3d


def medians_ms(peers: Peers, repeat: int) -> dict[str, float]:
    """Median CPU time of each contender over `repeat` turns of `RUNS_PER_TURN` runs.

    They take turns, so that all share the machine's load, and run several times in a turn, so that
    none mostly pays for caches emptied by another.
    """
    times: dict[str, list[float]] = {name: [] for name in peers}
    for turn in range(repeat + 1):
        for name, run in peers.items():
            for _ in range(RUNS_PER_TURN):
                start = time.process_time()
                result = run()
                elapsed = time.process_time() - start
                del result
                if turn:  # the first compiles and warms up
                    times[name].append(1e3 * elapsed)
    return {name: statistics.median(values) for name, values in times.items()}


@click.command()
@click.option("--repeat", default=10, show_default=True, type=click.IntRange(1))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(repeat: int, as_json: bool) -> None:
    """Print each kernel's median and the others' as multiples of it."""
    torch.set_num_threads(1)
    scene, open3d = load_scene(), import_open3d()
    results = {name: medians_ms(task(scene, open3d), repeat) for name, task in TASKS.items()}
    if as_json:
        print(json.dumps({"scene": scene.source, "repeat": repeat, "median_ms": results}))
        return
    print(
        f"{scene.source}, 640 x 480, {len(scene.points)} points; CPU time on one core, median of "
        f"{repeat} turns"
    )
    print(f"{'':34}{'p2pkit':>10}{'numpy':>9}{'torch':>9}{'open3d':>9}")
    for name, medians in results.items():
        ours = medians["p2pkit"]
        cells = [medians.get(peer) for peer in ("numpy", "torch", "open3d")]
        ratios = "".join(f"{value / ours:7.1f} ×" if value else f"{'–':>9}" for value in cells)
        print(f"{name:34}{ours:7.2f} ms{ratios}")


if __name__ == "__main__":
    main()
