"""`p2pkit view`: one frame of a store as a picture or in a window."""

from typing import Any

import click

from p2pkit.cli.options import config_of, options_of
from p2pkit.pipelines.settings import ViewConfig


@click.command()
@click.argument("store", type=click.Path())
@click.argument("key")
@options_of(ViewConfig)
def view(store: str, key: str, **_: Any) -> None:
    """Show a stored frame: colours, depth, labels and the teacher's features at its points.

    Example: p2pkit view rooms.store room-0_frame-000000 --png frame.png
    """
    from p2pkit.pipelines import view as stage

    path = stage.run(config_of(ViewConfig, store=store, key=key))
    if path is not None:
        click.echo(path)
