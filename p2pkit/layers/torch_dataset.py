"""A store's frames as a map-style torch dataset, for training loops that bring their own loader."""

from typing import Any, Protocol, runtime_checkable

import torch
from torch.utils.data import Dataset

from p2pkit.layers.features import usable_pairs


@runtime_checkable
class Frames(Protocol):
    """What gives stored frames by number, such as a `FrameStore`."""

    def __len__(self) -> int: ...

    def __getitem__(self, which: int, /) -> Any: ...


class FrameDataset(Dataset[dict[str, Any]]):
    """Frames as dicts of tensors, with the teacher's features at pairs that are drawn anew.

    Pairs are drawn by torch's random generator, which a `DataLoader` seeds in each worker. Frames
    differ in their numbers of points: a loader needs `collate_fn=list`, or one that joins them.

    Args:
        store: open.
        layer: full name of the feature layer.
        pairs: most pairs of a frame.
    """

    def __init__(self, store: Frames, layer: str, pairs: int) -> None:
        self.store, self.layer, self.pairs = store, layer, pairs

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.store)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """One frame.

        Returns:
            `key`; `points` (points, 3) float32 in the sensor's frame (m); `colors` (points, 3)
            uint8; `labels` (points,) uint8 where the store has them; and for the drawn pairs
            `pair_point` (pairs,) int64, `pair_view` (pairs,) uint8, `pair_uv` (pairs, 2) float32
            (px) and `features` (pairs, channels) float32.
        """
        frame = self.store[number]
        usable = torch.from_numpy(usable_pairs(frame.samples[self.layer], frame.cloud))
        rows = usable[torch.randperm(len(usable))[: self.pairs]].numpy()
        pairs = frame.pairs
        arrays = {
            "points": frame.cloud.points,
            "colors": frame.cloud.colors,
            "pair_point": pairs.point[rows],
            "pair_view": pairs.view[rows],
            "pair_uv": pairs.uv[rows],
            "features": frame.features(self.layer, rows),
        }
        if frame.labels is not None:
            arrays["labels"] = frame.labels
        # Arrays of a store are read-only, which torch's are not.
        return {"key": frame.key, **{x: torch.from_numpy(y.copy()) for x, y in arrays.items()}}
