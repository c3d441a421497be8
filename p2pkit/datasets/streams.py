"""Which streams of a recording to read, such as topics of a bag, where several fit."""

from collections.abc import Iterable, Sequence

from p2pkit.errors import SourceError


def chosen_streams(fitting: Sequence[str], given: Sequence[str]) -> list[str]:
    """Those of the fitting streams that are given; all of them if none is."""
    return [name for name in fitting if name in given] or list(fitting)


def one_stream(fitting: Sequence[str], given: Sequence[str], *, what: str, where: str) -> str:
    """The one stream of a kind.

    Args:
        fitting: those that the recording has.
        given: `SourceOptions.streams`.
        what: a plural, for messages.
        where: the recording, for messages.

    Raises:
        SourceError: there is none, or there are several of which none or several are given; the
            message lists them with the option that chooses.
    """
    found = chosen_streams(fitting, given)
    if not found:
        raise SourceError(f"{where} has no {what}")
    if len(found) > 1:
        raise SourceError(
            f"{where} has {len(found)} {what}: {', '.join(found)}; choose one of them with "
            f"--streams, such as --streams {found[0]}"
        )
    return found[0]


def check_streams(known: Iterable[str], given: Sequence[str], where: str) -> None:
    """Raise SourceError if a given stream does not exist."""
    names = sorted(known)
    if unknown := [name for name in given if name not in names]:
        raise SourceError(f"{where} has no stream {unknown[0]}; choose from {', '.join(names)}")
