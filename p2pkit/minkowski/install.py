"""Install MinkowskiEngine into the running environment, from the cache or by building it."""

import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from p2pkit.errors import MissingDependencyError
from p2pkit.minkowski.build import Report, build_wheel
from p2pkit.minkowski.cache import obtain_wheel, wheel_cache_folder
from p2pkit.minkowski.target import current_target


def install_minkowski(*, cuda: bool | None, report: Report) -> dict[str, Any]:
    """Have a MinkowskiEngine here that passes its self-check; builds only where there is none.

    Args:
        cuda: True or False asks for a GPU or CPU build; None: see `current_target`.
        report: takes one line of progress at a time.

    Returns:
        The self-check's result, see `p2pkit.minkowski.self_check`.

    Raises:
        MissingDependencyError: it cannot be built, or what was built computes wrongly.
    """
    target = current_target(cuda)
    present = installed_engine()
    if present is not None and present["built_with_cuda"] == (target.cuda is not None):
        report(f"MinkowskiEngine {present['version']} is installed and passes its self-check")
        return present
    report(_announcement(target.torch, target.cuda))
    wheel = obtain_wheel(
        target,
        wheel_cache_folder(),
        build=partial(build_wheel, report=report),
        check=check_wheel,
        report=report,
    )
    _pip_install(wheel, ["--force-reinstall"])
    return run_self_check()


def _announcement(torch: str, cuda: str | None) -> str:
    if cuda is None:
        return f"MinkowskiEngine for torch {torch} on the CPU (a build takes about 5 minutes)"
    return (
        f"MinkowskiEngine for torch {torch} with CUDA {cuda} (a build takes about 30 minutes; "
        "p2pkit's authors have compiled this variant but never run it on a GPU)"
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
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    done = subprocess.run(
        [*command, *options, str(wheel)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise MissingDependencyError(f"pip could not install {wheel}: {done.stderr.strip()}")
