"""Batches of training samples from stores, prepared ahead of time by threads."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from p2pkit.errors import ConfigError
from p2pkit.geometry.students.preparation import Preparation, prepared_batch
from p2pkit.layers.geometry import decode_geometry
from p2pkit.layers.map_coding import PcaBasis
from p2pkit.layers.views import stored_views, view_fields
from p2pkit.profiling import START, Lap, no_lap
from p2pkit.settings.stream import Axis, StreamConfig
from p2pkit.store.reading import Store
from p2pkit.stream.inputs import chosen_inputs, stored_up
from p2pkit.stream.mixture import MixtureOrder
from p2pkit.stream.order import Place, SampleOrder
from p2pkit.stream.prefetch import ordered_map
from p2pkit.stream.samples import VoxelSample, draw_view, make_sample, with_prepared


@dataclass(frozen=True)
class Batch:
    """What one training step needs.

    Args:
        step: the global batch that this is (a part) of.
        coordinates: (batch, x, y, z) of each voxel, unique, int32.
        inputs: the student's input features.
        pair_voxel: row in `coordinates` of each pair.
        pair_feature: the teacher's feature of each pair.
        pair_cell: id of each pair's teacher cell, unique over the batch.
        pair_confidence: 0 … 1, how sure each pair is.
        frames: number of frames.
        wait_s: seconds that the consumer waited for this batch.
        pair_superpixel: id of each pair's superpixel, unique over the batch; None where the stream
            reads none.
        fields: further values of each voxel's point or of each pair, by name, of the fields that
            all frames have; `layers.geometry` declares them.
        prepared: what the student takes by name beside coordinates and inputs.
    """

    step: int
    coordinates: Int[Tensor, "voxels 4"]
    inputs: Float[Tensor, "voxels channels"]
    pair_voxel: Int[Tensor, " pairs"]
    pair_feature: Float[Tensor, "pairs teacher_channels"]
    pair_cell: Int[Tensor, " pairs"]
    pair_confidence: Float[Tensor, " pairs"]
    frames: int
    wait_s: float = 0.0
    pair_superpixel: Int[Tensor, " pairs"] | None = None
    fields: Mapping[str, Tensor] = field(default_factory=dict)
    prepared: Mapping[str, Tensor] = field(default_factory=dict)

    def to(self, device: str) -> "Batch":
        """The batch with its tensors on a device; ids and rows too, coordinates included."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory, from which a GPU copies while it works."""
        return self._mapped(Tensor.pin_memory)

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        tensors = {
            name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        fields = {name: change(value) for name, value in self.fields.items()}
        prepared = {name: change(value) for name, value in self.prepared.items()}
        return replace(self, **tensors, fields=fields, prepared=prepared)


@dataclass(frozen=True, eq=False)
class StreamSource:
    """One store of a mixture.

    Args:
        store: geometry and features.
        layer: the feature layer; all sources of a stream give equally many channels.
        samples: ids of the frames to train on.
        weight: turns in a period of the mixture; see `order.whole_weights`.
        basis: of a layer of PCA coefficients, if the batches are to contain the teacher's own
            channels, because the sources have other bases.
        superpixels: the layer of superpixels to read; None reads none. All sources of a stream, or
            none of them, have one.
    """

    store: Store
    layer: str
    samples: Int64[np.ndarray, " samples"]
    weight: int = 1
    basis: PcaBasis | None = None
    superpixels: str | None = None

    @property
    def channels(self) -> int:
        """Channels of each pair's feature."""
        if self.basis is not None:
            return len(self.basis.mean)
        return int(self.store.layer(self.layer).details["channels"])

    @cached_property
    def up_axis(self) -> Axis:
        """Which way is up in the points."""
        return stored_up(self.store)

    @property
    def views(self) -> int:
        """Stored views of each image, the image itself included."""
        return stored_views(self.store.layer(self.layer))


class BatchStream:
    """Iterates over training batches; any number of ranks and threads gives the same ones.

    Args:
        sources: one store, or several that are mixed by their weights.
        config: how batches are made.
        rank, ranks: this process and how many there are.
        parts: micro-batches into which a process splits its part of a global batch.
        pin: put batches into page-locked memory, for training on a GPU.
        preparation: of the student, for what it takes beside coordinates and inputs; None makes
            nothing more.
        lap: called when a part of the work on a sample ends: read, decode, augment, voxelise,
            pairs, prepare.

    Raises:
        ConfigError: a global batch has fewer frames than there are parts in all, pairs are set to
            draw views and no source stores any, or a store lacks one of the student's inputs.
    """

    def __init__(
        self,
        sources: Sequence[StreamSource],
        *,
        config: StreamConfig,
        rank: int = 0,
        ranks: int = 1,
        parts: int = 1,
        pin: bool = False,
        preparation: Preparation | None = None,
        lap: Lap = no_lap,
    ) -> None:
        if config.batch_size < ranks * parts:
            raise ConfigError(
                f"stream.batch_size is {config.batch_size}, the frames of a global batch; "
                f"expected at least {ranks * parts} for {ranks} processes with {parts} "
                "micro-batches each"
            )
        self._sources = tuple(sources)
        _check_views(self._sources, config)
        inputs = chosen_inputs(config.sample, [source.store for source in self._sources])
        self._config = replace(config, sample=replace(config.sample, inputs=inputs))
        self._lap, self._preparation = lap, preparation
        self._rank, self._ranks, self.parts, self._pin = rank, ranks, parts, pin
        orders = [
            SampleOrder(
                source.samples,
                sizes=source.store.sizes("geometry"),
                seed=config.seed,
                source=number,
            )
            for number, source in enumerate(self._sources)
        ]
        self.order = MixtureOrder(orders, [source.weight for source in self._sources])

    def batches(self, start: int, stop: int) -> Generator[Batch]:
        """Batches of the steps `start` … `stop - 1`; resuming needs only the step.

        Each step gives its `parts` micro-batches one after the other.

        Raises:
            CorruptShardError: stored bytes are not what was written; nothing corrupt is trained on.
        """
        config = self._config
        wanted = [(step, part) for step in range(start, stop) for part in range(self.parts)]
        places = (place for one in wanted for place in self._places(*one))
        ahead = max(config.ahead * config.batch_size // self._ranks, 1)
        samples = ordered_map(self._prepare, places, threads=config.threads, ahead=ahead)

        def joined(one: tuple[int, int]) -> Batch:
            found = [next(samples) for _ in self._places(*one)]
            batch = collate(one[0], found, self._preparation)
            return batch.pin_memory() if self._pin else batch

        # A separate thread joins them, one after the other, so that the consumer need not.
        ready = ordered_map(joined, wanted, threads=1, ahead=1)
        try:
            for _ in wanted:
                began = time.perf_counter()
                batch = next(ready)
                yield replace(batch, wait_s=time.perf_counter() - began)
        finally:
            ready.close()
            samples.close()

    def _places(self, step: int, part: int) -> list[Place]:
        size, parts = self._config.batch_size, self.parts
        rank, ranks = self._rank * parts + part, self._ranks * parts
        return self.order.batch(step, size, rank=rank, ranks=ranks)

    def _prepare(self, place: Place) -> VoxelSample:
        source = self._sources[place.source]
        shard, row = self.order.orders[place.source].locate(place.sample)
        self._lap(START)
        config = self._config.sample
        view = draw_view(config, source.views, (self._config.seed, place.position))
        per_pair = config.teacher_view == "random-per-pair"
        geometry = source.store.read("geometry", shard, row)
        wanted = None if per_pair else view_fields(source.store.layer(source.layer), view)
        features = source.store.read(source.layer, shard, row, wanted)
        superpixels = (
            None
            if source.superpixels is None
            else source.store.read(source.superpixels, shard, row)
        )
        self._lap("read")
        cloud = decode_geometry(geometry)
        self._lap("decode")
        random = np.random.default_rng([self._config.seed, place.position])
        sample = make_sample(
            cloud,
            features,
            config,
            random,
            source.basis,
            view=view,
            superpixels=superpixels,
            up_axis=source.up_axis,
            lap=self._lap,
        )
        sample = with_prepared(sample, self._preparation)
        self._lap("prepare")
        return sample


def _check_views(sources: Sequence[StreamSource], config: StreamConfig) -> None:
    per_pair = config.sample.teacher_view == "random-per-pair"
    if per_pair and all(source.views == 1 for source in sources):
        raise ConfigError(
            "stream.sample.teacher_view is 'random-per-pair', but no layer stores several views: "
            "extract with --views flip --views-as stored, or leave it at 'random'"
        )


def collate(step: int, samples: list[VoxelSample], preparation: Preparation | None = None) -> Batch:
    """Join samples: batch index before each coordinate; rows, cells, superpixels made unique.

    Args:
        step: of the batch.
        samples: of the batch's frames.
        preparation: that made the samples' `prepared`, if they have any.
    """
    coordinates: list[np.ndarray] = []
    pair_voxel: list[np.ndarray] = []
    pair_cell: list[np.ndarray] = []
    pair_superpixel: list[np.ndarray] = []
    voxels = cells = superpixels = 0
    for number, sample in enumerate(samples):
        index = np.full((len(sample.coordinates), 1), number, dtype=np.int32)
        coordinates.append(np.hstack([index, sample.coordinates]))
        pair_voxel.append(sample.pair_voxel + voxels)
        pair_cell.append(sample.pair_cell + cells)
        voxels += len(sample.coordinates)
        cells += int(sample.pair_cell.max(initial=-1)) + 1
        if sample.pair_superpixel is not None:
            pair_superpixel.append(sample.pair_superpixel + superpixels)
            superpixels += int(sample.pair_superpixel.max(initial=-1)) + 1
    return Batch(
        step=step,
        coordinates=torch.from_numpy(np.concatenate(coordinates)),
        inputs=torch.from_numpy(np.concatenate([sample.inputs for sample in samples])),
        pair_voxel=torch.from_numpy(np.concatenate(pair_voxel)),
        pair_feature=torch.from_numpy(np.concatenate([sample.pair_feature for sample in samples])),
        pair_cell=torch.from_numpy(np.concatenate(pair_cell)),
        pair_confidence=torch.from_numpy(
            np.concatenate([sample.pair_confidence for sample in samples])
        ),
        frames=len(samples),
        pair_superpixel=torch.from_numpy(np.concatenate(pair_superpixel))
        if pair_superpixel
        else None,
        fields={
            name: torch.from_numpy(np.concatenate([sample.fields[name] for sample in samples]))
            for name in samples[0].fields
            if all(name in sample.fields for sample in samples)
        },
        prepared=prepared_batch(preparation, [sample.prepared for sample in samples]),
    )
