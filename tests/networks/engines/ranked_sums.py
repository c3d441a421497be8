"""Started by torchrun: what two processes compute together, beside what one would, as JSON."""

import json
import warnings
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_reduce

from p2pkit.networks.engines.sync_norm import SyncBatchNorm1d, summed_over_ranks
from p2pkit.networks.engines.voxel_norm import VoxelNorm1d

ROWS = 70_000
"""More than float16 can count."""


def outcome(summed: Callable[[Tensor], Tensor]) -> list[list[float]]:
    """A sum over the ranks of what differs between them, and its gradient."""
    own = (torch.arange(6.0) + 10 * dist.get_rank()).requires_grad_()
    together = summed(own * own)
    (together * (1 + dist.get_rank()) * torch.arange(6.0)).sum().backward()
    assert own.grad is not None
    return [together.tolist(), own.grad.tolist()]


def normalised(norm: VoxelNorm1d, rows: Tensor, pull: Tensor) -> list[Tensor]:
    """What a norm gives, the gradient of its input, and its running statistics."""
    rows = rows.detach().requires_grad_()
    found = norm.train()(rows)
    found.backward(pull.to(found.dtype))
    assert rows.grad is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return [found.detach(), rows.grad, norm.running_mean, norm.running_var]


def half_precision(dtype: torch.dtype) -> dict[str, list[str] | list[float]]:
    """The types of what the second process's half of the rows gives in half precision, and how far
    it is from what one process gives for all rows in float32, in units of the largest value.
    """
    generator = torch.Generator().manual_seed(0)
    rows = (3 + 2 * torch.randn(ROWS, 2, generator=generator)).to(dtype)
    pull = torch.randn(ROWS, 2, generator=generator).to(dtype)
    own = slice(ROWS // 2, None) if dist.get_rank() else slice(ROWS // 2)
    found = normalised(SyncBatchNorm1d(2), rows[own], pull[own])
    alone = normalised(VoxelNorm1d(2), rows.float(), pull.float())
    expected = [alone[0][own], alone[1][own], *alone[2:]]
    apart = [
        ((mine.float() - theirs).abs().max() / theirs.abs().max()).item()
        for mine, theirs in zip(found, expected, strict=True)
    ]
    return {"types": [str(value.dtype) for value in found], "apart": apart}


def main() -> None:
    """Print what the second rank finds."""
    dist.init_process_group("gloo")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = outcome(summed_over_ranks)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = outcome(all_reduce)
    half = {str(dtype): half_precision(dtype) for dtype in (torch.bfloat16, torch.float16)}
    if dist.get_rank() == 1:
        print(json.dumps({"ours": ours, "theirs": theirs, **half}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
