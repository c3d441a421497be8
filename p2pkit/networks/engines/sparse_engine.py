"""The engines that compute sparse convolutions; all give the same layers and state_dicts."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int32
from torch import Tensor, nn

from p2pkit.errors import ConfigError, MissingDependencyError
from p2pkit.networks.cells import Cells
from p2pkit.networks.engines.minkowski_engine import MinkowskiLayers, minkowski_engine
from p2pkit.networks.engines.torch_engine import TorchEngine


@runtime_checkable
class SparseEngine(Protocol):
    """Layers on sparse voxels. What they pass on is the engine's own sparse tensor.

    Sparse tensors of the same voxels are added with `+=`.
    """

    def convolution(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        stride: int = 1,
        bias: bool = False,
    ) -> nn.Module:
        """Sparse 3D convolution over a full cube of `kernel_size` voxels a side.

        Its parameters are `kernel` (volume, in, out), or (in, out) where the volume is 1, and
        `bias` (1, out).
        """
        ...

    def upsampling(self, in_channels: int, out_channels: int) -> nn.Module:
        """Transposed convolution, kernel 2, stride 2: back to the voxels that were strided over."""
        ...

    def batch_norm(self, channels: int, momentum: float) -> nn.Module:
        """Batch norm over all voxels of the batch; the parameters are under `.bn`."""
        ...

    def relu(self) -> nn.Module:
        """In-place ReLU."""
        ...

    def sparse_tensor(
        self, coordinates: Int32[Tensor, "voxels 4"], features: Float[Tensor, "voxels channels"]
    ) -> Any:
        """Voxels at stride 1; a GeometryError where one occurs twice."""
        ...

    def cat(self, first: Any, second: Any) -> Any:
        """The channels of both, which have the same voxels."""
        ...

    def rows(self, x: Any) -> Float[Tensor, "voxels channels"]:
        """Features at stride 1 in the order of the coordinates that `sparse_tensor` was given."""
        ...

    def cells(self, x: Any, stride: int) -> Cells:
        """The voxels of `x`, which is at `stride`, in any order."""
        ...


ENGINES: dict[str, SparseEngine] = {"minkowski": MinkowskiLayers(), "torch": TorchEngine()}


FLOAT32 = "float32"

AUTO = "auto"
"""MinkowskiEngine where it works, else torch."""


@dataclass(frozen=True)
class EngineChoice:
    """The engine that `auto` stands for on this machine.

    Args:
        name: a key of `ENGINES`.
        reason: why it is not MinkowskiEngine and what to do about that; empty where it is.
    """

    name: str
    reason: str = ""


def choose_engine(name: str, device: str = "cpu", *, precision: str = FLOAT32) -> EngineChoice:
    """The engine to use for `name`; any name except `auto` is kept.

    Args:
        name: a key of `ENGINES`, or `auto`.
        device: where the network will run, `cpu` or `cuda`; a CPU build of MinkowskiEngine is not
            chosen for a GPU.
        precision: of the network's products; MinkowskiEngine is not chosen for any but float32.

    Raises:
        ConfigError: the engine is unknown (the message lists the names), or does not compute in
            that precision.
    """
    if name == "minkowski" and precision != FLOAT32:
        raise ConfigError(
            f"precision is {precision!r}, and MinkowskiEngine computes in float32 only; use "
            "engine=torch, or precision=float32"
        )
    if name in ENGINES:
        return EngineChoice(name)
    if name != AUTO:
        names = ", ".join((AUTO, *ENGINES))
        raise ConfigError(f"no engine is called {name!r}; choose one of {names}")
    if precision != FLOAT32:
        return EngineChoice("torch", f"MinkowskiEngine does not compute in {precision}")
    try:
        has_cuda = bool(minkowski_engine().is_cuda_available())
    except MissingDependencyError as error:
        reason = str(error)
        if find_spec("MinkowskiEngine") is None:
            reason = "MinkowskiEngine is not installed; `p2pkit doctor --install minkowski` adds it"
        return EngineChoice("torch", reason)
    if device.startswith("cuda") and not has_cuda:
        return EngineChoice(
            "torch",
            "MinkowskiEngine was built for the CPU; `p2pkit doctor --install minkowski --cuda` "
            "builds it for the GPU",
        )
    return EngineChoice("minkowski")


def sparse_engine(name: str) -> SparseEngine:
    """The engine of that name; `auto` as `choose_engine` resolves it for the CPU.

    Raises:
        ConfigError: the engine is unknown; the message lists the names.
    """
    return ENGINES[choose_engine(name).name]
