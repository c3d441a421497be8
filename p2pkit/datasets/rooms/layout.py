"""Lays out a furnished room and a camera's way through it, all from a random generator."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from p2pkit.datasets.boxes import Annotation
from p2pkit.datasets.rooms.furniture import (
    CLOTHS,
    LABELS,
    Decorator,
    Place,
    add_ball,
    add_bed,
    add_bookshelf,
    add_cabinet,
    add_carton,
    add_chair,
    add_picture,
    add_table,
)
from p2pkit.datasets.rooms.shapes import Material, Scene, SceneBuilder
from p2pkit.datasets.rooms.textures import Textures

PICTURES = ("astronaut", "camera", "cat", "china", "coffee", "flower", "rocket")
# Paints, papers and floors as rooms have them (RGB, 0 to 1).
WALL_COLORS = (
    (0.84, 0.82, 0.77),
    (0.62, 0.72, 0.78),
    (0.66, 0.74, 0.6),
    (0.83, 0.72, 0.52),
    (0.76, 0.58, 0.52),
    (0.6, 0.58, 0.66),
)
CEILING_COLOR, SKIRTING_COLOR = (0.84, 0.84, 0.82), (0.85, 0.84, 0.81)
FLOOR_COLORS = ((0.5, 0.33, 0.2), (0.62, 0.46, 0.3), (0.38, 0.26, 0.18), (0.58, 0.5, 0.42))
PAPERS = ("striped paper", "damask paper")
_CLEARANCE_M = 0.45


@dataclass(frozen=True)
class Room:
    """A generated room.

    Args:
        scene: its surfaces; the floor is z = 0 and a corner of it the origin (m).
        size: extent along x, y and z (m).
        light: position of the lamp (m).
        poses: world_from_camera of each frame.
        boxes: of its objects, exact.
    """

    scene: Scene
    size: tuple[float, float, float]
    light: Float64[np.ndarray, "3"]
    poses: Float64[np.ndarray, "frames 4 4"]
    boxes: tuple[Annotation, ...] = ()


@dataclass
class _Layout:
    """Free space: circles (x, y, radius) that objects on the floor take."""

    width: float
    depth: float
    taken: list[tuple[float, float, float]]

    def is_free(self, x: float, y: float, radius: float) -> bool:
        """Whether a circle (m) overlaps none that is taken."""
        return all(np.hypot(x - other[0], y - other[1]) > radius + other[2] for other in self.taken)

    def wall_place(self, wall: int, along: float, gap: float) -> Place:
        """A place with its back to a wall: `along` it (0 to 1), `gap` m from it."""
        match wall:
            case 0:
                return Place(along * self.width, self.depth - gap, yaw=0.0)
            case 1:
                return Place(gap, along * self.depth, yaw=np.pi / 2)
            case 2:
                return Place(along * self.width, gap, yaw=np.pi)
            case _:
                return Place(self.width - gap, along * self.depth, yaw=-np.pi / 2)


def make_room(textures: Textures, rng: np.random.Generator, frames: int) -> Room:
    """Generate a room with every class in it, and `frames` poses that look across it."""
    size = (float(rng.uniform(4.4, 5.6)), float(rng.uniform(4.2, 5.2)), 2.6)
    add = Decorator(SceneBuilder(textures), rng)
    layout = _Layout(size[0], size[1], [])
    _add_shell(add, size)
    _add_wall_furniture(add, layout)
    _add_dining(add, layout)
    _add_loose_things(add, layout)
    _add_pictures(add, layout)
    light = np.array([size[0] / 2, size[1] / 2, size[2] - 0.2])
    poses = _trajectory(layout, rng, frames)
    return Room(add.builder.build(), size, light, poses, tuple(add.boxes))


def _add_shell(add: Decorator, size: tuple[float, float, float]) -> None:
    width, depth, height = size
    x, y, z = np.diag([width, depth, height])
    floor = add.material("planks", add.one_of(FLOOR_COLORS), tile_m=0.9)
    ceiling = add.material("plaster", CEILING_COLOR, tile_m=1.0)
    skirting = add.material("lacquer", SKIRTING_COLOR)
    with add.builder.group():
        add.builder.add_sheet(y, x, -y, material=floor, label=LABELS["floor"])
        add.builder.add_sheet(z, x, y, material=ceiling, label=LABELS["ceiling"])
        walls = zip(_wall_materials(add), ((y, x), (x, -x), (x + y, -y), (0 * y, y)), strict=True)
        for wall, (corner, right) in walls:
            inward = np.cross(right, (0.0, 0.0, 1.0)) / np.linalg.norm(right)
            board = corner + 0.012 * inward + (0.0, 0.0, 0.09)
            for place, down, look in (
                (corner + z, -z, wall),
                (board, -z * 0.09 / height, skirting),
            ):
                add.builder.add_sheet(place, right, down, material=look, label=LABELS["wall"])


def _wall_materials(add: Decorator) -> list[Material]:
    """Paint on all four walls; in half of the rooms one or two are papered in another colour."""
    color, other = add.rng.permutation(len(WALL_COLORS))[:2]
    paint = add.material("paint", WALL_COLORS[color], tile_m=1.6)
    paper = PAPERS[int(add.rng.integers(len(PAPERS)))]
    papered = add.material(paper, WALL_COLORS[other], tile_m=0.8)
    first, count = int(add.rng.integers(4)), int(add.rng.integers(3))
    return [papered if (wall - first) % 4 < count else paint for wall in range(4)]


def _add_wall_furniture(add: Decorator, layout: _Layout) -> None:
    """Bed, cabinets and bookshelves with their backs to a wall, where there is room."""
    rng = add.rng
    for kind in ("bed", "cabinet", "bookshelf", "cabinet", "bookshelf"):
        for _ in range(60):
            wall, along = int(rng.integers(4)), float(rng.uniform(0.18, 0.82))
            if kind == "bed":
                place, radius = layout.wall_place(wall, along, 1.0), 1.0
            else:
                place, radius = layout.wall_place(wall, along, 0.25), 0.55
            if not layout.is_free(place.x, place.y, radius):
                continue
            layout.taken.append((place.x, place.y, radius))
            if kind == "bed":
                add_bed(add, place, 1.9)
            elif kind == "cabinet":
                add_cabinet(add, place, (0.9, 0.45, float(rng.uniform(0.8, 1.9))))
            else:
                add_bookshelf(add, place, 0.95, float(rng.uniform(1.1, 2.0)))
            break


def _add_dining(add: Decorator, layout: _Layout) -> None:
    """A table near the middle with chairs that face it and things on it."""
    rng = add.rng
    x = layout.width * float(rng.uniform(0.42, 0.58))
    y = layout.depth * float(rng.uniform(0.42, 0.58))
    yaw = float(rng.uniform(-0.4, 0.4))
    width, depth = float(rng.uniform(1.0, 1.4)), float(rng.uniform(0.7, 0.9))
    table = Place(x, y, yaw=yaw)
    layout.taken.append((x, y, 0.6))
    add_table(add, table, width, depth)
    cloth = add.one_of(CLOTHS)
    spots = (
        (0.0, depth / 2 + 0.15, 0.0),
        (0.0, -depth / 2 - 0.15, np.pi),
        (width / 2 + 0.15, 0.0, -np.pi / 2),
    )
    for local_x, local_y, turn in spots:
        where = table.point((local_x, local_y, 0.0))
        heading = yaw + turn + float(rng.uniform(-0.2, 0.2))
        add_chair(add, Place(where[0], where[1], yaw=heading), cloth)
    where = table.point((-width / 4, 0.05, 0.72))
    add_carton(add, Place(*where, yaw=float(rng.uniform(0, 3))), (0.25, 0.2, 0.18))
    add_ball(add, Place(*table.point((width / 4, -0.1, 0.72))), 0.11)


def _add_loose_things(add: Decorator, layout: _Layout) -> None:
    """Cartons and balls on the free floor."""
    rng = add.rng
    for kind in ("box", "ball", "box", "ball", "box"):
        for _ in range(60):
            x = float(rng.uniform(0.5, layout.width - 0.5))
            y = float(rng.uniform(0.5, layout.depth - 0.5))
            if not layout.is_free(x, y, 0.35):
                continue
            layout.taken.append((x, y, 0.25))
            if kind == "ball":
                add_ball(add, Place(x, y), float(rng.uniform(0.14, 0.25)))
            else:
                sides = rng.uniform(0.28, 0.5, 3)
                size = (float(sides[0]), float(sides[1]), float(sides[2]))
                add_carton(add, Place(x, y, yaw=float(rng.uniform(0, 3))), size)
            break


def _add_pictures(add: Decorator, layout: _Layout) -> None:
    """Two pictures on each wall, upper half; tall furniture may hide a part of one."""
    names = add.rng.permutation(PICTURES)
    for index in range(8):
        along = 0.3 + 0.4 * (index % 2) + float(add.rng.uniform(-0.08, 0.08))
        on_floor = layout.wall_place(index // 2, along, 0.0)
        height = float(add.rng.uniform(1.45, 1.6))
        place = Place(on_floor.x, on_floor.y, height, on_floor.yaw)
        add_picture(add, place, str(names[index % len(names)]), float(add.rng.uniform(0.6, 0.8)))


def _trajectory(
    layout: _Layout, rng: np.random.Generator, frames: int
) -> Float64[np.ndarray, "frames 4 4"]:
    """Walk three quarters of an ellipse around the room, looking across its middle."""
    start, turn = rng.uniform(0, 2 * np.pi), 1.5 * np.pi / max(frames, 1)
    middle = np.array([layout.width / 2, layout.depth / 2, 0.0])
    poses = np.empty((frames, 4, 4))
    for frame in range(frames):
        angle = start + frame * turn
        out = np.array([np.cos(angle) * layout.width, np.sin(angle) * layout.depth, 0.0])
        reach = next(
            (r for r in np.arange(0.42, 0.1, -0.02) if _is_clear(layout, middle + r * out)), 0.2
        )
        eye = middle + reach * out + (0.0, 0.0, rng.uniform(1.35, 1.7))
        target = middle - 0.15 * out + rng.uniform(-0.3, 0.3, 3) + (0.0, 0.0, rng.uniform(0.6, 1.3))
        poses[frame] = _look_at(eye, target)
    return poses


def _is_clear(layout: _Layout, eye: np.ndarray) -> bool:
    return layout.is_free(float(eye[0]), float(eye[1]), _CLEARANCE_M - 0.25)


def _look_at(
    eye: Float64[np.ndarray, "3"], target: Float64[np.ndarray, "3"]
) -> Float64[np.ndarray, "4 4"]:
    """world_from_camera of a level camera at `eye` (x right, y down, z towards `target`)."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = eye
    return pose
