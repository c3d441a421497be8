"""A run's log: one JSON line per step, and the same figures as TensorBoard scalars."""

import json
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any

from p2pkit.files import write_atomic


@contextmanager
def metrics_log(
    run: Path, start: int, *, write: bool = True
) -> Generator[Callable[[dict[str, Any]], None]]:
    """Open RUN/metrics.jsonl and RUN/tensorboard for appending; gives the function that appends.

    Lines of steps that are about to be done again are cut. A row's `step` places it. NaN and
    infinite figures, such as the gradient's norm where float16 left a step out, become null. Text
    stands in metrics.jsonl only.

    Args:
        run: the run's folder.
        start: the step that training begins or goes on with.
        write: False for processes other than the first, whose rows go nowhere.
    """
    if not write:
        yield lambda row: None
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.utils.tensorboard import SummaryWriter

    path = run / "metrics.jsonl"
    kept = [row for row in read_metrics(run) if row["step"] < start]
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in kept).encode())
    board = SummaryWriter(run / "tensorboard", purge_step=start)

    def add(row: dict[str, Any]) -> None:
        row = without_nan(row)
        file.write(json.dumps(row, allow_nan=False) + "\n")
        file.flush()
        for name, value in figures(row).items():
            board.add_scalar(f"train/{name}", value, row["step"])

    with open(path, "a") as file:
        try:
            yield add
        finally:
            board.close()


def without_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with None, which JSON has, for NaN and infinite figures, which it has not."""
    return {
        name: None if isinstance(value, float) and not isfinite(value) else value
        for name, value in row.items()
    }


def figures(row: Mapping[str, Any]) -> dict[str, int | float]:
    """What of a row can be drawn over the steps."""
    return {
        name: value
        for name, value in row.items()
        if name != "step" and isinstance(value, int | float)
    }


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The rows of RUN/metrics.jsonl, up to a line that a crash cut or a power cut damaged."""
    path = run / "metrics.jsonl"
    if not path.is_file():
        return []
    rows: list[dict[str, Any]] = []
    for line in path.read_text(errors="replace").split("\n")[:-1]:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
