"""The students by name.

`STUDENTS` names the Res16UNet family as its authors do (SpatioTemporalSegmentation, PointContrast,
SLidR; MinkUNet in MinkowskiEngine): the number is the depth, the letter the widths, and without
a letter the decoder is 256 wide. SpUNet and PTv3 are Pointcept's; `PTv3-encoder` is the form that
Sonata and Concerto publish. A WaffleIron's name gives its layers and its width. A new network is
one more entry whose constructor takes the arguments of `build_student`.
"""

import difflib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from p2pkit.errors import ConfigError
from p2pkit.geometry.students.preparation import prepared_batch
from p2pkit.networks.blocks import BasicBlock, Block, Bottleneck
from p2pkit.networks.engines.sparse_engine import AUTO, sparse_engine
from p2pkit.networks.ptv3 import SMALL, SONATA, PTv3, PTv3Size
from p2pkit.networks.res16unet import Res16UNet
from p2pkit.networks.serialization import ORDERS
from p2pkit.networks.spunet import SpUNet
from p2pkit.networks.waffleiron import WaffleIron
from p2pkit.settings.students import WaffleIronConfig

Student = Res16UNet | SpUNet | PTv3 | WaffleIron
"""Called with coordinates and inputs, one row per voxel, and by name with what its `preparation`
makes of the points, if it has one; `out_channels` is the width it gives."""
BN_MOMENTUM = 0.05
WAFFLEIRON = "WaffleIron"
"""The names of WaffleIrons begin with it."""

_DEPTH_14 = (1, 1, 1, 1, 1, 1, 1, 1)
_DEPTH_18 = (2, 2, 2, 2, 2, 2, 2, 2)
_DEPTH_34 = (2, 3, 4, 6, 2, 2, 2, 2)
_DEPTH_101 = (2, 3, 4, 23, 2, 2, 2, 2)


def _family(
    layers: tuple[int, ...], *decoder: int, block: Block = BasicBlock
) -> Callable[..., Res16UNet]:
    planes = (32, 64, 128, 256, *(decoder or (256, 256, 256, 256)))
    return partial(Res16UNet, block=block, layers=layers, planes=planes)


def _transformer(size: PTv3Size) -> Callable[..., PTv3]:
    """Point Transformer V3 computes in plain torch whatever the engine, and has no batch norm."""

    def build(in_channels: int, out_channels: int | None, **_: object) -> PTv3:
        return PTv3(in_channels, out_channels, size=size)

    return build


def _waffle(depth: int, width: int) -> Callable[..., WaffleIron]:
    """WaffleIron computes in plain torch whatever the engine, and has no sparse convolution."""

    def build(
        in_channels: int,
        out_channels: int | None,
        *,
        bn_momentum: float,
        waffleiron: WaffleIronConfig | None,
        **_: object,
    ) -> WaffleIron:
        return WaffleIron(
            in_channels,
            out_channels,
            depth=depth,
            width=width,
            settings=waffleiron,
            bn_momentum=bn_momentum,
        )

    return build


PTV3_SIZES = {"PTv3": PTv3Size(), "PTv3-small": SMALL, "PTv3-encoder": SONATA}


def transformer_settings(student: str) -> dict[str, Any]:
    """What no tensor's shape shows of a PTv3, JSON: heads, sizes and orders; else empty."""
    if student not in PTV3_SIZES:
        return {}
    size = asdict(PTV3_SIZES[student]) | {"orders": ORDERS}
    return {"ptv3": json.loads(json.dumps(size))}


STUDENTS: dict[str, Callable[..., Student]] = {
    "Res16UNet14": _family(_DEPTH_14),
    "Res16UNet14A": _family(_DEPTH_14, 128, 128, 96, 96),
    "Res16UNet14B": _family(_DEPTH_14, 128, 128, 128, 128),
    "Res16UNet14C": _family(_DEPTH_14, 192, 192, 128, 128),
    "Res16UNet14D": _family(_DEPTH_14, 384, 384, 384, 384),
    "Res16UNet18": _family(_DEPTH_18),
    "Res16UNet18A": _family(_DEPTH_18, 128, 128, 96, 96),
    "Res16UNet18B": _family(_DEPTH_18, 128, 128, 128, 128),
    "Res16UNet18D": _family(_DEPTH_18, 384, 384, 384, 384),
    "Res16UNet34": _family(_DEPTH_34),
    "Res16UNet34A": _family(_DEPTH_34, 256, 128, 64, 64),
    "Res16UNet34B": _family(_DEPTH_34, 256, 128, 64, 32),
    "Res16UNet34C": _family(_DEPTH_34, 256, 128, 96, 96),
    "Res16UNet50": _family(_DEPTH_34, block=Bottleneck),
    "Res16UNet101": _family(_DEPTH_101, block=Bottleneck),
    "SpUNet": SpUNet,
    **{name: _transformer(size) for name, size in PTV3_SIZES.items()},
    "WaffleIron-12-256": _waffle(12, 256),
    "WaffleIron-48-256": _waffle(48, 256),
    "WaffleIron-48-768": _waffle(48, 768),
}


def build_student(
    name: str,
    *,
    in_channels: int,
    out_channels: int | None = None,
    conv1_kernel_size: int = 5,
    bn_momentum: float = BN_MOMENTUM,
    engine: str = AUTO,
    waffleiron: WaffleIronConfig | None = None,
) -> Student:
    """A student with random weights from torch's global generator.

    Args:
        name: a key of `STUDENTS`.
        in_channels: input features per voxel.
        out_channels: width of the last layer, `final`; None builds none, for a projection head.
        conv1_kernel_size: side of the first convolution's cube (voxels), odd.
        bn_momentum: of all batch norms; 0.05 is PointContrast's and SLidR's value.
        engine: a key of `ENGINES`, or `auto`; weights and checkpoints do not depend on it, and
            results differ by rounding only.
        waffleiron: settings of a WaffleIron; None takes the defaults. Other students have no use
            for it.

    Raises:
        ConfigError: the student or engine is unknown, or the kernel size is not odd and positive.
        MissingDependencyError: the engine is MinkowskiEngine, and it is not installed.
    """
    check_student(name, conv1_kernel_size)
    build = STUDENTS[name]
    if name.startswith(WAFFLEIRON):
        build = partial(build, waffleiron=waffleiron)
    return build(
        in_channels,
        out_channels,
        engine=sparse_engine(engine),
        conv1_kernel_size=conv1_kernel_size,
        bn_momentum=bn_momentum,
    )


def check_student(name: str, conv1_kernel_size: int) -> None:
    """Raise ConfigError, as `build_student`, if the student is unknown or the kernel size wrong."""
    if name not in STUDENTS:
        raise ConfigError(
            f"no student is called {name!r}{_meant(name)}; choose one of {', '.join(STUDENTS)}"
        )
    if conv1_kernel_size < 1 or conv1_kernel_size % 2 == 0:
        raise ConfigError(f"conv1_kernel_size is {conv1_kernel_size}; it must be odd and positive")


def prepared_for(
    student: Student, frames: Sequence[tuple[np.ndarray, np.ndarray]], device: str = "cpu"
) -> dict[str, Tensor]:
    """What a student takes by name beside coordinates and inputs; most take nothing.

    Args:
        student: whose `preparation` makes it.
        frames: of each frame of the batch, x, y, z (m) of the point that stands for each voxel,
            float32, and the voxels' integer positions, int32.
        device: where the student runs.
    """
    made = student.preparation
    return prepared_batch(made, [made.of_frame(*frame) for frame in frames] if made else [], device)


def _meant(name: str) -> str:
    """The nearest student's name, for a message; MinkUNet's variants have the same numbers."""
    lower = {student.lower(): student for student in STUDENTS}
    variant = re.sub(r"^(mink|sr|res16)[-_ ]?unet", "res16unet", name.lower())
    near = difflib.get_close_matches(variant, lower, n=1, cutoff=0.7)
    return f" (did you mean {lower[near[0]]}?)" if near else ""
