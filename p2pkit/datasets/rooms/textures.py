"""The images on the surfaces of generated rooms as mip maps: drawn patterns, and photographs.

The photographs are those that scikit-image and scikit-learn ship inside their packages. Their files
are read from the installed packages' folders: nothing is downloaded, nor are the packages imported.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64, UInt8
from PIL import Image

from p2pkit.datasets.rooms.patterns import PATTERNS, pattern_image
from p2pkit.errors import MissingDependencyError

# Name -> package and file. They hang framed on the walls.
PHOTOGRAPHS: dict[str, tuple[str, str]] = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "camera": ("skimage", "data/camera.png"),
    "cat": ("skimage", "data/chelsea.png"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "coffee": ("skimage", "data/coffee.png"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "rocket": ("skimage", "data/rocket.jpg"),
}
NAMES = (*PHOTOGRAPHS, *PATTERNS)
_LONGEST_SIDE, _LEVELS = 256, 7
_DISTRIBUTIONS = {"skimage": "scikit-image", "sklearn": "scikit-learn"}


@dataclass(frozen=True)
class Textures:
    """All images, each as `_LEVELS` mip levels, in one array.

    Args:
        texels: RGB rows of all levels of all images.
        levels: first texel, width and height of each image's levels.
        digest: sha256 over the texels.
    """

    texels: UInt8[np.ndarray, "texels 3"]
    levels: Int64[np.ndarray, "textures levels 3"]
    digest: str

    def size(self, name: str) -> tuple[int, int]:
        """Width and height of an image's finest level (texels)."""
        _, width, height = self.levels[NAMES.index(name), 0]
        return int(width), int(height)


@lru_cache(maxsize=1)
def load_textures() -> Textures:
    """Draw the patterns and read the photographs, once per process.

    Raises:
        MissingDependencyError: a package or one of its images is not installed.
    """
    texels: list[np.ndarray] = []
    levels = np.empty((len(NAMES), _LEVELS, 3), dtype=np.int64)
    start = 0
    for row, name in enumerate(NAMES):
        for level, pixels in enumerate(_mip_levels(_image(name))):
            height, width, _ = pixels.shape
            levels[row, level] = start, width, height
            texels.append(pixels.reshape(-1, 3))
            start += width * height
    joined = np.concatenate(texels)
    return Textures(joined, levels, hashlib.sha256(joined.tobytes()).hexdigest())


def mean_color(textures: Textures, name: str) -> Float32[np.ndarray, "3"]:
    """Mean RGB (0 to 1) of an image, to bring dark and bright ones to one exposure."""
    start, width, height = textures.levels[NAMES.index(name), -1]  # a few texels, already averaged
    texels = textures.texels[start : start + width * height]
    return (texels.mean(axis=0) / 255).astype(np.float32)


def _image(name: str) -> Image.Image:
    if name in PATTERNS:
        return Image.fromarray(pattern_image(name))
    with Image.open(_package_file(*PHOTOGRAPHS[name])) as opened:
        return opened.convert("RGB")


def _mip_levels(image: Image.Image) -> list[np.ndarray]:
    shrink = min(1.0, _LONGEST_SIDE / max(image.size))
    levels: list[np.ndarray] = []
    for level in range(_LEVELS):
        size = tuple(max(1, round(side * shrink / 2**level)) for side in image.size)
        levels.append(np.array(image.resize((size[0], size[1]), Image.Resampling.BOX)))
    return levels


def _package_file(package: str, file: str) -> Path:
    spec = find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        path = Path(folder) / file
        if path.is_file():
            return path
    raise MissingDependencyError(
        f"the demo scene needs {file} of the package {_DISTRIBUTIONS[package]}, which is not "
        f"installed; run: pip install --force-reinstall {_DISTRIBUTIONS[package]}"
    )
