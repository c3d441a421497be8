"""`p2pkit init`: a store in, a file of all training settings with their meaning out."""

from pathlib import Path

import click

from p2pkit.errors import ConfigError


@click.command()
@click.argument("store", type=click.Path())
@click.option(
    "--preset",
    default="paper",
    show_default=True,
    help="paper, slidr, slidr-superpixel or cpu-small.",
)
@click.option("--out", type=click.Path(path_type=Path), help="The file; printed if not given.")
def init(store: str, preset: str, out: Path | None) -> None:
    """Write all settings of a training as TOML, each with its meaning, for `train --config`.

    Example: p2pkit init rooms.store --preset cpu-small --out train.toml
    """
    from p2pkit.commented_toml import commented_toml
    from p2pkit.files import write_atomic
    from p2pkit.pipelines.presets import preset as preset_config
    from p2pkit.shards import open_store

    open_store(store)  # a StoreError if it is none
    text = commented_toml(preset_config(preset, store))
    if out is None:
        click.echo(text, nl=False)
        return
    if out.exists():
        raise ConfigError(f"{out} exists; name another file, or delete it first")
    write_atomic(out, text.encode())
    click.echo(out)
