"""One loaded layer of a 2D network, from whatever library, as a teacher runs it."""

from dataclasses import dataclass

from torch import nn

from p2pkit.teachers.preprocessing import Preprocessing


@dataclass(frozen=True)
class TeacherNetwork:
    """A loaded layer and what is known of it before it runs.

    Args:
        layer: takes NCHW images, gives its map [batch, cells_v, cells_u, channels]; frozen and in
            evaluation mode.
        layer_index: the layer, counted from the first.
        channels: channels of the layer's cells.
        nominal_stride: image pixels per cell by the library's account.
        weights_sha256: digest of the layer's tensors.
        preprocessing: from the model's configuration.
        library: names and versions of what computes it.
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
    declared_grid: tuple[float, float] | None = None
    trust_offset: bool = False
