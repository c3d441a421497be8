"""A source whose depth has no flying pixels, around any other source."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from p2pkit.datasets.boxes import box_fingerprint_of, box_names_of
from p2pkit.datasets.frame import Frame, FrameSource
from p2pkit.datasets.left_out import LeftOut, left_out_by
from p2pkit.errors import ConfigError, FrameError
from p2pkit.geometry.flying_pixels import drop_flying_pixels


class CleanDepth:
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
        self._source, self._margin = source, margin
        self.name = source.name
        self.label_names: Sequence[str] | None = source.label_names
        self.ignore_label: int | None = source.ignore_label

    @property
    def left_out(self) -> Sequence[LeftOut]:
        """As the source."""
        return left_out_by(self._source)

    @property
    def box_names(self) -> Sequence[str] | None:
        """As the source."""
        return box_names_of(self._source)

    def box_fingerprint(self) -> dict[str, Any]:
        """As the source."""
        return box_fingerprint_of(self._source)

    def keys(self) -> Sequence[str]:
        """Those of the source."""
        return self._source.keys()

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
