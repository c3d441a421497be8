"""A source whose depth has no flying pixels, around any other source."""

from dataclasses import replace
from typing import Any

from p2pkit.datasets.derived import DerivedFrames
from p2pkit.datasets.frame import Frame, FrameSource
from p2pkit.errors import ConfigError, FrameError
from p2pkit.geometry.flying_pixels import drop_flying_pixels


class CleanDepth(DerivedFrames):
    """Frames of `source` with flying pixels dropped from their depth images; others unchanged.

    Args:
        source: any source.
        margin: see `drop_flying_pixels`.

    Raises:
        ConfigError: the margin does not lie between 0 and 1.
    """

    def __init__(self, source: FrameSource, margin: float) -> None:
        if not 0 < margin < 1:
            raise ConfigError(
                f"flying_margin is {margin}; expected a number between 0 and 1; 0 keeps all"
            )
        super().__init__(source)
        self._margin = margin

    def load(self, key: str) -> Frame:
        """Read a frame and clean its depth.

        Raises:
            FrameError: as the source, or no depth is left.
        """
        frame = self._source.load(key)
        if frame.depth is None:
            return frame
        values = drop_flying_pixels(frame.depth.values, frame.depth.camera, margin=self._margin)
        if not values.any():
            raise FrameError(key, f"no depth is left after flying pixels (margin {self._margin})")
        return replace(frame, depth=replace(frame.depth, values=values))

    def fingerprint(self) -> dict[str, Any]:
        """The source's, and the margin."""
        return self._source.fingerprint() | {"flying_margin": self._margin}
