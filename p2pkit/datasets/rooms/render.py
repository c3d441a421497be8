"""Renders a generated room as an RGB-D camera would see it, with the sensor's faults."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, UInt8, UInt16

from p2pkit.datasets.rooms import kernels as demo_kernels
from p2pkit.datasets.rooms.layout import Room
from p2pkit.datasets.rooms.textures import Textures
from p2pkit.geometry.camera import Camera

UNITS_PER_METRE = 1000.0
DEPTH_RANGE_M = (0.4, 8.0)


@dataclass(frozen=True)
class Rendering:
    """One view without sensor faults.

    Args:
        color: RGB.
        depth_m: along the optical axis (m), 0 where nothing was hit.
        labels: class of each pixel.
        facing: |cos| of the angle between the ray and the surface's normal.
    """

    color: UInt8[np.ndarray, "height width 3"]
    depth_m: Float32[np.ndarray, "height width"]
    labels: UInt8[np.ndarray, "height width"]
    facing: Float32[np.ndarray, "height width"]


def render(
    room: Room,
    textures: Textures,
    *,
    camera: Camera,
    world_from_camera: Float64[np.ndarray, "4 4"],
) -> Rendering:
    """Cast one ray per pixel; lit by the room's lamp, with hard shadows."""
    shape = (camera.height, camera.width)
    rendering = Rendering(
        color=np.zeros((*shape, 3), dtype=np.uint8),
        depth_m=np.zeros(shape, dtype=np.float32),
        labels=np.zeros(shape, dtype=np.uint8),
        facing=np.zeros(shape, dtype=np.float32),
    )
    scene = room.scene
    demo_kernels.render(
        (scene.groups, scene.group_ends, scene.surfaces, scene.is_sphere),
        (scene.materials, scene.classes, textures.texels, textures.levels),
        ((camera.fx, camera.fy, camera.cx, camera.cy), world_from_camera, room.light),
        (rendering.color, rendering.depth_m, rendering.labels, rendering.facing),
    )
    return rendering


def depth_sigma_m(depth_m: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """Standard deviation of a Kinect's depth (m): Nguyen et al., 3DIMPVT 2012, axial noise."""
    return np.float32(0.0012) + np.float32(0.0019) * (depth_m - np.float32(0.4)) ** 2


def sensor_depth(
    rendering: Rendering, rng: np.random.Generator
) -> UInt16[np.ndarray, "height width"]:
    """Depth in millimetres as a sensor gives it: noise that grows with z², and holes.

    Holes, as 0, are where nothing is in range, at grazing incidence (|cos| < 0.12, and at random up
    to 0.25), at half of the pixels on depth edges, and at 0.2 % of all pixels.
    """
    depth = rendering.depth_m
    noisy = depth + depth_sigma_m(depth) * rng.standard_normal(depth.shape, dtype=np.float32)
    chance = rng.random(depth.shape, dtype=np.float32)
    low, high = DEPTH_RANGE_M
    hole = (depth < low) | (depth > high) | (chance < 0.002)
    hole |= rendering.facing < 0.12 + 0.13 * chance
    hole |= _on_edge(depth) & (chance < 0.5)
    units = np.clip(np.round(noisy * UNITS_PER_METRE), 1, np.iinfo(np.uint16).max)
    return np.where(hole, 0, units).astype(np.uint16)


def _on_edge(depth: Float32[np.ndarray, "height width"]) -> np.ndarray:
    """Pixels whose left or upper neighbour differs by more than 5 % of the depth, and those."""
    edge = np.zeros(depth.shape, dtype=bool)
    across = np.abs(np.diff(depth, axis=1)) > 0.05 * depth[:, 1:]
    down = np.abs(np.diff(depth, axis=0)) > 0.05 * depth[1:]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge
