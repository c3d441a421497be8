"""Options that others leave without use: a usage error names them, nothing is passed over."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from p2pkit.pipelines.extract.settings import ExtractConfig

OF_A_TEACHER = (
    "layer",
    "weights",
    "input_size",
    "views",
    "views_as",
    "features",
    "map_coding",
    "pairs_per_frame",
    "upsampling",
    "device",
)
"""Options of `p2pkit extract`, by parameter name."""


def typed(*options: str) -> list[str]:
    """Those of the options, by parameter name, that stand on the command line; as written there."""
    context = click.get_current_context()
    written = {str(option.name): max(option.opts, key=len) for option in context.command.params}
    return [
        written[name]
        for name in options
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]


def refuse(options: Iterable[str], why: str) -> None:
    """Raise UsageError where one of the options, by parameter name, stands on the command line.

    Args:
        options: which the other ones leave without use.
        why: they have none, and what to do.
    """
    if found := typed(*options):
        raise click.UsageError(f"{', '.join(found)} would be ignored: {why}")


def refuse_set_twice(settings: Sequence[str], options: Mapping[str, str]) -> None:
    """Raise UsageError where `--set` says again what another option on the command line says.

    Args:
        settings: of `--set`, KEY=VALUE.
        options: the setting that each option is, by the option's parameter name.
    """
    said = {setting.partition("=")[0].strip(): setting for setting in settings}
    for option, name in options.items():
        if name in said and (found := typed(option)):
            raise click.UsageError(f"{found[0]} and --set {said[name]} say one setting: keep one")


def refuse_unnamed_views(views: str) -> None:
    """Raise UsageError where it was typed what becomes of `views`, but these were not."""
    if not views:
        refuse(
            ["views_as"],
            "it says what becomes of the views of --views; add these, such as --views flip. Views "
            "of a --config are averaged as views of [features.teacher], stored as stored_views of "
            "[features]",
        )


def refuse_unused_in_extraction(config: "ExtractConfig") -> None:
    """Raise UsageError where an option was typed for what this extraction does not have."""
    from p2pkit.datasets.registry import is_kind
    from p2pkit.pipelines.extract.settings import NO_TEACHER

    if is_kind(config.dataset, "sweeps", "points"):
        refuse(
            ["depth_range", "flying_margin", "depth_units"],
            f"it is for depth images, and {config.dataset} has points, which are kept at any "
            "distance; leave this out",
        )
    features = config.features
    if features is None or features.teacher.name == NO_TEACHER:
        refuse(OF_A_TEACHER, "the teacher is none; name one with --teacher, or leave this out")
    elif features.layout != "pixels":
        refuse(
            ["pairs_per_frame"],
            f"the layout {features.layout} stores the map, from which training samples any pair; "
            "add --features pixels, or leave this out",
        )
