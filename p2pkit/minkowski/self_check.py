"""Check MinkowskiEngine against dense torch: `python -m p2pkit.minkowski.self_check`.

Every layer that the U-Net uses is compared, forward and gradient, in float64. One JSON object goes
to stdout; the exit code is 1 where a result is wrong.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int32
from torch import Tensor, nn
from torch.nn import functional

from p2pkit.errors import MissingDependencyError
from p2pkit.networks.engines.minkowski_engine import minkowski_engine

TOLERANCE = 1e-10
SIZE = 12
"""Edge of the cube that the voxels lie in; a multiple of every stride that is checked."""
BATCH = 2


@dataclass(frozen=True)
class Voxels:
    """Occupied cells of `BATCH` cubes.

    Args:
        coordinates: batch index, x, y, z.
        features: one row per voxel.
    """

    coordinates: Int32[Tensor, "voxels 4"]
    features: Float[Tensor, "voxels channels"]


def random_voxels(
    channels: int, *, count: int = 500, dtype: torch.dtype, device: str = "cpu", seed: int = 0
) -> Voxels:
    """`count` different occupied cells with normal features; the same ones for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    occupied = torch.zeros(BATCH * SIZE**3, dtype=torch.bool)
    occupied[torch.randperm(BATCH * SIZE**3, generator=generator)[:count]] = True
    coordinates = occupied.view(BATCH, SIZE, SIZE, SIZE).nonzero().int().contiguous()
    features = torch.randn(count, channels, dtype=torch.float64, generator=generator)
    return Voxels(coordinates.to(device), features.to(device, dtype))


def to_dense(
    coordinates: Int32[Tensor, "voxels 4"],
    features: Float[Tensor, "voxels channels"],
    size: int = SIZE,
) -> Float[Tensor, "batch channels size size size"]:
    """The voxels in a zero-filled cube, differentiable in `features`."""
    index = tuple(coordinates.long().t())
    cube = features.new_zeros(BATCH, size, size, size, features.shape[1])
    return cube.index_put(index, features).permute(0, 4, 1, 2, 3)


def gather(
    cube: Float[Tensor, "batch channels size size size"], coordinates: Int32[Tensor, "voxels 4"]
) -> Float[Tensor, "voxels channels"]:
    """Rows of a cube at voxels: the inverse of `to_dense`."""
    batch, x, y, z = coordinates.long().t()
    return cube[batch, :, x, y, z]


def dense_kernel(
    kernel: Float[Tensor, "..."], kernel_size: int
) -> Float[Tensor, "outputs inputs kernel kernel kernel"]:
    """A MinkowskiEngine kernel [volume, inputs, outputs], x fastest, as torch's conv3d takes it."""
    edges = (kernel_size,) * 3
    return kernel.reshape(*edges, *kernel.shape[-2:]).permute(4, 3, 2, 1, 0)


def largest_difference(
    sparse: Float[Tensor, "voxels channels"],
    dense: Float[Tensor, "voxels channels"],
    *,
    sparse_inputs: Sequence[Tensor],
    dense_inputs: Sequence[Tensor],
) -> float:
    """Largest difference of results and of gradients, relative where values exceed one."""
    upstream = torch.linspace(-1, 1, sparse.numel(), dtype=sparse.dtype, device=sparse.device)
    gradient = upstream.view_as(sparse)
    found = [sparse, *torch.autograd.grad(sparse, sparse_inputs, gradient)]
    expected = [dense, *torch.autograd.grad(dense, dense_inputs, gradient)]
    return max(
        float((a - b).detach().abs().max() / b.detach().abs().max().clamp(min=1))
        for a, b in zip(found, expected, strict=True)
    )


def convolution_error(
    kernel_size: int, stride: int, *, dtype: torch.dtype, device: str = "cpu", dilation: int = 1
) -> float:
    """Convolution against conv3d; infinite where the output's voxels are not the expected ones."""
    engine = minkowski_engine()
    voxels = random_voxels(5, dtype=dtype, device=device)
    layer: Any = engine.MinkowskiConvolution(
        5, 7, kernel_size=kernel_size, stride=stride, dilation=dilation, bias=True, dimension=3
    ).to(device, dtype)
    sparse_input = voxels.features.clone().requires_grad_()
    output = layer(engine.SparseTensor(sparse_input, voxels.coordinates))
    cells = coarser(output.C, stride)
    if not torch.equal(cells.unique(dim=0), coarser(voxels.coordinates, stride).unique(dim=0)):
        return float("inf")
    dense_input = voxels.features.clone().requires_grad_()
    kernel = layer.kernel.detach().clone().requires_grad_()
    cube = functional.conv3d(
        to_dense(voxels.coordinates, dense_input),
        dense_kernel(kernel, kernel_size),
        layer.bias.detach().view(-1),
        stride=stride,
        padding=dilation * (kernel_size // 2) if kernel_size % 2 else 0,
        dilation=dilation,
    )
    return largest_difference(
        output.F,
        gather(cube, cells),
        sparse_inputs=(sparse_input, layer.kernel),
        dense_inputs=(dense_input, kernel),
    )


def transpose_error(kernel_size: int, *, dtype: torch.dtype, device: str = "cpu") -> float:
    """Down by a convolution of stride 2 and up again, against conv_transpose3d.

    Infinite where the voxels after it are not those before it.
    """
    engine = minkowski_engine()
    voxels = random_voxels(5, dtype=dtype, device=device)
    sizes = {"kernel_size": kernel_size, "stride": 2, "dimension": 3}
    down: Any = engine.MinkowskiConvolution(5, 6, kernel_size=2, stride=2, dimension=3)
    up: Any = engine.MinkowskiConvolutionTranspose(6, 4, bias=True, **sizes)
    down, up = down.to(device, dtype), up.to(device, dtype)
    sparse_input = voxels.features.clone().requires_grad_()
    source = engine.SparseTensor(sparse_input, voxels.coordinates)
    middle = down(source)
    output = up(middle)
    if not torch.equal(output.C, source.C):
        return float("inf")
    dense_input = voxels.features.clone().requires_grad_()
    kernels = [layer.kernel.detach().clone().requires_grad_() for layer in (down, up)]
    occupied = to_dense(coarser(middle.C, 2), torch.ones_like(middle.F[:, :1]), SIZE // 2)
    cube = functional.conv3d(to_dense(source.C, dense_input), dense_kernel(kernels[0], 2), stride=2)
    cube = _dense_transpose(cube * occupied, kernels[1], kernel_size)
    return largest_difference(
        output.F,
        gather(cube, source.C) + up.bias.detach(),
        sparse_inputs=(sparse_input, down.kernel, up.kernel),
        dense_inputs=(dense_input, *kernels),
    )


def _dense_transpose(cube: Tensor, kernel: Tensor, kernel_size: int) -> Tensor:
    odd = kernel_size % 2
    return functional.conv_transpose3d(
        cube,
        dense_kernel(kernel, kernel_size).transpose(0, 1),
        stride=2,
        padding=kernel_size // 2 if odd else 0,
        output_padding=odd,
    )


def batch_norm_error(*, dtype: torch.dtype, device: str = "cpu") -> float:
    """Batch norm and ReLU on the voxels' rows against torch's own."""
    engine = minkowski_engine()
    voxels = random_voxels(5, dtype=dtype, device=device)
    layer: Any = engine.MinkowskiBatchNorm(5).to(device, dtype)
    reference = nn.BatchNorm1d(5).to(device, dtype)
    sparse_input = voxels.features.clone().requires_grad_()
    output = engine.MinkowskiReLU()(layer(engine.SparseTensor(sparse_input, voxels.coordinates)))
    dense_input = voxels.features.clone().requires_grad_()
    return largest_difference(
        output.F,
        functional.relu(reference(dense_input)),
        sparse_inputs=(sparse_input, layer.bn.weight),
        dense_inputs=(dense_input, reference.weight),
    )


def coarser(coordinates: Int32[Tensor, "voxels 4"], stride: int) -> Int32[Tensor, "voxels 4"]:
    """The cell of a grid `stride` times as coarse that each voxel lies in."""
    cells = coordinates.clone()
    cells[:, 1:] = cells[:, 1:].div(stride, rounding_mode="floor")
    return cells


def check_layers(device: str) -> dict[str, float]:
    """Error of each layer kind on one device, in float64."""
    dtype = torch.float64
    convolutions = {"3 stride 1": (3, 1), "3 stride 2": (3, 2), "2 stride 2": (2, 2)}
    errors = {
        f"convolution {name}": convolution_error(kernel, stride, dtype=dtype, device=device)
        for name, (kernel, stride) in convolutions.items()
    }
    errors["transposed convolution 2"] = transpose_error(2, dtype=dtype, device=device)
    errors["batch norm"] = batch_norm_error(dtype=dtype, device=device)
    return errors


def self_check() -> dict[str, Any]:
    """Version, variant, and each layer's error on each device that the engine was built for."""
    engine = minkowski_engine()
    built_with_cuda = bool(engine.is_cuda_available())
    devices = ["cpu", *(["cuda"] if built_with_cuda and torch.cuda.is_available() else [])]
    return {
        "version": engine.__version__,
        "built_with_cuda": built_with_cuda,
        "errors": {device: check_layers(device) for device in devices},
    }


def main() -> int:
    """Print the result as JSON; 1 where it is absent or wrong, with one line on stderr."""
    try:
        result = self_check()
    except MissingDependencyError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(result))
    wrong = [
        f"{name} on {device} is off by {error:.2g}"
        for device, errors in result["errors"].items()
        for name, error in errors.items()
        if not error <= TOLERANCE
    ]
    if wrong:
        found = "; ".join(wrong)
        print(f"MinkowskiEngine is wrong: {found}; expected at most {TOLERANCE:g}", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
