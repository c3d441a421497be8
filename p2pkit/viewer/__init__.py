"""A viewer of coloured points for HTML pages, which needs nothing from outside the page."""

from p2pkit.viewer.points import FeatureLayer, PointFrame, point_viewer

__all__ = ["FeatureLayer", "PointFrame", "point_viewer"]
