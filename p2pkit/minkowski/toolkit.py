"""CUDA toolkits that can compile for the installed torch: the system's, or one that pip makes.

torch's own dependencies bring the CUDA headers and libraries (`site-packages/nvidia/cu13`); four
small packages add the compiler. That layout exists since CUDA 13.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from p2pkit.errors import MissingDependencyError
from p2pkit.files import sha256_json

RunCommand = Callable[[list[str]], None]

USUAL_PLACE = Path("/usr/local/cuda")
OLDEST_FROM_PIP = 13
SHOWN = 2
"""Absent headers that a message names."""
PIP_PACKAGES = ("nvidia-cuda-nvcc", "nvidia-cuda-cccl", "nvidia-cuda-crt", "nvidia-nvvm")
HEADERS = {
    "cuda_runtime.h": "the runtime",
    "cublas_v2.h": "cuBLAS",
    "cusparse.h": "cuSPARSE",
    "cusolverDn.h": "cuSOLVER",
    "curand.h": "cuRAND",
    "crt/host_config.h": "the compiler (crt)",
    "thrust/host_vector.h": "Thrust (cccl)",
}
"""Header that a build includes: the part of the toolkit that it comes with."""


@dataclass(frozen=True)
class Toolkit:
    """A folder with CUDA's compiler, headers and libraries.

    Args:
        home: what CUDA_HOME names.
        version: of its nvcc, such as 13.0; empty where there is none that runs.
        from_pip: whether it is made of Python packages, whose libraries have versioned names only.
    """

    home: Path
    version: str
    from_pip: bool

    def include_folders(self) -> list[Path]:
        """Where its headers are; Thrust moved into a separate folder with CUDA 13."""
        return [self.home / "include" / "cccl", self.home / "include"]

    def lacks(self, cuda: str) -> str:
        """Why it cannot compile for a torch with this CUDA version; empty where it can."""
        if not self.version:
            return f"{self.home} has no nvcc"
        if self.version != cuda:
            return f"nvcc in {self.home} belongs to CUDA {self.version}, expected {cuda}"
        absent = [
            f"{header} of {part}"
            for header, part in HEADERS.items()
            if not any((folder / header).is_file() for folder in self.include_folders())
        ]
        more = f" and {len(absent) - SHOWN} more" if len(absent) > SHOWN else ""
        return f"{self.home} lacks {', '.join(absent[:SHOWN])}{more}" if absent else ""


def torch_cuda_version() -> str | None:
    """The CUDA version that torch was built with, without importing it; None for a CPU build."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = (Path(spec.origin).parent / "version.py").read_text()
    found = re.search(r"^cuda\b.*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    return found[1] if found else None


def pip_toolkit(cuda: str) -> Toolkit:
    """The folder that pip's packages of this CUDA version make, complete or not."""
    home = Path(sysconfig.get_path("purelib")) / "nvidia" / f"cu{cuda.split('.')[0]}"
    return Toolkit(home, nvcc_version(home / "bin" / "nvcc"), from_pip=True)


def system_toolkits(environment: Mapping[str, str]) -> list[Toolkit]:
    """Those that CUDA_HOME names, that `nvcc` on PATH belongs to, and in the usual place."""
    homes = [Path(environment["CUDA_HOME"])] if environment.get("CUDA_HOME") else []
    nvcc = shutil.which("nvcc", path=environment.get("PATH", ""))
    if nvcc is not None:
        homes.append(Path(nvcc).resolve().parent.parent)
    if USUAL_PLACE.is_dir():
        homes.append(USUAL_PLACE)
    return [
        Toolkit(home, nvcc_version(home / "bin" / "nvcc"), from_pip=False)
        for home in dict.fromkeys(homes)
    ]


def nvcc_version(nvcc: Path) -> str:
    """Such as 13.0; empty where it does not run."""
    try:
        done = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    found = re.search(r"release (\d+\.\d+)", done.stdout)
    return found[1] if found else ""


def pip_install_command(cuda: str) -> list[str]:
    """Adds the compiler of this CUDA version to what torch's dependencies brought."""
    release = ".".join(cuda.split(".")[:2])
    packages = [f"{name}=={release}.*" for name in PIP_PACKAGES]
    return [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *packages]


def usable_toolkit(cuda: str) -> tuple[Toolkit | None, list[str]]:
    """A toolkit that is here and can compile for this CUDA version, and why others cannot."""
    found = [*system_toolkits(os.environ), pip_toolkit(cuda)]
    reasons: list[str] = []
    for toolkit in found:
        reason = toolkit.lacks(cuda)
        if not reason:
            return toolkit, reasons
        if toolkit.home.is_dir() and not (toolkit.from_pip and not toolkit.version):
            reasons.append(reason)
    return None, reasons


def require_toolkit(cuda: str, run_pip: RunCommand) -> tuple[Toolkit, list[str]]:
    """A toolkit for this CUDA version, made of pip's packages where none is here.

    Args:
        cuda: torch's CUDA version.
        run_pip: runs a command line of pip; raises MissingDependencyError where it fails.

    Returns:
        The toolkit, and why others that are here cannot be used.

    Raises:
        MissingDependencyError: there is none, and pip's packages do not make one.
    """
    toolkit, reasons = usable_toolkit(cuda)
    if toolkit is not None:
        return toolkit, reasons
    why = "; ".join([*reasons, ""])
    if int(cuda.split(".")[0]) < OLDEST_FROM_PIP:
        raise MissingDependencyError(
            f"a CUDA build needs the CUDA toolkit {cuda}: {why}install it and put its nvcc on PATH "
            "(pip's packages make a toolkit from CUDA 13 on)"
        )
    run_pip(pip_install_command(cuda))
    toolkit = pip_toolkit(cuda)
    lacks = toolkit.lacks(cuda)
    if lacks:
        raise MissingDependencyError(
            f"pip's packages for CUDA {cuda} do not make a complete toolkit: {why}{lacks}"
        )
    return toolkit, reasons


def library_links(toolkit: Toolkit, cache: Path) -> Path:
    """A folder of links `libX.so` to the toolkit's `libX.so.N`: the names that a linker looks for.

    Args:
        toolkit: made of pip's packages.
        cache: the folder below which the links are made; one folder for each toolkit.
    """
    folder = cache / f"cuda-links-{sha256_json(str(toolkit.home))[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    for library in sorted((toolkit.home / "lib").glob("lib*.so.*")):
        link = folder / f"{library.name.split('.so.')[0]}.so"
        link.unlink(missing_ok=True)
        link.symlink_to(library)
    return folder


def toolkit_environment(
    toolkit: Toolkit, links: Path | None, base: Mapping[str, str]
) -> dict[str, str]:
    """`base` with what makes compilers and linkers find the toolkit.

    Args:
        toolkit: to compile with.
        links: `library_links` of a toolkit of pip's packages, else None.
        base: the caller's environment.
    """
    headers = [str(folder) for folder in toolkit.include_folders() if folder.is_dir()]
    libraries = [] if links is None else [str(links)]
    return {
        **base,
        "CUDA_HOME": str(toolkit.home),
        "CUDA_PATH": str(toolkit.home),
        "PATH": _paths([str(toolkit.home / "bin")], base.get("PATH")),
        "CPATH": _paths(headers, base.get("CPATH")),
        "LIBRARY_PATH": _paths(libraries, base.get("LIBRARY_PATH")),
    }


def _paths(first: list[str], rest: str | None) -> str:
    return os.pathsep.join([*first, *([rest] if rest else [])])
