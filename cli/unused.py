"""Options of an extraction that have no effect beside the others: a usage error names them."""

import click

from p2pkit.cli.options import refuse
from p2pkit.pipelines.extract.settings import NO_TEACHER, ExtractConfig


def refuse_unnamed_views() -> None:
    """Raise UsageError where --views-as was typed without --views."""
    if not click.get_current_context().params["features__teacher__views"]:
        refuse(
            ["views_as"],
            "it says what becomes of the views of --views; add these, such as --views flip. Views "
            "of a --config are averaged as views of [features.teacher], stored as stored_views of "
            "[features]",
        )


def refuse_unused_in_extraction(config: ExtractConfig) -> None:
    """Raise UsageError where an option was typed for what this extraction does not have."""
    from p2pkit.datasets.registry import is_kind

    if is_kind(config.dataset, "sweeps", "points"):
        refuse(
            ["depth_range", "flying_margin", "depth_units"],
            f"it is for depth images, and {config.dataset} has points, which are kept at any "
            "distance; leave this out",
        )
    features = config.features
    if features is None or features.teacher.name == NO_TEACHER:
        options = [str(option.name) for option in click.get_current_context().command.params]
        of_a_teacher = [name for name in options if name.startswith("features__")]
        of_a_teacher.remove("features__teacher__name")
        refuse(
            [*of_a_teacher, "views_as"],
            "the teacher is none; name one with --teacher, or leave this out",
        )
    elif features.layout != "pixels":
        refuse(
            ["features__pairs_per_frame"],
            f"the layout {features.layout} stores the map, from which training samples any pair; "
            "add --features pixels, or leave this out",
        )
