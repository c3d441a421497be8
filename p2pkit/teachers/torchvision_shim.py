"""Make `import torchvision` work beside a torch it was not built for.

timm imports torchvision. The wheel that a package registry serves is built against CUDA; beside a
CPU-only torch its compiled operators do not load and the import ends in `operator
torchvision::nms does not exist`. No teacher calls these operators, so declaring their schemas is
enough for the import, and for torchvision's models and transforms, to work.
"""

import importlib
import sys
import warnings

import torch

_SCHEMAS = ("nms", "qnms")
# The declarations live as long as this object does.
_declared: list[torch.library.Library] = []


def _import_torchvision() -> None:
    with warnings.catch_warnings():
        # torchvision warns that its image codecs did not load; nothing here reads images with it.
        warnings.simplefilter("ignore")
        importlib.import_module("torchvision")


def _declare_schemas() -> None:
    library = torch.library.Library("torchvision", "DEF")
    for name in _SCHEMAS:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)


def ensure_torchvision() -> bool:
    """Import torchvision; where that fails on its operators, declare them and import again.

    Returns:
        True where the operators had to be declared in this process, now or earlier.

    Raises:
        RuntimeError, ImportError: torchvision is missing or broken in another way.
    """
    try:
        _import_torchvision()
    except RuntimeError as error:
        if "torchvision::" not in str(error) or _declared:
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _declare_schemas()
        _import_torchvision()
    return bool(_declared)
