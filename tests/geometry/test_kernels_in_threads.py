import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from p2pkit.geometry.backproject import back_project, back_project_pixels
from p2pkit.geometry.camera import Camera
from p2pkit.geometry.maps.sample_map import sample_map
from p2pkit.geometry.project import project, visible_after_occlusion
from p2pkit.geometry.voxelize import voxel_deduplicate

CAMERA = Camera(width=160, height=120, fx=140.0, fy=140.0, cx=79.5, cy=59.5)


def all_kernels(seed):
    random = np.random.default_rng(seed)
    depth = random.integers(0, 4000, (120, 160)).astype(np.uint16)
    found = back_project(depth, CAMERA, units_per_metre=1000.0)
    rebuilt = back_project_pixels(
        depth.ravel()[found.pixel], found.pixel, CAMERA, units_per_metre=1000.0
    )
    voxels = voxel_deduplicate(found.points, 0.05)
    projection = project(found.points, CAMERA)
    kept = visible_after_occlusion(projection, CAMERA, splat_px=2)
    feature_map = random.normal(size=(15, 20, 8)).astype(np.float16)
    sampled = sample_map(feature_map, projection.pixel_uv / 8)
    arrays = (found.points, found.pixel, rebuilt, *voxels, *projection, kept, sampled)
    return tuple(array.tobytes() for array in arrays)


def test_eight_threads_give_the_answers_of_one():
    seeds = [seed % 8 for seed in range(48)]
    alone = [all_kernels(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for seed, answer in zip(seeds, pool.map(all_kernels, seeds), strict=True):
            assert answer == alone[seed]


@pytest.mark.slow
def test_kernels_work_where_no_cache_can_be_written():
    """As in a container: no HOME, and a cache folder that even root cannot make."""
    hidden = ("HOME", "NUMBA_CACHE_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment["XDG_CACHE_HOME"] = "/proc/self/no-such-folder"
    code = """
import numpy as np
from p2pkit.geometry.kernels import jit
from p2pkit.geometry.voxelize import voxel_deduplicate
assert not jit._CACHE, "this test needs a place that cannot be written"
print(voxel_deduplicate(np.full((1, 3), -0.3, np.float32), 0.1).coordinates.tolist())
"""
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[[-4, -4, -4]]"
