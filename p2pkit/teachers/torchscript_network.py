"""A TorchScript file as a teacher, with a JSON file beside it that says how to use it.

    NETWORK.pt        images [1, 3, height, width] in, a map [1, channels, cells_v, cells_u] out
    NETWORK.pt.json   see `declared_use`

Where its cells sit cannot be measured as with networks whose modules are known, so it is declared;
an input that is changed there must change the map there.
"""

import hashlib
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from p2pkit.errors import TeacherError, first_line
from p2pkit.files import utf8_path
from p2pkit.settings.layers import TeacherOptions
from p2pkit.teachers.declared_use import map_channels, read_declared_use, refuse_other_options
from p2pkit.teachers.network import TeacherNetwork
from p2pkit.teachers.weights import weights_sha256
from p2pkit.weight_files import check_weight_file


class ScriptedLayer(nn.Module):
    """A scripted network whose map comes out channels-last."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Maps [batch, cells_v, cells_u, channels]."""
        found = self.network(images)
        if not isinstance(found, Tensor) or found.ndim != 4:
            shown = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"expected a map [batch, channels, rows, columns], found {shown}")
        return found.permute(0, 2, 3, 1)


def build_network(options: TeacherOptions, name: str) -> TeacherNetwork:
    """Load the file on the CPU. TorchScript is a separate language; no Python code in it is run.

    Raises:
        TeacherError: a file is missing or cannot be read, or an option does not apply.
    """
    teacher = f"torchscript:{name}"
    refuse_other_options(options, teacher, autocasts=True)
    path = Path(name)
    use = read_declared_use(path, options.input_size)
    layer = ScriptedLayer(_load(path)).eval()
    return TeacherNetwork(
        layer=layer,
        layer_index=0,
        channels=map_channels(layer, use, teacher),
        nominal_stride=max(1, round(use.stride)),
        weights_sha256=program_sha256(layer.network),
        preprocessing=use.preprocessing,
        library=f"torchscript, torch {torch.__version__}",
        declared_grid=(use.stride, use.offset),
        trust_offset=use.trust_offset,
    )


def program_sha256(network: nn.Module) -> str:
    """Digest of the program that a scripted network runs, and of the tensors that it reads.

    Freezing leaves what the result depends on; names of files, lines and unused tensors are gone. A
    network that was frozen before it was saved has its weights in the program alone.
    """
    library: Any = torch
    frozen: Any = network
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            frozen = torch.jit.freeze(frozen, optimize_numerics=False)
        left: dict[str, Tensor] = {}
    except RuntimeError:
        # A network that changes its own attributes cannot be frozen.
        left = frozen.state_dict()
    graph = library._C._jit_pass_canonicalize(frozen.inlined_graph.copy())
    constants = [
        node.t("value")
        for node in graph.findAllNodes("prim::Constant")
        if node.hasAttribute("value") and node.kindOf("value") == "t"
    ]
    tensors = {f"constant {number:08d}": value for number, value in enumerate(constants)}
    program = hashlib.sha256(graph.str(False).encode())
    program.update(weights_sha256({**left, **tensors}).encode())
    return program.hexdigest()


def _load(path: Path) -> nn.Module:
    check_weight_file(path, TeacherError)
    try:
        with warnings.catch_warnings(), utf8_path(path) as readable:
            warnings.simplefilter("ignore")
            return torch.jit.load(str(readable), map_location="cpu")
    except Exception as error:
        # Damaged archives raise errors of any kind.
        raise TeacherError(
            f"teacher torchscript:{path} cannot be read: {first_line(error)}. It must be a file "
            "that torch.jit.save wrote; copy it again, or give a state_dict as --weights FILE"
        ) from error
