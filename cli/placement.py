"""Where one of several processes works: launchers say it in the environment."""

import os
from collections.abc import Mapping

VARIABLES = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK")
"""Of torchrun, SLURM and Open MPI: this process's number on its machine."""


def local_rank(environment: Mapping[str, str] | None = None) -> int | None:
    """This process's number on its machine; None where no launcher says one."""
    values = os.environ if environment is None else environment
    for name in VARIABLES:
        if values.get(name, "").isdecimal():
            return int(values[name])
    return None


def own_device(device: str, *, visible: int | None = None) -> str:
    """`cuda` as the GPU of this process's number; others as they are.

    Where a process sees fewer GPUs than there are processes, the numbers wrap: a launcher that
    shows each process its own GPU (`srun --gpus-per-task=1`) calls all of them number 0.

    Args:
        device: as the user named it.
        visible: GPUs that this process sees; torch is asked where it is None.
    """
    number = local_rank()
    if device != "cuda" or number is None:
        return device
    count = _visible_gpus() if visible is None else visible
    return f"cuda:{number % count}" if count else device


def _visible_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def is_first() -> bool:
    """Whether this process of its machine draws the progress bar and prints the result."""
    return local_rank() in (None, 0)
