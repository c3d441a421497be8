"""The format of a recording that was named without `--dataset`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from p2pkit.cli.placement import is_first
from p2pkit.errors import SourceError

if TYPE_CHECKING:
    from p2pkit.datasets.recognise import Recognised


class RecordingPath(click.Path):
    """A path that is not empty: `Path("")` would be the current folder."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Path:
        """The path; an empty one, such as an unset variable of a shell gives, is a usage error."""
        if not str(value).strip():
            self.fail("the path is empty; name the folder of a recording", param, ctx)
        return Path(os.fsdecode(super().convert(value, param, ctx)))


def recognised(source: str | Path | None) -> "Recognised":
    """The format that a recording's files tell, said on stderr.

    Raises:
        SourceError: nothing is there.
        click.UsageError: no recording is named, or a store; or no format has its files, or several
            have: the message lists them.
    """
    from p2pkit.datasets.recognise import recognise
    from p2pkit.store.location import MANIFEST

    if source is None:
        raise click.UsageError(
            "Missing argument 'SOURCE': name a recording; generated rooms need none, only "
            "--dataset demo-scene"
        )
    place = Path(source)
    if (place / MANIFEST).is_file():
        raise click.UsageError(f"{place} is a store; name the recording that it was extracted from")
    try:
        found = recognise(place)
    except SourceError as error:
        if not place.exists():
            raise
        raise click.UsageError(str(error)) from error
    if is_first():
        click.echo(
            f"{' '.join(found.sentences)} If that is wrong, name another --dataset.", err=True
        )
    return found
