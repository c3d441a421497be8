"""A TorchScript file as a teacher, with a JSON file beside it that says how to use it.

    NETWORK.pt        images [1, 3, height, width] in, a map [1, channels, cells_v, cells_u] out
    NETWORK.pt.json   see `declared_use`

Where its cells sit cannot be measured as with networks whose modules are known, so it is declared;
an input that is changed there must change the map there.
"""

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from p2pkit.errors import TeacherError, first_line
from p2pkit.settings.layers import TeacherOptions
from p2pkit.teachers.declared_use import map_channels, read_declared_use, refuse_other_options
from p2pkit.teachers.network import TeacherNetwork
from p2pkit.teachers.weights import weights_sha256


class ScriptedLayer(nn.Module):
    """A scripted network whose map comes out channels-last."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Maps [batch, cells_v, cells_u, channels]."""
        found = self.network(images)
        if not isinstance(found, Tensor) or found.ndim != 4:
            told = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"it gives {told}; a map [batch, channels, rows, columns] is due")
        return found.permute(0, 2, 3, 1)


def build_network(options: TeacherOptions, name: str) -> TeacherNetwork:
    """Load the file on the CPU. TorchScript is a language of its own; no Python in it is run.

    Raises:
        TeacherError: a file is missing or cannot be read, or an option does not apply.
    """
    told = f"torchscript:{name}"
    refuse_other_options(options, told)
    path = Path(name)
    use = read_declared_use(path, options.input_size)
    layer = ScriptedLayer(_load(path)).eval()
    return TeacherNetwork(
        layer=layer,
        layer_index=0,
        channels=map_channels(layer, use, told),
        nominal_stride=max(1, round(use.stride)),
        weights_sha256=weights_sha256(layer.state_dict()),
        preprocessing=use.preprocessing,
        library=f"torchscript, torch {torch.__version__}",
        declared_grid=(use.stride, use.offset),
        trust_offset=use.trust_offset,
    )


def _load(path: Path) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.jit.load(str(path), map_location="cpu")
    except (OSError, RuntimeError, ValueError) as error:
        raise TeacherError(
            f"teacher torchscript:{path} cannot be read: {first_line(error)}"
        ) from error
