"""On real frames: depth reaches the right colours only through color_from_depth."""

import json

import numpy as np
import pytest
from PIL import Image

from p2pkit.geometry.backproject import back_project
from p2pkit.geometry.camera import camera_from_json
from p2pkit.geometry.project import project, visible_after_occlusion

FRAMES = (0, 400, 800)


def color_edges(path):
    """Gradient magnitude of the brightness over one pixel to each side."""
    with Image.open(path) as image:
        rows, columns = np.gradient(np.asarray(image.convert("L"), np.float32))
    return np.hypot(rows, columns)


def depth_edges(depth):
    """Pixels more than 0.1 m in front of a measured neighbour; the nearer side casts the edge."""
    steps = np.zeros(depth.shape, bool)
    values = depth.astype(np.int64)
    for axis, shift in ((0, 1), (0, -1), (1, 1), (1, -1)):
        other = np.roll(values, shift, axis)
        steps |= (values > 0) & (other > values + 100)
    return steps


def edge_score(strength, pixel_uv, on_edge):
    """Mean colour gradient on depth edges as a multiple of that everywhere."""
    u, v = np.floor(pixel_uv + 0.5).astype(int).T
    found = strength[v, u]
    return found[on_edge].mean() / found.mean()


@pytest.mark.realdata
def test_registered_colors_have_their_edges_where_depth_has(data_root):
    folder = data_root / "7scenes_redkitchen"
    rig = json.loads((folder / "camera.json").read_text())
    depth_camera, color_camera = (camera_from_json(rig[name], name) for name in ("depth", "color"))
    ignored, registered = [], []
    for number in FRAMES:
        with Image.open(folder / f"frame-{number:06d}.depth.png") as image:
            depth = np.asarray(image).astype(np.uint16)
        strength = color_edges(folder / f"frame-{number:06d}.color.jpg")
        units_per_metre = float(rig["depth_units_per_metre"])
        found = back_project(depth, depth_camera, units_per_metre=units_per_metre)
        on_edge = depth_edges(depth).ravel()[found.pixel]
        v, u = np.divmod(found.pixel.astype(np.int64), depth_camera.width)
        ignored.append(edge_score(strength, np.stack([u, v], axis=1), on_edge))
        projection = project(found.points, color_camera, np.array(rig["color_from_depth"], float))
        kept = visible_after_occlusion(projection, color_camera)
        registered.append(edge_score(strength, projection.pixel_uv[kept], on_edge[kept]))
    print(f"edge score: ignored {np.mean(ignored):.2f}, registered {np.mean(registered):.2f}")
    assert np.mean(registered) > 1.25 * np.mean(ignored)
