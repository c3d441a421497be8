"""An open store in other processes, as in a DataLoader whose workers are spawned."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from p2pkit.store.reading import Store, open_store


class Depths(Dataset[np.ndarray]):
    """The depths of one shard's samples."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __len__(self) -> int:
        return len(self._store.keys(0))

    def __getitem__(self, row: int) -> np.ndarray:
        return self._store.read("geometry", 0, row).arrays["depth"]


def test_a_store_that_was_read_can_be_pickled(tiny_store: Path) -> None:
    depths = Depths(open_store(tiny_store))
    read = [depths[row] for row in range(len(depths))]
    copy: Depths = pickle.loads(pickle.dumps(depths))
    for row, values in enumerate(read):
        np.testing.assert_array_equal(copy[row], values)


@pytest.mark.slow
def test_spawned_workers_read_a_store(tiny_store: Path) -> None:
    depths = Depths(open_store(tiny_store))
    read = [depths[row] for row in range(len(depths))]
    loader = DataLoader(depths, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    for values, expected in zip(loader, read, strict=True):
        np.testing.assert_array_equal(values, expected)
