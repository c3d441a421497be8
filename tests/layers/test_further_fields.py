"""A field that is declared in `layers.geometry`, and nowhere else, reaches every batch."""

from pathlib import Path

import numpy as np
import pytest
from tiny_recording import recording_config

from p2pkit.layers import geometry
from p2pkit.layers.geometry import PairField, PointField
from p2pkit.pipelines.extract.run import run
from p2pkit.store.manifest import FieldSpec
from p2pkit.store.reading import open_store
from p2pkit.stream import samples
from p2pkit.stream.batches import BatchStream, StreamConfig, StreamSource
from p2pkit.stream.samples import SampleConfig

BRIGHTNESS = PointField(
    FieldSpec("brightness", "|u1", ("points",)),
    lambda frame: frame.views[0].image.max(axis=2),
)
SEEN = PairField(
    FieldSpec("pair_seen", "|u1", ("pairs",)), lambda found: found.seen.astype(np.uint8)
)


def test_one_declaration_brings_a_field_to_the_batch(
    room_recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (geometry, samples):
        monkeypatch.setattr(module, "POINT_FIELDS", (*geometry.POINT_FIELDS[:2], BRIGHTNESS))
        monkeypatch.setattr(module, "PAIR_FIELDS", (*geometry.PAIR_FIELDS[:1], SEEN))
    store = open_store(run(recording_config(room_recording, tmp_path / "out", limit=4)))
    stored = store.read("geometry", 0, 0).arrays
    np.testing.assert_array_equal(stored["brightness"], stored["colors"].max(axis=1))
    config = StreamConfig(batch_size=2, sample=SampleConfig(voxel_size=0.2, pairs_per_frame=20))
    source = StreamSource(store, store.feature_layers[0], np.arange(4))
    [batch] = BatchStream([source], config=config).batches(0, 1)
    assert set(batch.fields) == {"label", "brightness", "pair_seen", "pair_confidence"}
    assert len(batch.fields["brightness"]) == len(batch.coordinates)
    assert batch.fields["pair_seen"].tolist() == [1] * len(batch.pair_voxel)
    scaled = batch.fields["pair_confidence"].float() / 255
    assert scaled.tolist() == batch.pair_confidence.tolist()
    assert batch.to("cpu").fields.keys() == batch.fields.keys()
