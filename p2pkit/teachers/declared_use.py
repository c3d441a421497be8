"""How a network file without code is used, as the JSON file beside it declares.

    NETWORK.json   {"mean": [...], "std": [...], "stride": 14, "offset": 6.5,
                    "interpolation": "bicubic"}

The name is the network file's with `.json` after it. `stride` and `offset` are px of the network's
input: distance of the cells, and the first cell's centre. The network is probed to check them; with
`"trust_offset": true` only an offset that is wrong by a whole cell is refused.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from p2pkit.errors import TeacherError
from p2pkit.settings import nearest
from p2pkit.settings.layers import TeacherOptions
from p2pkit.teachers.network import Preprocessing, check_range, first_map

NEEDED = ("mean", "std", "stride", "offset")
OPTIONAL = ("interpolation", "output", "trust_offset")
FILTERS = ("nearest", "bilinear", "bicubic", "lanczos")


@dataclass(frozen=True)
class DeclaredUse:
    """What the file declares.

    Args:
        preprocessing: of images.
        stride: distance of the map's cells (px).
        offset: centre of the first cell (px).
        output: which of several outputs is the map; None where the file does not say.
        trust_offset: whether the offset is kept although the map answers elsewhere.
    """

    preprocessing: Preprocessing
    stride: float
    offset: float
    output: str | None
    trust_offset: bool = False


def refuse_other_options(options: TeacherOptions, teacher: str, *, autocasts: bool) -> None:
    """Raise TeacherError if an option is set that does not apply to a file with one network.

    Args:
        options: as the user gave them.
        teacher: its name, for the message.
        autocasts: whether torch's autocast reaches the file's operations.
    """
    others = options.output_stride is not None or options.final_norm != "last"
    if options.weights != "default" or options.layer not in (-1, 0) or others:
        raise TeacherError(
            f"teacher {teacher}: the file has one layer and its own weights; --layer, --weights, "
            "the output stride and final_norm do not apply"
        )
    if options.compile or (options.precision != "float32" and not autocasts):
        raise TeacherError(
            f"teacher {teacher}: compile is {options.compile} and precision {options.precision}; a "
            "file computes as it was exported: omit compile"
            f"{'' if autocasts else ', and export it in another precision instead'}"
        )


def map_channels(layer: nn.Module, use: DeclaredUse, teacher: str) -> int:
    """Channels of a network's map, from one image.

    Args:
        layer: gives maps [batch, cells_v, cells_u, channels]; a ValueError where it cannot.
        use: its input size, where it has one, else eight cells a side.
        teacher: its name, for the message.

    Raises:
        TeacherError: the network fails on the image, or its map is not the same each time.
    """
    side = 8 * max(1, round(use.stride))
    size = use.preprocessing.input_size or (side, side)
    supported = "If the size is the cause, set --input-size to one that it accepts"
    return int(first_map(layer, size, name=teacher, supported=supported).shape[3])


def read_declared_use(network: Path, input_size: tuple[int, int] | None) -> DeclaredUse:
    """Read `NETWORK.json`, where `network` is the path of NETWORK.

    Raises:
        TeacherError: it is missing, not JSON, lacks an entry, or has one that is unknown or makes
            no sense.
    """
    path = network.with_name(f"{network.name}.json")
    value = _checked(_read(path), path)
    mean, std = (tuple(map(float, value[key])) for key in ("mean", "std"))
    check_range(mean, std, str(path))
    preprocessing = Preprocessing(
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
        interpolation=str(value["interpolation"]),
        input_size=input_size,
    )
    return DeclaredUse(
        preprocessing,
        stride=float(value["stride"]),
        offset=float(value["offset"]),
        output=value.get("output"),
        trust_offset=value["trust_offset"],
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except OSError as error:
        raise TeacherError(
            f"{path} cannot be read: {error.strerror}. It says how the network is used, such as "
            '{"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "stride": 14, '
            '"offset": 6.5}'
        ) from error
    except ValueError as error:
        raise TeacherError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise TeacherError(
            f"expected an object with {', '.join(NEEDED)}, found {value!r} in {path}"
        )
    return value


def _checked(value: dict[str, Any], path: Path) -> dict[str, Any]:
    missing = [name for name in NEEDED if name not in value]
    if missing:
        raise TeacherError(f"{path} lacks {', '.join(missing)}; expected {', '.join(NEEDED)}")
    _refuse_unknown(value, path)
    value.setdefault("interpolation", "bilinear")
    value.setdefault("trust_offset", False)
    if not isinstance(value["trust_offset"], bool):
        raise TeacherError(
            f"{path}: trust_offset is {value['trust_offset']!r}; expected true or false"
        )
    if value["interpolation"] not in FILTERS:
        raise TeacherError(
            f"{path}: interpolation is {value['interpolation']!r}; choose one of "
            f"{', '.join(FILTERS)}"
        )
    for key in ("mean", "std"):
        numbers = value[key]
        if not (isinstance(numbers, list) and len(numbers) == 3 and all(map(_is_finite, numbers))):
            raise TeacherError(f"{path}: {key} is {numbers!r}; expected three numbers")
    if min(value["std"]) <= 0:
        raise TeacherError(f"{path}: std is {value['std']!r}; expected three numbers above 0")
    for key in ("stride", "offset"):
        if not _is_finite(value[key]) or (key == "stride" and not value[key] > 0):
            raise TeacherError(
                f"{path}: {key} is {value[key]!r}; expected a number, for stride above 0 (px)"
            )
    return value


def _refuse_unknown(value: dict[str, Any], path: Path) -> None:
    known = (*NEEDED, *OPTIONAL)
    for name in sorted(value.keys() - {*known}):
        near = nearest(name, known)
        advice = f"did you mean {near[0]}?" if near else f"the entries are {', '.join(known)}"
        raise TeacherError(f"{path}: unknown entry {name!r}; {advice}")


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
