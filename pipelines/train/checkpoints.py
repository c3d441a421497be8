"""Checkpoints of a run: folders that are complete or absent, and what resuming needs.

RUN/checkpoints/step-00000400/weights.safetensors   student, point and pixel projection
                              state.pt              optimiser, gradient scale, random state
                              checkpoint.json       step, inputs, checksums of the two files
RUN/best/weights.safetensors  the best by the online probe, with step and scores in its header
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from p2pkit.errors import TrainingError, first_line
from p2pkit.files import canonical_json, fsync_folder, write_atomic, write_json
from p2pkit.pipelines.train.model import WEIGHTS, PretrainingModel, load_weights
from p2pkit.pipelines.train.run_folder import resume_command
from p2pkit.weight_files import check_weight_file, read_metadata, read_weight_file

FILES = (WEIGHTS, "state.pt")
FOLDER = re.compile(r"step-(\d{8,})")

BEST = "best"
CHOICES = ("latest", BEST)


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint folder. `step` counts the steps that its weights have seen."""

    path: Path
    step: int


def save_checkpoint(
    run: Path, model: PretrainingModel, state: Mapping[str, Any], *, step: int, keep: int
) -> Checkpoint:
    """Write the checkpoint of `step`, then delete all but the newest `keep`.

    Args:
        run: the run's folder.
        model: its weights.
        state: what else resuming needs; tensors and plain data.
        step: how many steps the weights have seen.
        keep: how many checkpoints to keep.

    Raises:
        TrainingError: a weight is NaN or infinite, or the disk is full; the message names the
            newest existing checkpoint, and nothing is left of this one.
    """
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    broken = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if broken:
        raise TrainingError(
            f"{len(broken)} tensors, such as {broken[0]}, are NaN or infinite after {step} "
            f"steps, so no checkpoint was saved; {newest_checkpoint_text(run)}. Lower "
            "optimizer.learning_rate or set optimizer.clip_norm"
        )
    folder = run / "checkpoints"
    temporary, final = folder / f".tmp-step-{step:08d}", checkpoint_at(run, step).path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".tmp-*"):
            shutil.rmtree(leftover)
        _write(temporary, weights, state, {"step": step, **model.described})
        if final.exists():
            _remove(final)
        os.replace(temporary, final)
        fsync_folder(folder)
    # torch.save reports a full disk as a RuntimeError.
    except (OSError, RuntimeError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise TrainingError(
            f"the checkpoint {final} cannot be written: {first_line(error)}; "
            f"{newest_checkpoint_text(run)}. Make room on that disk, then continue with "
            f"{resume_command(run)}"
        ) from None
    for old in list_checkpoints(run)[:-keep]:
        _remove(old.path)
    return Checkpoint(path=final, step=step)


def _write(
    folder: Path, weights: Mapping[str, Tensor], state: Mapping[str, Any], about: dict[str, Any]
) -> None:
    folder.mkdir()
    write_atomic(folder / WEIGHTS, safetensors_bytes(dict(weights)))
    with open(folder / "state.pt", "wb") as file:
        torch.save(dict(state), file)
        file.flush()
        os.fsync(file.fileno())
    checksums = {name: _checksum(folder / name) for name in FILES}
    write_json(folder / "checkpoint.json", {**about, "xxh3_128": checksums})


def checkpoint_at(run: Path, step: int) -> Checkpoint:
    """The run's checkpoint of a step, which need not exist."""
    return Checkpoint(run / "checkpoints" / f"step-{step:08d}", step)


def list_checkpoints(run: str | Path) -> list[Checkpoint]:
    """The run's complete checkpoints, oldest first; other folders are ignored."""
    named = [(path, FOLDER.fullmatch(path.name)) for path in Path(run).glob("checkpoints/step-*")]
    found = [Checkpoint(path, int(name[1])) for path, name in named if name is not None]
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def newest_checkpoint_text(run: Path) -> str:
    """Which checkpoint a run can continue from, for an error message."""
    found = list_checkpoints(run)
    return f"the newest checkpoint is {found[-1].path}" if found else "no checkpoint exists"


def latest_checkpoint(run: str | Path) -> Checkpoint:
    """The newest checkpoint.

    Raises:
        TrainingError: the run has none.
    """
    found = list_checkpoints(run)
    if not found:
        raise TrainingError(f"{run} has no checkpoint; train it first with p2pkit train")
    return found[-1]


def save_best(
    run: Path, model: PretrainingModel, *, step: int, by: str, scores: Mapping[str, float]
) -> bool:
    """Keep the weights in RUN/best if `scores[by]` beats the previous best; return whether.

    Args:
        run: the run's folder.
        model: its weights.
        step: how many steps the weights have seen.
        by: the score that decides.
        scores: of these weights.
    """
    path = _best(run)
    if path.is_file() and read_best(run)["scores"][by] >= scores[by]:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    found = {"step": step, "by": by, "scores": dict(scores), **model.described}
    record = canonical_json(found)
    write_atomic(path, safetensors_bytes(weights, metadata={BEST: record}))
    return True


def read_best(run: Path) -> dict[str, Any]:
    """`step`, `by` and `scores` of the weights in RUN/best.

    Raises:
        TrainingError: the file is missing or damaged.
    """
    path = _best(run)
    if not path.is_file():
        raise TrainingError(
            f"{run} has no best checkpoint; train with --set probe.every=N, or take the latest"
        )
    try:
        return json.loads(read_metadata(path, TrainingError)[BEST])
    except (TrainingError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{path} is damaged ({error}); delete it, or take the latest") from None


def chosen_checkpoint(run: Path, choice: str) -> Checkpoint:
    """The `latest` checkpoint, or the `best` by the online probe.

    Raises:
        TrainingError: the run has none, or the choice is unknown.
    """
    if choice not in CHOICES:
        raise TrainingError(f"unknown checkpoint {choice!r}; choose one of {', '.join(CHOICES)}")
    if choice == "latest":
        return latest_checkpoint(run)
    return Checkpoint(_best(run).parent, int(read_best(run)["step"]))


def _best(run: Path) -> Path:
    return run / BEST / FILES[0]


def load_checkpoint(checkpoint: Checkpoint, model: PretrainingModel) -> dict[str, Any]:
    """Restore the weights; return the state that was saved with them.

    Raises:
        TrainingError: a file is missing, cannot be read, differs from its checksum or does not fit
            the model.
    """
    try:
        _check(checkpoint)
        load_weights(model, checkpoint.path)
        return dict(read_weight_file(checkpoint.path / "state.pt", TrainingError))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"the checkpoint {checkpoint.path} cannot be read ({type(error).__name__}: "
            f"{first_line(error)}); delete it to resume from an older checkpoint"
        ) from None


def _check(checkpoint: Checkpoint) -> None:
    """Compare both files with the checksums in the checkpoint's record."""
    record: dict[str, Any] = json.loads((checkpoint.path / "checkpoint.json").read_text())
    for name in FILES:
        try:
            check_weight_file(checkpoint.path / name, TrainingError)
        except TrainingError as error:
            raise TrainingError(
                f"{error}; or delete {checkpoint.path} to resume from an older checkpoint"
            ) from None
        found, wanted = _checksum(checkpoint.path / name), record["xxh3_128"][name]
        if found != wanted:
            raise TrainingError(
                f"{checkpoint.path / name} has the checksum {found}, but its record says {wanted}; "
                f"delete {checkpoint.path} to resume from an older checkpoint"
            )


def _remove(folder: Path) -> None:
    """Delete a checkpoint; a kill in between leaves a `.tmp-*`, not half a checkpoint."""
    aside = folder.with_name(f".tmp-old-{folder.name}")
    os.replace(folder, aside)
    shutil.rmtree(aside)


def _checksum(path: Path) -> str:
    return xxhash.xxh3_128_hexdigest(path.read_bytes())
