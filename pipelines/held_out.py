"""Which frames train and which are held out: whole ends of a recording, never frames in between."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from p2pkit.datasets.listing import natural_order
from p2pkit.errors import ConfigError
from p2pkit.pipelines.evaluate.official import test_places
from p2pkit.pipelines.evaluate.split import cut_at_scenes, in_test_scenes, place_of
from p2pkit.sampling import evenly_spread
from p2pkit.store.manifest import Sample
from p2pkit.store.reading import Store
from p2pkit.stream.order import locate


def all_keys(store: Store) -> list[str]:
    """The key of each sample id."""
    return [key for keys in store.all_keys() for key in keys]


def without_arrays(store: Store, samples: Int64[np.ndarray, " samples"]) -> Iterator[Sample]:
    """Key and JSON of each sample's geometry, without its arrays."""
    sizes = store.sizes("geometry")
    return (store.read("geometry", *locate(sizes, int(sample)), fields=()) for sample in samples)


def samples_in_key_order(store: Store) -> Int64[np.ndarray, " samples"]:
    """Sample ids sorted by key, i.e. in recording order, sequence after sequence.

    Frame 2 comes before frame 10, as readers order them, whether or not numbers are padded.
    """
    keys = all_keys(store)
    return np.array(sorted(range(len(keys)), key=lambda one: natural_order(keys[one])), np.int64)


def holdout_split(
    store: Store, count: int, scenes: Sequence[str] = ()
) -> tuple[Int64[np.ndarray, " kept"], Int64[np.ndarray, " held"]]:
    """Sample ids to train on, and those to hold out, both in key order.

    Neighbouring frames of a recording show the same things, so held-out frames are whole scenes or
    a block at its end rather than a random choice.

    Args:
        store: the frames.
        count: how many to hold out, the last in key order besides those of `scenes`.
        scenes: held out as well, named as test scenes of an evaluation are.

    Raises:
        ConfigError: no frame would be left to train on, or no scene has such a name.
    """
    samples, held = samples_in_key_order(store), np.zeros(0, np.int64)
    if scenes:
        split = scene_split(store, 0.5, scenes)
        samples, held = split.train, split.test
    if count >= len(samples):
        raise ConfigError(
            f"holdout is {count}, but the store has only {len(samples)} frames"
            f"{' besides those of holdout_scenes' if scenes else ''}; leave some for training"
        )
    cut = len(samples) - count
    # Row i of the samples in key order is the i-th key.
    rank = np.argsort(samples_in_key_order(store))
    held = np.concatenate([held, samples[cut:]])
    return samples[:cut], held[np.argsort(rank[held], kind="stable")]


@dataclass(frozen=True, eq=False)
class SceneSplit:
    """Two parts of a store's frames.

    Args:
        train, test: sample ids in key order.
        sequence: named in the store, by sample id; empty if it names none.
    """

    train: Int64[np.ndarray, " train"]
    test: Int64[np.ndarray, " test"]
    sequence: dict[int, str]

    def sequences(self, samples: Int64[np.ndarray, " samples"]) -> set[str]:
        """Of some of the samples."""
        return {self.sequence[sample] for sample in samples.tolist()}


def scene_split(store: Store, test_fraction: float, test_scenes: Sequence[str] = ()) -> SceneSplit:
    """Cut a store into a first part and the last `test_fraction` of its frames in key order.

    The cut is that of `split.cut_at_scenes`, so no sequence is on both sides where the store names
    several. Frames of `test_scenes` (patterns of sequences), if any, are the second part instead.

    Raises:
        ConfigError: one side would be empty, the fraction is out of range, or no sequence matches.
    """
    if not 0 < test_fraction < 1:
        raise ConfigError(f"test_fraction is {test_fraction}; expected a value between 0 and 1")
    samples = samples_in_key_order(store)
    sequences = [sample.meta["sequence"] for sample in without_arrays(store, samples)]
    sequence = dict(zip(samples.tolist(), sequences, strict=True))
    dataset = store.manifest.dataset.get("dataset")
    names = [place_of(dataset, name) for name in sequences]
    if test_scenes:
        tests = in_test_scenes(names, test_places(dataset, test_scenes, names))
        if tests.all():
            raise ConfigError(f"the scenes {list(test_scenes)} leave no frame to train on")
        return SceneSplit(samples[~tests], samples[tests], sequence)
    train, test = cut_at_scenes(names, (test_fraction,))
    if len(train) == 0:  # one sequence: its end tests
        cut = min(round(len(samples) * (1 - test_fraction)), len(samples) - 1)
        train, test = np.split(test, [cut])
    if len(train) == 0 or len(test) == 0:
        raise ConfigError(
            f"{len(samples)} frames cannot be cut into a part for training and {test_fraction:g} "
            "of them for testing; both parts need a frame"
        )
    return SceneSplit(samples[train], samples[test], sequence)


def spread(samples: Int64[np.ndarray, " samples"], count: int) -> Int64[np.ndarray, " chosen"]:
    """Up to `count` of the samples, evenly spread from the first to the last."""
    return samples[evenly_spread(len(samples), count)]


def chosen_samples(samples: np.ndarray, count: int) -> Sequence[int]:
    """Up to `count` of the samples, evenly spread and not at the very ends."""
    places = (np.arange(count) + 0.5) * len(samples) / count
    return [int(sample) for sample in samples[np.unique(places.astype(int))]]
