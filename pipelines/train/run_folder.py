"""A run's folder: its settings, and the stores, layers and fingerprints it was trained on."""

import json
import shlex
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from p2pkit.errors import ConfigError, StoreError, TrainingError
from p2pkit.files import sha256_file, write_json
from p2pkit.layers.map_coding import PcaBasis, pca_basis
from p2pkit.losses import SUPERPIXEL
from p2pkit.networks import AUTO, choose_engine
from p2pkit.networks.students import WAFFLEIRON, transformer_settings
from p2pkit.pipelines.evaluate.official import is_official
from p2pkit.pipelines.held_out import all_keys, holdout_split, samples_in_key_order
from p2pkit.pipelines.train.settings import TrainConfig
from p2pkit.settings import config_from_json, config_to_json
from p2pkit.store.location import MANIFEST, as_location
from p2pkit.store.reading import Store, open_store
from p2pkit.stream.augmentation import Axis
from p2pkit.stream.batches import StreamSource
from p2pkit.stream.inputs import input_channels

INIT = "init.json"
"""In a run's folder, which weights it started from, if any."""


@dataclass(frozen=True)
class StoreUse:
    """What a run uses of one store.

    Args:
        store: its path or URL.
        layers: geometry and the feature layer; then that of superpixels, if the run reads one.
        fingerprints: sha256 of each layer's fingerprint, by layer.
        holdout: keys of the held-out frames.
        weight: its turns in a period of the mixture.
        frames: samples of the store, held-out ones too.
        reconstructed: whether its PCA coefficients were turned back into the teacher's channels.
        up_axis: which way is up in its points.
    """

    store: str
    layers: tuple[str, ...]
    fingerprints: dict[str, str]
    holdout: tuple[str, ...]
    weight: int
    frames: int
    reconstructed: bool
    up_axis: Axis


@dataclass(frozen=True)
class Provenance:
    """What a run was trained on.

    Args:
        teacher_channels: of each pair's feature.
        stores: in the given order; at least one.
    """

    teacher_channels: int
    stores: tuple[StoreUse, ...]

    def write(self, run: Path) -> None:
        """Write RUN/store.json: the first store's entries on top, the others' as a list."""
        first, *more = (asdict(use) for use in self.stores)
        value = {**first, "teacher_channels": self.teacher_channels}
        write_json(run / "store.json", {**value, "more_stores": more} if more else value)

    def held_out(self, store: Store) -> set[str]:
        """Keys that the run held out of `store`, wherever it is now; none for an unknown store."""
        use = self.use_of(store)
        return set(use.holdout) if use is not None else set()

    def seen(self, store: Store, keys: Iterable[str]) -> int | None:
        """How many of these frames of `store` it was trained on; None for an unknown store."""
        if self.use_of(store) is None:
            return None
        held = self.held_out(store)
        return sum(key not in held for key in keys)

    def basis_of(self, store: Store, layer: str) -> PcaBasis | None:
        """The basis that turns the layer's PCA coefficients into features; None without one.

        Raises:
            ConfigError: the store is another than those of the run, and its features have other
                channels: coefficients mean something in their own basis only.
        """
        use, spec = self.use_of(store), store.layer(layer)
        basis = pca_basis(spec)
        if use is not None:
            return basis if use.reconstructed else None
        channels = int(spec.details["channels"]) if basis is None else len(basis.mean)
        if channels != self.teacher_channels:
            raise ConfigError(
                f"{layer} of {store.root} gives features of {channels} channels; the run learned "
                f"from {self.teacher_channels}, of PCA coefficients or another teacher: test it on "
                "stores that it was trained on"
            )
        return basis

    def use_of(self, store: Store) -> StoreUse | None:
        """What the run used of `store`, known by its geometry's fingerprint; None if nothing."""
        geometry = store.layer("geometry").fingerprint_sha256
        for use in self.stores:
            if use.fingerprints["geometry"] == geometry:
                return use
        return None

    def check_same(self, wanted: "Provenance", run: Path) -> None:
        """Compare with the stores that a run was started on.

        Raises:
            TrainingError: a store has other fingerprints or frames, or there are more or fewer
                stores.
        """
        if len(self.stores) != len(wanted.stores):
            raise TrainingError(
                f"{run} was started on {len(wanted.stores)} stores, found {len(self.stores)}"
            )
        for found, begun in zip(self.stores, wanted.stores, strict=True):
            if found.fingerprints != begun.fingerprints:
                raise TrainingError(
                    f"{found.store} is not the store that {run} was started on: its fingerprints "
                    f"are {found.fingerprints}, the run's are {begun.fingerprints}"
                )
            changed = [
                name
                for name, value in vars(begun).items()
                if name != "store" and getattr(found, name) != value
            ]
            if changed:
                raise TrainingError(
                    f"{found.store} is not as {run} was started on it: {', '.join(changed)} "
                    f"changed. It has {found.frames} frames, {len(found.holdout)} of them held "
                    f"out; the run had {begun.frames} and {len(begun.holdout)}. Start a new run"
                )


def provenance_of(sources: Sequence[StreamSource], config: TrainConfig) -> Provenance:
    """The provenance of a run of `config` on these opened stores."""
    names = (str(config.store), *config.more_stores)
    uses = tuple(
        _use_of_source(source, name, config) for source, name in zip(sources, names, strict=True)
    )
    return Provenance(sources[0].channels, uses)


def _use_of_source(source: StreamSource, name: str, config: TrainConfig) -> StoreUse:
    store, layers = source.store, ("geometry", source.layer)
    layers += () if source.superpixels is None else (source.superpixels,)
    keys = all_keys(store)
    _, held = holdout_split(store, config.holdout, config.holdout_scenes)
    return StoreUse(
        store=name,
        layers=layers,
        fingerprints={layer: store.layer(layer).fingerprint_sha256 for layer in layers},
        holdout=tuple(keys[sample] for sample in held),
        weight=source.weight,
        frames=len(keys),
        reconstructed=source.basis is not None,
        up_axis=source.up_axis,
    )


def read_provenance(run: str | Path) -> Provenance:
    """Read RUN/store.json; for runs of one store it has no list of others.

    Raises:
        TrainingError: `run` holds no run.
    """
    path = Path(run) / "store.json"
    if not path.is_file():
        raise TrainingError(f"{run} holds no run: {path} does not exist")
    value: dict[str, Any] = json.loads(path.read_text())
    rows: Sequence[dict[str, Any]] = [value, *value.get("more_stores", [])]
    return Provenance(value["teacher_channels"], tuple(_use(row) for row in rows))


def _use(row: dict[str, Any]) -> StoreUse:
    x, y, z = row["up_axis"]
    return StoreUse(
        store=row["store"],
        layers=tuple(row["layers"]),
        fingerprints=row["fingerprints"],
        holdout=tuple(row["holdout"]),
        weight=row["weight"],
        frames=row["frames"],
        reconstructed=row["reconstructed"],
        up_axis=(x, y, z),
    )


def read_init(run: Path) -> dict[str, Any] | None:
    """Which weights a run's student started from, as `start_from` says; None if random."""
    path = run / INIT
    return json.loads(path.read_text()) if path.is_file() else None


def initial_file(run: Path, init: Path) -> Path:
    """The file that a run without a checkpoint starts from: `init`, or the one it began with.

    Raises:
        TrainingError: the run began, and the file is gone or has other bytes since.
    """
    begun = read_init(run)
    if begun is None:
        return init
    file, wanted = Path(begun["path"]), begun["sha256"]
    found = sha256_file(file) if file.is_file() else None
    if found != wanted:
        state = "does not exist" if found is None else f"has the sha256 {found[:16]}…"
        raise TrainingError(
            f"{run} has no checkpoint yet and starts from {file} again, which {state}; "
            f"{run / INIT} says sha256 {wanted[:16]}…. Restore that file, or start a new run"
        )
    return file


def initial_weights(run: Path) -> str:
    """Which weights a run's student started from, in words."""
    begun = read_init(run)
    if begun is None:
        return "random"
    averaged = f", the input layer averaged ({', '.join(begun['averaged'])})"
    new = f", left random: {', '.join(begun['random'])}"
    other = begun["other_inputs"]
    return (
        f"{begun['loaded']} tensors of {begun['file']}, sha256 {begun['sha256'][:16]}…"
        + (averaged if begun["averaged"] else "")
        + (new if begun["random"] else "")
        + (f", trained on other inputs ({', '.join(other)})" if other else "")
    )


def read_config(out: str | Path) -> TrainConfig:
    """The resolved settings of a run.

    Raises:
        TrainingError: `out` holds no run.
        ConfigError: a setting is unknown or invalid, since a development version wrote it.
    """
    path = Path(out) / "config.json"
    if not path.is_file():
        raise TrainingError(f"{out} holds no run: {path} does not exist")
    try:
        config = config_from_json(TrainConfig, json.loads(path.read_text()))
        input_channels(config.stream.sample)
    except ConfigError as error:
        raise ConfigError(
            f"{path} was written by a development version of p2pkit ({error}); train again"
        ) from None
    return config


def store_of(run: Path, name: str) -> str:
    """Path or URL of a store that a run was trained on: as the run names it, or beside the run.

    Of two such stores the one counts that the run knows.

    Args:
        run: its folder.
        name: the store's path or URL in the run's settings; a relative path was typed in the folder
            where the run was trained, which need not be the present one.

    Raises:
        StoreError: neither is a store.
    """
    place = as_location(name)
    if not isinstance(place, Path):
        return name
    beside = run.resolve().parent / place.name
    found = [
        one
        for one in ((place,) if place.is_absolute() else (place, beside))
        if (one / MANIFEST).is_file()
    ]
    if not found:
        here = shlex.quote(str(run))
        where = "" if place.is_absolute() else ", relative to the folder where it was trained"
        raise StoreError(
            f"{run} names its store as {name}{where}, and that is not a store here. Name its place "
            f"now: `p2pkit report {here} STORE`, `p2pkit evaluate {here} --on STORE`, or `p2pkit "
            f"train STORE --out {here} --resume`"
        )
    provenance = read_provenance(run)
    own = [one for one in found if provenance.use_of(open_store(one)) is not None]
    chosen = (own or found)[0]
    return name if chosen is place else str(chosen)


def kept_and_held(
    run: Path, store: Store
) -> tuple[Int64[np.ndarray, " kept"], Int64[np.ndarray, " held"]]:
    """Sample ids of a store that a run trained on and held out, both in key order.

    All frames of a store that it was not trained on count as kept.
    """
    provenance, samples = read_provenance(run), samples_in_key_order(store)
    if provenance.use_of(store) is None:
        return samples, samples[:0]
    keys, out = all_keys(store), provenance.held_out(store)
    held = np.array([keys[sample] in out for sample in samples.tolist()], np.bool_)
    return samples[~held], samples[held]


def resume_command(run: str | Path) -> str:
    """The command that continues a run, as it is typed in a shell."""
    return shlex.join(["p2pkit", "train", "--out", str(run), "--resume"])


def student_settings(config: TrainConfig) -> dict[str, Any]:
    """What a run's settings say of its student's form, JSON."""
    found: dict[str, Any] = {
        "student": config.student,
        "conv1_kernel_size": config.conv1_kernel_size,
        **transformer_settings(config.student),
    }
    if config.student.startswith(WAFFLEIRON):
        found["waffleiron"] = config_to_json(config.waffleiron)
    return found


def with_free_settings(config: TrainConfig, other: TrainConfig) -> TrainConfig:
    """`config` with those settings of `other` that do not affect the weights and so may change when
    a run is resumed: device, threads, batches ahead, when to save and how much to keep, and where
    the probe's store and the list of official test scenes are, if both have one.
    """
    probe, scenes = config.probe, config.holdout_scenes
    if probe.store is not None and other.probe.store is not None:
        probe = replace(probe, store=other.probe.store)
    if is_official(scenes) and is_official(other.holdout_scenes):
        scenes = other.holdout_scenes
    stream = replace(config.stream, threads=other.stream.threads, ahead=other.stream.ahead)
    return replace(
        config,
        stream=stream,
        probe=probe,
        holdout_scenes=scenes,
        device=other.device,
        checkpoint_every=other.checkpoint_every,
        keep_checkpoints=other.keep_checkpoints,
    )


def check_device(name: str) -> None:
    """Raise ConfigError if torch cannot compute on the device of this name."""
    try:
        torch.empty(0, device=name)
    except (AssertionError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"device {name!r} cannot be used: {reason}. Set device=cpu, or see `p2pkit doctor`"
        ) from None


def read_config_for_use(out: Path) -> TrainConfig:
    """The config of a run whose weights are used, not trained on.

    If MinkowskiEngine is missing, the torch engine replaces it, with a warning: the weights
    are the same.

    Raises:
        TrainingError: `out` holds no run.
        ConfigError: a setting is unknown or invalid, since a development version wrote it.
    """
    config = read_config(out)
    choice = choose_engine(AUTO)
    if config.engine != "minkowski" or choice.name == "minkowski":
        return config
    warnings.warn(
        f"{out} was trained with engine = {config.engine!r}; its weights are used with 'torch' "
        f"here, which differs by rounding: {choice.reason}",
        RuntimeWarning,
        stacklevel=1,
    )
    return replace(config, engine="torch")


def read_config_here(out: Path, device: str | None = None) -> TrainConfig:
    """As `read_config_for_use`, on a named device, else the run's, else the CPU.

    Raises:
        ConfigError: torch cannot compute on the named device.
    """
    config = read_config_for_use(out)
    if device is not None:
        check_device(device)
        return replace(config, device=device)
    try:
        check_device(config.device)
    except ConfigError:
        return replace(config, device="cpu")
    return config


def feature_layer(store: Store, wanted: str | None, option: str = "--set layer=NAME") -> str:
    """Name of the feature layer to use.

    Args:
        store: the store that has it.
        wanted: its name or a part that `Store.layer` accepts; None takes the only one.
        option: the command-line option that names one, for the message.

    Raises:
        ConfigError: the store has none, or several and none is named, or the named one is unfit.
    """
    names = store.feature_layers
    if not names:
        raise ConfigError(
            f"{store.root} has no teacher's features, so it cannot be pretrained on or shown in "
            "their colours: it was extracted with --teacher none, or of points without images such "
            "as s3dis. It can be used for evaluation; extract a recording with images, with a "
            "teacher"
        )
    absent = (
        f"{store.root} has {len(names)} feature layers ({', '.join(names)}); name one with {option}"
    )
    return _one_of(names, store, wanted, "teacher's features", absent)


def superpixel_layer(store: Store, wanted: str | None) -> str:
    """Name of the layer of superpixels to use.

    Raises:
        ConfigError: the store has none, or several and none is named, or the named one is unfit.
    """
    names = store.superpixel_layers
    if not names:
        raise ConfigError(
            f"the loss {SUPERPIXEL!r} needs superpixels, and {store.root} has none: add them by "
            "running the same `p2pkit extract` again with `--superpixels slic:150`, as in "
            f"p2pkit extract ... --dataset {store.manifest.dataset.get('dataset')} --out "
            f"{store.root} --superpixels slic:150"
        )
    absent = (
        f"{store.root} has {len(names)} layers of superpixels ({', '.join(names)}); name one with "
        "--set superpixels=NAME"
    )
    return _one_of(names, store, wanted, "superpixels", absent)


def _one_of(
    names: Sequence[str], store: Store, wanted: str | None, content: str, absent: str
) -> str:
    """The wanted layer, or the only one; else a ConfigError that lists the existing ones."""
    name = store.layer(wanted).name if wanted is not None else names[0]
    if name not in names:
        raise ConfigError(f"{name} holds no {content}; {absent}")
    if wanted is None and len(names) > 1:
        raise ConfigError(absent)
    return name


def run_layer(out: Path, store: Store) -> str:
    """The feature layer of `store` that a run trained on, else the one that it would train on.

    Raises:
        TrainingError: `out` holds no run.
        ConfigError: the run does not know the store, and it has several layers or none.
    """
    use = read_provenance(out).use_of(store)
    return use.layers[1] if use is not None else feature_layer(store, read_config(out).layer)
