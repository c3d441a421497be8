"""Logs of a run: one JSON line per step, TensorBoard scalars, and Weights & Biases."""

import json
import secrets
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Any

from p2pkit.errors import MissingDependencyError, TrainingError, first_line
from p2pkit.files import utf8_path, write_atomic, write_json
from p2pkit.pipelines.train.run_folder import resume_command
from p2pkit.pipelines.train.settings import TrainConfig
from p2pkit.settings import config_to_json


@contextmanager
def metrics_log(
    run: Path, start: int, *, write: bool = True
) -> Generator[Callable[[dict[str, Any]], None]]:
    """Open RUN/metrics.jsonl and RUN/tensorboard for appending; yields the function that appends.

    Lines of steps that will be repeated are cut. A row's `step` places it. NaN and
    infinite figures, such as the gradient's norm where float16 left a step out, become null. Text
    is written to metrics.jsonl only.

    Args:
        run: the run's folder.
        start: the step that training starts or continues with.
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

    def add(row: dict[str, Any]) -> None:
        row = without_nan(row)
        file.write(json.dumps(row, allow_nan=False) + "\n")
        file.flush()
        for name, value in figures(row).items():
            board.add_scalar(f"train/{name}", value, row["step"])

    with open(path, "a") as file, utf8_path(run / "tensorboard") as folder:
        board = SummaryWriter(folder, purge_step=start)
        try:
            yield add
        finally:
            board.close()


def without_nan(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with None in place of NaN and infinite figures, which JSON does not have."""
    return {
        name: None if isinstance(value, float) and not isfinite(value) else value
        for name, value in row.items()
    }


def figures(row: Mapping[str, Any]) -> dict[str, int | float]:
    """The values of a row that can be plotted over the steps."""
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


ID_FILE = "wandb.json"


def check_wandb(config: TrainConfig) -> None:
    """Raise MissingDependencyError if the run is to be logged and the package is missing."""
    if config.wandb.project and find_spec("wandb") is None:
        raise MissingDependencyError(
            f"wandb.project is {config.wandb.project!r}, but wandb is not installed: pip install "
            "'p2pkit[wandb]', or train without --set wandb.project"
        )


@contextmanager
def wandb_log(
    config: TrainConfig, run: Path, *, write: bool = True
) -> Generator[Callable[[dict[str, Any]], None]]:
    """Open the run's log at Weights & Biases; yields the function that appends a row.

    Its id is kept in RUN/wandb.json, so that a resumed run continues there, too. Repeated steps
    keep their first values: the service accepts no step twice. wandb decides where the rows go:
    with WANDB_MODE=offline into RUN/wandb, for `wandb sync`.

    Args:
        config: of the run; without `wandb.project` rows go nowhere.
        run: the run's folder.
        write: False for processes other than the first, whose rows go nowhere.

    Raises:
        TrainingError: wandb cannot start, for example without a login.
    """
    if not (write and config.wandb.project):
        yield lambda row: None
        return
    logged = _begin(config, run)

    def add(row: dict[str, Any]) -> None:
        shown = figures(without_nan(row))
        values = {f"train/{name}": value for name, value in shown.items()}
        logged.log(values, step=row["step"])

    try:
        yield add
    except BaseException:
        logged.finish(exit_code=1)
        raise
    logged.finish(exit_code=0)


def _begin(config: TrainConfig, run: Path) -> Any:
    import wandb

    try:
        return wandb.init(
            project=config.wandb.project,
            entity=config.wandb.entity,
            name=config.wandb.name or run.resolve().name,
            id=_run_id(run),
            resume="allow",
            dir=run,
            config=config_to_json(config),
            # The progress bar remains p2pkit's, and the log holds figures only.
            settings=wandb.Settings(console="off", silent=True, save_code=False),
        )
    except wandb.Error as error:
        raise TrainingError(
            f"wandb cannot start: {first_line(error)}. Run `wandb login`, or set "
            f"WANDB_MODE=offline, and continue with `{resume_command(run)}`"
        ) from error


def _run_id(run: Path) -> str:
    """The run's id at Weights & Biases, made at the first start."""
    path = run / ID_FILE
    if not path.is_file():
        write_json(path, {"id": secrets.token_hex(4)})
    return str(json.loads(path.read_text())["id"])
