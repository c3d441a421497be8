"""The furniture of the generated rooms: each function adds one object, standing on the floor.

Local axes of an object: its front looks along -y, x is to its right as seen from the front, z is
up; `Place` puts it into the room.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from p2pkit.datasets.boxes import Annotation
from p2pkit.datasets.rooms.shapes import Material, SceneBuilder, Vector
from p2pkit.datasets.rooms.textures import mean_color

LABEL_NAMES = (
    "void",
    "floor",
    "wall",
    "ceiling",
    "table",
    "chair",
    "cabinet",
    "bookshelf",
    "bed",
    "box",
    "ball",
    "picture",
)
LABELS = {name: value for value, name in enumerate(LABEL_NAMES)}
BOX_NAMES = LABEL_NAMES[LABELS["table"] :]
"""The classes of objects that have a box."""

# Mean colours (RGB, 0 to 1) of what is made of one material in different colours.
WOODS = ((0.52, 0.34, 0.2), (0.66, 0.47, 0.29), (0.36, 0.23, 0.15), (0.72, 0.58, 0.42))
CLOTHS = ((0.2, 0.3, 0.48), (0.5, 0.18, 0.17), (0.24, 0.38, 0.27), (0.42, 0.42, 0.44))
LACQUERS = ((0.82, 0.82, 0.8), (0.5, 0.55, 0.58), (0.3, 0.42, 0.46), (0.78, 0.7, 0.56))
BLANKETS = ((0.55, 0.2, 0.2), (0.25, 0.35, 0.5), (0.35, 0.45, 0.3), (0.65, 0.5, 0.25))
BALLS = ((0.75, 0.15, 0.12), (0.1, 0.3, 0.65), (0.15, 0.5, 0.2), (0.85, 0.6, 0.1))
CARDBOARD, LINEN, FRAME = (0.62, 0.47, 0.31), (0.82, 0.8, 0.76), (0.22, 0.17, 0.14)


@dataclass(frozen=True)
class Place:
    """Where an object stands: x, y (m), height of its underside (m) and heading (rad)."""

    x: float
    y: float
    z: float = 0.0
    yaw: float = 0.0

    def point(self, local: Vector) -> Vector:
        """A point of the object's local axes in the room."""
        cos, sin = np.cos(self.yaw), np.sin(self.yaw)
        x, y, z = local
        return (self.x + cos * x - sin * y, self.y + sin * x + cos * y, self.z + z)


@dataclass(frozen=True)
class Decorator:
    """Adds boxes of one object, all with its label, and draws materials for it.

    Attributes:
        boxes: the box of each object so far, in the room's axes.
    """

    builder: SceneBuilder
    rng: np.random.Generator
    boxes: list[Annotation] = field(default_factory=list)
    _corners: list[np.ndarray] = field(default_factory=list)

    @contextmanager
    def thing(self, place: Place, label: str) -> Generator[None]:
        """Parts added inside make one object, whose box is that of all of them in local axes."""
        self._corners.clear()
        yield
        low, high = np.min(self._corners, axis=0), np.max(self._corners, axis=0)
        middle = place.point(tuple(((low + high) / 2).tolist()))
        along = (float(np.cos(place.yaw)), float(np.sin(place.yaw)), 0.0)
        self.boxes.append(Annotation(label, middle, along, high - low))

    def covers(self, low: Vector, high: Vector) -> None:
        """Count the room between two corners (local axes, m) as part of the object."""
        self._corners.extend((np.array(low), np.array(high)))

    def material(self, texture: str, color: Vector, tile_m: float | None = None) -> Material:
        """An image brought to the mean `color` (RGB, 0 to 1), slightly varied."""
        wanted = np.array(color) / mean_color(self.builder.textures, texture)
        varied = wanted * self.rng.uniform(0.9, 1.1) * self.rng.uniform(0.96, 1.04, 3)
        shift = self.rng.uniform(0.0, 2, 2) if tile_m is not None else np.zeros(2)
        red, green, blue = (float(value) for value in varied)
        return Material(texture, (red, green, blue), tile_m, (float(shift[0]), float(shift[1])))

    def photograph(self, name: str) -> Material:
        """A photograph in its own colours."""
        red, green, blue = (float(x) for x in mean_color(self.builder.textures, name))
        return self.material(name, (red, green, blue))

    def one_of(self, colors: Sequence[Vector]) -> Vector:
        """A colour, drawn."""
        return colors[int(self.rng.integers(len(colors)))]

    def part(
        self, place: Place, center: Vector, size: Vector, *, material: Material, label: str
    ) -> None:
        """One box of an object; `center` is the middle of its underside in local axes."""
        where = place.point(center)
        x, y, z = center
        width, depth, height = size
        self.covers((x - width / 2, y - depth / 2, z), (x + width / 2, y + depth / 2, z + height))
        self.builder.add_box(where, size, yaw=place.yaw, material=material, label=LABELS[label])


def add_table(add: Decorator, place: Place, width: float, depth: float) -> None:
    """A table 0.72 m high on four legs."""
    wood = add.material("wood", add.one_of(WOODS), tile_m=0.6)
    with add.thing(place, "table"), add.builder.group():
        add.part(place, (0.0, 0.0, 0.68), (width, depth, 0.04), material=wood, label="table")
        _add_legs(add, place, (width - 0.08, depth - 0.08, 0.68), wood, "table")


def add_chair(add: Decorator, place: Place, color: Vector) -> None:
    """A chair with a seat 0.45 m high and a back, covered with cloth of a colour."""
    cloth = add.material("upholstery", color, tile_m=0.25)
    wood = add.material("wood", WOODS[2], tile_m=0.6)
    with add.thing(place, "chair"), add.builder.group():
        add.part(place, (0.0, 0.0, 0.42), (0.44, 0.44, 0.05), material=cloth, label="chair")
        add.part(place, (0.0, 0.2, 0.47), (0.44, 0.04, 0.45), material=cloth, label="chair")
        _add_legs(add, place, (0.4, 0.4, 0.42), wood, "chair")


def add_cabinet(add: Decorator, place: Place, size: Vector) -> None:
    """A closed cabinet with a plinth and two doors that stand 2 cm proud."""
    width, depth, height = size
    color = add.one_of(LACQUERS)
    body, door = add.material("lacquer", color), add.material("panel", color)
    with add.thing(place, "cabinet"), add.builder.group():
        add.part(place, (0.0, 0.0, 0.0), (width, depth, height), material=body, label="cabinet")
        for side in (-1, 1):
            add.part(
                place,
                (side * width / 4, -depth / 2 - 0.01, 0.1),
                (width / 2 - 0.03, 0.02, height - 0.15),
                material=door,
                label="cabinet",
            )


def add_bookshelf(add: Decorator, place: Place, width: float, height: float) -> None:
    """Open shelves with rows of books of different heights."""
    board, levels = 0.03, max(2, int(height / 0.38))
    step = (height - board) / levels
    with add.thing(place, "bookshelf"):
        _add_shelves(add, place, (width, height), levels)
        for level in range(levels):
            _add_books(add, place, width - 0.1, (level * step + board, step - board))


def _add_shelves(add: Decorator, place: Place, size: tuple[float, float], levels: int) -> None:
    """The boards of a bookshelf; `size` is its width and height."""
    (width, height), depth, board = size, 0.3, 0.03
    wood = add.material("wood", add.one_of(WOODS), tile_m=0.6)
    with add.builder.group():
        add.part(place, (0.0, 0.14, 0.0), (width, 0.02, height), material=wood, label="bookshelf")
        for side in (-1, 1):
            center = (side * (width - board) / 2, 0.0, 0.0)
            add.part(place, center, (board, depth, height), material=wood, label="bookshelf")
        for level in range(levels + 1):
            center = (0.0, 0.0, level * (height - board) / levels)
            add.part(place, center, (width, depth, board), material=wood, label="bookshelf")


def add_bed(add: Decorator, place: Place, length: float) -> None:
    """A bed 0.95 m wide, its head at +y, with a blanket and a pillow."""
    blanket = add.material("plaid", add.one_of(BLANKETS), tile_m=0.5)
    frame = add.material("wood", add.one_of(WOODS), tile_m=0.6)
    pillow = add.material("linen", LINEN)
    with add.thing(place, "bed"), add.builder.group():
        add.part(place, (0.0, 0.0, 0.05), (0.95, length, 0.25), material=frame, label="bed")
        add.part(place, (0.0, 0.0, 0.3), (0.9, length - 0.06, 0.2), material=blanket, label="bed")
        add.part(place, (0.0, length / 2, 0.05), (0.95, 0.05, 0.8), material=frame, label="bed")
        center = (0.0, length / 2 - 0.3, 0.5)
        add.part(place, center, (0.6, 0.38, 0.1), material=pillow, label="bed")


def add_carton(add: Decorator, place: Place, size: Vector) -> None:
    """A cardboard box."""
    cardboard = add.material("cardboard", CARDBOARD)
    with add.thing(place, "box"), add.builder.group():
        add.part(place, (0.0, 0.0, 0.0), size, material=cardboard, label="box")


def add_ball(add: Decorator, place: Place, radius: float) -> None:
    """A beach ball."""
    material = add.material("beach ball", add.one_of(BALLS))
    with add.thing(place, "ball"), add.builder.group():
        add.covers((-radius, -radius, 0.0), (radius, radius, 2 * radius))
        add.builder.add_sphere(
            (place.x, place.y, place.z + radius), radius, material=material, label=LABELS["ball"]
        )


def add_picture(add: Decorator, place: Place, texture: str, width: float) -> None:
    """A framed photograph in its own proportions, 3 cm thick, hanging on the wall behind it."""
    texels_wide, texels_high = add.builder.textures.size(texture)
    height = width * texels_high / texels_wide
    frame = add.material("wood", FRAME, tile_m=0.3)
    right = np.array([np.cos(place.yaw), np.sin(place.yaw), 0.0]) * width
    corner = np.array(place.point((-width / 2, -0.035, height)))
    with add.thing(place, "picture"), add.builder.group():
        add.covers((-width / 2, -0.035, 0.0), (width / 2, -0.035, height))
        add.part(
            place,
            (0.0, -0.015, -0.03),
            (width + 0.06, 0.03, height + 0.06),
            material=frame,
            label="picture",
        )
        add.builder.add_sheet(
            corner,
            right,
            np.array([0.0, 0.0, -height]),
            material=add.photograph(texture),
            label=LABELS["picture"],
        )


def _add_legs(add: Decorator, place: Place, size: Vector, material: Material, label: str) -> None:
    width, depth, height = size
    for x in (-width / 2, width / 2):
        for y in (-depth / 2, depth / 2):
            add.part(place, (x, y, 0.0), (0.05, 0.05, height), material=material, label=label)


def _add_books(add: Decorator, place: Place, width: float, level: tuple[float, float]) -> None:
    """One row of books from left to right; `level` is its height above the floor and its room."""
    floor, room = level
    left = -width / 2
    with add.builder.group():
        while left < width / 2 - 0.12:
            thick = float(add.rng.uniform(0.05, 0.12))
            height = room * float(add.rng.uniform(0.6, 0.92))
            color = add.rng.uniform(0.15, 0.7) + add.rng.uniform(-0.12, 0.12, 3)
            tone = (float(color[0]), float(color[1]), float(color[2]))
            book = add.material("book", tone)
            center = (left + thick / 2, 0.0, floor)
            add.part(place, center, (thick - 0.004, 0.2, height), material=book, label="bookshelf")
            left += thick
