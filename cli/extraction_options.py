"""The options of `p2pkit extract` and `p2pkit plan`: those of `ExtractConfig`, and what is typed
in another form.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from p2pkit.cli.options import CONFIG_FILE, NamedPath, options_of, typed, typed_settings
from p2pkit.pipelines.extract.settings import ExtractConfig
from p2pkit.settings.layers import GeometryConfig

DEPTHS = GeometryConfig()

OPTIONS = (
    click.argument("source", required=False, type=NamedPath(path_type=Path)),
    CONFIG_FILE,
    options_of(ExtractConfig, optional=("dataset", "out")),
    click.option(
        "--views-as",
        type=click.Choice(["average", "stored"]),
        default="average",
        show_default=True,
        help="Average the maps of --views, or store each, for training to draw one.",
    ),
    click.option(
        "--depth-range",
        type=(float, float),
        default=(DEPTHS.depth_min, DEPTHS.depth_max),
        show_default=True,
        help="Smallest and largest depth kept of depth images (m).",
    ),
)


def extraction_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the recording and all options that decide what is stored of it."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def typed_extraction() -> dict[str, Any]:
    """The settings of `ExtractConfig` that stand on the command line, by dotted name."""
    settings, params = typed_settings(ExtractConfig), click.get_current_context().params
    if params["source"] is not None:
        settings["root"] = params["source"]
    if typed("depth_range"):
        settings |= dict(
            zip(("geometry.depth_min", "geometry.depth_max"), params["depth_range"], strict=True)
        )
    views = "features.teacher.views"
    if views in settings:  # averaged or stored, not both
        stored = params["views_as"] == "stored"
        settings["features.stored_views"] = settings[views] if stored else ""
        settings[views] = "" if stored else settings[views]
    return settings
