"""What of a recording is not read, and why: damaged sequences, and files without a partner."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

from p2pkit.datasets.files.text import short_name
from p2pkit.errors import SourceError

Item = TypeVar("Item")
MOST_NAMED = 3


class LeftOut(NamedTuple):
    """A part of a recording that is not read.

    Fields:
        name: the sequence that it is, or that it is of.
        reason: one line.
    """

    name: str
    reason: str


@runtime_checkable
class LeavesOut(Protocol):
    """A source that reports what it does not read; other sources read all there is."""

    @property
    def left_out(self) -> Sequence[LeftOut]:
        """Each sequence or kind of file once."""
        ...


def left_out_by(source: object) -> tuple[LeftOut, ...]:
    """What a source reports; nothing for sources that do not."""
    return tuple(source.left_out) if isinstance(source, LeavesOut) else ()


def read_sequences(
    folders: Iterable[Path],
    read: Callable[[Path], Sequence[Item]],
    left_out: list[LeftOut],
    root: Path,
) -> list[Item]:
    """What `read` gives for each sequence; those that cannot be read are added to `left_out`.

    Args:
        folders: of the sequences.
        read: lists the frames of one; raises SourceError where it cannot be used.
        left_out: receives one entry per bad sequence, whose reason holds no path above `root`.
        root: of the recording.

    Raises:
        SourceError: no sequence can be read; the message gives the first one's reason.
    """
    items: list[Item] = []
    errors: list[SourceError] = []
    good = False
    for folder in folders:
        try:
            items += read(folder)
            good = True
        except SourceError as error:
            errors.append(error)
            left_out.append(LeftOut(folder.name, str(error).replace(f"{root}/", "")))
    if len(errors) == 1 and not good:
        raise errors[0]
    if errors and not good:
        raise SourceError(f"none of {len(errors)} sequences can be read; the first: {errors[0]}")
    return items


def some_names(paths: Sequence[Path]) -> str:
    """The first few files as FOLDER/NAME, and how many more there are."""
    named = ", ".join(map(short_name, paths[:MOST_NAMED]))
    more = len(paths) - MOST_NAMED
    return f"{named} and {more} more" if more > 0 else named
