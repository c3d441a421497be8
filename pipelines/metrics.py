"""A run's log: one JSON line per step, and the same figures as TensorBoard scalars."""

import json
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from p2pkit.files import write_atomic


@contextmanager
def metrics_log(run: Path, start: int) -> Generator[Callable[[dict[str, Any]], None]]:
    """Open RUN/metrics.jsonl and RUN/tensorboard for appending; gives the function that appends.

    Lines of steps that are about to be done again are cut. A row's `step` places it.

    Args:
        run: the run's folder.
        start: the step that training begins or goes on with.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.utils.tensorboard import SummaryWriter

    path = run / "metrics.jsonl"
    kept = [row for row in read_metrics(run) if row["step"] < start]
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in kept).encode())
    board = SummaryWriter(run / "tensorboard", purge_step=start)

    def add(row: dict[str, Any]) -> None:
        file.write(json.dumps(row) + "\n")
        file.flush()
        for name, value in row.items():
            if name != "step":
                board.add_scalar(f"train/{name}", value, row["step"])

    with open(path, "a") as file:
        try:
            yield add
        finally:
            board.close()


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """All complete lines of RUN/metrics.jsonl; a line cut by a crash is left out."""
    path = run / "metrics.jsonl"
    if not path.is_file():
        return []
    lines = path.read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines]
