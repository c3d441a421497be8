"""Which image belongs to which, by the numbers or the times in their names; never by position."""

import re
from bisect import bisect_left
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from p2pkit.datasets.left_out import some_names
from p2pkit.errors import SourceError

LEAST_COMMON = 0.5
"""Share of the shorter stream whose numbers the other one must have too."""
# 0000123-000004067811: a number and microseconds, as in the Redwood object scans.
_NUMBER_AND_TIME = re.compile(r"\d+-(\d{6,})")
# 2024-01-05_12-00-05.006 or 20240105T120005006, and 12-00-05.006 without a date. What follows the
# seconds in another way, as in 20240105_120005_12, is a counter.
_DATE = r"(\d{4})-?(\d\d)-?(\d\d)[T_ -]"
_CLOCKS = (
    re.compile(
        rf"(?:.*\D)?{_DATE}(\d\d)[-:_.]?(\d\d)[-:_.]?(\d\d)"
        r"(?:[.,](?=\d)|(?=(?:\d{3})+Z?$))(\d+)Z?"
    ),
    re.compile(r"(?:.*\D)?()()()(\d\d)[-:_](\d\d)[-:_](\d\d)\.(\d+)"),
)
_DECIMAL = re.compile(r"(?:.*[^\d.])?((\d+)\.\d+)")
_INTEGER = re.compile(r"(?:.*\D)?(\d+)")
# Unix times of this century in milliseconds, microseconds and nanoseconds, by the digits before a
# decimal point, as in the 1554808113432.88 that RealSense's rs-convert writes.
_UNITS_PER_SECOND = {13: 1e3, 16: 1e6, 19: 1e9}


class Pair(NamedTuple):
    """Two images of one moment.

    Fields:
        first, second: the files.
        offset_s: first's time minus second's (s); None where names give no time.
    """

    first: Path
    second: Path
    offset_s: float | None


class Paired(NamedTuple):
    """The pairs, in the order of their numbers or times, and the files without a partner."""

    pairs: list[Pair]
    alone: list[Path]


def pair_images(first: Sequence[Path], second: Sequence[Path], *, max_gap_s: float) -> Paired:
    """Pair two streams of images.

    Where all names hold times, such as `1305031102.175304.png`, `0000123-000004067811.png` or
    `2024-01-05_12-00-05.006.png`, each image goes with the nearest of the other stream, at most
    `max_gap_s` away, if it is also that one's nearest. Else the last number in the names counts:
    7.png goes with 000007.jpg. Names without numbers must be equal.

    Raises:
        SourceError: two images of a stream have one number; or numbers or times do not fit, so that
            nothing says which belong together.
    """
    times = [[named_time(path) for path in stream] for stream in (first, second)]
    known = [[time for time in stream if time is not None] for stream in times]
    if first and second and len(known[0]) == len(first) and len(known[1]) == len(second):
        return _paired_by_time(first, second, known, max_gap_s)
    keys = [[_number_or_name(path) for path in stream] for stream in (first, second)]
    by_key = [_unique(stream, of) for stream, of in zip((first, second), keys, strict=True)]
    common = sorted(by_key[0].keys() & by_key[1].keys(), key=_order)
    if not common or len(common) < LEAST_COMMON * min(len(first), len(second)):
        folders = " and ".join(
            f"{stream[0].parent.name}/ ({stream[0].name}, …)" if stream else "an empty folder"
            for stream in (first, second)
        )
        raise SourceError(
            f"{len(common)} of {min(len(first), len(second))} images of {folders} have a partner "
            "with the same number, so nothing says which belong together; give images of one "
            "moment the same number"
        )
    pairs = [Pair(by_key[0][key], by_key[1][key], None) for key in common]
    return Paired(pairs, _alone((first, second), pairs))


def named_time(path: Path) -> float | None:
    """Seconds in a file's name, or None."""
    clock = next(filter(None, (clock.fullmatch(path.stem) for clock in _CLOCKS)), None)
    if clock and (seconds := _seconds(*clock.groups())) is not None:
        return seconds
    if match := _NUMBER_AND_TIME.fullmatch(path.stem):
        return int(match[1]) / _UNITS_PER_SECOND.get(len(match[1]), 1e6)
    if clock:
        return None
    if match := _DECIMAL.fullmatch(path.stem):
        return float(match[1]) / _UNITS_PER_SECOND.get(len(match[2]), 1)
    match = _INTEGER.fullmatch(path.stem)
    if match is None or len(match[1]) not in _UNITS_PER_SECOND:
        return None
    return int(match[1]) / _UNITS_PER_SECOND[len(match[1])]


def _seconds(year: str, month: str, day: str, *clock: str) -> float | None:
    """Of a date, which may be empty, and a time of day; None where there is no such moment."""
    hour, minute, second, fraction = clock
    try:
        day_of = (int(year or 1970), int(month or 1), int(day or 1))
        moment = datetime(*day_of, int(hour), int(minute), int(second), tzinfo=UTC)
    except ValueError:
        return None
    return moment.timestamp() + float(f"0.{fraction}")


def named_number(path: Path) -> int | None:
    """The last number in a file's name without its ending, or None."""
    found = re.findall(r"\d+", path.stem)
    return int(found[-1]) if found else None


def without_partner(alone: Sequence[Path], wanted: str) -> str:
    """One line about files without a partner."""
    files = "1 file has" if len(alone) == 1 else f"{len(alone)} files have"
    return f"{files} no {wanted}: {some_names(alone)}"


def without_moment(alone: Sequence[Path], max_gap_s: float) -> str:
    """One line about depth images without colour, or without a pose, at their time."""
    return without_partner(alone, f"colour image and pose within {max_gap_s} s")


def nearest_index(times: Sequence[float], time: float, max_gap_s: float) -> int | None:
    """Index of the sorted time nearest to `time`; None if it is farther than `max_gap_s`."""
    place = bisect_left(times, time)
    near = [index for index in (place - 1, place) if 0 <= index < len(times)]
    if not near:
        return None
    best = min(near, key=lambda index: abs(times[index] - time))
    return best if abs(times[best] - time) <= max_gap_s else None


def pair_moments(
    first: Sequence[float], second: Sequence[float], *, max_gap_s: float
) -> list[tuple[int, int]]:
    """Indices of the times (s, sorted) that are each other's nearest, at most `max_gap_s` apart."""
    pairs: list[tuple[int, int]] = []
    for index, time in enumerate(second):
        near = nearest_index(first, time, max_gap_s)
        if near is not None and nearest_index(second, first[near], max_gap_s) == index:
            pairs.append((near, index))
    return pairs


def _paired_by_time(
    first: Sequence[Path], second: Sequence[Path], times: list[list[float]], max_gap_s: float
) -> Paired:
    rows = [sorted(zip(*both, strict=True)) for both in zip(times, (first, second), strict=True)]
    moments = [[time for time, _ in stream] for stream in rows]
    pairs = [
        Pair(rows[0][near][1], rows[1][index][1], moments[0][near] - moments[1][index])
        for near, index in pair_moments(moments[0], moments[1], max_gap_s=max_gap_s)
    ]
    if not pairs:
        raise SourceError(
            f"none of {len(first)} and {len(second)} images are within {max_gap_s} s of each "
            f"other; their names' times start at {moments[0][0]:.3f} s and {moments[1][0]:.3f} "
            "s: record both streams with the same clock"
        )
    return Paired(pairs, _alone((first, second), pairs))


def _number_or_name(path: Path) -> int | str:
    number = named_number(path)
    return path.stem if number is None else number


def _order(key: int | str) -> tuple[int, str]:
    return (key, "") if isinstance(key, int) else (-1, key)


def _unique(stream: Sequence[Path], keys: Sequence[int | str]) -> dict[int | str, Path]:
    found: dict[int | str, Path] = {}
    for key, path in zip(keys, stream, strict=True):
        if key in found:
            raise SourceError(
                f"{path.parent.name}/ contains {found[key].name} and {path.name}, both with "
                f"number {key}; keep one"
            )
        found[key] = path
    return found


def _alone(streams: tuple[Sequence[Path], Sequence[Path]], pairs: Sequence[Pair]) -> list[Path]:
    used = {path for pair in pairs for path in (pair.first, pair.second)}
    return [path for stream in streams for path in stream if path not in used]
