"""A TorchScript file as a teacher, with a JSON file beside it that says how to use it.

    NETWORK.pt        images [1, 3, height, width] in, a map [1, channels, cells_v, cells_u] out
    NETWORK.pt.json   {"mean": [...], "std": [...], "stride": 14, "offset": 6.5,
                       "interpolation": "bicubic"}

Where its cells sit cannot be measured as with networks whose modules are known, so `stride` and
`offset` (px of the input, of the first cell's centre) are declared; an input that is changed there
must change the map there.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from p2pkit.errors import TeacherError
from p2pkit.teachers.network import TeacherNetwork
from p2pkit.teachers.preprocessing import Preprocessing
from p2pkit.teachers.teacher import TeacherOptions
from p2pkit.teachers.weights import weights_sha256

NEEDED = ("mean", "std", "stride", "offset")
FILTERS = ("nearest", "bilinear", "bicubic", "lanczos")


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
    if options.weights != "default" or options.layer != -1 or options.output_stride is not None:
        raise TeacherError(
            f"teacher torchscript:{name}: the file has one layer and its own weights; --layer, "
            "--weights and the output stride do not apply"
        )
    path = Path(name)
    declared = _declared(path.with_name(f"{path.name}.json"))
    layer = ScriptedLayer(_load(path)).eval()
    stride, offset = float(declared["stride"]), float(declared["offset"])
    mean, std = (tuple(map(float, declared[key])) for key in ("mean", "std"))
    return TeacherNetwork(
        layer=layer,
        layer_index=0,
        channels=_channels(layer, options, name, stride),
        nominal_stride=max(1, round(stride)),
        weights_sha256=weights_sha256(layer.state_dict()),
        preprocessing=Preprocessing(
            mean=(mean[0], mean[1], mean[2]),
            std=(std[0], std[1], std[2]),
            interpolation=str(declared["interpolation"]),
            input_size=options.input_size,
        ),
        library=f"torchscript, torch {torch.__version__}",
        declared_grid=(stride, offset),
    )


def _load(path: Path) -> nn.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.jit.load(str(path), map_location="cpu")
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise TeacherError(f"teacher torchscript:{path} cannot be read: {reason}") from error


def _declared(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except OSError as error:
        raise TeacherError(
            f"{path} cannot be read: {error.strerror}. It says how the network is used, such as "
            '{"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "stride": 14, '
            '"offset": 6.5}'
        ) from error
    except ValueError as error:
        raise TeacherError(f"{path} is no JSON: {error}") from error
    missing = [name for name in NEEDED if name not in value]
    if missing:
        raise TeacherError(f"{path} lacks {', '.join(missing)}; needed are {', '.join(NEEDED)}")
    value.setdefault("interpolation", "bilinear")
    if value["interpolation"] not in FILTERS:
        raise TeacherError(
            f"{path}: interpolation is {value['interpolation']!r}; choose one of "
            f"{', '.join(FILTERS)}"
        )
    for key in ("mean", "std"):
        numbers = value[key]
        if not (isinstance(numbers, list) and len(numbers) == 3):
            raise TeacherError(f"{path}: {key} is {numbers!r}; three numbers are due")
    for key in ("stride", "offset"):
        if not isinstance(value[key], int | float) or (key == "stride" and not value[key] > 0):
            raise TeacherError(
                f"{path}: {key} is {value[key]!r}; a number is due, stride above 0 (px)"
            )
    return value


def _channels(layer: nn.Module, options: TeacherOptions, name: str, stride: float) -> int:
    side = 8 * max(1, round(stride))
    width, height = options.input_size or (side, side)
    try:
        with torch.inference_mode():
            return int(layer(torch.zeros(1, 3, height, width)).shape[3])
    except (RuntimeError, ValueError) as error:
        raise TeacherError(
            f"teacher torchscript:{name} fails on an input of {width} x {height} px: {error}. Set "
            "input_size to one that it takes"
        ) from error
