"""What a network needs of the points beside the voxels' inputs, made ahead of time.

Neighbours, cells or maps are found once per frame, in the loader's threads, by a pure function that
the network names; `joined` then numbers them through a batch. The data side thus prepares for a
network that it does not know.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, Int32
from torch import Tensor

Prepared = Mapping[str, np.ndarray]
"""Arrays by name; the network takes them as keyword arguments, after coordinates and inputs."""


@runtime_checkable
class Preparation(Protocol):
    """Makes the arrays that a network takes beside coordinates and inputs."""

    def of_frame(
        self,
        points: Float32[np.ndarray, "voxels 3"],
        coordinates: Int32[np.ndarray, "voxels 3"],
    ) -> Prepared:
        """Those of one frame; called in threads, so it depends on its arguments alone.

        Args:
            points: x, y, z (m) of the point that stands for each voxel, augmented.
            coordinates: integer position of each voxel.
        """
        ...

    def joined(self, frames: Sequence[Prepared]) -> Prepared:
        """Those of a batch from those of its frames, rows counted through the batch."""
        ...


def prepared_batch(
    preparation: Preparation | None, frames: Sequence[Prepared], device: str = "cpu"
) -> dict[str, Tensor]:
    """The prepared arrays of a batch as tensors; none where the network needs none.

    Args:
        preparation: of the network.
        frames: what its `of_frame` gave for each frame, in the order of the batch.
        device: where the network runs.
    """
    if preparation is None:
        return {}
    joined = preparation.joined(frames)
    return {name: torch.from_numpy(value).to(device) for name, value in joined.items()}
