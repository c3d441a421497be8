"""Reading a finished or unfinished run: its settings, its device, its layer of a store."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from p2pkit.config import LeftOut, config_from_json, config_of_another_version
from p2pkit.errors import ConfigError, TrainingError
from p2pkit.losses import SUPERPIXEL
from p2pkit.pipelines.pretraining import TrainConfig
from p2pkit.pipelines.provenance import read_provenance
from p2pkit.shards.store import Store

DECIDE_STUDENT = (
    "student",
    "conv1_kernel_size",
    "engine",
    "embedding_channels",
    "pixel_head",
    "stream.sample.voxel_size",
)
"""Settings without which a run's weights mean nothing."""
SPEAK_OF_STUDENT = ("student", "conv1", "engine", "embedding", "head", "voxel", "input", "channels")
"""Words in names of settings that a later version may add and that may change its networks."""


def read_config(out: Path) -> TrainConfig:
    """The resolved config of a run, to train it on; see `read_config_for_use`.

    Raises:
        TrainingError: `out` holds no run.
        ConfigError: a setting is refused by this version.
    """
    try:
        return config_from_json(TrainConfig, _read_json(out))
    except ConfigError as error:
        raise ConfigError(
            f"{out} cannot be trained on: {error}. Its weights can be used, by probe, evaluate, "
            "report and export"
        ) from None


def read_config_for_use(out: Path) -> TrainConfig:
    """The config of a run whose weights are used, also where another version of p2pkit wrote it.

    Settings that this version refuses or does not know count as their defaults, each with a
    warning, unless they decide the networks.

    Raises:
        TrainingError: `out` holds no run.
        ConfigError: a setting that decides the networks is refused or unknown.
    """
    try:
        config, left_out = config_of_another_version(
            TrainConfig, _read_json(out), needed=DECIDE_STUDENT
        )
    except ConfigError as error:
        raise ConfigError(
            f"{out} has settings of its networks that this version refuses: {error}"
        ) from None
    for setting in left_out:
        _refuse_unknown_network(out, setting)
        warnings.warn(
            f"{out} was trained with {setting.name} = {setting.value!r}, which counts as its "
            f"default here: {setting.reason}. The weights are used as they are; training on is "
            "refused",
            RuntimeWarning,
            stacklevel=1,  # from here, so that a command that reads it at several places tells once
        )
    return config


def _refuse_unknown_network(out: Path, setting: LeftOut) -> None:
    last = setting.name.rpartition(".")[2]
    if setting.is_unknown and any(word in last for word in SPEAK_OF_STUDENT):
        raise ConfigError(
            f"{out} was trained with {setting.name} = {setting.value!r}, which this version does "
            "not know and which may change its networks: use the version of p2pkit that trained it"
        )


def _read_json(out: Path) -> dict[str, Any]:
    path = out / "config.json"
    if not path.is_file():
        raise TrainingError(f"{out} holds no run: {path} does not exist")
    return json.loads(path.read_text())


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
    """As `read_config_for_use`, on the CPU where the run's device is not there."""
    config = read_config_for_use(out)
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
    return (
        use.layers[1] if use is not None else feature_layer(store, read_config_for_use(out).layer)
    )
