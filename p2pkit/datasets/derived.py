"""Frames made from those of another source."""

from collections.abc import Sequence
from typing import Any

from p2pkit.datasets.boxes import box_fingerprint_of, box_names_of
from p2pkit.datasets.frame import FrameSource
from p2pkit.datasets.left_out import LeftOut, left_out_by


class DerivedFrames:
    """What such a source takes from the one it wraps: name, keys, classes, boxes, what is left out.

    Args:
        source: any source.
    """

    def __init__(self, source: FrameSource) -> None:
        self._source = source
        self.name = source.name
        self.label_names: Sequence[str] | None = source.label_names
        self.ignore_label: int | None = source.ignore_label

    @property
    def left_out(self) -> Sequence[LeftOut]:
        """Files that the source leaves out."""
        return left_out_by(self._source)

    @property
    def box_names(self) -> Sequence[str] | None:
        """Classes of the source's boxes."""
        return box_names_of(self._source)

    def box_fingerprint(self) -> dict[str, Any]:
        """That of the source's boxes."""
        return box_fingerprint_of(self._source)

    def keys(self) -> Sequence[str]:
        """Those of the source."""
        return self._source.keys()
