"""What every teacher offers, whatever library its network comes from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float16, UInt8

from p2pkit.geometry.grid import FeatureGrid
from p2pkit.settings import check_choices


@dataclass(frozen=True)
class TeacherOptions:
    """Which frozen 2D network to run, and on what.

    Args:
        name: model name, or `kind:name`; a name without a kind is timm's. docs/teachers.md lists
            the kinds. `none` extracts geometry and labels alone.
        layer: index into the network's feature stages; negative counts from the last.
        weights: `default`, `timm` (timm's own download), `random`, or the path of a state_dict
            (.pth, .pt, .safetensors). `default` is the installed ImageNet weights for
            tf_efficientnet_lite0 and `timm` for every other model.
        input_size: (width, height) that images are resized to (px); they keep their size where it
            is left out.
        output_stride: dilate the network to this stride, 8 or 16, where its family can; the
            network's own where it is left out.
        device: where it runs, as torch names it: cpu, cuda or cuda:N.
        seed: seed of `random` weights.
        final_norm: where the network's final norm is applied to the tokens of a ViT: `last`, on its
            last layer, as the network itself does; `all`, on whichever layer is chosen; `none`.
            Other networks have none to apply.
        views: further views whose maps are averaged with the image's: `flip`, `scale:S` with S
            from 0.25 to 4, or several with commas; empty for none.
    """

    name: str = "tf_efficientnet_lite0"
    layer: int = -1
    weights: str = "default"
    input_size: tuple[int, int] | None = None
    output_stride: int | None = None
    device: str = "cpu"
    seed: int = 0
    final_norm: Literal["last", "all", "none"] = "last"
    views: str = ""

    def __post_init__(self) -> None:
        check_choices(self)

    def norms(self, layer: int, count: int) -> bool:
        """Whether the final norm is applied to a layer, counted from the first, of `count`."""
        return self.final_norm == "all" or (self.final_norm == "last" and layer == count - 1)


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

    def grid(self, image_size: tuple[int, int]) -> FeatureGrid:
        """Where the map's cells sit for recordings of this size (width, height in px).

        The result is measured on the network, once per size.

        Raises:
            TeacherError: the network cannot take this size, or its cells cannot be located.
        """
        ...

    def features(
        self, images: Sequence[UInt8[np.ndarray, "height width 3"]]
    ) -> Float16[np.ndarray, "batch cells_v cells_u channels"]:
        """Feature maps of RGB images of one size.

        An image's map does not depend on the other images of the call.

        Raises:
            TeacherError: no image, images of several sizes, a size that the network cannot take, or
                a value that float16 cannot hold.
        """
        ...

    def fingerprint(self) -> dict[str, Any]:
        """JSON of all that determines the maps' bytes, except the device."""
        ...
