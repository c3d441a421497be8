"""What every kind of layer offers, whatever it stores: a spec, and a frame's sample."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from p2pkit.datasets.frame import Frame
from p2pkit.store.manifest import LayerSpec, Sample


@runtime_checkable
class Layer(Protocol):
    """One kind of data of each frame: the geometry, a teacher's features, superpixels,
    boxes.

    The code that reads a sample back is in the layer's own module.
    """

    @property
    def spec(self) -> LayerSpec:
        """Its name, fields, fingerprint and settings, as a store's manifest has them."""
        ...

    def encode(self, frame: Frame, done: Mapping[str, Sample]) -> Sample:
        """The frame's sample.

        Args:
            frame: as the recording gives it.
            done: samples of the same frame in other layers, by name; the geometry's is always
                present, except for the geometry itself.

        Raises:
            FrameError: the frame is bad; only the geometry says so.
        """
        ...
