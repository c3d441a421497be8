"""Features of a teacher's map at continuous cell coordinates."""

import numpy as np
from jaxtyping import Float, Float16, Float32, Int64

from p2pkit.errors import GeometryError
from p2pkit.geometry.checks import check_array
from p2pkit.geometry.kernels import points as kernels


def sample_map(
    feature_map: Float16[np.ndarray, "height width channels"]
    | Float32[np.ndarray, "height width channels"],
    cell_uv: Float[np.ndarray, "pairs 2"],
) -> Float32[np.ndarray, "pairs channels"]:
    """Bilinear features at cell coordinates, as `FeatureGrid.cell_from_pixel` gives them.

    Coordinates outside the map take the nearest edge's value, so the weights always sum to one and
    a 1 x 1 convolution may come before or after. At whole coordinates the cell's own value comes
    back exactly. Weights are computed in float64, the mix in float32.

    Args:
        feature_map: channels last.
        cell_uv: (u, v), i.e. (column, row), cell centres at integers.

    Raises:
        GeometryError: the map has no cells or a coordinate is NaN or infinite.
    """
    check_array("feature_map", feature_map, (np.float16, np.float32), (None, None, None))
    height, width, channels = feature_map.shape
    _check_cells(cell_uv, (width, height))
    sampled = np.empty((len(cell_uv), channels), np.float32)
    rows = feature_map.astype(np.float32, order="C", copy=False).reshape(-1, channels)
    kernels.sample_bilinear(rows, width, height, np.ascontiguousarray(cell_uv), sampled)
    return sampled


def nearest_cell(
    cell_uv: Float[np.ndarray, "pairs 2"], cells: tuple[int, int]
) -> Int64[np.ndarray, " pairs"]:
    """Row-major index (row * width + column) of the cell nearest to each coordinate.

    Halves round up; coordinates outside the map give the nearest edge cell.

    Args:
        cell_uv: (u, v), cell centres at integers.
        cells: number of cells (width, height), as in `FeatureGrid.cells`.

    Raises:
        GeometryError: the map has no cells or a coordinate is NaN or infinite.
    """
    _check_cells(cell_uv, cells)
    whole = np.floor(cell_uv.astype(np.float64) + 0.5)
    column, row = np.clip(whole, 0, np.subtract(cells, 1)).astype(np.int64).T
    return row * cells[0] + column


def _check_cells(cell_uv: Float[np.ndarray, "pairs 2"], cells: tuple[int, int]) -> None:
    check_array("cell_uv", cell_uv, (np.float64, np.float32, np.float16), (None, 2))
    if min(cells) < 1:
        raise GeometryError(f"the map has {cells[0]} x {cells[1]} cells; expected at least one")
    if not np.isfinite(cell_uv).all():
        row = int(np.argmin(np.isfinite(cell_uv).all(axis=1)))
        raise GeometryError(
            f"cell coordinate {row} is {cell_uv[row].tolist()}; it must be finite: leave out pairs "
            "whose point is not visible"
        )
