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


def own_device(device: str) -> str:
    """`cuda` as the GPU of this process's number; others as they are."""
    number = local_rank()
    return f"cuda:{number}" if device == "cuda" and number is not None else device


def is_first() -> bool:
    """Whether this process may draw a progress bar."""
    return local_rank() in (None, 0)
