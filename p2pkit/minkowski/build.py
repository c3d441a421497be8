"""Build MinkowskiEngine's wheel from its published source, without editing that source.

Its setup.py has habits that this file works around: it calls `pip uninstall MinkowskiEngine`
whenever metadata is requested (a `pip` that does nothing is first on PATH), it requires OpenBLAS
(the shim header and an empty archive lead those calls to libtorch), and it imports torch (hence no
build isolation).
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from p2pkit.errors import MissingDependencyError
from p2pkit.minkowski.target import SDIST_SHA256, BuildTarget, shim_folder

Report = Callable[[str], None]
OLDEST_PIP = (23, 1)
_ERROR = re.compile(r"(?:\berror: |\bcannot find )(.*)")
_PROGRESS = re.compile(r"\[(\d+)/(\d+)\]")


def build_wheel(
    target: BuildTarget, folder: Path, *, report: Report, base: Mapping[str, str] = os.environ
) -> Path:
    """Compile the wheel into `folder`; 5 to 6 minutes on 2 cores for a CPU build.

    A CUDA build takes 9 minutes or more for each architecture. p2pkit's authors have compiled,
    linked and imported it, but never run it on a GPU: the self-check afterwards is what counts.

    Args:
        target: the variant to build.
        folder: where the wheel goes; made if absent.
        report: takes one line of progress at a time.
        base: the environment to build in; `toolkit_environment` makes that of a CUDA build.

    Raises:
        MissingDependencyError: a build tool is missing, or the compiler failed; the message has
            the first error and the path of the log.
    """
    require_build_tools()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="p2pkit-engine-") as temporary:
        work = Path(temporary)
        _write_work_files(work, target)
        environment = build_environment(target, work, base)
        lines = _run(_wheel_command(work, folder), environment, report)
    wheels = sorted(folder.glob("[Mm]inkowski[Ee]ngine-*.whl"))
    if not wheels:
        log = folder / "build.log"
        log.write_text("\n".join(lines) + "\n")
        raise MissingDependencyError(
            f"building MinkowskiEngine {target.engine} failed: {first_error(lines)} (see {log})"
        )
    return wheels[-1]


def first_error(lines: list[str]) -> str:
    """The compiler's or linker's first complaint in a log, else its last line."""
    errors = (found[1].strip() for line in lines if (found := _ERROR.search(line)))
    return next(errors, next((line for line in reversed(lines) if line.strip()), "no output"))


def require_build_tools() -> None:
    """Check for a C++ compiler, ninja, setuptools and a pip that passes build options.

    Raises:
        MissingDependencyError: names the tool and the command that installs it.
    """
    if shutil.which(os.environ.get("CXX", "c++")) is None and shutil.which("g++") is None:
        raise MissingDependencyError(
            "building MinkowskiEngine needs a C++ compiler: on Debian or Ubuntu run "
            "`apt-get install -y g++`"
        )
    missing = [name for name in ("ninja", "setuptools") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"building MinkowskiEngine needs {' and '.join(missing)}: run "
            f"`{sys.executable} -m pip install {' '.join(missing)}`"
        )
    try:
        pip = version("pip")
    except PackageNotFoundError:
        pip = "0"
    if tuple(int(part) for part in re.findall(r"\d+", pip)[:2]) < OLDEST_PIP:
        raise MissingDependencyError(
            f"building MinkowskiEngine needs pip 23.1 or later in this environment, found {pip}: "
            f"run `{sys.executable} -m ensurepip --upgrade`, then "
            f"`{sys.executable} -m pip install --upgrade pip`"
        )


def requirement(target: BuildTarget) -> str:
    """The one line of the requirements file: version, build options and the archive's digest."""
    options = "".join(f' --config-settings "--global-option={flag}"' for flag in target.options())
    return f"MinkowskiEngine=={target.engine}{options} --hash=sha256:{SDIST_SHA256}\n"


def build_environment(target: BuildTarget, work: Path, base: Mapping[str, str]) -> dict[str, str]:
    """The compiler's environment: `base` with flags, PATH and the shim headers of the recipe."""
    paths = [str(work / "bin"), str(Path(sys.executable).parent), base.get("PATH", "")]
    # -g0 goes here, not into CFLAGS: setuptools would drop Python's own flags, -DNDEBUG with them.
    preprocessor = "-g0 -w"
    if target.blas == "torch":
        preprocessor += f" -I{shim_folder()}"
    environment = {
        **base,
        "PATH": os.pathsep.join(paths),
        "MAX_JOBS": base.get("MAX_JOBS", str(os.cpu_count() or 1)),
        "CPPFLAGS": preprocessor,
    }
    if target.blas == "torch":
        environment["LDFLAGS"] = f"-L{work / 'lib'}"
    if target.cuda is not None:
        environment["NVCC_PREPEND_FLAGS"] = " ".join(_nvcc_flags(target, base.get("CUDA_HOME")))
        environment["TORCH_CUDA_ARCH_LIST"] = target.cuda_architectures
    return environment


def _nvcc_flags(target: BuildTarget, cuda_home: str | None) -> list[str]:
    flags = ["-include", str(shim_folder() / "nvcc_shim.h")]
    if target.blas == "torch":
        flags.append(f"-I{shim_folder()}")
    if cuda_home is not None:
        flags.append(f"-I{cuda_home}/include/cccl")  # Thrust's place since CUDA 13
    return flags


def _write_work_files(work: Path, target: BuildTarget) -> None:
    for name in ("bin", "lib"):
        (work / name).mkdir()
    (work / "bin" / "pip").write_text("#!/bin/sh\nexit 0\n")
    (work / "bin" / "pip").chmod(0o755)
    (work / "lib" / "libopenblas.a").write_bytes(b"!<arch>\n")  # empty, satisfies -lopenblas
    (work / "requirements.txt").write_text(requirement(target))


def _wheel_command(work: Path, folder: Path) -> list[str]:
    # No pip cache: pip's ignores the build options, and would return the wrong variant.
    pip = [sys.executable, "-m", "pip", "--verbose", "--no-cache-dir", "wheel", "--no-deps"]
    build = ["--no-build-isolation", "--use-pep517", "--no-binary", "MinkowskiEngine"]
    return [*pip, *build, "-w", str(folder), "-r", str(work / "requirements.txt")]


def _run(command: list[str], environment: dict[str, str], report: Report) -> list[str]:
    """Run to the end, report each compiled file, return all lines of output."""
    lines: list[str] = []
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            progress = _PROGRESS.search(line)
            if progress:
                report(f"compiled {progress[1]} of {progress[2]} files")
    return lines
