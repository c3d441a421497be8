"""Started by torchrun: sums over ranks and their gradients, ours and torch's, as JSON."""

import json
import warnings
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_reduce

from p2pkit.networks.engines.sync_norm import summed_over_ranks


def outcome(summed: Callable[[Tensor], Tensor]) -> list[list[float]]:
    """A sum over the ranks of what differs between them, and its gradient."""
    own = (torch.arange(6.0) + 10 * dist.get_rank()).requires_grad_()
    together = summed(own * own)
    (together * (1 + dist.get_rank()) * torch.arange(6.0)).sum().backward()
    assert own.grad is not None
    return [together.tolist(), own.grad.tolist()]


def main() -> None:
    """Print both outcomes of the second rank."""
    dist.init_process_group("gloo")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = outcome(summed_over_ranks)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = outcome(all_reduce)
    if dist.get_rank() == 1:
        print(json.dumps([ours, theirs]))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
