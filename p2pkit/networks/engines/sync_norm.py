"""Batch norm over the voxels of all processes, on any backend.

torch's own SyncBatchNorm runs on CUDA only; this one is plain arithmetic with differentiable sums
over the process group, so that it works with gloo on CPUs and its gradients are exact.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _NormBase  # pyright: ignore[reportPrivateUsage]

from p2pkit.networks.engines.voxel_norm import VoxelNorm1d


class _SumOverRanks(Function):
    """Every process's sum depends on all rows, so the gradient is the sum of all gradients."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        together = own.clone()
        dist.all_reduce(together)
        return together

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> Tensor:
        together = gradients[0].contiguous().clone()
        dist.all_reduce(together)
        return together


def summed_over_ranks(own: Tensor) -> Tensor:
    """Sum over the processes of the default group, through which gradients flow back to all."""
    found: Any = _SumOverRanks.apply(own)
    return found


class SyncBatchNorm1d(VoxelNorm1d):
    """`BatchNorm1d` whose statistics are those of the rows of all processes together.

    Outside training, or with one process, it is `VoxelNorm1d`.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise rows [voxels, channels].

        Mean and variance are taken one after the other, so that the variance is not the difference
        of two large sums. The running variance is the unbiased one, as in torch. Rows in half
        precision are normalised in float32, as torch does, and come out as they came in.
        """
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(input)
        rows = input.to(torch.promote_types(input.dtype, torch.float32))
        count = torch.tensor([float(len(rows))], device=rows.device, dtype=rows.dtype)
        dist.all_reduce(count)
        mean = summed_over_ranks(rows.sum(dim=0)) / count
        centred = rows - mean
        variance = summed_over_ranks(centred.square().sum(dim=0)) / count
        self._follow(mean.detach(), variance.detach() * count / (count - 1).clamp_min(1))
        normalised = centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias
        return normalised.to(input.dtype)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.momentum is None:
            return
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


def synchronise_norms(network: nn.Module) -> None:
    """Replace every `BatchNorm1d` inside by a `SyncBatchNorm1d` with the same tensors."""
    for parent in network.modules():
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm1d) and not isinstance(child, SyncBatchNorm1d):
                setattr(parent, name, _synchronised(child))


def _synchronised(norm: _NormBase) -> SyncBatchNorm1d:
    made = SyncBatchNorm1d(norm.num_features, norm.eps, norm.momentum, norm.affine)
    made.weight, made.bias = norm.weight, norm.bias
    made.running_mean, made.running_var = norm.running_mean, norm.running_var
    made.num_batches_tracked = norm.num_batches_tracked
    made.training = norm.training
    return made
