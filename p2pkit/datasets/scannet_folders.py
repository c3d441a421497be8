"""ScanNet scenes that were exported to folders: `color/`, `depth/`, `pose/` and `intrinsic/`.

That is what the ScanNet repository's SensReader/python/reader.py writes. Colour is often shrunk on
the way, while the intrinsics keep the original size: the size of each image decides, by the rule of
pixel centres.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float64
from PIL import Image

from p2pkit.datasets.calibration import RgbdCalibration
from p2pkit.datasets.text_files import read_text
from p2pkit.errors import GeometryError, SourceError
from p2pkit.geometry.camera import Camera, camera_from_matrix, check_size_fits

NATIVE_COLOR, NATIVE_DEPTH = (1296, 968), (640, 480)
"""Sizes that ScanNet's intrinsics are for, unless SCENE.txt says otherwise."""
UNITS_PER_METRE = 1000.0
_ASPECT_TOLERANCE = 0.02


def exported_images(folder: Path) -> list[tuple[int, Path, Path]]:
    """Number, colour and depth of each frame that has both, in the frames' order."""
    depth = {path.stem: path for path in (folder / "depth").glob("*.png")}
    color = [path for path in (folder / "color").iterdir() if path.suffix in (".jpg", ".png")]
    both = [path for path in color if path.stem in depth and path.stem.isdecimal()]
    return sorted((int(path.stem), path, depth[path.stem]) for path in both)


def exported_calibration(folder: Path, color: Path, depth: Path) -> RgbdCalibration:
    """The intrinsics at the size of these images.

    Raises:
        SourceError: a file is missing or wrong, or an image was cropped rather than scaled.
    """
    sizes = _native_sizes(folder / f"{folder.name}.txt")
    return RgbdCalibration(
        units_per_metre=UNITS_PER_METRE,
        depth=_camera(folder, "depth", sizes["depth"], depth),
        color=_camera(folder, "color", sizes["color"], color),
        color_from_depth=np.eye(4),
        pose="world_from_depth",
        invalid_depth=(0, 65535),
    )


def _camera(folder: Path, name: str, native: tuple[int, int], image: Path) -> Camera:
    places = (
        folder / "intrinsic" / f"intrinsic_{name}.txt",
        folder / f"intrinsic_{name}.txt",
        folder / f"intrinsics_{name}.txt",
    )
    path = next((path for path in places if path.is_file()), places[0])
    try:
        # Some exports have shrunk the intrinsics with the images; shrinking them twice is wrong.
        camera = camera_from_matrix(_matrix(path), native, str(path))
        check_size_fits(camera, f"{name}, whose size {folder.name}.txt may tell")
        _refuse_uncalibrated(path.with_name(f"extrinsic_{name}.txt"))
        with Image.open(image) as opened:
            size = opened.size
    except (OSError, SyntaxError, ValueError, GeometryError) as error:
        raise SourceError(f"{path} or {image.name} cannot be used: {error}") from error
    stretch = (size[0] / native[0]) / (size[1] / native[1])
    if abs(stretch - 1) > _ASPECT_TOLERANCE:
        raise SourceError(
            f"{image} is {size[0]} x {size[1]} px, but {path.name} is for {native[0]} x "
            f"{native[1]}: another aspect ratio, so it was cropped; export it without cropping"
        )
    return camera.resized(*size)


def _matrix(path: Path) -> Float64[np.ndarray, "4 4"]:
    return np.array([float(word) for word in read_text(path, "scannet").split()]).reshape(4, 4)


def _refuse_uncalibrated(path: Path) -> None:
    """Raise SourceError where the exporter found that colour or depth is to be moved first."""
    if path.is_file() and not np.allclose(_matrix(path), np.eye(4), atol=1e-4):
        raise SourceError(
            f"{path} is not the identity, so colour is not registered to depth; the published "
            "scans, whose colour is, have the identity there"
        )


def _native_sizes(path: Path) -> dict[str, tuple[int, int]]:
    """From lines such as `colorWidth = 1296` of SCENE.txt, where there is one."""
    sizes = {"color": NATIVE_COLOR, "depth": NATIVE_DEPTH}
    if not path.is_file():
        return sizes
    pairs = (line.partition("=")[::2] for line in read_text(path, "scannet").splitlines())
    values = {name.strip(): value.strip() for name, value in pairs}
    for name in sizes:
        found = values.get(f"{name}Width", ""), values.get(f"{name}Height", "")
        if all(length.isdecimal() and int(length) > 0 for length in found):
            sizes[name] = int(found[0]), int(found[1])
    return sizes
