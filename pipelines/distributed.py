"""Several processes that train one model: their ranks, and what they exchange.

`torchrun` sets RANK, WORLD_SIZE and LOCAL_RANK. CPUs talk through gloo, GPUs through NCCL; the code
is the same. Nothing here is used by a single process.
"""

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.parallel import DistributedDataParallel

from p2pkit.errors import ConfigError
from p2pkit.losses import ContrastBatch


@dataclass(frozen=True)
class Ranks:
    """This process's place.

    Args:
        rank: of this process, from 0.
        ranks: how many processes there are.
        local_rank: of this process on its machine, which is the GPU that it takes.
    """

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """The one that writes."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """The device that a config means on this process: `cuda` is its own GPU."""
        return f"cuda:{self.local_rank}" if name == "cuda" and self.ranks > 1 else name


def ranks_from_environment() -> Ranks:
    """As `torchrun` says; one process where it says nothing.

    Raises:
        ConfigError: only some of its variables are set, or one is no number.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    values = {name: os.environ[name] for name in names if name in os.environ}
    if "RANK" not in values or "WORLD_SIZE" not in values:
        return Ranks()
    try:
        rank, ranks, local = (int(values.get(name, 0)) for name in names)
    except ValueError as error:
        raise ConfigError(f"{values}: {error}; start several processes with torchrun") from error
    if not 0 <= rank < ranks:
        raise ConfigError(f"RANK is {rank} of WORLD_SIZE {ranks}; 0 to {ranks - 1} are possible")
    return Ranks(rank, ranks, local)


@contextmanager
def process_group(ranks: Ranks, device: str) -> Generator[None]:
    """Join the other processes; nothing with one process, or inside another group."""
    if ranks.ranks == 1 or dist.is_initialized():
        yield
        return
    is_cuda = device.startswith("cuda")
    if is_cuda:
        torch.cuda.set_device(ranks.local_rank)
    dist.init_process_group("nccl" if is_cuda else "gloo", rank=ranks.rank, world_size=ranks.ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()


def wait_for_all(ranks: Ranks) -> None:
    """Return when all processes are here."""
    if ranks.ranks > 1:
        dist.barrier()


def replicate(model: nn.Module, ranks: Ranks, device: str) -> nn.Module:
    """The model with gradients averaged over processes; itself with one process."""
    if ranks.ranks == 1:
        return model
    own = [ranks.local_rank] if device.startswith("cuda") else None
    return DistributedDataParallel(model, device_ids=own, broadcast_buffers=False)


def summed(values: Tensor, ranks: Ranks) -> Tensor:
    """Sum over processes, without gradient."""
    if ranks.ranks > 1:
        dist.all_reduce(values)
    return values


def anywhere(here: bool, ranks: Ranks) -> bool:
    """Whether it holds in any process."""
    if ranks.ranks == 1:
        return here
    flag = torch.tensor(float(here))
    if dist.get_backend() == "nccl":
        flag = flag.cuda(ranks.local_rank)
    return summed(flag, ranks).item() > 0


def with_others(batch: ContrastBatch, ranks: Ranks) -> ContrastBatch:
    """The batch with the embeddings of the other processes, through which gradients flow back."""
    if ranks.ranks == 1:
        return batch
    return replace(
        batch,
        other_pixels=_of_others(batch.pixel_embedding, ranks),
        other_points=_of_others(batch.point_embedding, ranks),
    )


def _of_others(own: Tensor, ranks: Ranks) -> Tensor:
    """Rows of all other processes, in rank order.

    Each process puts its rows at its place among zeros and the sum is taken: a gather of unequal
    numbers of rows on any backend, whose gradient is the sum of what all processes send back.
    """
    sizes = torch.zeros(ranks.ranks, dtype=torch.int64, device=own.device)
    sizes[ranks.rank] = len(own)
    dist.all_reduce(sizes)
    ends = torch.cumsum(sizes, 0).tolist()
    start = ends[ranks.rank] - len(own)
    padding = (0, 0, start, ends[-1] - ends[ranks.rank])
    together = all_reduce(nn.functional.pad(own, padding))
    return torch.cat([together[:start], together[ends[ranks.rank] :]])
