"""Which voxels a sparse convolution connects, found by sorted integer keys on any device.

The conventions are MinkowskiEngine 0.5.4's, so that the same kernel means the same layer: coarser
voxels keep the coordinates of the finest grid, floored to a multiple of their stride; kernel rows
run over the offsets with x fastest; odd kernels are centred, even ones start at the voxel itself.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int32, Int64
from torch import Tensor

from p2pkit.errors import GeometryError

MARGIN = 128
"""Empty cells around the voxels' box (voxels): no neighbour in a search lies outside it."""

Rows = Int64[Tensor, "_"]
"""Rows of one side; each kernel row has its own number of pairs."""


@dataclass(frozen=True)
class KernelMap:
    """The pairs of voxels that each row of a kernel connects.

    Args:
        pairs: per kernel row the rows of input and of output; within one kernel row no voxel occurs
            twice on a side. None stands for every voxel with itself.
        inputs, outputs: numbers of voxels.
    """

    pairs: tuple[tuple[Rows, Rows] | None, ...]
    inputs: int
    outputs: int

    def transposed(self) -> "KernelMap":
        """The map with the same kernel rows from output to input."""
        swapped = tuple(pair and (pair[1], pair[0]) for pair in self.pairs)
        return KernelMap(swapped, inputs=self.outputs, outputs=self.inputs)


class VoxelMaps:
    """The voxels of one batch at every stride, and the kernel maps between them.

    Built for each forward pass; every map is computed once and shared by all layers that need
    it. Rows are sorted by (batch, x, y, z) at every stride.

    Args:
        coordinates: batch index, x, y, z (voxels); may be negative.

    Attributes:
        order (voxels,): the row of `coordinates` that each row at stride 1 is.

    Raises:
        GeometryError: a voxel occurs twice, or their box has more than 2^63 cells.
    """

    def __init__(self, coordinates: Int32[Tensor, "voxels 4"]) -> None:
        cells = coordinates.long()
        low, high = cells.amin(dim=0), cells.amax(dim=0)
        self._low = low - low.new_tensor([0, MARGIN, MARGIN, MARGIN])
        _, y, z = (int(extent) + 2 * MARGIN + 1 for extent in (high - low)[1:])
        box = (int(high[1] - low[1]) + 2 * MARGIN + 1) * y * z
        if box * int(high[0] - low[0] + 1) >= 2**63:
            raise GeometryError(
                f"the voxels span {(high - low)[1:].tolist()} cells in {int(high[0] - low[0] + 1)} "
                "samples, more than 2^63 cells; use larger voxels or a smaller batch, and check "
                "the points for far outliers"
            )
        self._steps = (box, y * z, z, 1)
        keys, self.order = self._pack(cells).sort()
        _refuse_repeated(keys)
        self._cells = {1: cells[self.order]}
        self._keys = {1: keys}
        self._maps: dict[tuple[int, int, int], KernelMap] = {}

    def kernel_map(self, tensor_stride: int, kernel_size: int, stride: int) -> KernelMap:
        """From the voxels at `tensor_stride` to those at `tensor_stride` times `stride`."""
        name = (tensor_stride, kernel_size, stride)
        if name not in self._maps:
            self._make_stride(tensor_stride * stride)
            find = self._same_stride if stride == 1 and kernel_size % 2 else self._any_stride
            self._maps[name] = find(tensor_stride, kernel_size, stride)
        return self._maps[name]

    def cells(self, tensor_stride: int) -> Int64[Tensor, "voxels 4"]:
        """Batch index, x, y, z (voxels of this stride) of each row."""
        self._make_stride(tensor_stride)
        batch, xyz = self._cells[tensor_stride].split((1, 3), dim=1)
        return torch.cat((batch, xyz.div(tensor_stride, rounding_mode="floor")), dim=1)

    def parents(self, tensor_stride: int) -> Int64[Tensor, " voxels"]:
        """For each row at `tensor_stride` the row at twice that stride which it lies in."""
        self._make_stride(2 * tensor_stride)
        self._make_stride(tensor_stride)
        cells = self._cells[tensor_stride].clone()
        edge = 2 * tensor_stride
        cells[:, 1:] = cells[:, 1:].div(edge, rounding_mode="floor") * edge
        return torch.searchsorted(self._keys[edge], self._pack(cells))

    def _pack(self, cells: Int64[Tensor, "voxels 4"]) -> Int64[Tensor, " voxels"]:
        return ((cells - self._low) * cells.new_tensor(self._steps)).sum(dim=1)

    def _make_stride(self, tensor_stride: int) -> None:
        if tensor_stride in self._keys:
            return
        finest = self._cells[1].clone()
        floored = finest[:, 1:].div(tensor_stride, rounding_mode="floor") * tensor_stride
        finest[:, 1:] = floored
        keys, coarse_of_fine = self._pack(finest).unique(return_inverse=True)
        cells = finest.new_empty(len(keys), 4)
        cells[coarse_of_fine] = finest
        self._keys[tensor_stride], self._cells[tensor_stride] = keys, cells

    def _same_stride(self, tensor_stride: int, kernel_size: int, stride: int) -> KernelMap:
        """Of an odd kernel: opposite rows are each other's reverse, the middle one is identity."""
        shifts = self._shifts(kernel_size, tensor_stride)
        keys = self._keys[tensor_stride]
        half = [_matches(keys, keys + shift) for shift in shifts[: len(shifts) // 2]]
        mirrored = [(outputs, inputs) for inputs, outputs in reversed(half)]
        return KernelMap((*half, None, *mirrored), inputs=len(keys), outputs=len(keys))

    def _any_stride(self, tensor_stride: int, kernel_size: int, stride: int) -> KernelMap:
        inputs, outputs = self._keys[tensor_stride], self._keys[tensor_stride * stride]
        shifts = self._shifts(kernel_size, tensor_stride)
        pairs = tuple(_matches(inputs, outputs + shift) for shift in shifts)
        return KernelMap(pairs, inputs=len(inputs), outputs=len(outputs))

    def _shifts(self, kernel_size: int, tensor_stride: int) -> list[int]:
        """What each kernel row adds to a key."""
        first = -(kernel_size // 2) if kernel_size % 2 else 0
        assert kernel_size * tensor_stride < MARGIN, "a kernel reaches over the margin"
        along = range(first, first + kernel_size)
        _, x_step, y_step, z_step = self._steps
        return [
            tensor_stride * (x * x_step + y * y_step + z * z_step)
            for z in along
            for y in along
            for x in along
        ]


def _matches(
    keys: Int64[Tensor, " inputs"], wanted: Int64[Tensor, " outputs"]
) -> tuple[Rows, Rows]:
    """Rows of `keys` and of `wanted` that are equal; both are sorted."""
    place = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
    outputs = (keys[place] == wanted).nonzero()[:, 0]
    return place[outputs], outputs


def _refuse_repeated(keys: Int64[Tensor, " voxels"]) -> None:
    repeated = int((keys[1:] == keys[:-1]).sum())
    if repeated:
        raise repeated_voxels(repeated, len(keys))


def repeated_voxels(repeated: int, voxels: int) -> GeometryError:
    """What every engine says about rows that are not one per voxel."""
    return GeometryError(
        f"{repeated} of {voxels} voxels repeat another row's (batch, x, y, z); keep one row per "
        "voxel before the student"
    )
