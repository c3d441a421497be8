"""Surfaces of the generated rooms, drawn by arithmetic: paint, wallpaper, wood, cloth, cardboard.

Each function draws one square image whose rows run downwards, as brightness: 1 is the mean colour,
which the material's tint gives.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

SIZE = 256
_MEAN = 168.0
"""Grey value of brightness 1; brighter parts have room up to 255."""

Brightness = Float[np.ndarray, "size size"]
_ROWS, _COLUMNS = (axis.astype(np.float32) / SIZE for axis in np.mgrid[0:SIZE, 0:SIZE])


def _noise(rng: np.random.Generator, down: int, right: int) -> Brightness:
    """Smooth noise of `down` times `right` patches, with standard deviation 1."""
    drawn = Image.fromarray(rng.standard_normal((down, right)).astype(np.float32))
    smooth = np.array(drawn.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    return ((smooth - smooth.mean()) / smooth.std()).astype(np.float32)


def paint(rng: np.random.Generator) -> Brightness:
    """A rolled wall."""
    return 1 + 0.012 * _noise(rng, 4, 4) + 0.012 * _noise(rng, 96, 96)


def plaster(rng: np.random.Generator) -> Brightness:
    """A ceiling."""
    return 1 + 0.03 * _noise(rng, 128, 128)


def striped_paper(rng: np.random.Generator) -> Brightness:
    """Wallpaper with broad upright stripes, each with a thin line at its side."""
    broad = np.where(_COLUMNS * 4 % 1 < 0.5, 1.05, 0.95)
    thin = np.where(np.abs(_COLUMNS * 4 % 1 - 0.6) < 0.025, -0.12, 0.0)
    return broad + thin + 0.012 * _noise(rng, 96, 96)


def damask_paper(rng: np.random.Generator) -> Brightness:
    """Wallpaper with rows of leaf-shaped figures, every second row shifted by half."""
    rows = _ROWS * 4
    across = np.abs((_COLUMNS * 4 + 0.5 * (np.floor(rows) % 2)) % 1 - 0.5)
    along = rows % 1
    leaf = across < 0.36 * np.sin(np.pi * along) * (0.65 + 0.35 * np.cos(4 * np.pi * along))
    vein = across < 0.03
    return 1 + np.where(leaf & ~vein, -0.07, 0.03) + 0.012 * _noise(rng, 96, 96)


def wood(rng: np.random.Generator) -> Brightness:
    """Varnished wood whose grain runs to the right."""
    rings = np.sin(2 * np.pi * (9 * _ROWS + 0.35 * _noise(rng, 5, 2) + 0.08 * _noise(rng, 24, 3)))
    return 1 + 0.1 * rings + 0.06 * _noise(rng, 160, 5)


def planks(rng: np.random.Generator) -> Brightness:
    """A floor of five boards side by side, with dark joints."""
    board = np.floor(_ROWS * 5)
    tone = rng.uniform(-0.12, 0.12, 5)[board.astype(int)]
    joint = (_ROWS * 5 % 1 < 0.03) | (np.abs(_COLUMNS - (0.37 * board % 1)) < 0.004)
    grain = 0.07 * np.sin(2 * np.pi * (20 * _ROWS + 0.8 * _noise(rng, 10, 3)))
    grained = 1 + tone + grain + 0.04 * _noise(rng, 160, 6)
    return np.where(joint, 0.6, grained)


def upholstery(rng: np.random.Generator) -> Brightness:
    """Coarse woven cloth."""
    warp = np.sin(2 * np.pi * 32 * _COLUMNS) * np.sign(np.sin(2 * np.pi * 16 * _ROWS))
    return 1 + 0.16 * warp + 0.05 * _noise(rng, 64, 64)


def plaid(rng: np.random.Generator) -> Brightness:
    """A woven blanket with a checked pattern."""
    bands = sum(
        (np.abs(axis * 3 % 1 - 0.5) < 0.2) * 0.16 - (np.abs(axis * 3 % 1 - 0.12) < 0.035) * 0.3
        for axis in (_ROWS, _COLUMNS)
    )
    return 0.92 + bands + 0.04 * _noise(rng, 80, 80)


def linen(rng: np.random.Generator) -> Brightness:
    """A pillow's cloth with soft folds."""
    return 1 + 0.06 * _noise(rng, 6, 4) + 0.02 * _noise(rng, 128, 128)


def lacquer(rng: np.random.Generator) -> Brightness:
    """A smooth painted side of furniture."""
    return 1.03 - 0.06 * _ROWS + 0.008 * _noise(rng, 32, 32)


def panel(rng: np.random.Generator) -> Brightness:
    """A door of lacquer: an inset panel with bevelled edges, and a knob at its right."""
    to_edge = np.minimum.reduce([_ROWS, 1 - _ROWS, _COLUMNS, 1 - _COLUMNS])
    bevel = np.where(np.abs(to_edge - 0.15) < 0.02, np.where(_ROWS + _COLUMNS < 1, -0.2, 0.1), 0)
    rim = np.where(to_edge < 0.012, -0.35, 0.0)
    knob = np.hypot((_ROWS - 0.5) * 1.6, _COLUMNS - 0.93) < 0.03
    return np.where(knob, 0.3, lacquer(rng) + bevel + rim)


def cardboard(rng: np.random.Generator) -> Brightness:
    """A side of a carton: faint flutes, and a strip of tape down the middle."""
    flutes = 0.02 * np.sin(2 * np.pi * 40 * _COLUMNS)
    tape = np.where(np.abs(_COLUMNS - 0.5) < 0.09, 0.16, 0.0)
    rim = np.where(np.minimum(_ROWS, 1 - _ROWS) < 0.02, -0.2, 0.0)
    return 1 + flutes + tape + rim + 0.03 * _noise(rng, 48, 48)


def book(rng: np.random.Generator) -> Brightness:
    """The back of a book: two bands, and lines of letters between them."""
    band = (np.abs(_ROWS - 0.12) < 0.02) | (np.abs(_ROWS - 0.88) < 0.02)
    in_title = (np.abs(_ROWS - 0.42) < 0.2) & (np.abs(_COLUMNS - 0.5) < 0.24)
    letters = in_title & (_noise(rng, 48, 12) > 0.2)
    return 0.95 + 0.4 * (band | letters) - 0.15 * np.abs(2 * _COLUMNS - 1)


def beach_ball(rng: np.random.Generator) -> Brightness:
    """Eight segments for a sphere, every second one bright, and bright poles."""
    is_bright = (np.floor(_COLUMNS * 8) % 2 == 0) | (np.minimum(_ROWS, 1 - _ROWS) < 0.07)
    return np.where(is_bright, 1.35, 0.65) + 0.01 * _noise(rng, 32, 32)


PATTERNS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "paint": paint,
    "plaster": plaster,
    "striped paper": striped_paper,
    "damask paper": damask_paper,
    "wood": wood,
    "planks": planks,
    "upholstery": upholstery,
    "plaid": plaid,
    "linen": linen,
    "lacquer": lacquer,
    "panel": panel,
    "cardboard": cardboard,
    "book": book,
    "beach ball": beach_ball,
}


def pattern_image(name: str) -> UInt8[np.ndarray, "size size 3"]:
    """A pattern as a grey image, the same on every call; `Material.tint` colours it."""
    drawn = PATTERNS[name](np.random.default_rng([*name.encode()]))
    grey = np.clip(np.round(drawn * _MEAN), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(grey[..., None], (SIZE, SIZE, 3)))
