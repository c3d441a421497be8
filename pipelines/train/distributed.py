"""Several processes that train one model: their ranks, and what they exchange.

`torchrun` sets RANK, WORLD_SIZE and LOCAL_RANK. CPUs talk through gloo, GPUs through NCCL; the code
is the same. Nothing here is used by a single process.
"""

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from p2pkit.errors import ConfigError
from p2pkit.losses import ContrastBatch
from p2pkit.networks.engines.sync_norm import summed_over_ranks

WAIT_FOR_FIRST = timedelta(hours=12)
"""How long processes wait for the first one, which alone probes and writes checkpoints."""


@dataclass(frozen=True)
class Ranks:
    """This process's place among all.

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
        """Whether this process is the one that writes."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """A config's device on this process: `cuda` means its own GPU.

        Raises:
            ConfigError: several processes would share one GPU.
        """
        if self.ranks > 1 and name.startswith("cuda:"):
            raise ConfigError(
                f"device is {name!r}, one GPU for {self.ranks} processes: set device=cuda, which "
                "assigns one to each, and select GPUs with CUDA_VISIBLE_DEVICES"
            )
        return f"cuda:{self.local_rank}" if name == "cuda" and self.ranks > 1 else name


def ranks_from_environment(device: str = "cpu") -> Ranks:
    """Ranks as set by `torchrun`; one process if it set none.

    Args:
        device: of the config; several processes on `cuda` need LOCAL_RANK to select their GPUs.

    Raises:
        ConfigError: only some of its variables are set, or one is not a number.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    values = {name: os.environ[name] for name in names if name in os.environ}
    if "RANK" not in values and "WORLD_SIZE" not in values:
        return Ranks()
    missing = [name for name in names[:2] if name not in values]
    if device.startswith("cuda") and values.get("WORLD_SIZE") != "1" and names[2] not in values:
        missing.append(names[2])
    if missing:
        raise ConfigError(
            f"{values} is set, but not {' and '.join(missing)}; start several processes with "
            "torchrun, which sets all, or unset them for one process"
        )
    try:
        rank, ranks, local = (int(values.get(name, 0)) for name in names)
    except ValueError as error:
        raise ConfigError(f"{values}: {error}; start several processes with torchrun") from error
    if not 0 <= rank < ranks:
        raise ConfigError(f"RANK is {rank} of WORLD_SIZE {ranks}; expected 0 to {ranks - 1}")
    return Ranks(rank, ranks, local)


@contextmanager
def process_group(ranks: Ranks, device: str) -> Generator[None]:
    """Join the other processes; nothing with one process, or inside another group."""
    name = ranks.device(device)
    own = torch.device(name)
    if name.startswith("cuda:"):
        torch.cuda.set_device(own)
    if ranks.ranks == 1 or dist.is_initialized():
        yield
        return
    is_cuda = own.type == "cuda"
    dist.init_process_group(
        "nccl" if is_cuda else "gloo",
        rank=ranks.rank,
        world_size=ranks.ranks,
        timeout=WAIT_FOR_FIRST,
        device_id=own if is_cuda else None,
    )
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
    """Whether `here` is true in any process."""
    if ranks.ranks == 1:
        return here
    return summed(_number(float(here), ranks), ranks).item() > 0


def of_first(value: int, ranks: Ranks) -> int:
    """The first process's value, in all of them."""
    if ranks.ranks == 1:
        return value
    number = _number(value, ranks)
    dist.broadcast(number, src=0)
    return int(number.item())


def _number(value: float, ranks: Ranks) -> Tensor:
    """A number where the process group exchanges it; steps below 2**53 are exact."""
    number = torch.tensor(value, dtype=torch.float64)
    return number.cuda(ranks.local_rank) if dist.get_backend() == "nccl" else number


def with_others(batch: ContrastBatch, ranks: Ranks, *, teacher: bool = False) -> ContrastBatch:
    """The batch with the embeddings of the other processes, through which gradients flow back.

    Args:
        batch: of this process.
        ranks: its place.
        teacher: whether the loss also needs the teacher's features of the others' pixels.
    """
    if ranks.ranks == 1:
        return batch
    features = batch.teacher_feature if teacher else None
    return replace(
        batch,
        other_pixels=_of_others(batch.pixel_embedding, ranks),
        other_points=_of_others(batch.point_embedding, ranks),
        other_teacher=None if features is None else _of_others(features, ranks),
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
    together = summed_over_ranks(nn.functional.pad(own, padding))
    return torch.cat([together[:start], together[ends[ranks.rank] :]])
