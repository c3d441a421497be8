"""Install MinkowskiEngine into the running environment, from the cache or by building it."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from p2pkit.errors import MissingDependencyError, first_line
from p2pkit.minkowski.build import Report, build_wheel
from p2pkit.minkowski.cache import obtain_wheel, wheel_cache_folder
from p2pkit.minkowski.target import BuildTarget, current_target
from p2pkit.minkowski.toolkit import library_links, require_toolkit, toolkit_environment


@dataclass(frozen=True)
class Installed:
    """What became of an installation.

    Args:
        result: the self-check's, see `p2pkit.minkowski.self_check`; None where nothing works.
        problem: why the requested variant is not installed; empty if it is.
    """

    result: dict[str, Any] | None
    problem: str = ""


def install_minkowski(*, cuda: bool | None, report: Report) -> Installed:
    """Have a MinkowskiEngine here that passes its self-check; builds only where there is none.

    A CUDA build that fails gives way to a CPU build. Nothing is raised where that fails, too:
    p2pkit works without it, on its torch engine.

    Args:
        cuda: True or False requests a GPU or a CPU build; None takes a GPU build where torch sees a
            GPU, and leaves an engine that works alone.
        report: takes one line of progress at a time.
    """
    sees_gpu = _sees_gpu()
    wanted = sees_gpu if cuda is None else cuda
    present = installed_engine()
    if present is not None:
        has_cuda = bool(present["built_with_cuda"])
        if has_cuda == wanted or (cuda is None and has_cuda):
            report(f"MinkowskiEngine {present['version']} is installed and passes its self-check")
            return Installed(present)
    if not wanted:
        return _attempt(False, report)
    done = _attempt(True, report)
    if done.result is not None:
        return done
    report(f"no CUDA build: {done.problem}; continuing with the CPU build")
    if present is not None:
        return Installed(present, done.problem)
    instead = _attempt(False, report)
    problems = [done.problem, *([instead.problem] if instead.problem else [])]
    return Installed(instead.result, "; ".join(problems))


def _sees_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _attempt(cuda: bool, report: Report) -> Installed:
    """One variant, with the reason where it cannot be had."""
    try:
        return Installed(_install(current_target(cuda), report))
    except (MissingDependencyError, OSError) as error:
        return Installed(None, first_line(error))


def _install(target: BuildTarget, report: Report) -> dict[str, Any]:
    report(_announcement(target))
    wheel = obtain_wheel(
        target,
        wheel_cache_folder(),
        build=partial(_build, report=report),
        check=check_wheel,
        report=report,
    )
    _pip_install(wheel, ["--force-reinstall"])
    return run_self_check()


def _build(target: BuildTarget, folder: Path, *, report: Report) -> Path:
    base: Mapping[str, str] = os.environ
    if target.cuda is not None:
        base = cuda_environment(target.cuda, report)
    return build_wheel(target, folder, report=report, base=base)


def cuda_environment(cuda: str, report: Report) -> dict[str, str]:
    """The environment of a CUDA build: a toolkit of torch's version, and links for the linker.

    Raises:
        MissingDependencyError: no toolkit of this version is here, and pip's packages make none.
    """
    toolkit, reasons = require_toolkit(cuda, _run_pip)
    for reason in reasons:
        report(f"skipped: {reason}")
    report(f"CUDA toolkit {toolkit.version}: {toolkit.home}")
    links = library_links(toolkit, wheel_cache_folder()) if toolkit.from_pip else None
    return toolkit_environment(toolkit, links, os.environ)


def _run_pip(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        packages = " ".join(command[command.index("install") + 1 :])
        raise MissingDependencyError(f"`pip install {packages}` failed: {reason}")


def _announcement(target: BuildTarget) -> str:
    if target.cuda is None:
        return (
            f"MinkowskiEngine for torch {target.torch} on the CPU (a build takes about 5 minutes)"
        )
    return (
        f"MinkowskiEngine for torch {target.torch} with CUDA {target.cuda}, architectures "
        f"{target.cuda_architectures} (a build takes about 9 minutes for each on 2 cores; p2pkit's "
        "authors have built this variant but never run it on a GPU)"
    )


def installed_engine() -> dict[str, Any] | None:
    """The self-check's result of the installed engine; None where it is absent or fails."""
    try:
        return run_self_check()
    except MissingDependencyError:
        return None


def check_wheel(wheel: Path) -> None:
    """Unpack a wheel beside the environment and run the self-check on it.

    Raises:
        MissingDependencyError: it does not import here, or computes wrongly.
    """
    with tempfile.TemporaryDirectory(prefix="p2pkit-wheel-") as folder:
        _pip_install(wheel, ["--target", folder])
        run_self_check(Path(folder))


def run_self_check(first_on_path: Path | None = None) -> dict[str, Any]:
    """Run `python -m p2pkit.minkowski.self_check` in its own process: a crash must not spread.

    Args:
        first_on_path: a folder to import MinkowskiEngine from, ahead of the environment's.

    Raises:
        MissingDependencyError: it does not import, crashes, or a result is wrong.
    """
    environment = dict(os.environ)
    # The checkout or wheel that this code runs from need not be installed.
    folders = [str(first_on_path or ""), str(Path(__file__).parents[2])]
    folders.append(environment.get("PYTHONPATH", ""))
    environment.setdefault("OMP_NUM_THREADS", "1")
    environment["PYTHONPATH"] = os.pathsep.join(folder for folder in folders if folder)
    done = subprocess.run(
        [sys.executable, "-m", "p2pkit.minkowski.self_check"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        if done.returncode != 1:
            reason = f"MinkowskiEngine's self-check crashed with code {done.returncode}: {reason}"
        raise MissingDependencyError(reason)
    return json.loads(done.stdout)


def _pip_install(wheel: Path, options: list[str]) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    _run_pip([*pip, *options, str(wheel)])
