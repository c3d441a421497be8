"""What U-Nets on sparse voxels share: voxels in, decoder stages, features out."""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int32
from torch import Tensor, nn

from p2pkit.errors import GeometryError
from p2pkit.geometry.students.preparation import Preparation
from p2pkit.networks.cells import STRIDES, Cells
from p2pkit.networks.engines.sparse_engine import SparseEngine


class SparseUNet(nn.Module):
    """A decoder that ends at the strides 8, 4, 2 and 1; a subclass gives its stages in `_stages`.

    Args:
        engine: of the sparse convolutions.

    Attributes:
        final: the last layer; None where the decoder's features come out.
        cell_channels: widths of what `cells` gives.
    """

    preparation: Preparation | None = None
    final: nn.Module | None
    cell_channels: tuple[int, ...]

    def __init__(self, engine: SparseEngine) -> None:
        super().__init__()
        self._engine = engine

    def forward(
        self, coordinates: Int32[Tensor, "voxels 4"], features: Float[Tensor, "voxels channels"]
    ) -> Float[Tensor, "voxels out_channels"]:
        """Features of each voxel, rows in the order of the input.

        Args:
            coordinates: batch index, x, y, z (voxels); no row twice; may be negative.
            features: one row per voxel.

        Raises:
            GeometryError: the batch has no voxels, or a voxel occurs twice.
        """
        x = self._voxels(coordinates, features)
        # The engine's layers follow the precision of their input.
        with torch.autocast(features.device.type, enabled=False):
            for stage in self._stages(x):
                x = stage
            return self._engine.rows(x if self.final is None else self.final(x))

    def cells(
        self, coordinates: Int32[Tensor, "voxels 4"], features: Float[Tensor, "voxels channels"]
    ) -> list[Cells]:
        """The decoder's features at the strides 8 and 4, for detection; arguments as `forward`."""
        x = self._voxels(coordinates, features)
        with torch.autocast(features.device.type, enabled=False):
            stages = zip(STRIDES, self._stages(x), strict=False)
            return [self._engine.cells(stage, stride) for stride, stage in stages]

    def _voxels(self, coordinates: Tensor, features: Tensor) -> Any:
        if len(coordinates) == 0:
            raise GeometryError("the batch has no voxels; expected at least one")
        return self._engine.sparse_tensor(coordinates, features)

    def _stages(self, x: Any) -> Iterator[Any]:
        """What each decoder stage gives, at the strides 8, 4, 2 and 1, each computed on demand."""
        raise NotImplementedError
