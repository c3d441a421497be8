"""What MinkowskiEngine is built from and for: everything that determines the wheel's bytes."""

import ctypes
import hashlib
import os
import sys
import sysconfig
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path

from p2pkit.errors import MissingDependencyError
from p2pkit.files import sha256_json

ENGINE_VERSION = "0.5.4"
SDIST_SHA256 = "b1879c00d0b0b1d30ba622cce239886a7e3c78ee9da1064cdfe2f64c2ab15f94"
DEFAULT_CUDA_ARCHITECTURES = "8.0;8.6;9.0+PTX"


@dataclass(frozen=True)
class BuildTarget:
    """One variant of the wheel; equal targets may share a wheel.

    Args:
        engine: MinkowskiEngine's version.
        torch: torch's version with its local part, such as 2.13.0+cpu.
        python: the interpreter's tag, such as cp311.
        platform: such as linux-x86_64.
        cuda: torch's CUDA version for a GPU build, None for a CPU build.
        cuda_architectures: as TORCH_CUDA_ARCH_LIST takes them; empty for a CPU build.
        blas: "torch" uses the BLAS inside libtorch, "openblas" the system's.
        recipe: digest of the source archive and of the shim headers.
    """

    engine: str
    torch: str
    python: str
    platform: str
    cuda: str | None
    cuda_architectures: str
    blas: str
    recipe: str

    def cache_key(self) -> str:
        """A short name that differs wherever any field differs."""
        return sha256_json(asdict(self))[:20]

    def options(self) -> list[str]:
        """Flags for MinkowskiEngine's setup.py."""
        return ["--cpu_only" if self.cuda is None else "--force_cuda", "--blas=openblas"]


def current_target(cuda: bool) -> BuildTarget:
    """The target for this interpreter, its torch and this machine.

    Args:
        cuda: whether it is a GPU build, for the architectures in TORCH_CUDA_ARCH_LIST, else those
            of the visible GPUs, else `DEFAULT_CUDA_ARCHITECTURES`.

    Raises:
        MissingDependencyError: a GPU build is requested without a CUDA torch, or no BLAS is found.
    """
    import torch

    if cuda and torch.version.cuda is None:
        raise MissingDependencyError(
            f"a CUDA build needs a torch built with CUDA, and torch {torch.__version__} is CPU "
            "only: install such a torch"
        )
    architectures = ""
    if cuda:
        architectures = os.environ.get("TORCH_CUDA_ARCH_LIST") or visible_architectures()
    return BuildTarget(
        engine=ENGINE_VERSION,
        torch=torch.__version__,
        python=f"{sys.implementation.name[0]}p{sys.version_info.major}{sys.version_info.minor}",
        platform=sysconfig.get_platform(),
        cuda=torch.version.cuda if cuda else None,
        cuda_architectures=architectures,
        blas=find_blas(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"),
        recipe=recipe_digest(),
    )


def visible_architectures() -> str:
    """Of the GPUs that torch sees, such as `8.6;9.0`; `DEFAULT_CUDA_ARCHITECTURES` without one."""
    import torch

    seen = {
        torch.cuda.get_device_capability(index)
        for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    }
    return ";".join(f"{major}.{minor}" for major, minor in sorted(seen)) or (
        DEFAULT_CUDA_ARCHITECTURES
    )


def find_blas(torch_library: Path) -> str:
    """Which BLAS the engine can call: `torch` where libtorch exports sgemm_, else `openblas`.

    Raises:
        MissingDependencyError: neither libtorch's nor the system's can be used.
    """
    if torch_library.is_file() and hasattr(ctypes.CDLL(str(torch_library)), "sgemm_"):
        return "torch"
    if _has_system_openblas():
        return "openblas"
    raise MissingDependencyError(
        f"MinkowskiEngine needs a BLAS: {torch_library} does not export sgemm_ and the system has "
        "no OpenBLAS with headers; on Debian or Ubuntu run `apt-get install -y libopenblas-dev`"
    )


def _has_system_openblas() -> bool:
    folders = [Path("/usr/include"), *Path("/usr/include").glob("*-linux-gnu")]
    headers = ("cblas.h", "openblas/cblas.h", "openblas-pthread/cblas.h")
    return any((folder / header).is_file() for folder in folders for header in headers)


def shim_folder() -> Path:
    """The folder of the headers that are shipped in this package."""
    return Path(str(files("p2pkit.minkowski")))


def recipe_digest() -> str:
    """sha256 over the source archive's digest and the shim headers."""
    digest = hashlib.sha256(SDIST_SHA256.encode())
    for header in sorted(shim_folder().glob("*.h")):
        digest.update(header.name.encode() + b"\0" + header.read_bytes())
    return digest.hexdigest()
