"""A store as its users see it: frames by number or key, each with the data of all layers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, Integer, UInt8

from p2pkit.errors import StoreError
from p2pkit.geometry.camera import Camera, camera_from_json
from p2pkit.layers.boxes import StoredBoxes, decode_boxes
from p2pkit.layers.features import pair_features, usable_pairs
from p2pkit.layers.geometry import PointCloud, decode_geometry
from p2pkit.layers.map_coding import pca_basis
from p2pkit.store.location import Location, as_location
from p2pkit.store.manifest import GEOMETRY, LayerSpec, Sample
from p2pkit.store.reading import Store
from p2pkit.store.writing import read_manifest

if TYPE_CHECKING:
    from p2pkit.layers.torch_dataset import FrameDataset

Rows = Integer[np.ndarray, " rows"] | Bool[np.ndarray, " pairs"] | Sequence[int]
"""Rows of a frame's pairs, by number or by a mask of all."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """The pixel-point pairs of a frame.

    Args:
        point: row in the cloud's points of each pair.
        view: number of the image of each pair.
        uv: pixel of each pair in its image (px, centres at integers).
        confidence: 0 … 255 for doubtful … sure; None in stores that were written without it.
    """

    point: Int64[np.ndarray, " pairs"]
    view: UInt8[np.ndarray, " pairs"]
    uv: Float32[np.ndarray, "pairs 2"]
    confidence: UInt8[np.ndarray, " pairs"] | None


@dataclass(frozen=True, eq=False)
class Calibration:
    """How the images of a frame relate to its points.

    Args:
        cameras: intrinsics of each image (px).
        camera_from_sensor: from the points' frame to that of each camera (m).
        world_from_sensor: pose of the sensor (m), or None.
    """

    cameras: tuple[Camera, ...]
    camera_from_sensor: Float64[np.ndarray, "views 4 4"]
    world_from_sensor: Float64[np.ndarray, "4 4"] | None


@dataclass(frozen=True, eq=False)
class StoredFrame:
    """One frame of a store.

    Args:
        key: the frame's key.
        samples: its sample in each layer, as stored: `arrays` and the JSON `meta`.
        layers: of the store, by name.
    """

    key: str
    samples: Mapping[str, Sample]
    layers: Mapping[str, LayerSpec]

    def __repr__(self) -> str:
        cloud = self.cloud
        counts = f"{len(cloud.points)} points, {len(cloud.pair_point)} pairs"
        return f"<frame {self.key}: {counts}, {len(cloud.image_sizes)} images>"

    @cached_property
    def cloud(self) -> PointCloud:
        """Points (m, in the sensor's frame), colours, labels and intensity."""
        return decode_geometry(self.samples[GEOMETRY])

    @property
    def labels(self) -> UInt8[np.ndarray, " points"] | None:
        """Class of each point, or None."""
        return self.cloud.labels

    @cached_property
    def pairs(self) -> Pairs:
        """Which pixel shows which point."""
        cloud = self.cloud
        return Pairs(cloud.pair_point, cloud.pair_view, cloud.pair_uv, cloud.pair_confidence)

    @cached_property
    def calibration(self) -> Calibration:
        """Cameras and poses."""
        meta = self.samples[GEOMETRY].meta
        pose, views = meta["world_from_sensor"], meta["views"]
        transforms = [view["camera_from_sensor"] for view in views]
        return Calibration(
            tuple(camera_from_json(view["camera"], self.key) for view in views),
            np.array(transforms, np.float64).reshape(len(views), 4, 4),
            None if pose is None else np.array(pose, np.float64),
        )

    @cached_property
    def boxes(self) -> StoredBoxes | None:
        """The annotated boxes that are usable, or None in stores without boxes.

        Raises:
            StoreError: the store has several layers of boxes.
        """
        names = [name for name, spec in self.layers.items() if spec.kind == "boxes"]
        if len(names) > 1:
            raise StoreError(
                f"the store has several layers of boxes: {', '.join(names)}; delete the one that "
                "is no longer wanted with p2pkit shards drop-layer"
            )
        return decode_boxes(self.samples[names[0]]) if names else None

    def features(
        self,
        layer: str | None = None,
        rows: Rows | None = None,
    ) -> Float32[np.ndarray, "rows channels"]:
        """The teacher's features, upsampled at pairs; of `pca:K` in the teacher's own channels.

        Args:
            layer: full name; by default the only feature layer.
            rows: rows of `pairs`, by number or by a mask of all; by default all pairs that the
                layer has a feature for: all of them, except with the layout pixels.

        Raises:
            IndexError: the mask has more or fewer entries than there are pairs.
            StoreError: the layer does not exist, or several do and none is named.
        """
        name = _feature_layer(self.layers.values(), layer)
        sample = self.samples[name]
        chosen = usable_pairs(sample, self.cloud) if rows is None else self._numbers(rows)
        return pair_features(sample, self.cloud, chosen, basis=pca_basis(self.layers[name]))

    def _numbers(self, rows: Rows) -> Int64[np.ndarray, " chosen"]:
        """Rows of `pairs` by number; a mask as the rows that it selects."""
        chosen, pairs = np.asarray(rows), len(self.cloud.pair_point)
        if chosen.dtype != bool:
            return chosen.astype(np.int64, casting="same_kind" if chosen.size else "unsafe")
        if len(chosen) != pairs:
            raise IndexError(
                f"rows is a mask of {len(chosen)} entries, but frame {self.key} has {pairs} pairs; "
                "give one entry for each pair"
            )
        return np.flatnonzero(chosen)


def _feature_layer(layers: Iterable[LayerSpec], wanted: str | None) -> str:
    """The wanted layer, or the only one.

    Raises:
        StoreError: it does not exist, or several do and none is named.
    """
    known = [layer.name for layer in layers if layer.kind == "features"]
    name = known[0] if wanted is None and len(known) == 1 else wanted
    if name not in known:
        raise StoreError(f"name a feature layer of the store: {', '.join(known) or 'none'}")
    return name


class FrameStore(Store):
    """A store for reading, made by `open_store`: `len(store)`, `store[0]`, `store["key"]`.

    Single layers are read with `read`. A pickled copy reopens its shards, so a store
    can be given to worker processes.
    """

    def __repr__(self) -> str:
        manifest = self.manifest
        layers = ", ".join(layer.name for layer in manifest.layers)
        return f"<{manifest.storage} store {self.root}: {manifest.plan.frames} frames, {layers}>"

    def __len__(self) -> int:
        """Number of samples."""
        return self.samples

    def __contains__(self, key: object) -> bool:
        """Whether a frame has this key; no frame is read."""
        return key in self._places

    def __getitem__(self, which: int | str) -> StoredFrame:
        """One frame, by its number in the store's order or by its key.

        Raises:
            IndexError: the number is out of range.
            StoreError: the store has no such key.
            CorruptShardError: the bytes differ from those written.
        """
        shard, row = self.find(which) if isinstance(which, str) else self._place(which)
        layers = {layer.name: layer for layer in self.manifest.layers}
        samples = {name: self.read(name, shard, row) for name in layers}
        return StoredFrame(samples[GEOMETRY].key, samples, layers)

    def torch_dataset(self, *, layer: str | None = None, pairs: int = 4096) -> "FrameDataset":
        """The frames as dicts of tensors, for a `torch.utils.data.DataLoader` with any workers.

        Args:
            layer: full name; by default the only feature layer.
            pairs: most pairs whose features a frame gives, drawn anew each time.

        Raises:
            StoreError: the layer does not exist, or several do and none is named.
        """
        from p2pkit.layers.torch_dataset import FrameDataset

        return FrameDataset(self, _feature_layer(self.manifest.layers, layer), pairs)

    def _place(self, number: int) -> tuple[int, int]:
        ends = self._ends
        count = int(ends[-1]) if len(ends) else 0
        if not -count <= number < count:
            raise IndexError(f"sample {number} does not exist; {self.root} has {count}")
        number %= count
        shard = int(np.searchsorted(ends, number, side="right"))
        return shard, number - (int(ends[shard - 1]) if shard else 0)

    @cached_property
    def _ends(self) -> Int64[np.ndarray, " shards"]:
        return np.cumsum(self.sizes())


def open_store(path: str | Location) -> FrameStore:
    """Open a store for reading. Shards are opened when they are first read.

    Args:
        path: a folder, or a URL such as `s3://bucket/rooms.store`: see docs/sharing.md.

    Raises:
        StoreError: `path` is not a store, or its manifest is damaged or of another version.
        MissingDependencyError: it is a URL, and obstore is not installed.
    """
    root = as_location(path)
    return FrameStore(root, read_manifest(root))
