"""train: pretrain a student on a store, resumable to the bit."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

from p2pkit.config import config_to_json
from p2pkit.errors import ConfigError, TrainingError
from p2pkit.files import write_json
from p2pkit.losses import SUPERPIXEL
from p2pkit.networks.sync_norm import synchronise_norms
from p2pkit.pipelines.checkpoints import (
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from p2pkit.pipelines.distributed import (
    Ranks,
    anywhere,
    process_group,
    ranks_from_environment,
    replicate,
    wait_for_all,
)
from p2pkit.pipelines.metrics import metrics_log
from p2pkit.pipelines.online_probe import OnlineProbe
from p2pkit.pipelines.pretraining import TrainConfig, build_model, learning_rate
from p2pkit.pipelines.provenance import provenance_of, read_provenance
from p2pkit.pipelines.runs import check_device, feature_layer, read_config, superpixel_layer
from p2pkit.pipelines.splits import holdout_split
from p2pkit.pipelines.stopping import stop_on_sigterm
from p2pkit.pipelines.training_step import StepReport, Trainee
from p2pkit.pipelines.wandb_log import check_wandb, wandb_log
from p2pkit.shards.map_coding import pca_basis
from p2pkit.shards.model import LayerSpec
from p2pkit.shards.store import Store, open_store
from p2pkit.stream.loader import Batch, BatchStream, StreamSource
from p2pkit.stream.order import whole_weights

TEACHER_IDENTITY = ("name", "layer", "weights_sha256")

Progress = Callable[[StepReport], None]


def run(
    config: TrainConfig,
    out: Path,
    *,
    stop_after: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Pretrain from the beginning.

    Under `torchrun` each process calls this with the same arguments; the first writes. SIGTERM ends
    the run after the step in work, with a checkpoint, as `stop_after` does.

    Args:
        config: all that decides the weights.
        out: the run's folder; must not hold a run.
        stop_after: end this process after so many steps, with a checkpoint; the schedule stays.
        progress: called after each step.

    Returns:
        The run's folder.

    Raises:
        TrainingError: `out` holds a run, or the loss became NaN or infinite.
        MissingDependencyError: the run shall be logged by wandb, which is not installed.
        StoreError: a store is incomplete, mixed or corrupt.
    """
    if (out / "config.json").exists():
        raise TrainingError(
            f"{out} holds a run; go on with it by --resume, or choose another --out"
        )
    check_wandb(config)
    ranks, sources = ranks_from_environment(), open_sources(config)
    check_device(ranks.device(config.device))
    with process_group(ranks, config.device):
        parts = _prepare(config, sources, ranks, out)
        # All have looked whether there is a run before the first makes one.
        wait_for_all(ranks)
        if ranks.is_first:
            provenance_of(sources, config).write(out)
            write_json(out / "config.json", config_to_json(config))
        return _train(parts, out, stop_after, progress)


def resume(
    out: Path,
    *,
    store: str | Path | None = None,
    more_stores: Sequence[str] = (),
    stop_after: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Go on with a run from its newest checkpoint, or from the start if it has none.

    On one CPU thread (`OMP_NUM_THREADS=1`) the result is identical to the bit with that of a run
    that was never stopped.

    Args:
        out: the run's folder.
        store: where the run's store lies now; None where all its stores lay before.
        more_stores: where the other stores of its mixture lie now, if `store` is given.
        stop_after: end this process after so many steps, with a checkpoint; the schedule stays.
        progress: called after each step.

    Raises:
        TrainingError: `out` holds no run, or a store was made anew from other inputs.
    """
    config = read_config(out)
    check_wandb(config)
    if store is not None:
        config = replace(config, store=str(store), more_stores=tuple(more_stores))
    begun = read_provenance(out)
    sources = open_sources(config, [use.layers for use in begun.stores])
    provenance_of(sources, config).check_same(begun, out)
    ranks = ranks_from_environment()
    check_device(ranks.device(config.device))
    with process_group(ranks, config.device):
        return _train(_prepare(config, sources, ranks, out), out, stop_after, progress)


def open_sources(config: TrainConfig, layers: Sequence[Sequence[str]] = ()) -> list[StreamSource]:
    """Open the stores of a run, with the frames to train on and their turns in the mixture.

    Stores of PCA coefficients give the teacher's own channels where their bases differ.

    Args:
        config: of the run.
        layers: those that a run chose before, of each store; where one is not there the config
            decides.

    Raises:
        StoreError: a store is incomplete or mixed.
        ConfigError: a store leaves nothing to train on, a layer is unclear, the features are not of
            one teacher, superpixels are needed and not there, or the weights make no mixture.
    """
    stores = [open_store(config.store), *map(open_store, config.more_stores)]
    known = [*layers, *[()] * len(stores)][: len(stores)]
    chosen = [
        _first(names, store.feature_layers) or feature_layer(store, config.layer)
        for store, names in zip(stores, known, strict=True)
    ]
    superpixels = [
        _superpixels(config, store, names) for store, names in zip(stores, known, strict=True)
    ]
    for store, *needed in zip(stores, chosen, superpixels, strict=True):
        for layer in filter(None, needed):
            store.records(layer)
        _check_confidence(config, store)
    specs = [store.layer(layer) for store, layer in zip(stores, chosen, strict=True)]
    _check_one_teacher(stores, specs)
    bases = [pca_basis(spec) for spec in specs]
    if len({basis.sha256 if basis is not None else None for basis in bases}) == 1:
        bases = [None] * len(stores)
    kept = [holdout_split(store, config.holdout)[0] for store in stores]
    weights = whole_weights(config.weights, [len(samples) for samples in kept])
    rows = zip(stores, chosen, kept, weights, bases, superpixels, strict=True)
    return [StreamSource(*row) for row in rows]


def _first(wanted: Sequence[str], there: Sequence[str]) -> str | None:
    """The first of the layers wanted that is there."""
    return next((name for name in wanted if name in there), None)


def _superpixels(config: TrainConfig, store: Store, known: Sequence[str]) -> str | None:
    """The layer of superpixels that the loss needs; None where it needs none."""
    if config.loss.name != SUPERPIXEL:
        return None
    return _first(known, store.superpixel_layers) or superpixel_layer(store, config.superpixels)


def _check_one_teacher(stores: list[Store], specs: list[LayerSpec]) -> None:
    """Features of one mixture must mean the same: one network, one layer, one set of weights."""
    teachers = [
        {name: spec.fingerprint["teacher"].get(name) for name in TEACHER_IDENTITY} for spec in specs
    ]
    if any(teacher != teachers[0] for teacher in teachers):
        told = "; ".join(
            f"{store.root} has {spec.name} by {teacher}"
            for store, spec, teacher in zip(stores, specs, teachers, strict=True)
        )
        raise ConfigError(f"the stores' features are not of one teacher: {told}")


@dataclass(frozen=True)
class _Parts:
    """What a run works with."""

    config: TrainConfig
    ranks: Ranks
    trainee: Trainee
    stream: BatchStream
    probe: OnlineProbe | None


def _prepare(config: TrainConfig, sources: list[StreamSource], ranks: Ranks, out: Path) -> _Parts:
    """Build everything; settings that do not fit the stores fail here, before a run exists."""
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
    )
    trainee = Trainee(model, config, replicate(model, ranks, device), ranks)
    probe = OnlineProbe(config, out) if config.probe.every and ranks.is_first else None
    return _Parts(config, ranks, trainee, stream, probe)


def _check_confidence(config: TrainConfig, store: Store) -> None:
    fields = [field.name for field in store.layer("geometry").fields]
    if config.loss.confidence == "weight" and "pair_confidence" not in fields:
        raise ConfigError(
            f"loss.confidence is 'weight', but {store.root} was extracted without "
            "pair_confidence; extract it again, or set loss.confidence=ignore"
        )


def _train(parts: _Parts, out: Path, stop_after: int | None, progress: Progress | None) -> Path:
    config, ranks, trainee = parts.config, parts.ranks, parts.trainee
    start = _restore(out, trainee)
    stop = config.steps if stop_after is None else min(start + stop_after, config.steps)
    batches = parts.stream.batches(start, stop)
    with (
        closing(batches),
        metrics_log(out, start, write=ranks.is_first) as log,
        wandb_log(config, out, write=ranks.is_first) as log_there,
        stop_on_sigterm() as asked,
    ):
        for report in _steps(trainee, batches, out):
            done = report.step + 1
            row = {**_told(report), **_probed(parts, done)}
            log(row)
            log_there(row)
            if progress is not None and ranks.is_first:
                progress(report)
            is_last = done == stop or anywhere(asked(), ranks)
            if ranks.is_first and (is_last or done % config.checkpoint_every == 0):
                keep = config.keep_checkpoints
                save_checkpoint(out, trainee.model, trainee.state(), step=done, keep=keep)
            if is_last:
                break
    wait_for_all(ranks)
    return out


def _told(report: StepReport) -> dict[str, int | float]:
    """The report's figures, without those that the run's loss has none of."""
    return {name: value for name, value in asdict(report).items() if value is not None}


def _probed(parts: _Parts, done: int) -> dict[str, float]:
    """Scores of the probe where it is due after so many steps; the other processes go on to wait
    for the first in their next exchange of gradients.
    """
    every = parts.config.probe.every
    if parts.probe is None or done % every:
        return {}
    return parts.probe.run(parts.trainee.model, done)


def _steps(trainee: Trainee, batches: Iterator[Batch], out: Path) -> Iterator[StepReport]:
    config = trainee.config
    began = time.perf_counter()
    while parts := list(islice(batches, config.accumulate)):
        rate = learning_rate(config.optimizer, parts[0].step, config.steps)
        try:
            report = trainee.step(parts, rate)
        except FloatingPointError as error:
            good = list_checkpoints(out)
            where = (
                f"the last good checkpoint is {good[-1].path}" if good else "no checkpoint exists"
            )
            raise TrainingError(
                f"{error} at step {parts[0].step}; {where}. Lower optimizer.learning_rate or set "
                "optimizer.clip_norm"
            ) from None
        yield replace(report, step_s=time.perf_counter() - began)
        began = time.perf_counter()


def _restore(out: Path, trainee: Trainee) -> int:
    if not list_checkpoints(out):
        return 0
    checkpoint = latest_checkpoint(out)
    trainee.restore(load_checkpoint(checkpoint, trainee.model))
    return checkpoint.step
