"""Reading a finished or unfinished run: its settings, its device, its layer of a store."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from p2pkit.config import config_from_json
from p2pkit.errors import ConfigError, TrainingError
from p2pkit.losses import SUPERPIXEL
from p2pkit.pipelines.pretraining import TrainConfig
from p2pkit.pipelines.provenance import read_provenance
from p2pkit.shards.store import Store


def read_config(out: Path) -> TrainConfig:
    """The resolved config of a run.

    Raises:
        TrainingError: `out` holds no run.
    """
    path = out / "config.json"
    if not path.is_file():
        raise TrainingError(f"{out} holds no run: {path} does not exist")
    return config_from_json(TrainConfig, json.loads(path.read_text()))


def with_free_settings(config: TrainConfig, other: TrainConfig) -> TrainConfig:
    """`config` with those settings of `other` that decide no weights, so that they may change when
    a run goes on: device, threads, batches ahead, when to save and how much to keep.
    """
    stream = replace(config.stream, threads=other.stream.threads, ahead=other.stream.ahead)
    return replace(
        config,
        stream=stream,
        device=other.device,
        checkpoint_every=other.checkpoint_every,
        keep_checkpoints=other.keep_checkpoints,
    )


def check_device(name: str) -> None:
    """Raise ConfigError where torch cannot compute on the device of this name."""
    try:
        torch.empty(0, device=name)
    except (AssertionError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"device {name!r} cannot be used: {reason}. Set device=cpu, or see `p2pkit doctor`"
        ) from None


def read_config_here(out: Path) -> TrainConfig:
    """As `read_config`, on the CPU where the run's device is not there: to evaluate, not to train.

    Raises:
        TrainingError: `out` holds no run.
    """
    config = read_config(out)
    try:
        check_device(config.device)
    except ConfigError:
        return replace(config, device="cpu")
    return config


def feature_layer(store: Store, wanted: str | None, option: str = "--set layer=NAME") -> str:
    """Name of the feature layer to use.

    Args:
        store: that has it.
        wanted: its name or a part that `Store.layer` takes; None takes the only one.
        option: of the command line that names one, for the message.

    Raises:
        ConfigError: the store has none, or several and none is named, or another kind is named.
    """
    names = store.feature_layers
    if not names:
        raise ConfigError(
            f"{store.root} has no teacher's features, so nothing can be pretrained on it: it was "
            "extracted with --teacher none, or of points without images such as s3dis. It can be "
            "evaluated on; pretrain on a store of a recording with images"
        )
    told = (
        f"{store.root} has {len(names)} feature layers ({', '.join(names)}); name one with {option}"
    )
    return _one_of(names, store, wanted, "teacher's features", told)


def superpixel_layer(store: Store, wanted: str | None) -> str:
    """Name of the layer of superpixels to use.

    Raises:
        ConfigError: the store has none, or several and none is named, or another kind is named.
    """
    names = store.superpixel_layers
    if not names:
        raise ConfigError(
            f"the loss {SUPERPIXEL!r} needs superpixels, and {store.root} has none: add them by "
            "running the `p2pkit extract` that made it again, with `--superpixels slic:150`: "
            f"p2pkit extract ... --dataset {store.manifest.dataset.get('dataset')} --out "
            f"{store.root} --superpixels slic:150"
        )
    told = (
        f"{store.root} has {len(names)} layers of superpixels ({', '.join(names)}); name one with "
        "--set superpixels=NAME"
    )
    return _one_of(names, store, wanted, "superpixels", told)


def _one_of(names: Sequence[str], store: Store, wanted: str | None, content: str, told: str) -> str:
    """The layer that is wanted, or the only one; else a ConfigError that says what is there."""
    name = store.layer(wanted).name if wanted is not None else names[0]
    if name not in names:
        raise ConfigError(f"{name} holds no {content}; {told}")
    if wanted is None and len(names) > 1:
        raise ConfigError(told)
    return name


def run_layer(out: Path, store: Store) -> str:
    """The feature layer of `store` that a run trained on, else the one that it would train on.

    Raises:
        TrainingError: `out` holds no run.
        ConfigError: the run does not know the store, and it has several layers or none.
    """
    use = read_provenance(out).use_of(store)
    return use.layers[1] if use is not None else feature_layer(store, read_config(out).layer)
