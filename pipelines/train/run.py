"""train: pretrain a student on a store, resumable to the bit."""

import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

from p2pkit.errors import TrainingError
from p2pkit.files import write_json
from p2pkit.memory import prefer_huge_pages
from p2pkit.networks import ENGINES, choose_engine
from p2pkit.networks.engines.sync_norm import synchronise_norms
from p2pkit.pipelines.train.checkpoints import (
    BEST,
    checkpoint_at,
    list_checkpoints,
    load_checkpoint,
    newest_checkpoint_text,
    save_checkpoint,
)
from p2pkit.pipelines.train.distributed import (
    Ranks,
    anywhere,
    of_first,
    process_group,
    ranks_from_environment,
    replicate,
    wait_for_all,
)
from p2pkit.pipelines.train.logs import check_wandb, metrics_log, wandb_log
from p2pkit.pipelines.train.model import build_model, start_from
from p2pkit.pipelines.train.online_probe import OnlineProbe
from p2pkit.pipelines.train.optimizer import learning_rate
from p2pkit.pipelines.train.run_folder import (
    INIT,
    check_device,
    initial_file,
    provenance_of,
    read_config,
    read_provenance,
    resume_command,
    store_of,
    with_free_settings,
)
from p2pkit.pipelines.train.settings import TrainConfig
from p2pkit.pipelines.train.step import StepReport, Trainer
from p2pkit.pipelines.train.stores import open_sources, resolved
from p2pkit.profiling import Lap, no_lap
from p2pkit.settings import config_to_json
from p2pkit.store.claims import claim_unless_owned, owner_name
from p2pkit.stream.batches import Batch, BatchStream, StreamSource
from p2pkit.stream.mixture import MixtureOrder

_STOPPING = (
    b"\nStopping with a checkpoint after the current step; press Ctrl-C again to stop at once, "
    b"without a checkpoint.\n"
)


@contextmanager
def stop_on_signal() -> Generator[Callable[[], bool]]:
    """Inside, SIGTERM and the first Ctrl-C only set a flag; yields the function that reads it.

    Schedulers send SIGTERM some time before they kill. Outside the main thread signals cannot be
    caught, and the flag stays down; where Ctrl-C is ignored, as in background jobs, it stays so.

    Raises:
        KeyboardInterrupt: at the end, after Ctrl-C; at once on the second Ctrl-C.
    """
    asked: set[int] = set()

    def ask(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in asked:
            raise KeyboardInterrupt
        if number == signal.SIGINT:
            os.write(2, _STOPPING)
        asked.add(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: bool(asked)
        return
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        numbers.remove(signal.SIGINT)
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if signal.SIGINT in asked:
        raise KeyboardInterrupt


CLAIM = ".training"
"""In a run's folder, which process trains it; gone when it ends."""
LEFT_BY_A_RUN = ("config.json", "checkpoints", BEST, "metrics.jsonl", INIT)

Progress = Callable[[StepReport], None]


def run(
    config: TrainConfig,
    out: str | Path,
    *,
    stop_after: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Pretrain from the beginning.

    Under `torchrun` each process calls this with the same arguments; the first writes. SIGTERM and
    Ctrl-C end the run after the step in work, with a checkpoint, as `stop_after` does. The engine
    `auto`, the student's inputs and the steps of `epochs` are resolved here, for all processes, and
    the run's settings name them.

    Args:
        config: all that decides the weights.
        out: the run's folder; must not hold a run.
        stop_after: stop this process after this many steps, with a checkpoint; the schedule stays.
        progress: called after each step.

    Returns:
        The run's folder.

    Raises:
        TrainingError: `out` holds a run or parts of one, another process is starting one there, or
            the loss became NaN or infinite.
        GeometryError: the first batch has a frame that the student cannot take.
        KeyboardInterrupt: after Ctrl-C, when the checkpoint is written.
        MissingDependencyError: the run is to be logged by wandb, which is not installed.
        StoreError: a store is incomplete, mixed or corrupt.
    """
    out = Path(out)
    prefer_huge_pages()
    _refuse_run_in(out)
    check_wandb(config)
    ranks, sources = ranks_from_environment(config.device), open_sources(config)
    check_device(ranks.device(config.device))
    with process_group(ranks, config.device):
        config = resolved(replace(config, engine=_engine_of_first(config, ranks)), sources)
        parts = _prepare(config, sources, ranks, out)
        _try_first_batch(parts.stream)
        # All processes check that no run exists before the first creates one.
        wait_for_all(ranks)
        with _only_training(out, ranks):
            if ranks.is_first:
                _begin(parts, sources, out)
            return _train(parts, out, stop_after, progress)


def resume(
    out: str | Path,
    *,
    store: str | Path | None = None,
    more_stores: Sequence[str] = (),
    stop_after: int | None = None,
    progress: Progress | None = None,
    settings: TrainConfig | None = None,
) -> Path:
    """Continue a run from its newest checkpoint, or from the start if it has none.

    On one CPU thread (`OMP_NUM_THREADS=1`) the result is identical to the bit with that of a run
    that was never stopped.

    Args:
        out: the run's folder.
        store: the current place of the run's store; None finds all of them by `store_of`.
        more_stores: the current places of the other stores of its mixture, if `store` is given.
        stop_after: stop this process after this many steps, with a checkpoint; the schedule stays.
        progress: called after each step.
        settings: applied by `with_free_settings` to this process; None takes the run's own.

    Raises:
        TrainingError: `out` holds no run, another process trains it, a store was recreated from
            other inputs, or without a checkpoint the file of `init` is not what it was.
        StoreError: `store` is not named, and a store is not where the run says.
    """
    out = Path(out)
    prefer_huge_pages()
    config = read_config(out)
    config = config if settings is None else with_free_settings(config, settings)
    check_wandb(config)
    names = (config.store, *config.more_stores)
    moved = [store_of(out, name) for name in names] if store is None else [store, *more_stores]
    first, *more = map(str, moved)
    config = replace(config, store=first, more_stores=tuple(more))
    begun = read_provenance(out)
    sources = open_sources(config, [use.layers for use in begun.stores])
    provenance_of(sources, config).check_same(begun, out)
    ranks = ranks_from_environment(config.device)
    check_device(ranks.device(config.device))
    with process_group(ranks, config.device), _only_training(out, ranks):
        return _train(_prepare(config, sources, ranks, out), out, stop_after, progress)


def _engine_of_first(config: TrainConfig, ranks: Ranks) -> str:
    """The engine that `config.engine` means on the first process."""
    names = list(ENGINES)
    choice = choose_engine(config.engine, config.device, precision=config.precision)
    chosen = choice.name if ranks.is_first else names[0]
    return names[of_first(names.index(chosen), ranks)]


@contextmanager
def _only_training(out: Path, ranks: Ranks) -> Generator[None]:
    """Inside, no other process trains the run; the first of several holds the claim for all.

    Raises:
        TrainingError: another process trains it.
    """
    claim = claim_unless_owned(out / CLAIM) if ranks.is_first else None
    with claim or nullcontext():
        if not of_first(int(claim is not None), ranks):
            raise TrainingError(
                f"{out} is being trained by {owner_name(out / CLAIM)}; two would overwrite each "
                f"other's files. Let it end or stop it, then continue with {resume_command(out)}"
            )
        yield


def _refuse_run_in(out: Path) -> None:
    left = [name for name in LEFT_BY_A_RUN if (out / name).exists()]
    if "config.json" in left:
        raise TrainingError(
            f"{out} already holds a run; continue with --resume, or choose another --out"
        )
    if left:
        raise TrainingError(
            f"{out} holds {', '.join(left)} of another run, without its config.json; a new run "
            "would continue from there. Delete them, or choose another --out"
        )


@dataclass(frozen=True)
class _Parts:
    """The objects that a run works with, and which weights of `config.init` it starts from."""

    config: TrainConfig
    ranks: Ranks
    trainer: Trainer
    stream: BatchStream
    probe: OnlineProbe | None
    begun: dict[str, Any] | None


def _prepare(config: TrainConfig, sources: list[StreamSource], ranks: Ranks, out: Path) -> _Parts:
    """Build everything; settings that do not fit the stores fail here, before a run exists."""
    trainer, stream = trainer_and_stream(config, sources, ranks)
    probe = OnlineProbe(config, out) if config.probe.every and ranks.is_first else None
    begun = None
    if config.init is not None and not list_checkpoints(out):
        file = initial_file(out, config.init)
        begun = start_from(file, trainer.model, config.init_inputs)
    return _Parts(config, ranks, trainer, stream, probe, begun)


def _try_first_batch(stream: BatchStream) -> None:
    """Settings that do not fit the frames fail here, before a run exists."""
    with closing(stream.batches(0, 1)) as batches:
        next(batches)


def _begin(parts: _Parts, sources: list[StreamSource], out: Path) -> None:
    """Write what makes the folder a run, unless another process made one meanwhile."""
    _refuse_run_in(out)
    provenance_of(sources, parts.config).write(out)
    if parts.begun is not None:
        write_json(out / INIT, parts.begun)
    write_json(out / "config.json", config_to_json(parts.config))


def trainer_and_stream(
    config: TrainConfig,
    sources: Sequence[StreamSource],
    ranks: Ranks,
    *,
    stepping: Lap = no_lap,
    preparing: Lap = no_lap,
) -> tuple[Trainer, BatchStream]:
    """The trainer with its initial weights, and the batches for its steps.

    Args:
        config: of the run.
        sources: its opened stores.
        ranks: this process's place.
        stepping: called when a part of a step ends, see `Trainer`.
        preparing: called when a part of the work on a sample ends, see `BatchStream`.

    Raises:
        ConfigError: the settings do not fit the stores or the number of processes.
    """
    config = resolved(config, sources)
    device = ranks.device(config.device)
    model = build_model(config, sources[0].channels, seed=config.seed)
    if ranks.ranks > 1 and config.sync_norm:
        synchronise_norms(model)
    model = model.to(device).train()
    stream = BatchStream(
        sources,
        config=config.stream,
        rank=ranks.rank,
        ranks=ranks.ranks,
        parts=config.accumulate,
        pin=device.startswith("cuda"),
        preparation=model.student.preparation,
        lap=preparing,
    )
    return Trainer(model, config, replicate(model, ranks, device), ranks, lap=stepping), stream


def _train(parts: _Parts, out: Path, stop_after: int | None, progress: Progress | None) -> Path:
    with stop_on_signal() as asked:
        _take_steps(parts, out, stop_after, progress, asked)
        # The first process saves; none may end before.
        wait_for_all(parts.ranks)
    return out


def _take_steps(
    parts: _Parts,
    out: Path,
    stop_after: int | None,
    progress: Progress | None,
    asked: Callable[[], bool],
) -> None:
    config, ranks, trainer = parts.config, parts.ranks, parts.trainer
    start = _restore(out, trainer, ranks)
    stop = config.steps if stop_after is None else min(start + stop_after, config.steps)
    batches = parts.stream.batches(start, stop)
    with (
        closing(batches),
        metrics_log(out, start, write=ranks.is_first) as log,
        wandb_log(config, out, write=ranks.is_first) as log_there,
    ):
        each = parts.stream.order.steps_per_epoch(config.stream.batch_size)
        for report in _steps(trainer, batches, out, each):
            done = report.step + 1
            is_due = done == stop or done % config.checkpoint_every == 0
            # A probe may fail or be killed: save the checkpoint first.
            is_saved = is_due and _probes_after(config, done)
            if is_saved:
                _save(parts, out, done)
            row = _metrics_row(report, parts.stream.order, config.stream.batch_size)
            try:
                row.update(_probed(parts, done))
            finally:
                log(row)
                log_there(row)
            if progress is not None and ranks.is_first:
                progress(report)
            is_last = done == stop or anywhere(asked(), ranks)
            if (is_due or is_last) and not is_saved:
                _save(parts, out, done)
            if is_last:
                break


def _save(parts: _Parts, out: Path, done: int) -> None:
    if parts.ranks.is_first:
        trainer, keep = parts.trainer, parts.config.keep_checkpoints
        save_checkpoint(out, trainer.model, trainer.state(), step=done, keep=keep)


def _metrics_row(report: StepReport, order: MixtureOrder, batch_size: int) -> dict[str, Any]:
    """The report's figures, except those that the loss does not have, and the order so far."""
    figures = {name: value for name, value in asdict(report).items() if value is not None}
    seen = order.epoch(report.step, batch_size), order.digest(report.step, batch_size)
    return {**figures, "epoch": seen[0], "order": seen[1]}


def _probed(parts: _Parts, done: int) -> dict[str, float]:
    """Scores of the probe, empty if none is scheduled after this step; the other processes wait for
    the first in their next exchange of gradients.
    """
    if parts.probe is None or not _probes_after(parts.config, done):
        return {}
    return parts.probe.run(parts.trainer.model, done)


def _probes_after(config: TrainConfig, done: int) -> bool:
    return config.probe.every > 0 and done % config.probe.every == 0


def _steps(
    trainer: Trainer, batches: Iterator[Batch], out: Path, steps_per_epoch: float
) -> Iterator[StepReport]:
    config = trainer.config
    began = time.perf_counter()
    while parts := list(islice(batches, config.accumulate)):
        rate = learning_rate(
            config.optimizer, parts[0].step, config.steps, steps_per_epoch=steps_per_epoch
        )
        try:
            report = trainer.step(parts, rate)
        except FloatingPointError as error:
            raise TrainingError(
                f"{error} at step {parts[0].step}; {newest_checkpoint_text(out)}. Lower "
                "optimizer.learning_rate or set optimizer.clip_norm"
            ) from None
        yield replace(report, step_s=time.perf_counter() - began)
        began = time.perf_counter()


def _restore(out: Path, trainer: Trainer, ranks: Ranks) -> int:
    """The step to continue from. The first process decides: others may see an older state of a
    shared folder, and would train other weights.
    """
    found = list_checkpoints(out)
    step = of_first(found[-1].step if found else 0, ranks)
    if step:
        trainer.restore(load_checkpoint(checkpoint_at(out, step), trainer.model))
    return step
