"""One loaded layer of a 2D network, from whatever library, as a teacher runs it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from PIL import Image
from torch import Tensor, nn

from p2pkit.errors import TeacherError, first_line

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Preprocessing:
    """How images are prepared.

    Args:
        mean, std: per channel, of RGB values in [0, 1].
        interpolation: the resize filter; Pillow's, which widens it when shrinking (antialiasing).
        input_size: (width, height) to resize to (px); None leaves images as they are.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    input_size: tuple[int, int] | None

    def size_for(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """The network's input size (width, height) for images of this size."""
        return self.input_size or image_size

    def apply(self, image: UInt8[np.ndarray, "height width 3"]) -> Float32[Tensor, "3 in_v in_u"]:
        """Resize and normalise one image. The result lies channels-last in memory."""
        return self.normalise(torch.from_numpy(self.resize(image).astype(np.float32)))

    def resize(
        self, image: UInt8[np.ndarray, "height width 3"]
    ) -> UInt8[np.ndarray, "in_v in_u 3"]:
        """The image in the network's input size."""
        if not self.input_size or self.input_size == (image.shape[1], image.shape[0]):
            return image
        filter_ = _FILTERS[self.interpolation]
        return np.array(Image.fromarray(image).resize(self.input_size, filter_))

    def normalise(
        self, pixels: Float32[Tensor, "*batch in_v in_u 3"]
    ) -> Float32[Tensor, "*batch 3 in_v in_u"]:
        """Pixels (0 to 255) as the network takes them, in place and on their device."""
        mean = torch.tensor(self.mean, dtype=torch.float64) * 255
        scale = 1 / (torch.tensor(self.std, dtype=torch.float64) * 255)
        here = [row.float().to(pixels.device) for row in (mean, scale)]
        return pixels.sub_(here[0]).mul_(here[1]).movedim(-1, -3)

    def to_json(self) -> dict[str, Any]:
        """Everything but the input size."""
        return {"mean": list(self.mean), "std": list(self.std), "interpolation": self.interpolation}


@dataclass(frozen=True)
class TeacherNetwork:
    """A loaded layer and what is known of it before it runs.

    Args:
        layer: takes NCHW images, gives its map [batch, cells_v, cells_u, channels]; frozen and in
            evaluation mode.
        layer_index: the layer, counted from the first.
        channels: channels of the layer's cells.
        nominal_stride: image pixels per cell as the library reports it.
        weights_sha256: digest of the layer's tensors.
        preprocessing: from the model's configuration.
        library: names and versions of what computes it.
        identity: what else decides the map's bytes, for the fingerprint; JSON.
        weights_origin: which part of a checkpoint the weights are; empty where it has one only.
        on_host: takes and gives tensors of the CPU, wherever it computes.
        declared_grid: stride and offset (px) where the cells cannot be measured; None measures.
        trust_offset: refuse a declared grid only where it is wrong by a whole cell.
    """

    layer: nn.Module
    layer_index: int
    channels: int
    nominal_stride: int
    weights_sha256: str
    preprocessing: Preprocessing
    library: str
    identity: dict[str, Any] = field(default_factory=dict)
    weights_origin: str = ""
    on_host: bool = False
    declared_grid: tuple[float, float] | None = None
    trust_offset: bool = False


def check_range(mean: Sequence[float], std: Sequence[float], where: str) -> None:
    """Raise TeacherError where mean or standard deviation are not of RGB values in [0, 1].

    Args:
        mean: per channel.
        std: per channel.
        where: what the message calls their source.
    """
    if max(map(abs, (*mean, *std))) > 1:
        raise TeacherError(
            f"{where}: mean {list(mean)} and standard deviation {list(std)} must be of RGB values "
            "from 0 to 1, where neither exceeds 1: divide both by 255 if they are of values from 0 "
            "to 255"
        )


def no_final_norm(teacher: str) -> TeacherError:
    """The error for `final_norm` all where the network has no such norm."""
    return TeacherError(
        f"teacher {teacher} has no final norm that could be applied to an earlier layer; leave "
        "final_norm at 'last'"
    )


def first_map(layer: nn.Module, size: tuple[int, int], *, name: str, supported: str) -> Tensor:
    """The map of an image of noise; run twice, since a teacher must not draw at random.

    Args:
        layer: whose code nobody has run so far.
        size: (width, height) of the image (px).
        name: of the teacher, for the message.
        supported: what the message says of the networks and sizes that can be used.

    Raises:
        TeacherError: it fails, gives no map, or gives another one the second time.
    """
    width, height = size
    try:
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            image = torch.rand(1, 3, height, width)
            found, again = layer(image), layer(image)
    except Exception as error:
        raise TeacherError(
            f"teacher {name} fails on an input of {width} x {height} px "
            f"({type(error).__name__}: {first_line(error)}). {supported}"
        ) from error
    if not isinstance(found, Tensor) or found.ndim != 4:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise TeacherError(f"teacher {name} gives {shape}, not one map. {supported}")
    if not torch.equal(found, again):
        raise TeacherError(
            f"teacher {name} gives another map for the same image each time: it masks patches or "
            f"drops values at random. {supported}"
        )
    return found
