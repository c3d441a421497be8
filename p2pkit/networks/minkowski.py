"""The one module that imports MinkowskiEngine, so that all else imports without it.

Facts that callers live with:

- Making a SparseTensor overrides `torch.set_num_threads`; only OMP_NUM_THREADS, set before the
  first import of torch, holds. Training is bit-identical between runs with OMP_NUM_THREADS=1 only.
- On a CPU it computes in float32 and float64: no bfloat16, no autocast.
- Coordinates must be contiguous, a SparseTensor cannot be pickled, and a forked process that makes
  one hangs: data workers and threads only quantise.
"""

import collections
import collections.abc
import threading
import warnings
from types import ModuleType

from p2pkit.errors import MissingDependencyError

_LOCK = threading.Lock()


def minkowski_engine() -> ModuleType:
    """MinkowskiEngine 0.5.4, imported at the first call.

    Raises:
        MissingDependencyError: it is not installed, or was built for another torch or Python.
    """
    with _LOCK:
        try:
            return _import_with_old_names()
        except ModuleNotFoundError as error:
            if error.name != "MinkowskiEngine":
                raise MissingDependencyError(_broken(error)) from error
            raise MissingDependencyError(
                "MinkowskiEngine, which the 3D networks are built on, is not installed: run "
                "`p2pkit doctor --install minkowski` (it compiles for some minutes, once), or "
                "take the slower engine that needs no build: `--set engine=torch`"
            ) from error
        except ImportError as error:
            raise MissingDependencyError(_broken(error)) from error


def _import_with_old_names() -> ModuleType:
    """Import it while `collections.Sequence`, gone since Python 3.10, exists again."""
    was_missing = not hasattr(collections, "Sequence")
    if was_missing:
        setattr(collections, "Sequence", collections.abc.Sequence)  # noqa: B010
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import MinkowskiEngine
    finally:
        if was_missing:
            delattr(collections, "Sequence")
    return MinkowskiEngine


def _broken(error: ImportError) -> str:
    return (
        f"MinkowskiEngine is installed but does not import ({error}): it was probably built for "
        "another torch or Python; run `p2pkit doctor --install minkowski` to build it again"
    )
