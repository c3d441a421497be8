"""`p2pkit view`: one frame of a store as a picture or in a window."""

from pathlib import Path

import click


@click.command()
@click.argument("store", type=click.Path())
@click.argument("key")
@click.option("--png", type=click.Path(path_type=Path), help="The picture to write.")
@click.option("--layer", help="Whose features; the only layer if not given.")
@click.option("--window", is_flag=True, help="Open Open3D's viewer; needs a display.")
def view(store: str, key: str, png: Path | None, layer: str | None, window: bool) -> None:
    """Show a stored frame: colours, depth, labels and the teacher's features at its points.

    Example: p2pkit view rooms.store room-0_frame-000000 --png frame.png
    """
    from p2pkit.pipelines import view as stage

    path = stage.run(stage.ViewConfig(store, key, png, layer=layer, window=window))
    if path is not None:
        click.echo(path)
