"""`p2pkit view`: frames of a store as a picture, a point cloud, a Rerun recording or a window."""

from pathlib import Path

import click


@click.command()
@click.argument("store", type=click.Path())
@click.argument("keys", metavar="[KEY]...", nargs=-1)
@click.option("--png", type=click.Path(path_type=Path), help="Picture to write, a row per frame.")
@click.option("--ply", type=click.Path(path_type=Path), help="Point cloud to write, of one frame.")
@click.option(
    "--rrd",
    type=click.Path(path_type=Path),
    help="Rerun recording to write; needs p2pkit[rerun].",
)
@click.option(
    "--run", type=click.Path(path_type=Path), help="A run on the store, to show its student too."
)
@click.option("--layer", help="Layer whose features to show; the only one if not given.")
@click.option(
    "--limit",
    default=100,
    show_default=True,
    type=click.IntRange(min=1),
    help="Stop --rrd after N frames where no KEY is given.",
)
@click.option("--window", is_flag=True, help="Open Open3D's viewer; needs a display.")
def view(
    store: str,
    keys: tuple[str, ...],
    png: Path | None,
    ply: Path | None,
    rrd: Path | None,
    run: Path | None,
    layer: str | None,
    limit: int,
    window: bool,
) -> None:
    """Show stored frames: colours, depth, labels and features at their points.

    Without KEY, shows the first frame; with no output option, writes KEY.png.

    Example: p2pkit view rooms.store room-0_frame-000000 --png frame.png
    """
    from p2pkit.pipelines import view as stage

    if run is not None and layer is not None:
        raise click.UsageError("--run has its own layer; leave --layer out")
    if run is not None and (ply or window) and not (png or rrd):
        raise click.UsageError("--run shows features, which --ply and --window do not")
    config = stage.ViewConfig(store, keys, png, ply, rrd, run, layer, limit, window)
    for path in stage.run(config):
        click.echo(path)
