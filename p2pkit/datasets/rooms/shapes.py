"""Building blocks of a generated room: parallelograms and spheres with materials, in groups."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

from p2pkit.datasets.rooms import textures as demo_textures
from p2pkit.datasets.rooms.textures import Textures

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Material:
    """How a surface looks.

    Args:
        texture: one of `textures.NAMES`.
        tint: factor per RGB channel.
        tile_m: size of one image on the surface (m); None fits the whole image to each surface.
        shift: offset into the image (images), so that two objects of a kind differ.
    """

    texture: str
    tint: Vector = (1.0, 1.0, 1.0)
    tile_m: float | None = None
    shift: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Scene:
    """A room as the ray caster reads it; `kernels` names the columns.

    Args:
        groups: bounding sphere of each group: centre and radius (m).
        group_ends: index after each group's last surface.
        surfaces: one row per parallelogram or sphere.
        is_sphere: which rows are spheres.
        materials: one row per surface.
        classes: label of each surface.
    """

    groups: Float64[np.ndarray, "groups 4"]
    group_ends: Int64[np.ndarray, " groups"]
    surfaces: Float64[np.ndarray, "surfaces 12"]
    is_sphere: Bool[np.ndarray, " surfaces"]
    materials: Float64[np.ndarray, "surfaces 9"]
    classes: UInt8[np.ndarray, " surfaces"]


@dataclass
class SceneBuilder:
    """Collects surfaces. World axes: x and y along the walls, z up (m)."""

    textures: Textures
    _rows: list[np.ndarray] = field(default_factory=list)
    _spheres: list[bool] = field(default_factory=list)
    _materials: list[np.ndarray] = field(default_factory=list)
    _classes: list[int] = field(default_factory=list)
    _corners: list[np.ndarray] = field(default_factory=list)
    _groups: list[np.ndarray] = field(default_factory=list)
    _group_ends: list[int] = field(default_factory=list)

    @contextmanager
    def group(self) -> Generator[None]:
        """Surfaces added inside share one bounding sphere, which rays test first."""
        self._corners = []
        yield
        corners = np.concatenate(self._corners)
        centre = (corners.min(axis=0) + corners.max(axis=0)) / 2
        radius = np.linalg.norm(corners - centre, axis=1).max() + 1e-6
        self._groups.append(np.append(centre, radius))
        self._group_ends.append(len(self._rows))

    def add_sheet(
        self,
        corner: np.ndarray,
        right: np.ndarray,
        down: np.ndarray,
        *,
        material: Material,
        label: int,
    ) -> None:
        """A parallelogram; the image's rows run along `right`, its columns along `down`."""
        normal = _cross(right, down)
        area = np.linalg.norm(normal)
        dual_a = _cross(down, normal) / area**2
        dual_b = _cross(normal, right) / area**2
        self._rows.append(np.concatenate([corner, normal / area, dual_a, dual_b]))
        self._spheres.append(False)
        width, height = float(np.linalg.norm(right)), float(np.linalg.norm(down))
        self._materials.append(self._material_row(material, width, height))
        self._classes.append(label)
        offsets = (corner, corner + right, corner + down, corner + right + down)
        self._corners.append(np.array(offsets))

    def add_box(
        self,
        centre: Vector,
        size: Vector,
        *,
        yaw: float,
        material: Material,
        label: int,
    ) -> None:
        """A box standing on z = `centre[2]`, turned by `yaw` about the vertical (rad).

        `centre` is the middle of its underside. Images stand upright on the sides.
        """
        width, depth, height = size
        along = np.array([np.cos(yaw), np.sin(yaw), 0.0])
        across = np.array([-np.sin(yaw), np.cos(yaw), 0.0])
        top = np.add(centre, (0.0, 0.0, height))
        down = np.array([0.0, 0.0, -height])
        for forward, right, reach, span in (
            (-across, along, depth, width),
            (across, -along, depth, width),
            (along, across, width, depth),
            (-along, -across, width, depth),
        ):
            corner = top + forward * reach / 2 - right * span / 2
            self.add_sheet(corner, right * span, down, material=material, label=label)
        corner = top - along * width / 2 + across * depth / 2
        for lift in (0.0, -height):
            lifted = np.add(corner, (0.0, 0.0, lift))
            self.add_sheet(lifted, along * width, -across * depth, material=material, label=label)

    def add_sphere(self, centre: Vector, radius: float, *, material: Material, label: int) -> None:
        """A sphere; the image wraps around it once."""
        row = np.zeros(12)
        row[:3], row[6] = centre, radius
        self._rows.append(row)
        self._spheres.append(True)
        self._materials.append(self._material_row(material, 6.28 * radius, 3.14 * radius))
        self._classes.append(label)
        self._corners.append(np.array(centre) + radius * np.array([[-1.0] * 3, [1.0] * 3]))

    def build(self) -> Scene:
        """The scene of all groups."""
        return Scene(
            groups=np.array(self._groups),
            group_ends=np.array(self._group_ends, dtype=np.int64),
            surfaces=np.array(self._rows),
            is_sphere=np.array(self._spheres),
            materials=np.array(self._materials),
            classes=np.array(self._classes, dtype=np.uint8),
        )

    def _material_row(self, material: Material, width_m: float, height_m: float) -> np.ndarray:
        texels_wide, texels_high = self.textures.size(material.texture)
        span_s, span_t = 1.0, 1.0
        if material.tile_m is not None:
            span_s = width_m / material.tile_m
            span_t = height_m / (material.tile_m * texels_high / texels_wide)
        index = demo_textures.NAMES.index(material.texture)
        texels_per_metre = texels_wide * span_s / width_m
        offset_s, offset_t = material.shift
        return np.array(
            [index, offset_s, span_s, offset_t, span_t, texels_per_metre, *material.tint]
        )


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The cross product of two vectors; `np.cross` takes ten times as long for so few numbers."""
    ax, ay, az = a.tolist()
    bx, by, bz = b.tolist()
    return np.array([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx])
