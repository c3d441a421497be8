"""A viewer of coloured points for HTML pages, which needs nothing from outside the page."""

from p2pkit.viewer.points import PointFrame, point_viewer

__all__ = ["PointFrame", "point_viewer"]
