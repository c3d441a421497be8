"""A run's log at Weights & Biases, beside its own files; off unless a project is named."""

import json
import secrets
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from p2pkit.config import config_to_json
from p2pkit.errors import MissingDependencyError, TrainingError, first_line
from p2pkit.files import write_json
from p2pkit.pipelines.metrics import figures, without_nan
from p2pkit.pipelines.pretraining import TrainConfig

ID_FILE = "wandb.json"


def check_wandb(config: TrainConfig) -> None:
    """Raise MissingDependencyError where the run shall be logged and the package is not there."""
    if config.wandb.project and find_spec("wandb") is None:
        raise MissingDependencyError(
            f"wandb.project is {config.wandb.project!r}, but wandb is not installed: pip install "
            "'p2pkit[wandb]', or train without --set wandb.project"
        )


@contextmanager
def wandb_log(
    config: TrainConfig, run: Path, *, write: bool = True
) -> Generator[Callable[[dict[str, Any]], None]]:
    """Open the run's log at Weights & Biases; gives the function that appends a row.

    Its id stands in RUN/wandb.json, so that a resumed run goes on there, too. Steps that are done
    again keep the values they had: the service takes no step twice. Where the rows go is wandb's
    own choice: WANDB_MODE=offline puts them in RUN/wandb, for `wandb sync`.

    Args:
        config: of the run; without `wandb.project` rows go nowhere.
        run: the run's folder.
        write: False for processes other than the first, whose rows go nowhere.

    Raises:
        TrainingError: wandb cannot begin, such as without a login.
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
            # The progress bar stays p2pkit's own, and the log holds figures only.
            settings=wandb.Settings(console="off", silent=True, save_code=False),
        )
    except wandb.Error as error:
        raise TrainingError(
            f"wandb cannot begin: {first_line(error)}. Run `wandb login`, or set "
            f"WANDB_MODE=offline, and go on with `p2pkit train --out {run} --resume`"
        ) from error


def _run_id(run: Path) -> str:
    """The run's id at Weights & Biases, made at the first start."""
    path = run / ID_FILE
    if not path.is_file():
        write_json(path, {"id": secrets.token_hex(4)})
    return str(json.loads(path.read_text())["id"])
