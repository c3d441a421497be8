"""Sparse layers of MinkowskiEngine 0.5.4, which ships no types: a sparse tensor is `Any` here."""

import collections
import collections.abc
import threading
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from jaxtyping import Float, Int32
from torch import Tensor, nn

from p2pkit.errors import MissingDependencyError
from p2pkit.networks.cells import Cells
from p2pkit.networks.engines.voxel_maps import repeated_voxels
from p2pkit.networks.engines.voxel_norm import VoxelNorm1d

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
                "MinkowskiEngine, which engine=minkowski needs, is not installed: run `p2pkit "
                "doctor --install minkowski` (compiles once, for a few minutes), or use "
                "the slower engine that needs no build: `--set engine=torch`"
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


@contextmanager
def _engine_style() -> Generator[None]:
    """Silence torch's advice that MinkowskiEngine 0.5.4 meets in each convolution's constructor."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*should not be instantiated", DeprecationWarning)
        yield


class MinkowskiLayers:
    """The layers of `p2pkit.networks.engines.sparse_engine.SparseEngine`, MinkowskiEngine's own."""

    def convolution(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        stride: int = 1,
        bias: bool = False,
    ) -> nn.Module:
        """Sparse 3D convolution over a full cube of `kernel_size` voxels a side."""
        engine = minkowski_engine()
        with _engine_style():
            return engine.MinkowskiConvolution(
                in_channels,
                out_channels,
                kernel_size=kernel_size,
                stride=stride,
                bias=bias,
                dimension=3,
            )

    def upsampling(self, in_channels: int, out_channels: int) -> nn.Module:
        """Transposed convolution, kernel 2, stride 2: back to the voxels that were strided over."""
        engine = minkowski_engine()
        with _engine_style():
            return engine.MinkowskiConvolutionTranspose(
                in_channels, out_channels, kernel_size=2, stride=2, bias=False, dimension=3
            )

    def batch_norm(self, channels: int, momentum: float) -> nn.Module:
        """Batch norm over all voxels of the batch; the parameters are under `.bn`."""
        norm = minkowski_engine().MinkowskiBatchNorm(channels, momentum=momentum)
        norm.bn = VoxelNorm1d(channels, momentum=momentum)
        return norm

    def relu(self) -> nn.Module:
        """In-place ReLU."""
        return minkowski_engine().MinkowskiReLU(inplace=True)

    def sparse_tensor(
        self, coordinates: Int32[Tensor, "voxels 4"], features: Float[Tensor, "voxels channels"]
    ) -> Any:
        """Voxels at stride 1.

        Raises:
            GeometryError: a voxel occurs twice.
        """
        x = minkowski_engine().SparseTensor(features, coordinates.contiguous())
        if len(x.F) != len(coordinates):
            raise repeated_voxels(len(coordinates) - len(x.F), len(coordinates))
        return x

    def cat(self, first: Any, second: Any) -> Any:
        """The channels of both, which have the same voxels."""
        return minkowski_engine().cat(first, second)

    def rows(self, x: Any) -> Float[Tensor, "voxels channels"]:
        """Features at stride 1 in the order of the coordinates that `sparse_tensor` was given."""
        return x.F

    def cells(self, x: Any, stride: int) -> Cells:
        """The voxels of `x`, which is at `stride`, in any order."""
        return Cells(x.C.long(), x.F, stride)
