"""Heads on the networks: projections for the contrast, and boxes for detection."""

from p2pkit.heads.detection import DetectionHead
from p2pkit.heads.projection import FixedPixels, PixelProjection, PointProjection

__all__ = ["DetectionHead", "FixedPixels", "PixelProjection", "PointProjection"]
