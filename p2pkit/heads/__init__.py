"""Projection heads between the networks and the loss."""

from p2pkit.heads.projection import PixelProjection, PointProjection

__all__ = ["PixelProjection", "PointProjection"]
