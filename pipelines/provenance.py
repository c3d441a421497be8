"""store.json of a run: the stores, layers and fingerprints it trained on, and frames held out."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from p2pkit.errors import TrainingError
from p2pkit.files import write_json
from p2pkit.pipelines.pretraining import TrainConfig
from p2pkit.pipelines.splits import all_keys, holdout_split
from p2pkit.shards.map_coding import PcaBasis, pca_basis
from p2pkit.shards.store import Store
from p2pkit.stream.augment import Axis
from p2pkit.stream.loader import StreamSource


@dataclass(frozen=True)
class StoreUse:
    """What a run uses of one store.

    Args:
        store: its path or URL.
        layers: geometry and the feature layer; then that of superpixels, if the run reads one.
        fingerprints: sha256 of each layer's fingerprint, by layer.
        holdout: keys of the frames that are never trained on.
        weight: its turns in a period of the mixture.
        frames: samples of the store, held-out ones too; None in runs that do not say so.
        reconstructed: whether its PCA coefficients were turned back into the teacher's channels.
        up_axis: which way is up in its points; None in runs that do not say so.
    """

    store: str
    layers: tuple[str, ...]
    fingerprints: dict[str, str]
    holdout: tuple[str, ...]
    weight: int
    frames: int | None
    reconstructed: bool
    up_axis: Axis | None = None


@dataclass(frozen=True)
class Provenance:
    """What a run was trained on.

    Args:
        teacher_channels: of each pair's feature.
        stores: in the order in which they were named; at least one.
    """

    teacher_channels: int
    stores: tuple[StoreUse, ...]

    def write(self, run: Path) -> None:
        """Write RUN/store.json: the first store's entries on top, the others' as a list."""
        first, *more = (asdict(use) for use in self.stores)
        value = {**first, "teacher_channels": self.teacher_channels}
        write_json(run / "store.json", {**value, "more_stores": more} if more else value)

    def held_out(self, store: Store) -> set[str]:
        """Keys that the run held out of `store`, wherever it lies now; none of an unknown store."""
        use = self.use_of(store)
        return set(use.holdout) if use is not None else set()

    def seen(self, store: Store, keys: Iterable[str]) -> int | None:
        """How many of these frames of `store` it was trained on; None of an unknown store."""
        if self.use_of(store) is None:
            return None
        held = self.held_out(store)
        return sum(key not in held for key in keys)

    def basis_of(self, store: Store, layer: str) -> PcaBasis | None:
        """What turned the layer's PCA coefficients back into features; None if nothing did."""
        use = self.use_of(store)
        return pca_basis(store.layer(layer)) if use is not None and use.reconstructed else None

    def use_of(self, store: Store) -> StoreUse | None:
        """What the run used of `store`, known by its geometry's fingerprint; None if nothing."""
        geometry = store.layer("geometry").fingerprint_sha256
        for use in self.stores:
            if use.fingerprints["geometry"] == geometry:
                return use
        return None

    def check_same(self, wanted: "Provenance", run: Path) -> None:
        """Compare with what a run was begun on.

        Raises:
            TrainingError: a store has other fingerprints or frames, or there are more or fewer
                stores.
        """
        if len(self.stores) != len(wanted.stores):
            raise TrainingError(
                f"{run} was begun on {len(wanted.stores)} stores; {len(self.stores)} are named now"
            )
        for found, begun in zip(self.stores, wanted.stores, strict=True):
            if found.fingerprints != begun.fingerprints:
                raise TrainingError(
                    f"{found.store} is not the store that {run} was begun on: its fingerprints "
                    f"are {found.fingerprints}, the run's are {begun.fingerprints}"
                )
            frames = begun.frames if begun.frames is None else found.frames
            up = begun.up_axis if begun.up_axis is None else found.up_axis
            if replace(found, store=begun.store, frames=frames, up_axis=up) != begun:
                raise TrainingError(
                    f"{found.store} no longer has the frames that {run} was begun on: it has "
                    f"{found.frames} frames and holds {len(found.holdout)} out, the run had "
                    f"{begun.frames} and {len(begun.holdout)}, or others; start a new run"
                )


def provenance_of(sources: Sequence[StreamSource], config: TrainConfig) -> Provenance:
    """What a run of `config` on these opened stores uses."""
    names = (str(config.store), *config.more_stores)
    uses = tuple(
        _use_of_source(source, name, config.holdout)
        for source, name in zip(sources, names, strict=True)
    )
    return Provenance(sources[0].channels, uses)


def _use_of_source(source: StreamSource, name: str, holdout: int) -> StoreUse:
    store, layers = source.store, ("geometry", source.layer)
    layers += () if source.superpixels is None else (source.superpixels,)
    keys = all_keys(store)
    return StoreUse(
        store=name,
        layers=layers,
        fingerprints={layer: store.layer(layer).fingerprint_sha256 for layer in layers},
        holdout=tuple(keys[sample] for sample in holdout_split(store, holdout)[1]),
        weight=source.weight,
        frames=len(keys),
        reconstructed=source.basis is not None,
        up_axis=source.up_axis,
    )


def read_provenance(run: Path) -> Provenance:
    """Read RUN/store.json; runs of one store have no list of more.

    Raises:
        TrainingError: `run` holds no run.
    """
    path = run / "store.json"
    if not path.is_file():
        raise TrainingError(f"{run} holds no run: {path} does not exist")
    value: dict[str, Any] = json.loads(path.read_text())
    rows: Sequence[dict[str, Any]] = [value, *value.get("more_stores", [])]
    return Provenance(value["teacher_channels"], tuple(_use(row) for row in rows))


def _use(row: dict[str, Any]) -> StoreUse:
    up_axis = row.get("up_axis")
    return StoreUse(
        store=row["store"],
        layers=tuple(row["layers"]),
        fingerprints=row["fingerprints"],
        holdout=tuple(row["holdout"]),
        weight=row.get("weight", 1),
        frames=row.get("frames"),
        reconstructed=row.get("reconstructed", False),
        up_axis=None if up_axis is None else (up_axis[0], up_axis[1], up_axis[2]),
    )
