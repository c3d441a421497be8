"""Open the stores that a run trains on, and check that they fit together."""

from collections.abc import Sequence
from dataclasses import replace
from math import ceil

from p2pkit.errors import ConfigError, TrainingError
from p2pkit.layers.map_coding import pca_basis
from p2pkit.losses import SUPERPIXEL
from p2pkit.pipelines.held_out import holdout_split
from p2pkit.pipelines.train.run_folder import feature_layer, superpixel_layer
from p2pkit.pipelines.train.settings import TrainConfig
from p2pkit.store.manifest import LayerSpec
from p2pkit.store.reading import Store, open_store
from p2pkit.stream.batches import StreamSource
from p2pkit.stream.inputs import chosen_inputs
from p2pkit.stream.mixture import whole_weights

TEACHER_IDENTITY = ("name", "layer", "weights_sha256")


def open_sources(config: TrainConfig, layers: Sequence[Sequence[str]] = ()) -> list[StreamSource]:
    """Open the stores of a run, with the frames to train on and their turns in the mixture.

    Stores of PCA coefficients give the teacher's channels if their bases differ, or if
    the training compares the teacher's features: coefficients are centred, so their cosines are
    not those of the features. A trained projection absorbs basis and mean.

    Args:
        config: of the run.
        layers: the run's earlier choice for each store; if one does not exist the config
            decides.

    Raises:
        StoreError: a store is incomplete or mixed.
        ConfigError: a store leaves nothing to train on, a layer is ambiguous, features are not of
            one teacher, superpixels are missing, or the weights do not form a mixture.
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
    same = len({basis.sha256 if basis is not None else None for basis in bases}) == 1
    if same and not _compares_features(config):
        bases = [None] * len(stores)
    kept = [holdout_split(store, config.holdout, config.holdout_scenes)[0] for store in stores]
    weights = whole_weights(config.weights, [len(samples) for samples in kept])
    rows = zip(stores, chosen, kept, weights, bases, superpixels, strict=True)
    return [StreamSource(*row) for row in rows]


def resolved(config: TrainConfig, sources: Sequence[StreamSource]) -> TrainConfig:
    """The settings with what follows from the stores: the student's inputs, the steps of `epochs`.

    Raises:
        ConfigError: a store lacks a named input, or the stores' defaults differ.
    """
    inputs = chosen_inputs(config.stream.sample, [source.store for source in sources])
    sample = replace(config.stream.sample, inputs=inputs)
    config = replace(config, stream=replace(config.stream, sample=sample))
    if config.epochs is None:
        return config
    frames, weights = len(sources[0].samples), [source.weight for source in sources]
    each = frames * sum(weights) / (weights[0] * config.stream.batch_size)
    return replace(config, steps=max(1, ceil(config.epochs * each - 1e-6)))


def resumed(config: TrainConfig, saved: TrainConfig) -> TrainConfig:
    """`config` with the inputs that `resolved` found for a run where `config` leaves them open, as
    the settings that the run was started with do.
    """
    sample, known = config.stream.sample, saved.stream.sample.inputs or ()
    unmarked = tuple(name for name in known if name != "colored")
    if sample.inputs in (None, unmarked):
        stream = replace(config.stream, sample=replace(sample, inputs=known))
        config = replace(config, stream=stream)
    return config


def _compares_features(config: TrainConfig) -> bool:
    """Whether cosines of the teacher's features, not of a projection of them, are trained with."""
    return config.pixel_head == "fixed" or config.loss.compares_teacher


def _first(wanted: Sequence[str], there: Sequence[str]) -> str | None:
    """The first of the wanted layers that exists."""
    return next((name for name in wanted if name in there), None)


def _superpixels(config: TrainConfig, store: Store, known: Sequence[str]) -> str | None:
    """The layer of superpixels that the loss needs; None if it needs none."""
    if config.loss.name != SUPERPIXEL:
        return None
    return _first(known, store.superpixel_layers) or superpixel_layer(store, config.superpixels)


def _check_one_teacher(stores: list[Store], specs: list[LayerSpec]) -> None:
    """Features of one mixture must mean the same: one network, one layer, one set of weights."""
    teachers = [
        {name: spec.fingerprint["teacher"].get(name) for name in TEACHER_IDENTITY} for spec in specs
    ]
    if any(teacher != teachers[0] for teacher in teachers):
        found = "; ".join(
            f"{store.root} has {spec.name} by {teacher}"
            for store, spec, teacher in zip(stores, specs, teachers, strict=True)
        )
        raise ConfigError(
            f"the stores' features are not of one teacher: {found}. Name another layer with --set "
            "layer=NAME, or extract all stores with the same teacher"
        )


def _check_confidence(config: TrainConfig, store: Store) -> None:
    fields = [field.name for field in store.layer("geometry").fields]
    if config.loss.confidence == "weight" and "pair_confidence" not in fields:
        raise ConfigError(
            f"loss.confidence is 'weight', but {store.root} was extracted without pair_confidence; "
            "extract it again, or set loss.confidence=ignore"
        )
    if config.loss.confidence == "weight" and not _has_confidence(store):
        raise TrainingError(
            f"loss.confidence is 'weight', but every pair in {store.root} has confidence 0, so "
            "nothing would be learned; check the recording's time stamps with `p2pkit check`, or "
            "set loss.confidence=ignore"
        )


def _has_confidence(store: Store) -> bool:
    """Whether any pair has weight; in a usable store the first sample shows it."""
    return any(
        store.read("geometry", shard, row).arrays["pair_confidence"].any()
        for shard, record in enumerate(store.records("geometry"))
        for row in range(record.samples)
    )
