"""retrieval: how often a point's embedding finds its own pixel, on frames not trained on."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import xxhash
from jaxtyping import Int64

from p2pkit.errors import ConfigError
from p2pkit.evaluation.retrieval import cell_chance, retrieval_top1
from p2pkit.files import write_json
from p2pkit.layers.geometry import decode_geometry
from p2pkit.layers.map_coding import PcaBasis
from p2pkit.losses import ContrastBatch
from p2pkit.pipelines.evaluate.frames import pretraining_up_axis
from p2pkit.pipelines.evaluate.inference import read_cloud, turned_cloud, with_batch_statistics
from p2pkit.pipelines.held_out import spread
from p2pkit.pipelines.settings import RetrievalConfig
from p2pkit.pipelines.train.checkpoints import latest_checkpoint
from p2pkit.pipelines.train.model import PretrainingModel, build_model, load_weights
from p2pkit.pipelines.train.run_folder import (
    Provenance,
    kept_and_held,
    read_config_here,
    read_provenance,
    run_layer,
)
from p2pkit.pipelines.train.settings import TrainConfig
from p2pkit.store.reading import Store, open_store
from p2pkit.stream.augmentation import Axis
from p2pkit.stream.batches import collate
from p2pkit.stream.inputs import check_inputs, unaugmented
from p2pkit.stream.order import locate
from p2pkit.stream.samples import make_sample, with_prepared


def run(config: RetrievalConfig) -> Path:
    """Test retrieval on frames that the run did not train on, and write RUN/retrieval.json.

    These are the frames that the run held out of the store, or all frames of a store that it was
    not trained on; then the file is named after that store's geometry. Each frame gives `pairs`
    points and their pixels; top-1 is the share of points whose own pixel is the most similar of the
    frame's. The same figure is given for an untrained network, and for hits that are counted per
    teacher cell, and for pixels picked at random. Frames without a pair are left out. As in
    `evaluate`, both networks' norms recompute their statistics on frames that the run was trained
    on, or on the tested ones if the store has no others.

    Raises:
        ConfigError: the run held no frame out, or the store has none of them, or they have no pair,
            or it lacks an input of the student, or features of the run's teacher.
    """
    train_config = read_config_here(config.run, config.device)
    store = open_store(config.store)
    provenance = read_provenance(config.run)
    is_own = provenance.use_of(store) is not None
    kept, tested = _kept_and_tested(config, store, is_own=is_own)
    check_inputs(train_config.stream.sample, store)
    layer = run_layer(config.run, store)
    if not is_own:
        _check_teacher(layer, provenance)
    basis = provenance.basis_of(store, layer)
    sizes = store.sizes("geometry")
    samples = [locate(sizes, sample) for sample in tested.tolist()]
    statistics = spread(kept if len(kept) else tested, config.statistics_frames).tolist()
    up = pretraining_up_axis([config.run], store)
    test = _Test(config, train_config, store, layer, basis, up, samples, statistics)
    channels = provenance.teacher_channels
    trained = build_model(train_config, channels, seed=train_config.seed)
    checkpoint = latest_checkpoint(config.run)
    load_weights(trained, checkpoint.path)
    untrained = build_model(train_config, channels, seed=config.seed + 1)
    found, of_random = (_top1(model, test) for model in (trained, untrained))
    report = {
        "checkpoint_step": checkpoint.step,
        "trained_on_store": is_own,
        "frames": found.frames,
        "pairs": config.pairs,
        "pairs_found": found.pairs,
        "chance": found.chance,
        "chance_cell": found.chance_cell,
        "trained": found.rates(),
        "untrained": of_random.rates(),
    }
    other = "" if is_own else f"-{store.layer('geometry').fingerprint_sha256[:8]}"
    path = config.run / f"retrieval{other}.json"
    write_json(path, report)
    return path


def _kept_and_tested(
    config: RetrievalConfig, store: Store, *, is_own: bool
) -> tuple[Int64[np.ndarray, " kept"], Int64[np.ndarray, " tested"]]:
    """Frames that the run trained on, and those that it held out; all of another store are tested.

    Raises:
        ConfigError: the run held no frame of its own store out.
    """
    kept, held = kept_and_held(config.run, store)
    if not is_own:
        return held, kept
    if not len(held):
        raise ConfigError(
            f"{config.run} held no frame of {config.store} out of its training; train with --set "
            "holdout=25"
        )
    return kept, held


def _check_teacher(layer: str, provenance: Provenance) -> None:
    """Raise ConfigError unless the layer is named after the teacher that the run learned from."""
    own = provenance.stores[0].layers[1]
    if layer.rpartition("-")[0] != own.rpartition("-")[0]:
        raise ConfigError(
            f"{layer} has features of another teacher than {own}, which the run was trained on; "
            "extract the recording with that teacher"
        )


@dataclass(frozen=True)
class _Test:
    """The frames that are tested, and what their pairs are made of."""

    config: RetrievalConfig
    train_config: TrainConfig
    store: Store
    layer: str
    basis: PcaBasis | None
    up_axis: Axis
    samples: list[tuple[int, int]]
    statistics: list[int]


@dataclass(frozen=True)
class _Top1:
    """Means over frames."""

    frames: int
    pairs: float
    chance: float
    chance_cell: float
    top1_pixel: float
    top1_cell: float

    def rates(self) -> dict[str, float]:
        return {"top1_pixel": self.top1_pixel, "top1_cell": self.top1_cell}


def _top1(model: PretrainingModel, test: _Test) -> _Top1:
    clouds = (read_cloud(test.store, sample) for sample in test.statistics)
    config = test.train_config
    model = with_batch_statistics(model.to(config.device), clouds, config, test.up_axis)
    batches = (_embed(model, test, place) for place in test.samples)  # large: one at a time
    rows = [
        (
            len(batch.cell_id),
            1 / len(batch.cell_id),
            cell_chance(batch.cell_id),
            retrieval_top1(batch.point_embedding, batch.pixel_embedding),
            retrieval_top1(batch.point_embedding, batch.pixel_embedding, cell_id=batch.cell_id),
        )
        for batch in batches
        if len(batch.cell_id)
    ]
    if not rows:
        raise ConfigError(f"the tested frames of {test.config.store} have no pair to retrieve")
    return _Top1(len(rows), *np.mean(rows, axis=0).tolist())


def _embed(model: PretrainingModel, test: _Test, place: tuple[int, int]) -> ContrastBatch:
    trained_on = test.train_config.stream.sample
    sample_config = replace(
        unaugmented(trained_on),
        pairs_per_frame=test.config.pairs,
        pairs="random",
        teacher_view="image",
    )
    cloud, up = turned_cloud(decode_geometry(test.store.read("geometry", *place)), test.up_axis)
    features = test.store.read(test.layer, *place)
    seed = [test.config.seed, xxhash.xxh3_64_intdigest(cloud.key.encode())]
    random = np.random.default_rng(seed)
    preparation = model.student.preparation
    sample = make_sample(cloud, features, sample_config, random, test.basis, up_axis=up)
    batch = collate(0, [with_prepared(sample, preparation)], preparation)
    with torch.inference_mode():
        return model(batch.to(test.train_config.device))
