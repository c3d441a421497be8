"""Settings of single students."""

from typing import Literal

from pydantic import Field

from p2pkit.errors import ConfigError
from p2pkit.settings import settings_class

InputLayer = Literal["exact", "average", "random"]
"""What becomes of an input layer of another number of channels when weights are loaded."""
Six = tuple[float, float, float, float, float, float]
SCENES: dict[str, tuple[Six, tuple[int, int, int]]] = {
    # The configurations published with WaffleIron (nuscenes, semantickitti) and ScaLR (pandaset:
    # its downstream one for the Pandar64; scalr: its pretraining on all sensors).
    "nuscenes": ((-50.0, -50.0, -5.0, 50.0, 50.0, 5.0), (166, 166, 16)),
    "semantickitti": ((-50.0, -50.0, -3.0, 50.0, 50.0, 2.0), (250, 250, 12)),
    "pandaset": ((-128.0, -128.0, -8.0, 128.0, 128.0, 8.0), (512, 512, 32)),
    "scalr": ((-64.0, -64.0, -8.0, 64.0, 64.0, 8.0), (256, 256, 32)),
}
"""Field of view (m) and cells along x, y and z by name."""


@settings_class
class WaffleIronConfig:
    """What WaffleIron sees of a frame, and its norms; used by `student=WaffleIron-*` alone."""

    scene: Literal["nuscenes", "semantickitti", "pandaset", "scalr"] = Field(
        default="scalr",
        description="Field of view and cells as published: `nuscenes` (50 m, cells of 0.6 m), "
        "`semantickitti` (50 m, 0.4 m), `pandaset` (128 m, 0.5 m), or `scalr` (64 m, 0.5 m), with "
        "which ScaLR pretrains on all sensors.",
    )
    fov: Six | None = Field(
        default=None,
        description="Lowest x, y, z and highest x, y, z (m) of the field of view, in the axes of "
        "the points; None takes the scene's. Points outside take the features of the nearest one "
        "inside.",
    )
    cells: tuple[int, int, int] | None = Field(
        default=None,
        description="Cells of the 2D grids along x, y and z; None takes the scene's.",
    )
    neighbours: int = Field(
        default=16, ge=1, description="Nearest points that the embedding of a point looks at."
    )
    norm: Literal["batch", "layer"] = Field(
        default="batch",
        description="Norms of the layers: `batch` as WaffleIron was published, `layer` as in "
        "ScaLR's weights.",
    )

    def __post_init__(self) -> None:
        if (self.fov is None) != (self.cells is None):
            raise ConfigError(
                f"waffleiron.fov is {self.fov} and waffleiron.cells {self.cells}: set both, or "
                "neither to take those of waffleiron.scene"
            )
        low, high = self.limits
        if any(first >= last for first, last in zip(low, high, strict=True)):
            raise ConfigError(
                f"waffleiron.fov is {self.fov}; expected the lowest x, y, z and then the highest"
            )
        if min(self.cells_per_axis) < 1:
            raise ConfigError(f"waffleiron.cells is {self.cells}; expected at least one per axis")

    @property
    def limits(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Lowest and highest x, y, z (m)."""
        fov = self.fov or SCENES[self.scene][0]
        return fov[:3], fov[3:]

    @property
    def cells_per_axis(self) -> tuple[int, int, int]:
        """Cells along x, y and z."""
        return self.cells or SCENES[self.scene][1]
