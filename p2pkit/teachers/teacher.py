"""What every teacher offers, whatever library its network comes from."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float16, UInt8

from p2pkit.geometry.maps.grid import FeatureGrid

Image = UInt8[np.ndarray, "height width 3"]


@runtime_checkable
class Teacher(Protocol):
    """A frozen 2D network that turns images into feature maps. Thread-safe."""

    @property
    def name(self) -> str:
        """The model's name, without its kind."""
        ...

    @property
    def channels(self) -> int:
        """Channels of each cell."""
        ...

    @property
    def weights_sha256(self) -> str:
        """Hex digest of the tensors that compute the layer, whatever file they came in."""
        ...

    @property
    def preprocessing(self) -> dict[str, Any]:
        """JSON: `mean` and `std` per channel (of RGB in [0, 1]) and `interpolation`."""
        ...

    @property
    def batch_size(self) -> int:
        """Images that `features` is best given at once: 1 on CPUs."""
        ...

    @property
    def accelerator(self) -> dict[str, Any] | None:
        """JSON of what else decides the maps' bytes: `device`, `precision`, `libraries`.

        None on CPUs, where the fingerprint is all.
        """
        ...

    def grid(self, image_size: tuple[int, int]) -> FeatureGrid:
        """Where the map's cells sit for recordings of this size (width, height in px).

        The result is measured on the network, once per size.

        Raises:
            TeacherError: the network cannot take this size, or its cells cannot be located.
        """
        ...

    def features(
        self, images: Sequence[Image]
    ) -> Float16[np.ndarray, "batch cells_v cells_u channels"]:
        """Feature maps of RGB images of one size.

        On a CPU an image's map does not depend on the other images of the call.

        Raises:
            TeacherError: no image, images of several sizes, or a size that the network cannot take.
            TeacherMemoryError: the device has too little memory for so many images.
            BadMapError: a map holds NaN, or a value that float16 cannot hold.
        """
        ...

    def fingerprint(self) -> dict[str, Any]:
        """JSON of all that determines the maps' bytes, except the batch and `accelerator`."""
        ...
