"""train: pretrain a student on a store, resumable to the bit."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils import clip_grad_norm_

from p2pkit.config import config_to_json
from p2pkit.errors import ConfigError, TrainingError
from p2pkit.files import write_json
from p2pkit.losses import build_loss, suspected_false_negatives
from p2pkit.pipelines.checkpoints import (
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from p2pkit.pipelines.metrics import metrics_log
from p2pkit.pipelines.pretraining import PretrainingModel, TrainConfig, build_model, learning_rate
from p2pkit.pipelines.provenance import provenance_of, read_provenance
from p2pkit.pipelines.runs import check_device, feature_layer, read_config
from p2pkit.pipelines.splits import holdout_split
from p2pkit.shards.map_coding import pca_basis
from p2pkit.shards.model import LayerSpec
from p2pkit.shards.store import Store, open_store
from p2pkit.stream.loader import Batch, BatchStream, StreamSource
from p2pkit.stream.order import whole_weights


@dataclass(frozen=True)
class StepReport:
    """What one step did.

    Args:
        step: counts from 0.
        loss: of the batch before the update.
        learning_rate: of the update.
        gradient_norm: before clipping.
        pairs: in the batch.
        suspected_false_negatives: share of negatives in the anchor's own cell or voxel.
        step_s: from asking for the batch to the end of the update (s).
        wait_s: part of it that was spent waiting for data (s).
    """

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    pairs: int
    suspected_false_negatives: float
    step_s: float
    wait_s: float


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

    Args:
        config: all that decides the weights.
        out: the run's folder; must not hold a run.
        stop_after: end this process after so many steps, with a checkpoint; the schedule stays.
        progress: called after each step.

    Returns:
        The run's folder.

    Raises:
        TrainingError: `out` holds a run, or the loss became NaN or infinite.
        StoreError: a store is incomplete, mixed or corrupt.
    """
    if (out / "config.json").exists():
        raise TrainingError(
            f"{out} holds a run; go on with it by --resume, or choose another --out"
        )
    sources = open_sources(config)
    parts = _prepare(config, sources)
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
    if store is not None:
        config = replace(config, store=str(store), more_stores=tuple(more_stores))
    begun = read_provenance(out)
    sources = open_sources(config, [use.layers[1] for use in begun.stores])
    provenance_of(sources, config).check_same(begun, out)
    return _train(_prepare(config, sources), out, stop_after, progress)


@dataclass(frozen=True)
class _Parts:
    """What a run works with."""

    config: TrainConfig
    model: PretrainingModel
    optimizer: torch.optim.SGD
    stream: BatchStream


def open_sources(config: TrainConfig, layers: Sequence[str] | None = None) -> list[StreamSource]:
    """Open the stores of a run, with the frames to train on and their turns in the mixture.

    Stores of PCA coefficients give the teacher's own channels where their bases differ.

    Args:
        config: of the run.
        layers: those that a run chose before, by store; where one is not there, and for None, the
            config decides.

    Raises:
        StoreError: a store is incomplete or mixed.
        ConfigError: a store leaves nothing to train on, the layer is unclear, the features are not
            of one teacher, or the weights make no mixture.
    """
    stores = [open_store(config.store), *map(open_store, config.more_stores)]
    known = [*(layers or ()), *[None] * len(stores)][: len(stores)]
    chosen = [
        name if name in store.feature_layers else feature_layer(store, config.layer)
        for store, name in zip(stores, known, strict=True)
    ]
    for store, layer in zip(stores, chosen, strict=True):
        store.records(layer)
        _check_confidence(config, store)
    specs = [store.layer(layer) for store, layer in zip(stores, chosen, strict=True)]
    _check_one_teacher(stores, specs)
    bases = [pca_basis(spec) for spec in specs]
    if len({basis.sha256 if basis is not None else None for basis in bases}) == 1:
        bases = [None] * len(stores)
    kept = [holdout_split(store, config.holdout)[0] for store in stores]
    weights = whole_weights(config.weights, [len(samples) for samples in kept])
    return [StreamSource(*row) for row in zip(stores, chosen, kept, weights, bases, strict=True)]


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


def _prepare(config: TrainConfig, sources: list[StreamSource]) -> _Parts:
    """Build everything; settings that do not fit the stores fail here, before a run exists."""
    check_device(config.device)
    model = build_model(config, sources[0].channels, seed=config.seed)
    model = model.to(config.device).train()
    return _Parts(
        config=config,
        model=model,
        optimizer=build_optimizer(model, config),
        stream=BatchStream(sources, config=config.stream),
    )


def _check_confidence(config: TrainConfig, store: Store) -> None:
    fields = [field.name for field in store.layer("geometry").fields]
    if config.loss.confidence == "weight" and "pair_confidence" not in fields:
        raise ConfigError(
            f"loss.confidence is 'weight', but {store.root} was extracted without "
            "pair_confidence; extract it again, or set loss.confidence=ignore"
        )


def _train(parts: _Parts, out: Path, stop_after: int | None, progress: Progress | None) -> Path:
    config, model, optimizer = parts.config, parts.model, parts.optimizer
    start = _restore(out, model, optimizer)
    stop = config.steps if stop_after is None else min(start + stop_after, config.steps)
    batches = parts.stream.batches(start, stop)
    with metrics_log(out, start) as log:
        for report in _steps(config, model, optimizer, batches, out):
            log(asdict(report))
            if progress is not None:
                progress(report)
            done = report.step + 1
            if done % config.checkpoint_every == 0 or done == stop:
                save_checkpoint(out, model, optimizer, step=done, keep=config.keep_checkpoints)
    return out


def build_optimizer(model: PretrainingModel, config: TrainConfig) -> torch.optim.SGD:
    """SGD over all parameters; the rate is set anew at each step."""
    return torch.optim.SGD(
        model.parameters(),
        lr=config.optimizer.learning_rate,
        momentum=config.optimizer.momentum,
        weight_decay=config.optimizer.weight_decay,
    )


def _steps(
    config: TrainConfig,
    model: PretrainingModel,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[Batch],
    out: Path,
) -> Iterator[StepReport]:
    began = time.perf_counter()
    for batch in batches:
        rate = learning_rate(config.optimizer, batch.step, config.steps)
        try:
            loss, norm, false_negatives = train_step(model, optimizer, batch, config, rate)
        except FloatingPointError as error:
            good = list_checkpoints(out)
            where = (
                f"the last good checkpoint is {good[-1].path}" if good else "no checkpoint exists"
            )
            raise TrainingError(
                f"{error} at step {batch.step}; {where}. Lower optimizer.learning_rate or set "
                "optimizer.clip_norm"
            ) from None
        yield StepReport(
            step=batch.step,
            loss=loss,
            learning_rate=rate,
            gradient_norm=norm,
            pairs=len(batch.pair_voxel),
            suspected_false_negatives=false_negatives,
            step_s=time.perf_counter() - began,
            wait_s=batch.wait_s,
        )
        began = time.perf_counter()


def train_step(
    model: PretrainingModel,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    config: TrainConfig,
    rate: float,
) -> tuple[float, float, float]:
    """One update; gives loss, gradient norm and the share of suspected false negatives.

    Raises:
        FloatingPointError: the loss or the gradient is NaN or infinite; nothing was updated.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
    contrast = model(batch.to(config.device))
    loss = build_loss(config.loss)(contrast)
    optimizer.zero_grad()
    loss.backward()
    limit = config.optimizer.clip_norm or float("inf")
    norm = float(clip_grad_norm_(model.parameters(), limit))
    if not np.isfinite(loss.item()) or not np.isfinite(norm):
        raise FloatingPointError(f"the loss is {loss.item()} and the gradient norm {norm}")
    optimizer.step()
    return loss.item(), norm, suspected_false_negatives(contrast)


def _restore(out: Path, model: PretrainingModel, optimizer: torch.optim.Optimizer) -> int:
    if not list_checkpoints(out):
        return 0
    checkpoint = latest_checkpoint(out)
    load_checkpoint(checkpoint, model, optimizer)
    return checkpoint.step
