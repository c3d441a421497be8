"""Projection heads between the networks and the loss."""

from p2pkit.heads.projection import FixedPixels, PixelProjection, PointProjection

__all__ = ["FixedPixels", "PixelProjection", "PointProjection"]
